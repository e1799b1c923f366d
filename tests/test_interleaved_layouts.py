"""Layouts whose stages hold several chunks: what they cost, hold and reduce, and who agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from costmodels.interleaved import classic_depths
from planner import assemble, certify
from planner.inputs.cluster import cluster_from_document
from planner.inputs.document import Document
from planner.inputs.job import ResolvedJob
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage, PricedLayout, PricedStage
from planner.mesh import StageMesh
from planner.plan import Plan, seal
from planner.restore import restore
from planner.reuse import layouts_of
from planner.simulate import simulate
from planner.solve import Context, input_records, with_simulation
from planner.verify import verify
from planner.verify.costs import check_costs
from planner.verify.prices import Prices
from tests.chunked_plans import pipeline_of, stage_on
from tests.mesh_inputs import small_context
from tests.priced_plans import check_by_kind

FLEET = "3x4xA100-SXM-80GB + 3x4xV100-SXM2-32GB @ 100Gb/s"
LAYERS = 12
ROWS = 4
JOBS = {
    "plain": (FLEET, "", 0),
    "experts": ("3x4xA100-SXM-80GB @ 100Gb/s", "", 4),
    "divided": (
        "3x4xA100-SXM-80GB @ 10Gb/s",
        "techniques.zero3=true techniques.gradient_compression=int4",
        0,
    ),
    "hosts": (
        "hosts",
        "techniques.activation_offload=true techniques.optimizer_offload=true",
        0,
    ),
}
HOSTS = {
    "name": "hosts",
    "nodes": [
        {
            "name_prefix": f"{chip[0]}-",
            "count": 3,
            "host_memory_gib": 512,
            "devices": [{"chip": chip, "count": 4}],
            "nics": [{"network": "ib", "bandwidth_one_way": "50 Gb/s"}],
        }
        for chip in ("A100-SXM-80GB", "V100-SXM2-32GB")
    ],
    "networks": [{"name": "ib", "kind": "ib"}],
}


@cache
def context(name: str = "plain") -> Context:
    fleet, techniques, experts = JOBS[name]
    cluster = cluster_from_document(Document(fleet, HOSTS)) if fleet == "hosts" else fleet
    sets = f"global_batch=64 seq_len=1024 techniques.interleaved=true {techniques}"
    return small_context(cluster, sets, layers=LAYERS - 2, experts=experts)


@cache
def meshes(name: str) -> list[StageMesh]:
    """What the stages of a job may be, among up to four chips that divide the rows."""
    found = {o.mesh for o in context(name).options.options}
    return sorted((m for m in found if m.chips <= 4 and ROWS % m.dp == 0), key=str)


def dealt(cuts: list[int], stages: int) -> list[tuple[tuple[int, int], ...]]:
    """Chunks of every stage, dealt out in turn."""
    ends = [0, *cuts, LAYERS]
    spans = list(pairwise(ends))
    return [tuple(spans[s::stages]) for s in range(stages)]


@st.composite
def pipelines(
    draw: st.DrawFn, *, job: str = "plain", apart: bool = False, mixed: bool = False
) -> list[LayoutPipeline]:
    """A few interleaved pipelines over the fleet; with ``apart`` on devices of their own.

    With ``mixed`` some of them are plain 1F1B.
    """
    islands = [i for c in context(job).topology.classes for i in c.islands]
    free = {i.name: list(i.devices) for i in islands}
    stages, chunks = draw(st.integers(2, 3)), draw(st.integers(2, 3))
    number = stages * chunks - 1
    cuts = st.lists(st.integers(1, LAYERS - 1), min_size=number, max_size=number, unique=True)
    common = sorted(draw(cuts))
    out = []
    for _ in range(draw(st.integers(1, 3))):
        own = common if draw(st.booleans()) else sorted(draw(cuts))
        m = draw(st.sampled_from((1, 4, 6, 7)))
        deeper = draw(st.sampled_from((None, 0, 2)))
        whole = mixed and draw(st.booleans())
        depths = classic_depths(stages, 1 if whole else chunks, m)
        layout = []
        held = dealt(own[chunks - 1 :: chunks] if whole else own, stages)
        for s, parts in enumerate(held):
            mesh = draw(st.sampled_from(meshes(job)))
            open_ = [i for i in islands if len(free[i.name]) >= mesh.chips]
            if not open_:
                reject()
            island = draw(st.sampled_from(open_))
            devices = tuple(free[island.name][: mesh.chips])
            if apart:
                del free[island.name][: mesh.chips]
            policy = draw(st.sampled_from(context(job).options.policies))
            depth = None if deeper is None else depths[s] + deeper
            layout.append(stage_on(island, devices, parts, mesh, policy, depth))
        out.append(pipeline_of(layout, m, ROWS))
    return out


def job_of(layout: Sequence[LayoutPipeline], known: Context) -> ResolvedJob:
    """The job with as large a batch as the layout runs."""
    batch = sum((p.micro_batches - 1) * p.rows + p.last_rows for p in layout)
    return replace(known.job, global_batch=batch)


def plan_of(priced: PricedLayout, known: Context) -> Plan:
    """The plan of a layout that was priced and not searched; its batch is what it runs."""
    job = job_of([p.pipeline for p in priced.pipelines], known)
    level = known.options.zero_level
    return seal(
        Plan(
            planner_version="0",
            inputs=input_records(replace(known, job=job)),
            plan_class=assemble.classify(priced),
            layer_order=tuple(layer.name for layer in known.model.graph.layers),
            pipelines=assemble.plan_pipelines(priced, known.topology, level),
            sync_groups=assemble.sync_groups(priced, level),
            unused_devices=assemble.unused(
                priced, known.topology, dict.fromkeys(range(9), "left out by hand")
            ),
            alternatives=(),
            estimate=assemble.estimate(priced, known.model.graph, known.topology, job, None),
            certificate=None,
            baselines=(),
            assumptions=certify.assumptions(known),
        )
    )


# -- agreement ------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", JOBS)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_verification_accepts_what_was_priced_and_the_replay_takes_as_long(
    job: str, data: st.DataObject
) -> None:
    known = context(job)
    priced = known.pricer.price(
        data.draw(pipelines(job=job, apart=True, mixed=True)), known.options.zero_level
    )
    assume(not priced.problems)
    plan = plan_of(priced, known)
    assert verify(plan) == []
    assert simulate(plan).step_time_ps >= round(plan.estimate.step_time_s * 1e12)
    assert verify(seal(with_simulation(plan))) == []


@settings(max_examples=25, deadline=None)
@given(pipelines(apart=True, mixed=True))
def test_a_plan_read_again_is_the_layout_that_was_priced(layout: list[LayoutPipeline]) -> None:
    known = context()
    level = known.options.zero_level
    plan = plan_of(known.pricer.price(layout, level), known)
    job = job_of(layout, known)
    read = Plan.model_validate_json(plan.to_json())
    again = layouts_of(read, known.model.graph, known.topology, job)
    assert again is not None
    for one, other in zip(again, layout, strict=True):
        assert [s.parts for s in one.stages] == [s.parts for s in other.stages]
    assert plan_of(known.pricer.price(again, level), known) == plan


@settings(max_examples=25, deadline=None)
@given(pipelines(apart=True))
def test_a_pipeline_alone_is_replayed_in_its_exact_time(layout: list[LayoutPipeline]) -> None:
    """Each stage has its share of its host's port, so nothing of one pipeline is contended."""
    known = context()
    plan = plan_of(known.pricer.price(layout[:1], known.options.zero_level), known)
    (run,) = simulate(plan).runs
    assert run.end_ps == round(plan.pipelines[0].exact_time_s * 1e12)


