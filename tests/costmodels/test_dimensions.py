"""Dimensions: a step is built of work over rates and of fixed times, and of nothing else."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels import collectives
from costmodels.catalog import Chip, Fabric
from costmodels.collectives import Links
from costmodels.constants import Constants, shipped_constants
from costmodels.memory import adam_state
from costmodels.step import Run, price_step
from tests.costmodels.blocks import LLAMA_8B, chip, embedding, fabric, moe_block, vocabulary_head

C = shipped_constants()
DENSE = (embedding(4096, 32000), *[LLAMA_8B] * 6, vocabulary_head(4096, 32000))
EXPERTS = (embedding(1024, 32000), *[moe_block(1024, 2048, 16, 8, 2)] * 6)
RUN = Run(
    layers=DENSE,
    cuts=(0, len(DENSE)),
    chip=chip(),
    links=Links(fabric(), 8, 20e9, 15e-6),
    seq_len=2048,
    precision="bf16",
    state=adam_state("bf16"),
    micro_batches=4,
)
LAYOUTS = [
    RUN,
    replace(RUN, tp=4, dp=8, sequence_parallel=True),
    replace(RUN, cuts=(0, 4, len(DENSE)), tp=8, virtual=3),
    replace(RUN, cp=2, dp=16, zero=3, shard=32, policy=2),
    replace(RUN, flash=False, fused_softmax=False, slow_host=True, policy=1),
    replace(RUN, layers=EXPERTS, cuts=(0, 7), ep=8, dp=16, zero=1, shard=16),
]


def faster_links(links: Fabric, k: float) -> Fabric:
    return replace(
        links,
        total_bandwidth=links.total_bandwidth * k,
        pair_bandwidth=links.pair_bandwidth * k,
        latency_s=links.latency_s / k,
    )


def faster_chip(c: Chip, k: float) -> Chip:
    return replace(
        c,
        peak_flops=tuple((name, flops * k) for name, flops in c.peak_flops),
        memory_bandwidth=c.memory_bandwidth * k,
    )


def faster_constants(k: float) -> Constants:
    """Every constant whose unit is the second; shares, counts and elements stay."""
    times = [f.name for f in fields(Constants) if f.name.endswith("_s")]
    assert len(times) >= 6
    return replace(C, **{name: getattr(C, name) / k for name in times})


@settings(max_examples=30, deadline=None)
@given(run=st.sampled_from(LAYOUTS), k=st.floats(0.25, 16))
def test_a_world_that_is_k_times_as_fast_takes_a_kth_of_the_time(run, k):
    """A second, a byte or a FLOP that is added where it does not belong would break this."""
    faster = replace(
        run,
        chip=faster_chip(run.chip, k),
        links=replace(
            run.links,
            fabric=faster_links(run.links.fabric, k),
            port=run.links.port * k,
            latency_s=run.links.latency_s / k,
        ),
    )
    with pytest.MonkeyPatch.context() as world:
        world.setattr(collectives, "LAUNCH_S", collectives.LAUNCH_S / k)
        quick = price_step(faster, faster_constants(k), exact=False)
    slow = price_step(run, C, exact=False)
    assert quick.step_s == pytest.approx(slow.step_s / k, rel=1e-9)
    for (name, one), (_, other) in zip(slow.items, quick.items):
        assert other == pytest.approx(one / k, rel=1e-6, abs=1e-15), name


@given(run=st.sampled_from(LAYOUTS), k=st.integers(2, 8))
def test_faster_products_gain_at_most_their_own_factor(run, k):
    """The peak alone: products get faster, what moves bytes or waits does not."""
    faster = replace(
        run,
        chip=replace(
            run.chip, peak_flops=tuple((name, flops * k) for name, flops in run.chip.peak_flops)
        ),
    )
    base, quick = (price_step(r, C, exact=False).step_s for r in (run, faster))
    assert base / k <= quick * (1 + 1e-9)
    assert quick <= base * (1 + 1e-9)
