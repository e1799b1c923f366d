"""Interleaved pipelines over vendors that share no layer: every round of chunks changes vendor."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.units import PS_PER_S
from planner.certify import declared_space
from planner.inputs.cluster import load_cluster
from planner.inputs.overrides import parse_overrides
from planner.layout import LayoutPipeline, LayoutPricer
from planner.search.columns import relaxed_column
from planner.search.engine import SearchLimits
from planner.search.folded import folded_layers, size_space
from planner.search.neighbours import moved
from planner.search.problem import Problem, Setting, Size
from planner.search.regions import Region, apart, balanced, mixes_chunks, roots
from planner.search.space import Stage, StageSpace
from planner.searches import engine_for, narrow_kinds
from planner.simulate import simulate
from planner.solve import Context
from planner.verify import verify
from tests.chunked_plans import dealt, pipeline_of, placed, stage_on
from tests.mesh_inputs import small_context, small_plan

BLOCKS = 8
LAYERS = BLOCKS + 2
FLEET = "2x4xA100-SXM-80GB + 2x4x910B3-64GB @ 25Gb/s"
JOB = (
    "global_batch=12 micro_batch_rows=[1,2] seq_len=2048 max_tensor_parallel=2 "
    "techniques.interleaved=true"
)
ORDERS = (("NVIDIA", "Huawei"), ("Huawei", "NVIDIA"))


def context_of(fleet: str = FLEET, job: str = JOB, collectives: str = "none") -> Context:
    changes = parse_overrides([f"cluster.cross_vendor_collectives={collectives}"])
    return small_context(load_cluster(fleet, None, changes), job, layers=BLOCKS, experts=0)


def test_regions_fix_the_chunks_of_vendors_that_share_no_layer() -> None:
    problem = context_of().problem
    found = roots(problem)
    assert found == apart(problem)
    both = [r for r in found if len(r.vendors) == 2]
    assert {(r.vendors, r.chunks) for r in both} == set(product(ORDERS, (1, 2, 4)))
    # cuts of folded layers: of six, the first and the last lie beside an inner one
    assert {r.cuts for r in both if r.chunks == 1} == {((1, 9),)}
    assert {r.cuts for r in both if r.chunks == 2} == {((2, 4),)}
    assert {r.cuts for r in both if r.chunks == 4} == {((2, 2),)}
    assert not mixes_chunks(problem)


def test_collectives_through_the_processors_leave_interleaving_to_vendors_kept_apart() -> None:
    context = context_of(collectives="cpu-staged")
    together, *others = roots(context.problem)
    assert (together.vendors, together.chunks) == ((), 1)
    assert others
    assert {(len(r.vendors), r.chunks) for r in others} == {(1, None), (2, 2), (2, 4)}
    assert "one chunk per stage" not in narrow_kinds(context)
    (said,) = (t for t in declared_space(context).allowed if t.startswith("interleaved 1F1B"))
    assert "every round of chunks changes vendor at the same cuts" in said
    mixed = context_of("2x4xA100-SXM-80GB + 2x4xV100-SXM2-32GB @ 25Gb/s")
    assert mixes_chunks(mixed.problem)
    assert [r.chunks for r in roots(mixed.problem)] == [None]


def test_windows_of_folded_cuts_count_layers_as_if_chunks_lay_side_by_side() -> None:
    problem = context_of().problem
    setting = Region(ORDERS[0], ((3, 3),), (1, 1), 2).setting(problem)
    vendors = [c.chip.vendor for c in problem.topology.classes]
    assert dict(zip(vendors, setting.windows, strict=True)) == {
        "NVIDIA": (0, 5),
        "Huawei": (5, 10),
    }
    assert "2 chunks per stage" in setting.describe()
    assert {size.chunks for size in problem.sizes_of(setting)} == {2}
    space = size_space(problem, setting, Size(1, 2), optimistic=True)
    assert space is not None
    for k, table in enumerate(space.options):
        first = vendors[table.option.class_index] == "NVIDIA"
        assert np.isfinite(space.stage_time(k, 0, 3, 1)) == first
        assert np.isfinite(space.stage_time(k, 3, 6, 1)) == (not first)
        assert not np.isfinite(space.stage_time(k, 2, 4, 1))
        assert np.isfinite(space.layer_time[k]).tolist() == [first] * 3 + [not first] * 3
    # plain pipelines go through every vendor once: they are no part of this setting, nor
    # interleaved ones of a setting whose windows are intervals of the model
    assert (
        size_space(problem, Setting((1, 1), setting.windows), Size(1, 2), optimistic=True) is None
    )


def test_cuts_move_within_a_round_of_chunks() -> None:
    problem = context_of().problem
    region = balanced(problem, Region(ORDERS[0], ((2, 4),), (1, 1), 2))
    ((cut, _),) = region.cuts
    assert 2 <= cut <= 4
    assert moved(0, 1, problem, region).cuts == ((cut + 1, cut + 1),)
    last = Region(ORDERS[0], ((5, 5),), (1, 1), 2)
    assert moved(0, 1, problem, last) == last  # a round has six folded layers
    assert folded_layers(LAYERS, 2) == 6
    assert folded_layers(LAYERS, 1) == LAYERS


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Context, Region, list[LayoutPipeline]]:
    """Interleaved pipelines that all change vendor at one cut of every round."""
    context = context_of()
    free = {i: list(i.devices) for c in context.topology.classes for i in c.islands}
    vendors = {c.index: c.chip.vendor for c in context.topology.classes}
    order = draw(st.sampled_from(ORDERS))
    chunks = draw(st.sampled_from((2, 4)))
    run = BLOCKS // chunks
    change = draw(st.integers(1, run - 1))
    rows = draw(st.sampled_from(context.problem.micro_batch_rows))
    pipelines: list[LayoutPipeline] = []
    for _ in range(draw(st.integers(1, 3))):
        before = draw(st.sets(st.integers(1, run - 1), max_size=2))
        edges = (0, *sorted({*before, change}), run)
        stages = []
        for k, parts in enumerate(dealt(edges, chunks)):
            vendor = order[edges[k] >= change]
            ways = [
                (island, t.option.mesh)
                for t in context.problem.tables.tables
                if t.option.rows == rows and vendors[t.option.class_index] == vendor
                for island in context.topology.classes[t.option.class_index].islands
                if len(free[island]) >= t.option.chips
            ]
            if not ways:
                break
            island, mesh = draw(st.sampled_from(ways))
            devices = tuple(free[island][: mesh.chips])
            del free[island][: mesh.chips]
            policy = draw(st.sampled_from(context.options.policies))
            stages.append(stage_on(island, devices, parts, mesh, policy))
        else:
            pipelines.append(pipeline_of(stages, draw(st.integers(1, 9)), rows))
    low = draw(st.integers(2, change + 1))
    high = draw(st.integers(change + 1, run))
    count = max(len(pipelines), 1)
    return context, Region(order, ((low, high),), (count, count), chunks), pipelines


def as_searched(
    problem: Problem, setting: Setting, pipe: LayoutPipeline, horizon_ps: int
) -> tuple[StageSpace, tuple[Stage, ...]]:
    """The space and the stages in which the bound sees an interleaved pipeline."""
    size = Size(pipe.rows, len(pipe.stages[0].parts))
    assert size in problem.sizes_of(setting)
    horizon = horizon_ps / PS_PER_S
    space = size_space(problem, setting, size, optimistic=True, horizon_s=horizon)
    assert space is not None
    at = {(t.option.class_index, t.option.mesh): k for k, t in enumerate(space.options)}
    ends = [stage.parts[0][1] for stage in pipe.stages[:-1]]
    edges = pairwise((0, *ends, space.layers))
    return space, tuple(
        Stage(at[stage.island.class_index, stage.mesh], first, end)
        for stage, (first, end) in zip(pipe.stages, edges, strict=True)
    )


@settings(max_examples=150)
@given(layouts())
def test_no_pipeline_over_vendors_is_later_by_the_bound_than_its_layout(
    given_: tuple[Context, Region, list[LayoutPipeline]],
) -> None:
    """In any region that holds its cut, whatever else the region holds."""
    context, region, pipelines = given_
    if not pipelines:
        return
    known = context.problem
    done = sum(p.rows * p.micro_batches for p in pipelines)
    problem = Problem(
        known.tables, known.topology, known.policies, done, known.max_stages, chunks=known.chunks
    )
    priced = LayoutPricer(context.model.graph, context.topology, context.job).price(pipelines, 1)
    setting = region.setting(problem)
    for pipe, own in zip(pipelines, priced.pipelines, strict=True):
        if not all(s.memory.peak <= s.usable_bytes for s in own.stages):
            continue  # then it may be faster than what is legal
        space, stages = as_searched(problem, setting, pipe, priced.formula_ps)
        cap = pipe.micro_batches * space.chunks
        held = [
            space.stage_time(
                s.option, s.first, s.end, int(space.held(len(stages) - k, len(stages), cap))
            )
            for k, s in enumerate(stages)
        ]
        assert np.isfinite(held).all()
        column = relaxed_column(problem, space, held, stages, None)
        assert column.time_ps(pipe.micro_batches) <= priced.formula_ps


def brute_force_ps(context: Context) -> int:
    """The best formula time of equal layouts over both vendors, interleaved or not.

    Every order and cut, one mesh and one or two equal stages per vendor, one or two pipelines.
    """
    best = None
    batch = context.problem.global_batch
    islands = {
        v: [i for c in context.topology.classes if c.chip.vendor == v for i in c.islands]
        for v in ORDERS[0]
    }
    meshes = sorted({t.option.mesh for t in context.problem.tables.tables})
    for order, chunks, mesh, copies in product(ORDERS, (1, 2, 4), meshes, (1, 2)):
        run = BLOCKS // chunks
        for change, parts in product(range(1, run), product((1, 2), repeat=2)):
            ends = (change, run - change)
            if any(length % n for length, n in zip(ends, parts, strict=True)):
                continue
            first = [change * k // parts[0] for k in range(parts[0])]
            then = [change + (run - change) * k // parts[1] for k in range(parts[1])]
            edges = (*first, *then, run)
            where = [islands[order[edge >= change]] for edge in edges[:-1]]
            each = list(zip(dealt(edges, chunks), where, strict=True))
            pipes = placed(each, mesh, 0, copies, 1, batch)
            if pipes is None:
                continue
            priced = context.pricer.price(pipes, context.options.zero_level)
            if priced.fits and (best is None or priced.formula_ps < best):
                best = priced.formula_ps
    assert best is not None
    return best


@pytest.mark.parametrize("collectives", ["none", "cpu-staged"])
def test_the_bound_is_below_all_small_layouts_over_vendors_and_plans_are_as_good(
    collectives: str,
) -> None:
    job = (
        "global_batch=4 micro_batch_rows=[1] seq_len=2048 max_tensor_parallel=2 "
        "techniques.interleaved=true"
    )
    fleet = "1x4xA100-SXM-80GB + 1x4x910B3-64GB @ 100Gb/s"
    context = context_of(fleet, job, collectives)
    engine = engine_for(context, SearchLimits(gap=0.01, seed=0), lambda _: None, lambda: False)
    engine.find()
    outcome = engine.prove()
    best = brute_force_ps(context)
    assert outcome.solution is not None
    assert outcome.lower_bound_ps <= best
    assert outcome.lower_bound_ps <= outcome.solution.real_ps <= best * 1.01


def test_a_plan_over_vendors_keeps_every_layer_on_one_of_them_and_replays_as_priced() -> None:
    plan = small_plan(
        "1x4xA100-SXM-80GB + 1x4x910B3-64GB @ 400Gb/s",
        "global_batch=8 micro_batch_rows=[1] seq_len=2048 techniques.interleaved=true",
        layers=16,
        experts=0,
    )
    assert not verify(plan)
    assert {p.schedule for p in plan.pipelines} == {"interleaved"}
    on: dict[int, set[str]] = {}
    for stage in (s for p in plan.pipelines for s in p.stages):
        for replica in stage.replicas:
            for layer in stage.held_layers:
                on.setdefault(layer, set()).add(replica.chip.split("-")[0])
    assert sorted(on) == list(range(18))
    assert {len(chips) for chips in on.values()} == {1}
    assert len(set().union(*on.values())) == 2
    # the vendors take turns: through the chips of both in every round
    changes = sum(on[layer] != on[layer + 1] for layer in range(17))
    rounds = len(plan.pipelines[0].stages[0].chunks)
    assert changes == 2 * rounds - 1
    assert simulate(plan).step_time_s == pytest.approx(plan.estimate.step_time_s, rel=0.02)
