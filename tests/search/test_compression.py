"""Packed gradients: search, bound, compact model and brute force count them alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from costmodels.constants import shipped_constants
from planner.search.compact import solve_compact
from planner.search.finish import expected_finish_s, least_finish_s
from planner.search.problem import Problem
from tests.oracle import brute_force
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
    assert_least_finish_is_below,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    TICK_RATE,
    TICK_S,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

CI = reproducible(50)


def unpacked(problem: Problem) -> Problem:
    return replace(problem, tables=replace(problem.tables, compression="none"))


@CI
@given(cases(max_pipelines=300, max_batch=5, packed=True))
def test_compact_model_agrees_with_brute_force_to_the_picosecond(case: Case) -> None:
    assert_compact_agrees(case)


@CI
@given(cases(max_pipelines=400, packed=True))
def test_bound_is_never_above_the_optimum(case: Case) -> None:
    assert_bound_is_below(case)


@CI
@given(cases(max_layers=4, meshes=True, packed=True))
def test_least_finish_is_never_above_what_a_placement_expects(case: Case) -> None:
    problem, (low, high) = case.problem, case.setting.replicas
    for table in problem.tables.tables:
        least = least_finish_s(problem, table, (low, high))
        plain = least_finish_s(unpacked(problem), table, (low, high))
        assert (least <= plain).all()
    assert_least_finish_is_below(case)


@CI
@given(cases(max_pipelines=300, max_batch=5, packed=True))
def test_what_is_allowed_never_makes_the_optimum_worse(case: Case) -> None:
    without = brute_force(unpacked(case.problem), case.setting).time_ps
    allowed = brute_force(case.problem, case.setting).time_ps
    assert (without is None) == (allowed is None)
    assert without is None or (allowed is not None and allowed <= without)


def two_islands(rate: float, compression: str = "int4", *, zero_level: int = 1) -> Problem:
    """One chip each; 400 parameters of 2-byte gradients and weights; memory is very fast."""
    classes = (island_class(0, 1, 2, update_rate=1e6 * TICK_RATE),)
    layer = LayerTicks(100, 200, parameters=400)
    problem = build_problem(
        (layer,),
        topology(classes, even_routes(classes, rate * TICK_RATE)),
        slowness=(1,),
        degrees=((1,),),
        zero_level=zero_level,
        compression=compression,  # type: ignore[arg-type]
    )
    state = replace(problem.tables.state, parameter=2, gradient=2)
    return replace(problem, tables=replace(problem.tables, state=state))


def sync_ticks(problem: Problem) -> float:
    table = problem.tables.tables[0]
    together = expected_finish_s(problem, table, 0, 1, 2)
    return (together - expected_finish_s(problem, table, 0, 1, 1)) / TICK_S


@pytest.mark.parametrize(
    ("compression", "zero_level", "ticks"),
    [
        ("none", 1, 800),  # half of 400 · (2 + 2)
        ("fp8", 1, 603.125),  # 400 · (65/64 + 2) / 2
        ("int4", 1, 503.125),  # 400 · (33/64 + 2) / 2
        ("int4", 0, 206.25),  # 400 · 2 · 33/64 / 2
        ("fp16", 1, 800),  # no smaller than they are
    ],
)
def test_a_ring_of_two_sends_half_of_packed_gradients_and_of_weights(
    compression: str, zero_level: int, ticks: float
) -> None:
    found = sync_ticks(two_islands(1, compression, zero_level=zero_level))
    passes = 0 if ticks == 800 else 2 - zero_level
    packing = passes * 2 * shipped_constants().launch_s / TICK_S
    assert found == pytest.approx(ticks + packing, abs=0.01)


def test_a_network_that_is_faster_than_packing_sends_gradients_as_they_are() -> None:
    assert sync_ticks(two_islands(1e4)) == sync_ticks(two_islands(1e4, "none"))
    assert sync_ticks(two_islands(1)) < sync_ticks(two_islands(1, "none"))


def test_the_optimum_of_a_slow_network_packs() -> None:
    times = [
        solve_compact(problem, open_setting(problem)).time_ps
        for problem in (two_islands(1, form) for form in ("none", "fp8", "int4"))
    ]
    known = [t for t in times if t is not None]
    assert len(known) == 3
    assert known == sorted(known, reverse=True)
