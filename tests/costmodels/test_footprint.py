"""Memory of uniform runs: closed forms of sharding, of schedules, and the verdict."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.collectives import Links
from costmodels.footprint import Workspace, in_flight, run_footprint
from costmodels.memory import MemoryItems, adam_state
from costmodels.step import Run, price_step
from costmodels.units import GIB
from tests.costmodels.blocks import LLAMA_8B, chip, embedding, fabric, moe_block, vocabulary_head

LAYERS = (embedding(4096, 32000), *[LLAMA_8B] * 8, vocabulary_head(4096, 32000))
RUN = Run(
    layers=LAYERS,
    cuts=(0, len(LAYERS)),
    chip=chip(),
    links=Links(fabric(), 8, 20e9, 15e-6),
    seq_len=2048,
    precision="bf16",
    state=adam_state("bf16"),
    micro_batches=8,
    dp=8,
)
NAMES = [name for name in MemoryItems.__slots__ if name != "peak"]


def footprint(workspace=None, policy=None, **change):
    run = replace(RUN, **change)
    return run_footprint(run, price_step(run, exact=False).stages, policy, workspace)


def worst(**change):
    return footprint(**change).worst


@pytest.mark.parametrize(
    ("level", "divided"),
    [
        (1, {"optimizer"}),
        (2, {"optimizer", "gradients"}),
        (3, {"optimizer", "gradients", "parameters"}),
    ],
)
def test_each_level_of_zero_divides_one_more_item(level, divided):
    whole, sharded = worst(zero=0), worst(zero=level, shard=8)
    for name in ("optimizer", "gradients", "parameters"):
        expected = getattr(whole, name) / (8 if name in divided else 1)
        assert getattr(sharded, name) == pytest.approx(expected, rel=1e-6)
    assert sharded.activations == whole.activations


def test_full_sharding_keeps_the_gathered_layers():
    gathered = worst(zero=3, shard=8).buffers - worst(zero=1, shard=8).buffers
    largest = max(p.parameters for s in price_step(RUN, exact=False).stages for p in s.layers)
    assert gathered == largest * (2 * 2 + 2)  # two layers of weights, one of gradients


def test_sharding_inside_a_host_divides_by_the_hosts_chips():
    near, all_ = worst(dp=64, zero=1, shard=8), worst(dp=64, zero=1, shard=64)
    assert near.optimizer == pytest.approx(8 * all_.optimizer, rel=1e-6)


def test_experts_are_sharded_over_those_who_hold_the_same():
    layers = (embedding(1024, 32000), *[moe_block(1024, 2048, 16, 8, 2)] * 4)
    run = {"layers": layers, "cuts": (0, len(layers)), "dp": 8, "zero": 1, "shard": 8}
    apart, together = worst(**run, ep=8), worst(**run)
    own = sum(p.expert_parameters for p in price_step(replace(RUN, **run, ep=8)).stages[0].layers)
    dense = apart.parameters // 2 - own
    assert apart.optimizer == pytest.approx(12 * (dense / 8 + own), rel=1e-3)
    assert together.optimizer == pytest.approx(12 * (dense / 8 + 8 * own / 8), rel=1e-3)
    assert apart.parameters < together.parameters


@pytest.mark.parametrize(("stage", "held"), [(0, 6), (1, 5), (2, 4), (3, 3)])
def test_interleaved_stages_hold_more_chunks(stage, held):
    """Four stages of two chunks: 2(3 - s) + 4 + 1 chunks, each half a stage."""
    run = replace(RUN, cuts=(0, 3, 5, 7, len(LAYERS)), virtual=2, micro_batches=32)
    assert in_flight(run, stage) == held


def test_a_pipeline_holds_as_many_micro_batches_as_stages_are_left():
    run = replace(RUN, cuts=(0, 3, 5, 7, len(LAYERS)), micro_batches=32)
    assert [in_flight(run, s) for s in range(4)] == [4, 3, 2, 1]
    assert in_flight(replace(run, schedule="gpipe"), 0) == 32
    assert in_flight(replace(run, micro_batches=2), 0) == 2


def test_the_verdict_is_that_of_the_fullest_stage():
    found = footprint(cuts=(0, 7, 8, 9, len(LAYERS)))
    assert found.worst.peak == max(items.peak for items in found.stages)
    assert found.fits == (found.worst.peak <= found.usable)
    assert not footprint(rows=64).fits


@given(
    rows=st.integers(1, 8),
    tp=st.sampled_from([1, 2, 4]),
    zero=st.integers(0, 3),
    policy=st.integers(0, 2),
)
def test_items_sum_to_the_peak_and_grow_with_rows(rows, tp, zero, policy):
    run = {"rows": rows, "tp": tp, "zero": zero, "shard": 8 if zero else 1, "policy": policy}
    items = worst(**run)
    assert items.peak == sum(getattr(items, name) for name in NAMES)
    assert worst(**run | {"rows": rows + 1}).peak > items.peak


@given(tp=st.sampled_from([1, 2, 4]), cp=st.sampled_from([1, 2, 4]))
def test_dividing_a_layer_further_never_takes_more_memory(tp, cp):
    assert worst(tp=2 * tp, cp=cp).activations <= worst(tp=tp, cp=cp).activations
    assert worst(tp=2 * tp, cp=cp).parameters <= worst(tp=tp, cp=cp).parameters
    assert worst(tp=tp, cp=2 * cp).activations < worst(tp=tp, cp=cp).activations


@pytest.mark.parametrize("more", [0, 1])
def test_recomputing_more_keeps_less(more):
    assert worst(policy=more + 1).activations <= worst(policy=more).activations


def test_a_known_runtime_has_its_own_workspace():
    space = Workspace(fixed_bytes=6 * GIB, share=0.1, held_per_parameter=4)
    plain, own = worst(), worst(workspace=space)
    assert own.context == 6 * GIB
    assert own.gradients == plain.gradients + 2 * plain.parameters  # 4 bytes beside 2
    assert own.fragmentation == round(0.1 * (own.activations + own.logits + own.buffers))
    assert own.peak == sum(getattr(own, name) for name in NAMES)
