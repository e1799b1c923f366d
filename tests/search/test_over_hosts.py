"""Stages over whole islands: counted, placed, bounded and summed as brute force does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.mesh import Part, StageMesh
from planner.search.finish import expected_finish_s, least_finish_s, least_ring
from planner.search.infeasible import nothing_fits
from planner.search.regions import roots
from tests.oracle import brute_force
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
    assert_least_finish_is_below,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    TICK_RATE,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

CI = reproducible(40)
LIMITS = {"max_batch": 6, "meshes": True, "wide": True}


@CI
@given(cases(max_pipelines=300, **LIMITS))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    assert_compact_agrees(case)


@CI
@given(cases(max_pipelines=400, **LIMITS))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    assert_bound_is_below(case)


@CI
@given(cases(max_layers=4, packed=True, **LIMITS))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    assert_least_finish_is_below(case)


@given(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=5, max_size=5))
def test_packing_rows_hold_exactly_where_whole_islands_can_be_given_out(
    count: int, wanted: list[int]
) -> None:
    """Groups of 1, 2 and 4 chips inside islands of four, of 8 and 16 on two and four of them."""
    classes = (island_class(0, 4, count),)
    degrees = (1, 2, 4, StageMesh(tp=4, cp=2), StageMesh(tp=4, cp=4))
    problem = build_problem(
        (LayerTicks(1, 2),),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=(degrees,),
    )
    sizes = (1, 2, 4, 8, 16)
    held = all(
        sum(n * size for n, size in zip(wanted, sizes) if size >= least) <= capacity
        for _, least, capacity in problem.packing_rows
    )
    islands = [4] * count
    placed = True
    for size, n in sorted(zip(sizes, wanted), reverse=True):
        for _ in range(n):
            where = [k for k, free in enumerate(islands) if free >= min(size, 4)][: -(-size // 4)]
            placed = placed and len(where) == -(-size // 4)
            for k in where:
                islands[k] -= min(size, 4)
    assert held == placed


def test_rings_count_islands_that_hold_the_same_part() -> None:
    dense, experts = Part(8, 1, 2), Part(1, 1, 16)
    # sixteen chips on two islands of eight: all hold the dense weights, each half of the experts
    assert least_ring(dense, 16, 2, 1, 2) == 2
    assert least_ring(experts, 16, 2, 1, 2) == 1
    assert least_ring(dense, 16, 2, 3, 2) == 3
    assert least_ring(experts, 16, 2, 3, 2) == 2


@pytest.mark.parametrize(("replicas", "share"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_experts_over_all_chips_meet_one_island_of_each_pipeline(
    replicas: int, share: float
) -> None:
    """Two islands of two chips, four experts of 8 bytes: each chip sends its own around once."""
    classes = (island_class(0, 2, 2 * replicas),)
    mesh = StageMesh(tp=2, dp=2, ep=4)
    problem = build_problem(
        (LayerTicks(4, 8, parameters=0, experts=8),),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((mesh,),),
        rows=(2,),
    )
    (table,) = problem.tables.tables
    own = int(table.experts[0]) * 2 * problem.tables.state.gradient
    update = expected_finish_s(problem, table, 0, 1, 1)
    paid = expected_finish_s(problem, table, 0, 1, replicas) - update
    assert paid == pytest.approx(share * 2 * own / TICK_RATE)
    assert least_finish_s(problem, table, (replicas, replicas))[1] <= paid + update


def test_nothing_fits_is_not_said_of_rows_that_only_stages_over_hosts_divide() -> None:
    """Weights of a layer fill more than a chip; two chips hold half each, of two rows or more."""
    classes = (island_class(0, 1, 2, memory=20),)
    problem = build_problem(
        (LayerTicks(1, 2, parameters=0, experts=8),),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1, StageMesh(dp=2, ep=2)),),
        rows=(1, 2),
        global_batch=2,
    )
    alone, over = (t for t in problem.tables.tables if t.option.rows == 2)
    assert int(alone.experts[0] + alone.parameters[0]) > int(over.experts[0])
    best = brute_force(problem, open_setting(problem)).time_ps
    never = replace(problem, tables=replace(problem.tables, tables=(alone,)))
    assert best is not None
    assert not nothing_fits(problem, roots(problem), None, lambda: False)
    assert nothing_fits(never, roots(never), None, lambda: False)