@settings(max_examples=40, deadline=None)
@given(pipelines(mixed=True))
def test_pipelines_that_are_alike_cost_the_same_priced_once_or_one_by_one(
    layout: list[LayoutPipeline],
) -> None:
    check_by_kind(context(), layout)


# -- memory --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(pipelines())
def test_no_stage_holds_less_than_it_would_of_the_same_layers_in_1f1b(
    layout: list[LayoutPipeline],
) -> None:
    """There stage s of S holds S - s micro-batches, or all."""
    for pipe in context().pricer.price(layout, 1).pipelines:
        count, m = len(pipe.stages), pipe.pipeline.micro_batches
        for s, stage in enumerate(pipe.stages):
            kept, working = activations(stage)
            assert stage.memory.activations >= min(count - s, m) * sum(kept) + working


def activations(stage: PricedStage) -> tuple[list[int], int]:
    """Bytes that each layer keeps of a micro-batch, and those of the largest layer at work."""
    each = list(zip(stage.costs, stage.stage.policies, strict=True))
    return [c.price.kept(p) for c, p in each], max(c.price.working(p) for c, p in each)


def test_all_layers_count_as_often_as_their_chunk_is_held_at_the_peak() -> None:
    """Stage 1 of 2 with depth 3 holds chunk 0 twice and chunk 1 once: F00 F01 F10 B10 ..."""
    (pipe,) = context().pricer.price([by_hand()], 1).pipelines
    kept, working = activations(pipe.stages[1])
    assert pipe.stages[1].in_flight == 3
    held = 2 * sum(kept[:3]) + sum(kept[3:])
    assert pipe.stages[1].memory.activations == held + working


