"""Chips of one silicon differ by what their data sheets differ in, and by nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.collectives import Links
from costmodels.memory import adam_state
from costmodels.step import Run, price_step
from tests.costmodels.blocks import LLAMA_8B, chip, embedding, gpt_block, vocabulary_head

LAYERS = (embedding(4096, 32000), *[LLAMA_8B] * 4, vocabulary_head(4096, 32000))


def run(name, **change):
    found = chip(name)
    base = Run(
        layers=LAYERS,
        cuts=(0, len(LAYERS)),
        chip=found,
        links=Links(found.fabric or found.host_fabric, 8, 20e9, 10e-6),
        seq_len=2048,
        precision="bf16",
        state=adam_state("bf16"),
        micro_batches=4,
    )
    return replace(base, **change)


def seconds(name, **change):
    return price_step(run(name, **change)).step_s


@given(rows=st.integers(1, 4), seq_len=st.sampled_from([512, 2048, 8192]))
def test_an_a800_is_an_a100_where_nobody_talks(rows, seq_len):
    alone = {"rows": rows, "seq_len": seq_len}
    assert seconds("A800-SXM-80GB", **alone) == seconds("A100-SXM-80GB", **alone)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_an_a800_is_slower_where_they_talk(tp):
    assert seconds("A800-SXM-80GB", tp=tp) > seconds("A100-SXM-80GB", tp=tp)


@given(tp=st.sampled_from([1, 2, 4, 8]), rows=st.integers(1, 3), dp=st.sampled_from([1, 8]))
def test_an_h800_is_never_faster_than_an_h100(tp, rows, dp):
    assert seconds("H800-SXM-80GB", tp=tp, rows=rows, dp=dp) >= seconds(
        "H100-SXM-80GB", tp=tp, rows=rows, dp=dp
    )


@given(
    derate=st.floats(0.3, 1),
    layers=st.integers(1, 6),
    seq_len=st.sampled_from([512, 2048, 4096]),
    tp=st.sampled_from([1, 2, 4]),
)
def test_more_work_or_a_slower_chip_never_takes_less_time(derate, layers, seq_len, tp):
    few = (LAYERS[0], *[LLAMA_8B] * layers, LAYERS[-1])
    many = (LAYERS[0], *[LLAMA_8B] * (layers + 1), LAYERS[-1])
    at = {"seq_len": seq_len, "tp": tp}
    base = seconds("A100-SXM-80GB", layers=few, cuts=(0, len(few)), **at)
    assert seconds("A100-SXM-80GB", layers=many, cuts=(0, len(many)), **at) > base
    slower = seconds("A100-SXM-80GB", layers=few, cuts=(0, len(few)), derate=derate, **at)
    assert slower >= base
    assert slower <= base / derate * (1 + 1e-9)
    longer = at | {"seq_len": 2 * seq_len}
    assert seconds("A100-SXM-80GB", layers=few, cuts=(0, len(few)), **longer) > base


@given(faster=st.floats(1, 4), lower=st.floats(0, 1), dp=st.sampled_from([2, 16, 64]))
def test_a_better_network_never_takes_more_time(faster, lower, dp):
    base = run("A100-SXM-80GB", dp=dp, zero=3, shard=dp)
    links = base.links
    better = replace(links, port=links.port * faster, latency_s=links.latency_s * lower)
    assert price_step(replace(base, links=better)).step_s <= price_step(base).step_s


def test_the_pace_of_software_is_on_the_whole_step():
    assert seconds("A100-SXM-80GB", pace=1.25) == pytest.approx(1.25 * seconds("A100-SXM-80GB"))


def test_a_wider_model_costs_its_flops():
    """Four times the weights of a block: about four times its products, less overhead."""
    small, large = gpt_block(4096, 32), gpt_block(8192, 64)
    alone = {"cuts": (0, 4), "micro_batches": 8, "seq_len": 2048}
    one = seconds("A100-SXM-80GB", layers=(small,) * 4, **alone)
    four = seconds("A100-SXM-80GB", layers=(large,) * 4, **alone)
    assert 3 < four / one < 4
