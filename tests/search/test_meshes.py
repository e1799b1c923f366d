"""Meshes inside a stage: the search, the compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from costmodels.memory import boundary_buffer_bytes, stage_memory
from planner.dominance import without_dominated
from planner.mesh import StageMesh
from planner.search.compact import solve_compact
from planner.search.finish import expected_finish_s, least_finish_s
from planner.search.relaxation import Relaxation
from planner.search.space import stage_limits
from tests.oracle import BruteStage, brute_force, peak_bytes
from tests.strategies import (
    Case,
    LayerTicks,
    build_problem,
    cases,
    even_routes,
    island_class,
    reproducible,
    topology,
)

CI = reproducible(60)
degrees = st.sampled_from((1, 2, 4, 8))
meshes = st.builds(StageMesh, degrees, degrees, degrees, st.just(1), st.booleans())


def test_experts_go_over_as_many_slices_as_leave_whole_groups() -> None:
    assert StageMesh(tp=8, ep=8).expert_tp == 1
    assert StageMesh(tp=8, ep=2).expert_tp == 4
    assert StageMesh(tp=2, dp=4, ep=4).expert_tp == 2
    assert StageMesh(tp=2, dp=4, ep=4).expert_copies == 1
    assert StageMesh(dp=8, ep=4).expert_copies == 2
    assert StageMesh(tp=4, cp=2).expert_tp == 4


@given(meshes, st.sampled_from((1, 2, 4, 8)))
def test_copies_and_lanes_make_up_the_chips(mesh: StageMesh, ep: int) -> None:
    whole = StageMesh(mesh.tp, mesh.cp, mesh.dp, min(ep, mesh.chips), mesh.zero3)
    for part in (whole.dense, whole.expert):
        assert part.copies * part.lanes == whole.chips
        assert part.summed * part.shards == part.copies
        assert part.own(1000) * part.shards >= 1000


@CI
@given(cases(max_pipelines=300, max_batch=6, meshes=True))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    best = brute_force(case.problem, case.setting)
    found = solve_compact(case.problem, case.setting)
    assert found.proven
    assert found.time_ps == best.time_ps


@CI
@given(cases(max_pipelines=300, max_batch=6, meshes=True))
def test_the_optimum_needs_no_dominated_mesh(case: Case) -> None:
    problem = case.problem
    left = replace(problem, tables=without_dominated(problem.tables, problem.policies))
    best = brute_force(problem, case.setting).time_ps
    assert brute_force(left, case.setting).time_ps == best


def test_of_two_meshes_the_faster_one_stays_and_of_equal_ones_the_first() -> None:
    classes = (island_class(0, 4, 1),)
    wide, narrow = StageMesh(tp=4, ep=2), StageMesh(tp=4, ep=4)
    problem = build_problem(
        (LayerTicks(4, 8, parameters=8, experts=16),),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1, 4, wide, narrow),),
    )
    found = problem.tables.tables
    kept = without_dominated(problem.tables, problem.policies).tables
    assert [t.option.mesh for t in kept] == [StageMesh(), StageMesh(tp=4), wide]
    slower = replace(found[2], forward_ps=found[2].forward_ps + 1)
    tables = replace(problem.tables, tables=(*found[:2], slower, found[3]))
    kept = without_dominated(tables, problem.policies).tables
    assert [t.option.mesh for t in kept] == [StageMesh(), StageMesh(tp=4), narrow]


@CI
@given(cases(max_pipelines=400, meshes=True))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    best = brute_force(case.problem, case.setting).time_ps
    if best is not None:
        relaxation = Relaxation(case.problem, case.setting, case.problem.micro_batch_rows, best)
        relaxation.improve(None, rounds=6, max_queries=50_000)
        assert relaxation.bound_ps <= best


@CI
@given(cases(max_layers=4, meshes=True))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    problem, (low, high) = case.problem, case.setting.replicas
    for table in problem.tables.tables:
        least = least_finish_s(problem, table, (low, high))
        for replicas in range(low, high + 1):
            for together in (False, True):
                for end in range(1, problem.tables.layers + 1):
                    paid = expected_finish_s(problem, table, 0, end, replicas, together=together)
                    assert least[end] <= paid


@CI
@given(cases(max_layers=4, meshes=True), st.integers(1, 3))
def test_stage_limits_agree_with_the_memory_model(case: Case, in_flight: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    tables = problem.tables
    for k, table in enumerate(tables.tables):
        mesh = table.option.mesh
        edges = [*(int(b) for b in tables.boundary_bytes[table.option.rows]), 0]
        static, each, _ = stage_limits(problem, table, 0, replicas)
        for first in range(tables.layers):
            end = tables.layers
            items = stage_memory(
                [c.price for c in table.costs[first:end]],
                [0] * (end - first),
                state=tables.state,
                overhead=tables.overheads[table.option.class_index],
                in_flight=in_flight,
                micro_batches=in_flight,
                zero_level=tables.zero_level,
                replicas=replicas * mesh.dense.copies,
                expert_replicas=replicas * mesh.expert.copies,
                inner=(mesh.dense.shards, mesh.expert.shards),
                boundary_bytes=boundary_buffer_bytes(
                    edges[first],
                    edges[end],
                    tp=mesh.tp,
                    sequence_parallel=tables.sequence_parallel,
                    copies=mesh.copies,
                ),
            )
            assert items.peak == static[first, end - first] + in_flight * each[first, end - first]
            assert items.peak == peak_bytes(
                problem, BruteStage(k, 0, first, end), in_flight, replicas
            )