def test_the_host_holds_the_most_at_a_time_of_its_own() -> None:
    """F00 F01 F10 B10 F11 B11 F02 B00 ...: what chunk 0 leaves on the host is there three times
    after F02, when nothing of chunk 1 is kept; the device is fullest at the first F10."""
    known = context("hosts")
    layout = by_hand(m=4, job="hosts")
    second = replace(layout.stages[1], policies=(3, 3, 3, 0, 0, 0))
    layout = replace(layout, stages=(layout.stages[0], second))
    priced = known.pricer.price([layout], known.options.zero_level)
    stage = priced.pipelines[0].stages[1]
    kept, working = activations(stage)
    left = [c.price.on_host(p) for c, p in zip(stage.costs, second.policies, strict=True)]
    assert stage.memory.activations == 2 * sum(kept[:3]) + sum(kept[3:]) + working
    assert stage.memory.host == 3 * sum(left) > 0
    assert verify(plan_of(priced, known)) == []


def by_hand(m: int = 2, job: str = "plain") -> LayoutPipeline:
    """Two stages of [0, 3) and [6, 9), [3, 6) and [9, 12) on two hosts of A100."""
    (first, second, *_) = context(job).topology.classes[0].islands
    parts = (((0, 3), (6, 9)), ((3, 6), (9, 12)))
    return LayoutPipeline(
        tuple(
            LayoutStage(
                island,
                island.devices[:1],
                own[0][0],
                own[-1][1],
                StageMesh(1),
                (0,) * 6,
                chunks=own,
            )
            for island, own in zip((first, second), parts)
        ),
        1,
        m,
        1,
        "interleaved",
    )


# -- hops and reductions -------------------------------------------------------------------------


def test_the_last_of_two_stages_sends_to_the_first_as_fast_as_it_receives() -> None:
    """A way of 12.5 GB/s; a chip of four has a quarter, and sends both activations and gradients
    over it at once, so that either has an eighth."""
    (pipe,) = context().pricer.price([by_hand()], 1).pipelines
    here, there = (stage.stage.island for stage in pipe.stages)
    route = context().topology.route(here, there)
    seconds = route.seconds(1024 * 2048 * 2, 1 / 8)
    assert [stage.hop_to_next_ps for stage in pipe.stages] == [round(seconds * 1e12)] * 2


def test_transfers_that_block_keep_every_chunk_but_the_first_of_all_waiting() -> None:
    known = context()
    topology = replace(known.topology, blocking_transfers=True)
    priced = LayoutPricer(known.model.graph, topology, known.job).price([by_hand()], 1)
    (quick,) = known.pricer.price([by_hand()], 1).pipelines
    (own,) = priced.pipelines
    waits = [
        tuple(f - g for (f, _), (g, _) in zip(stage.chunk_ps, other.chunk_ps, strict=True))
        for stage, other in zip(own.stages, quick.stages, strict=True)
    ]
    assert waits[0][0] == 0
    assert min(waits[0][1], *waits[1]) > 0
    assert [stage.transfer_ps for stage in own.stages] == [sum(each) for each in waits]
    assert [stage.hop_to_next_ps for stage in own.stages] == [0, 0]
    plan = plan_of(priced, known)
    world = replace(restore(plan), topology=topology)
    assert check_costs(plan, world, Prices(world)).problems == []


def test_a_fill_that_the_formula_sees_longer_than_the_step_leaves_the_update_its_time() -> None:
    """Over a slow network the formula takes the busiest channel for the first micro-batch too, but
    the last stage lies on the island of the first."""
    known = context("divided")
    first, second, *_ = known.topology.classes[0].islands
    seats = ((first, 0), (second, 0), (first, 1))
    layout = LayoutPipeline(
        tuple(
            LayoutStage(
                island,
                island.devices[chip : chip + 1],
                parts[0][0],
                parts[-1][1],
                StageMesh(1),
                (0,) * 4,
                chunks=parts,
            )
            for (island, chip), parts in zip(seats, dealt([2, 4, 6, 8, 10], 3))
        ),
        ROWS,
        1,
        ROWS,
        "interleaved",
    )
    priced = known.pricer.price([layout], known.options.zero_level)
    (pipe,) = priced.pipelines
    assert pipe.fill_ps > pipe.exact.total
    plan = plan_of(priced, known)
    assert plan.estimate.breakdown_s.update * 1e12 == pytest.approx(priced.update_ps)
    assert plan.estimate.breakdown_s.update > 0
    assert verify(plan) == []


@settings(max_examples=40, deadline=None)
@given(pipelines(mixed=True))
def test_every_layer_is_reduced_once_by_the_stages_that_hold_it(
    layout: list[LayoutPipeline],
) -> None:
    priced = context().pricer.price(layout, 1)
    reduced: Counter[int] = Counter()
    for sync in priced.syncs:
        layers = range(sync.first, sync.end)
        reduced.update(layers)
        for p, s in sync.members:
            held = {k for part in layout[p].stages[s].parts for k in range(*part)}
            assert held.issuperset(layers)
        assert [p for p, _ in sync.members] == list(range(len(layout)))
    once = range(LAYERS) if len(layout) > 1 else ()
    assert reduced == Counter(once)
