"""Offloaded optimizers: search, bound, compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from costmodels.memory import boundary_buffer_bytes, stage_memory
from costmodels.offload import HostShare
from planner.costing import host_limit
from planner.dominance import without_dominated
from planner.mesh import StageMesh
from planner.search.compact import solve_compact
from planner.search.finish import expected_finish_s, least_finish_s, unhidden_s
from planner.search.problem import Problem
from planner.search.relaxation import Relaxation
from planner.search.space import stage_limits
from tests.oracle import BruteStage, brute_force, host_update_ps, peak_bytes
from tests.strategies import (
    AMPLE,
    OFFLOAD_BYTES,
    TICK_RATE,
    Case,
    LayerTicks,
    build_problem,
    cases,
    even_routes,
    island_class,
    open_setting,
    reproducible,
    topology,
)

CI = reproducible(60)
HOSTED = StageMesh(offload=True)


@CI
@given(cases(max_pipelines=300, max_batch=5, offload=True))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    best = brute_force(case.problem, case.setting)
    found = solve_compact(case.problem, case.setting)
    assert found.proven
    assert found.time_ps == best.time_ps


@reproducible(25)
@given(cases(max_pipelines=200, max_batch=5, meshes=True, offload=True))
def test_so_it_does_on_meshes(case: Case) -> None:
    best = brute_force(case.problem, case.setting)
    found = solve_compact(case.problem, case.setting)
    assert found.proven
    assert found.time_ps == best.time_ps


@CI
@given(cases(max_pipelines=300, max_batch=6, meshes=True, offload=True))
def test_the_optimum_needs_no_dominated_option(case: Case) -> None:
    problem = case.problem
    left = replace(problem, tables=without_dominated(problem.tables, problem.policies))
    best = brute_force(problem, case.setting).time_ps
    assert brute_force(left, case.setting).time_ps == best


@CI
@given(cases(max_pipelines=400, offload=True))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    best = brute_force(case.problem, case.setting).time_ps
    if best is not None:
        relaxation = Relaxation(case.problem, case.setting, case.problem.micro_batch_rows, best)
        relaxation.improve(None, rounds=6, max_queries=50_000)
        assert relaxation.bound_ps <= best


@CI
@given(cases(max_layers=4, meshes=True, offload=True))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    problem, (low, high) = case.problem, case.setting.replicas
    for table in problem.tables.tables:
        least = least_finish_s(problem, table, (low, high))
        for replicas in range(low, high + 1):
            for end in range(1, problem.tables.layers + 1):
                for together in (False, True):
                    paid = expected_finish_s(problem, table, 0, end, replicas, together=together)
                    assert least[end] <= paid
                rest = round(unhidden_s(problem, table, 0, end, replicas) * 1e12)
                assert rest == host_update_ps(problem, table, 0, end, replicas)


@CI
@given(cases(max_layers=4, meshes=True, offload=True), st.integers(1, 3))
def test_stage_limits_agree_with_the_memory_model(case: Case, in_flight: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    tables = problem.tables
    for k, table in enumerate(tables.tables):
        mesh = table.option.mesh
        cls = problem.topology.classes[table.option.class_index]
        edges = [*(int(b) for b in tables.boundary_bytes[table.option.rows]), 0]
        static, each, room = stage_limits(problem, table, 0, replicas)
        for first in range(tables.layers):
            end = tables.layers
            at = (first, end - first)
            items = stage_memory(
                [c.price for c in table.costs[first:end]],
                [0] * (end - first),
                state=tables.state,
                overhead=tables.overheads[cls.index],
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
                offload_buffer=OFFLOAD_BYTES if mesh.offload else None,
            )
            assert items.peak == static[at] + in_flight * each[at]
            fits = items.peak <= cls.usable_memory_bytes and items.host <= host_limit(cls)
            assert fits == (in_flight * each[at] <= room[at])
            stage = BruteStage(k, 0, first, end)
            peak = peak_bytes(problem, stage, in_flight, replicas)
            assert fits == (peak <= cls.usable_memory_bytes)


def one_chip(memory: int = AMPLE, host: int = AMPLE) -> Problem:
    """Two layers of 4 parameters, 4 bytes each: 8 of weights and gradients, 16 of state."""
    share = HostShare(host, TICK_RATE / 4, TICK_RATE / 4)
    classes = (replace(island_class(0, 1, 1, memory=memory), host=share),)
    return build_problem(
        (LayerTicks(1, 2, parameters=4),) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1, HOSTED),),
    )


def test_offload_is_taken_where_nothing_else_fits_and_left_where_it_does() -> None:
    """16 bytes of weights and gradients and 2 of buffers fit 20; 16 of state do not."""
    small = one_chip(memory=20)
    plan = solve_compact(small, open_setting(small)).pipelines[0].column
    assert [stage.mesh for stage in plan.stages] == [HOSTED]
    ample = one_chip()
    plan = solve_compact(ample, open_setting(ample)).pipelines[0].column
    assert [stage.mesh for stage in plan.stages] == [StageMesh()]


def test_a_host_that_is_too_small_leaves_nothing() -> None:
    """8 parameters take 8 · 4 bytes of the host: state, gradients, weights."""
    fits, short = one_chip(memory=20, host=32), one_chip(memory=20, host=31)
    assert solve_compact(fits, open_setting(fits)).time_ps is not None
    assert solve_compact(short, open_setting(short)).time_ps is None
    assert brute_force(short, open_setting(short)).time_ps is None


def test_neither_of_the_two_ways_dominates_the_other() -> None:
    problem = one_chip()
    kept = without_dominated(problem.tables, problem.policies).tables
    assert [t.option.mesh for t in kept] == [StageMesh(), HOSTED]
