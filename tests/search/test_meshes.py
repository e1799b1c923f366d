"""Meshes inside a stage: the search, the compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from planner.dominance import without_dominated
from planner.mesh import StageMesh
from planner.search.space import stage_limits
from tests.oracle import BruteStage, peak_bytes
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
    assert_least_finish_is_below,
    assert_optimum_needs_no_dominated_option,
    stage_items,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    topology,
)

CI = reproducible(40)
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
    assert_compact_agrees(case)


@CI
@given(cases(max_pipelines=300, max_batch=6, meshes=True))
def test_the_optimum_needs_no_dominated_mesh(case: Case) -> None:
    assert_optimum_needs_no_dominated_option(case)


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
    assert_bound_is_below(case)


@CI
@given(cases(max_layers=4, meshes=True))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    assert_least_finish_is_below(case)


@CI
@given(cases(max_layers=4, meshes=True), st.integers(1, 3))
def test_stage_limits_agree_with_the_memory_model(case: Case, in_flight: int) -> None:
    problem, replicas = case.problem, case.setting.replicas[0]
    layers = problem.tables.layers
    for k, table in enumerate(problem.tables.tables):
        static, each, _ = stage_limits(problem, table, 0, replicas)
        for first in range(layers):
            items = stage_items(
                problem, table, (first, layers), in_flight=in_flight, replicas=replicas
            )
            at = first, layers - first
            assert items.peak == static[at] + in_flight * each[at]
            brute = BruteStage(k, 0, first, layers)
            assert items.peak == peak_bytes(problem, brute, in_flight, replicas)
