"""Offloaded optimizers: search, bound, compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from costmodels.offload import HostShare
from planner.costing import host_limit
from planner.dominance import without_dominated
from planner.mesh import StageMesh
from planner.search.compact import solve_compact
from planner.search.finish import unhidden_s
from planner.search.problem import Problem
from planner.search.space import stage_limits
from tests.oracle import BruteStage, brute_force, host_update_ps, peak_bytes
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
    assert_least_finish_is_below,
    assert_optimum_needs_no_dominated_option,
    stage_items,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    AMPLE,
    TICK_RATE,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

CI = reproducible(40)
HOSTED = StageMesh(offload=True)


@reproducible(30)
@given(cases(max_pipelines=300, max_batch=5, offload=True))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    assert_compact_agrees(case)


@reproducible(15)
@given(cases(max_pipelines=200, max_batch=5, meshes=True, offload=True))
def test_so_it_does_on_meshes(case: Case) -> None:
    assert_compact_agrees(case)


@CI
@given(cases(max_pipelines=300, max_batch=6, meshes=True, offload=True))
def test_the_optimum_needs_no_dominated_option(case: Case) -> None:
    assert_optimum_needs_no_dominated_option(case)


@CI
@given(cases(max_pipelines=400, offload=True))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    assert_bound_is_below(case)


@CI
@given(cases(max_layers=4, meshes=True, offload=True))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    assert_least_finish_is_below(case)


@CI
@given(cases(max_layers=4, meshes=True, offload=True))
def test_what_an_update_on_the_host_takes_is_not_hidden(case: Case) -> None:
    problem, (low, high) = case.problem, case.setting.replicas
    for table in problem.tables.tables:
        for replicas in range(low, high + 1):
            for end in range(1, problem.tables.layers + 1):
                rest = round(unhidden_s(problem, table, 0, end, replicas) * 1e12)
                assert rest == host_update_ps(problem, table, 0, end, replicas)


@CI
@given(cases(max_layers=4, meshes=True, offload=True), st.integers(1, 3))
def test_stage_limits_agree_with_the_memory_model(case: Case, in_flight: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    layers = problem.tables.layers
    for k, table in enumerate(problem.tables.tables):
        cls = problem.topology.classes[table.option.class_index]
        static, each, room = stage_limits(problem, table, 0, replicas)
        for first in range(layers):
            items = stage_items(
                problem, table, (first, layers), in_flight=in_flight, replicas=replicas
            )
            at = first, layers - first
            assert items.peak == static[at] + in_flight * each[at]
            fits = items.peak <= cls.usable_memory_bytes and items.host <= host_limit(cls)
            assert fits == (in_flight * each[at] <= room[at])
            peak = peak_bytes(problem, BruteStage(k, 0, first, layers), in_flight, replicas)
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
