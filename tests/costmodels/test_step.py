"""The step of a uniform run: physics, and cases that are worked by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.collectives import Links
from costmodels.constants import shipped_constants
from costmodels.memory import adam_state
from costmodels.price import LayerPrice
from costmodels.step import Run, price_step
from tests.costmodels.blocks import LLAMA_8B, chip, embedding, fabric, moe_block, vocabulary_head

C = shipped_constants()
LAYERS = (embedding(4096, 32000), *[LLAMA_8B] * 8, vocabulary_head(4096, 32000))
LINKS = Links(fabric(), 8, 20e9, 15e-6)
RUN = Run(
    layers=LAYERS,
    cuts=(0, len(LAYERS)),
    chip=chip(),
    links=LINKS,
    seq_len=2048,
    precision="bf16",
    state=adam_state("bf16"),
    micro_batches=8,
)
EXPERTS = (embedding(1024, 32000), *[moe_block(1024, 2048, 16, 8, 2)] * 4)


def seconds(**change) -> float:
    return price_step(replace(RUN, **change)).step_s


def fixed(forward: float, backward: float):
    """A layer price of given seconds, whatever the layer."""

    def price(shape) -> LayerPrice:
        nothing = (0, 0, 0)
        return LayerPrice(
            forward, backward / 2, backward / 2, 0, 0, (0, 0, forward), 10**6, *[nothing] * 2, 0, ()
        )

    return price


def test_one_stage_runs_its_micro_batches_one_after_another():
    priced = price_step(replace(RUN, micro_batches=3), price=fixed(1.0, 2.0))
    assert dict(priced.items)["pipeline"] == pytest.approx(3 * 10 * 3.0)
    assert dict(priced.items)["bubble"] == 0


def test_one_stage_never_waits_whatever_its_times_round_to():
    """Whole picoseconds times many micro-batches are not the seconds times as many."""
    run = replace(RUN, micro_batches=97)
    for forward in (1.0000000000004, 0.3333333333333333, 0.0123456789012349):
        assert dict(price_step(run, price=fixed(forward, 2 * forward)).items)["bubble"] == 0


def test_a_pipeline_of_equal_stages_has_the_bubble_of_the_textbook():
    cuts = (0, 2, 4, 6, 8)
    run = replace(RUN, layers=LAYERS[1:9], cuts=cuts, micro_batches=6, links=Links(fabric(), 0))
    priced = dict(price_step(run, price=fixed(1.0, 2.0)).items)
    assert priced["pipeline"] == pytest.approx(6 * 6.0)
    assert priced["bubble"] == pytest.approx(3 * 6.0, rel=1e-3)  # (p - 1)·(f + b)


@pytest.mark.parametrize("chunks", [2, 4])
def test_interleaving_divides_the_bubble_by_the_chunks(chunks):
    run = replace(RUN, layers=(LLAMA_8B,) * 16, cuts=(0, 4, 8, 12, 16), links=Links(fabric(), 0))
    plain = dict(price_step(run, price=fixed(1.0, 2.0), exact=False).items)["bubble"]
    chunked = replace(run, virtual=chunks)
    bubble = dict(price_step(chunked, price=fixed(1.0, 2.0)).items)["bubble"]
    assert bubble == pytest.approx(plain / chunks, rel=0.01)


def test_blocking_transfers_are_felt_in_every_micro_batch():
    """Two stages of 1 s forward and 2 s backward, a hop of h: the second takes 3 s + 2 h each."""
    two = replace(RUN, layers=LAYERS[1:3], cuts=(0, 1, 2), tp=8, dp=1, micro_batches=6)
    hop = two.boundary_bytes / 8 / LINKS.port + LINKS.latency_s
    hidden = price_step(two, price=fixed(1.0, 2.0)).items
    felt = price_step(replace(two, blocking=True), price=fixed(1.0, 2.0)).items
    assert sum(dict(felt)[k] for k in ("pipeline", "bubble")) == pytest.approx(
        6 * (3.0 + 2 * hop) + 3.0
    )
    assert sum(dict(hidden)[k] for k in ("pipeline", "bubble")) < 6 * (3.0 + 2 * hop) + 3.0


def test_items_sum_to_the_step():
    priced = price_step(replace(RUN, dp=16, zero=1, shard=16, pace=1.1))
    assert sum(value for _, value in priced.items) == pytest.approx(priced.step_s)


def test_the_closed_form_is_near_the_recurrence():
    run = replace(RUN, cuts=(0, 3, 5, 7, len(LAYERS)), micro_batches=16)
    assert price_step(run, exact=False).step_s == pytest.approx(price_step(run).step_s, rel=0.03)


def test_overlap_hides_gradient_reduction_but_never_all_of_it():
    hidden = dict(price_step(replace(RUN, dp=16)).items)["gradient synchronisation"]
    whole = dict(price_step(replace(RUN, dp=16, overlap=False)).items)["gradient synchronisation"]
    assert whole > hidden >= C.gradient_tail * whole > 0


def test_context_parallelism_shares_attention_and_tokens():
    long = {"seq_len": 32768, "micro_batches": 1}
    assert seconds(**long, cp=4) < seconds(**long) / 3
    assert seconds(**long, cp=4) > seconds(**long) / 4.2


def test_full_sharding_over_a_slow_network_is_felt():
    fast = seconds(dp=64, zero=3, shard=64, links=replace(LINKS, port=50e9))
    slow = seconds(dp=64, zero=3, shard=64, links=replace(LINKS, port=1e9))
    assert slow > 2 * fast


def test_sharding_inside_the_node_spares_the_network():
    slow = replace(LINKS, port=2e9)
    near = seconds(dp=64, zero=3, shard=8, links=slow)
    assert near < seconds(dp=64, zero=3, shard=64, links=slow)


def test_experts_on_other_hosts_cost_the_network():
    run = {"layers": EXPERTS, "cuts": (0, len(EXPERTS)), "dp": 8}
    near = seconds(**run, ep=8)
    far = seconds(**run, ep=8, links=Links(fabric(), 2, 5e9, 15e-6))
    assert far > near


def test_a_pipeline_cut_sends_the_hidden_state_once_and_its_gradient_back():
    """Hidden 6144 in bf16: 12 KiB per token, 24 with the gradient."""
    run = replace(RUN, layers=(moe_block(6144, 6144, 48, 64, 4),) * 2, cuts=(0, 1, 2))
    assert run.boundary_bytes / run.seq_len == 12 * 2**10


def test_stages_without_a_network_between_them_are_an_error():
    run = replace(RUN, cuts=(0, 5, len(LAYERS)), dp=8, links=Links(fabric(), 8))
    with pytest.raises(ValueError, match="no network"):
        price_step(run)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4),
    tp=st.sampled_from([1, 2, 8]),
    dp=st.sampled_from([1, 4, 16]),
    zero=st.integers(0, 3),
    policy=st.integers(0, 2),
    slower=st.floats(0.1, 1.0),
    later=st.floats(1.0, 20.0),
)
def test_worse_hardware_or_more_work_never_takes_less_time(
    rows, tp, dp, zero, policy, slower, later
):
    run = replace(RUN, rows=rows, tp=tp, dp=dp, zero=zero, shard=dp if zero else 1, policy=policy)
    base = price_step(run).step_s * (1 - 1e-9)
    links = replace(
        run.links,
        fabric=replace(
            run.links.fabric,
            total_bandwidth=run.links.fabric.total_bandwidth * slower,
            pair_bandwidth=run.links.fabric.pair_bandwidth * slower,
        ),
        port=run.links.port * slower,
        latency_s=run.links.latency_s * later,
    )
    assert price_step(replace(run, links=links)).step_s >= base
    assert price_step(replace(run, derate=slower)).step_s >= base
    assert price_step(replace(run, micro_batches=9)).step_s >= base
    assert price_step(replace(run, rows=rows + 1)).step_s >= base
    assert price_step(replace(run, layers=(*LAYERS, LLAMA_8B), cuts=(0, 11))).step_s >= base
    full = price_step(replace(run, policy=2)).step_s
    assert full >= price_step(replace(run, policy=0)).step_s * (1 - 1e-9)
