"""Interleaved pipelines as the search sees them: folded layers, pairs in flight, the same price."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels import interleaved
from costmodels.units import PS_PER_S
from planner.certify import declared_space
from planner.costing import build_tables
from planner.layout import LayoutPipeline, LayoutPricer
from planner.mesh import StageMesh
from planner.search.columns import relaxed_column
from planner.search.engine import Engine, SearchLimits
from planner.search.folded import (
    chunk_numbers,
    foldable,
    folded,
    folds,
    interleaved_columns,
    size_space,
    unfold,
)
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size
from planner.search.relaxation import Relaxation
from planner.search.space import Stage, StageSpace, build_space
from planner.search.stage_costs import StageCosts
from planner.searches import engine_for
from planner.solve import Context
from tests.chunked_plans import dealt, pipeline_of, placed, stage_on
from tests.mesh_inputs import small_context

BLOCKS = 8
FLEETS = ("3x4xA100-SXM-80GB @ 25Gb/s", "2x2xA100-SXM-80GB + 2x4xA100-SXM-40GB @ 25Gb/s")
JOB = (
    "global_batch=12 micro_batch_rows=[1,2] seq_len=2048 max_tensor_parallel=2 "
    "techniques.interleaved=true"
)


def context_of(fleet: str, job: str = JOB, blocks: int = BLOCKS) -> Context:
    return small_context(fleet, job, layers=blocks, experts=0)


def test_inner_layers_fold_into_runs_of_equal_length() -> None:
    """Eight blocks between embedding and head: two runs of four, four runs of two."""
    assert [unfold(cut, 6, 2) for cut in range(7)] == [0, 1, 3, 5, 7, 9, 10]
    assert [unfold(cut, 4, 4) for cut in range(5)] == [0, 1, 5, 9, 10]
    assert chunk_numbers(BLOCKS + 2) == (2, 4)
    assert not folds(BLOCKS + 2, 3)  # does not divide
    assert not folds(BLOCKS + 2, 8)  # a run of one block is too short for two stages
    assert chunk_numbers(2) == chunk_numbers(3) == ()


def test_a_folded_stage_takes_its_part_of_the_time_of_all_its_layers() -> None:
    context = context_of(FLEETS[0])
    problem = context.problem
    setting = Setting((1, 1), ((0, BLOCKS + 2),))
    plain = build_space(problem, setting, 1, optimistic=True)
    space = folded(problem, plain, 2, optimistic=True)
    assert space is not None
    assert space.layers == 6
    for k in range(len(space.options)):
        assert space.stage_time(k, 0, 3, 1) == pytest.approx(plain.stage_time(k, 0, 5, 1) / 2)
        assert space.stage_time(k, 1, 3, 1) == pytest.approx(plain.stage_time(k, 1, 5, 1) / 2)
        assert space.stage_time(k, 3, 6, 1) == pytest.approx(plain.stage_time(k, 5, 10, 1) / 2)
        # no chunk without an inner layer, and no pipeline of a single stage
        assert space.stage_time(k, 0, 1, 1) == np.inf
        assert space.stage_time(k, 5, 6, 1) == np.inf
        assert space.stage_time(k, 0, 6, 1) == np.inf
    assert space.layer_time[:, 1:-1] == pytest.approx(plain.layer_time[:, 1:5])
    assert space.layer_time[:, 0] == pytest.approx(plain.layer_time[:, 0] / 2)


def test_no_takt_is_shorter_than_the_hop_back_to_the_first_stage() -> None:
    """The way back takes longer than any stage, and decides every takt."""
    problem = context_of(FLEETS[0]).problem
    plain = build_space(problem, Setting((1, 1), ((0, BLOCKS + 2),)), 1, optimistic=True)
    space = folded(problem, plain, 2, optimistic=True)
    assert space is not None
    assert space.back is not None
    assert set(space.back[np.isfinite(space.back)]) <= set(Pricer(space, 4).breakpoints())
    slow = 2 * max(float(part[np.isfinite(part)].max()) for part in space.time)
    space = replace(space, back=np.full_like(space.back, slow))
    takts = np.array([slow * 0.999, slow * 1.001])
    answer = Pricer(space, 4).solve(
        np.ones(len(space.options)), takts, np.ones(2), np.ones(2, dtype=np.int64), trace=True
    )
    assert np.isinf(answer.cost[0])
    pipeline = answer.pipelines[1]
    assert pipeline is not None
    stages = [space.stage_time(s.option, s.first, s.end, 1) for s in pipeline]
    column = relaxed_column(problem, space, stages, pipeline, None)
    assert column.period_ps == 2 * int(slow * PS_PER_S)  # two chunks per micro-batch
    assert column.fill_ps < sum(stages) * PS_PER_S + 2 * slow * PS_PER_S  # once, for the takt


def test_vendors_that_share_no_layer_have_no_interleaved_pipelines() -> None:
    problem = context_of(FLEETS[1]).problem
    apart = Setting((1, 2), ((0, 4), (4, BLOCKS + 2)), (0, 1))
    assert size_space(problem, apart, Size(1, 2), optimistic=True) is None
    alone = size_space(
        problem, Setting((1, 2), ((0, BLOCKS + 2), (0, 0))), Size(1, 2), optimistic=True
    )
    assert alone is not None
    for k, table in enumerate(alone.options):
        legal = table.option.class_index == 0
        assert np.isfinite(alone.stage_time(k, 0, 3, 1)) == legal
        assert np.isfinite(alone.layer_time[k]).all() == legal


def test_unlike_layers_do_not_fold_and_the_certificate_says_so() -> None:
    apart = 'pinned_layers=[{"layers":[0,3],"only_on":["A100-SXM-80GB"]}]'
    context = context_of(FLEETS[1], f"{JOB} {apart}")
    assert context.job.interleaved
    assert foldable(context_of(FLEETS[1]).problem) == (2, 4)
    assert foldable(context.problem) == context.problem.chunks == ()
    said = declared_space(context)
    assert not any("interleaved" in text for text in said.allowed)
    assert any(text.startswith("interleaved pipelines: there are none") for text in said.dropped)
    alike = declared_space(context_of(FLEETS[1]))
    assert any(text.startswith("interleaved 1F1B with {2, 4} chunks") for text in alike.allowed)


contexts = st.sampled_from(
    [
        *((fleet, JOB) for fleet in FLEETS),
        # little memory: about half of all stages do not fit
        (
            "2x4xV100-SXM2-16GB @ 25Gb/s",
            "global_batch=60 micro_batch_rows=[1,5] seq_len=4096 max_tensor_parallel=2 "
            "techniques.interleaved=true",
        ),
    ]
).map(lambda inputs: context_of(*inputs))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Context, list[LayoutPipeline]]:
    """Plain and interleaved pipelines on free chips of random islands."""
    context = draw(contexts)
    free = {i: list(i.devices) for c in context.topology.classes for i in c.islands}
    policies = context.options.policies
    pipelines: list[LayoutPipeline] = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.sampled_from(context.problem.micro_batch_rows))
        chunks = draw(st.sampled_from((1, 2, 4)))
        run = BLOCKS // chunks
        cuts = sorted(draw(st.sets(st.integers(1, run - 1), min_size=1, max_size=3)))
        stages = []
        for parts in dealt((0, *cuts, run), chunks):
            ways = [
                (island, t.option.mesh)
                for t in context.problem.tables.tables
                if t.option.rows == rows
                for island in context.topology.classes[t.option.class_index].islands
                if len(free[island]) >= t.option.chips
            ]
            if not ways:
                return context, pipelines
            island, mesh = draw(st.sampled_from(ways))
            devices = tuple(free[island][: mesh.chips])
            del free[island][: mesh.chips]
            policy = draw(st.sampled_from(policies))
            stages.append(stage_on(island, devices, parts, mesh, policy))
        pipelines.append(pipeline_of(stages, draw(st.integers(1, 9)), rows))
    return context, pipelines


def as_searched(
    problem: Problem, setting: Setting, pipe: LayoutPipeline, horizon_ps: int
) -> tuple[StageSpace, tuple[Stage, ...]]:
    """The space and the stages in which the bound sees a pipeline."""
    chunks = len(pipe.stages[0].parts)
    space = size_space(
        problem,
        setting,
        Size(pipe.rows, chunks),
        optimistic=True,
        horizon_s=horizon_ps / PS_PER_S,
    )
    assert space is not None
    at = {(t.option.class_index, t.option.mesh): k for k, t in enumerate(space.options)}
    cut = {unfold(c, space.layers, chunks): c for c in range(space.layers + 1)}
    stages = []
    for s, stage in enumerate(pipe.stages):
        first, end = stage.parts[0]
        stages.append(
            Stage(
                at[stage.island.class_index, stage.mesh],
                # what the first chunk holds, in folded layers
                cut[first] if chunks == 1 or s == 0 else first,
                space.layers if s == len(pipe.stages) - 1 else end,
            )
        )
    return space, tuple(stages)


@settings(max_examples=250)
@given(layouts())
def test_no_pipeline_is_later_by_the_bound_than_its_layout_and_what_fits_is_legal_there(
    given_: tuple[Context, list[LayoutPipeline]],
) -> None:
    context, pipelines = given_
    if not pipelines:
        return
    problem = context.problem
    done = sum(p.rows * p.micro_batches for p in pipelines)
    problem = Problem(
        problem.tables,
        problem.topology,
        problem.policies,
        done,
        problem.max_stages,
        chunks=problem.chunks,
    )
    priced = LayoutPricer(context.model.graph, context.topology, context.job).price(pipelines, 1)
    count = len(pipelines)
    setting = Setting((count, count), ((0, problem.tables.layers),) * len(context.topology.classes))
    for pipe, own in zip(pipelines, priced.pipelines, strict=True):
        space, stages = as_searched(problem, setting, pipe, priced.formula_ps)
        size = len(stages)
        cap = pipe.micro_batches * space.chunks
        fits = all(s.memory.peak <= s.usable_bytes for s in own.stages)
        times = [space.stage_time(s.option, s.first, s.end, 1) for s in stages]
        if not fits:  # then it may be faster than what is legal
            continue
        column = relaxed_column(problem, space, times, stages, None)
        assert column.chunks == space.chunks
        assert column.time_ps(pipe.micro_batches) <= priced.formula_ps
        held = [
            space.stage_time(s.option, s.first, s.end, int(space.held(size - k, size, cap)))
            for k, s in enumerate(stages)
        ]
        slowest = max((s.forward_ps + s.backward_ps) / PS_PER_S for s in own.stages)
        assert max(held) * space.chunks <= slowest * (1 + 1e-9)


HOST = "1x{}xA100-SXM-80GB"
LONG = (
    "global_batch=12 micro_batch_rows=[1] seq_len={} max_tensor_parallel=1 "
    "techniques.interleaved=true"
)


@st.composite
def full_hosts(draw: st.DrawFn) -> tuple[Context, LayoutPipeline]:
    """One interleaved pipeline over all chips of a host, a chip per stage."""
    chunks = draw(st.sampled_from((2, 4)))
    run = BLOCKS // chunks
    count = draw(st.sampled_from([s for s in (2, 4) if s <= run]))
    length = draw(st.sampled_from((1024, 4096, 8192)))
    context = context_of(HOST.format(count), LONG.format(length))
    (island,) = context.topology.classes[0].islands
    cuts = sorted(draw(st.sets(st.integers(1, run - 1), min_size=count - 1, max_size=count - 1)))
    policy = draw(st.sampled_from(context.options.policies))
    stages = [
        stage_on(island, island.devices[s : s + 1], parts, StageMesh(1), policy)
        for s, parts in enumerate(dealt((0, *cuts, run), chunks))
    ]
    return context, pipeline_of(stages, draw(st.sampled_from((1, 2, 3, 4, 5, 7, 12))))


@settings(max_examples=60)
@given(full_hosts())
def test_as_much_memory_as_a_layout_needs_is_enough_for_the_bound(
    given_: tuple[Context, LayoutPipeline],
) -> None:
    """Devices with exactly the memory of the neediest stage: every stage is legal at its place.

    And the bound of what such devices can do is not above what the layout takes.
    """
    context, pipe = given_
    (priced,) = context.pricer.price([pipe], 1).pipelines
    needed = max(s.memory.peak - s.memory.fragmentation for s in priced.stages)
    (cls,) = context.topology.classes
    tight = replace(cls, usable_memory_bytes=needed * 100 // 95 + 2)  # 5 % are lost
    topology = replace(context.topology, classes=(tight,))
    again = LayoutPricer(context.model.graph, topology, context.job).price([pipe], 1)
    assert again.fits
    tables = build_tables(context.model.graph, topology, context.job, context.options)
    chunks, count = len(pipe.stages[0].parts), len(pipe.stages)
    problem = replace(
        context.problem,
        tables=tables,
        topology=topology,
        global_batch=pipe.micro_batches,
        chunks=(chunks,),
    )
    setting = Setting((1, 1), ((0, BLOCKS + 2),))
    space, stages = as_searched(problem, setting, pipe, again.formula_ps)
    cap = pipe.micro_batches * space.chunks
    for k, (stage, own) in enumerate(zip(stages, again.pipelines[0].stages, strict=True)):
        policy = space.policies.index(own.stage.policies[0])
        depth = space.stage_depth(stage.option, stage.first, stage.end, policy)
        assert depth >= int(space.held(count - k, count, cap))
    relaxation = Relaxation(problem, setting, [Size(1, chunks)], again.formula_ps * 2)
    relaxation.improve(None, rounds=10, max_queries=20_000, finest=0.001)
    assert relaxation.bound_ps <= again.formula_ps


def test_a_column_is_priced_as_its_placement_where_nothing_is_shared() -> None:
    """Two stages on the two halves of one host: known hops, one replica."""
    context = context_of("1x4xA100-SXM-80GB")
    problem = context.problem
    setting = Setting((1, 1), ((0, BLOCKS + 2),))
    plain = build_space(problem, setting, 1, optimistic=False)
    space = folded(problem, plain, 2, optimistic=False)
    assert space is not None
    option = next(k for k, t in enumerate(space.options) if t.option.chips == 2)
    pipeline = (Stage(option, 0, 3), Stage(option, 3, 6))
    columns = interleaved_columns(problem, space, pipeline, 12, StageCosts(problem, plain))
    assert columns
    column = columns[0]
    assert [s.parts for s in column.stages] == [((0, 3), (5, 7)), ((3, 5), (7, 10))]
    assert [s.in_flight for s in column.stages] == [5, 3]
    island = context.topology.classes[0].islands[0]
    stages = [
        stage_on(island, island.devices[2 * k : 2 * k + 2], s.parts, s.mesh, s.policy)
        for k, s in enumerate(column.stages)
    ]
    (priced,) = context.pricer.price([pipeline_of(stages, 12)], 1).pipelines
    plain_time = column.time_ps(12) - column.finish_ps
    assert plain_time == interleaved.formula_time(
        column.forward_ps, column.backward_ps, (*column.hop_ps, max(column.hop_ps)), 12, 2
    )
    assert priced.formula_ps == max(plain_time, priced.exact.total)


def brute_force_ps(context: Context) -> int:
    """The best formula time of equal interleaved pipelines of one kind of stage on whole islands.

    Every number of pipelines, rows, chunks, cuts and mesh that the options allow.
    """
    problem = context.problem
    islands = [i for c in context.topology.classes for i in c.islands]
    best = None
    for rows, chunks in product(problem.micro_batch_rows, problem.chunks):
        run = BLOCKS // chunks
        meshes = {t.option.mesh for t in problem.tables.tables if t.option.rows == rows}
        for mesh, stages in product(sorted(meshes), (2, 3)):
            if stages > run:
                continue
            for cuts in combinations(range(1, run), stages - 1):
                each = [(parts, islands) for parts in dealt((0, *cuts, run), chunks)]
                for policy, copies in product(context.options.policies, (1, 2, 3)):
                    if problem.global_batch % (rows * copies):
                        continue
                    pipes = placed(each, mesh, policy, copies, rows, problem.global_batch)
                    if pipes is None:
                        continue
                    priced = context.pricer.price(pipes, context.options.zero_level)
                    if priced.fits and (best is None or priced.formula_ps < best):
                        best = priced.formula_ps
    assert best is not None
    return best


@pytest.mark.parametrize(
    ("fleet", "batch"), [("1x4xA100-SXM-80GB", 4), ("3x2xA100-SXM-80GB @ 100Gb/s", 12)]
)
def test_the_bound_is_below_the_best_of_all_small_interleaved_layouts_and_plans_are_as_good(
    fleet: str, batch: int
) -> None:
    job = (
        f"global_batch={batch} micro_batch_rows=[1] seq_len=2048 max_tensor_parallel=2 "
        "techniques.interleaved=true"
    )
    context = context_of(fleet, job)
    engine: Engine = engine_for(
        context, SearchLimits(gap=0.01, seed=0), lambda _: None, lambda: False
    )
    engine.find()
    outcome = engine.prove()
    best = brute_force_ps(context)
    assert outcome.solution is not None
    assert outcome.lower_bound_ps <= best
    assert outcome.lower_bound_ps <= outcome.solution.real_ps <= best * 1.01
