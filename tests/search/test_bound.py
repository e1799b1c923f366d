"""The bound is never above what brute force finds, whatever the prices, and is not idle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.graphs.topology import Route
from planner.search.bound import depth_groups, refute
from planner.search.master import Prices
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size
from planner.search.relaxation import Relaxation
from planner.search.space import build_space
from tests.oracle import bound_hops, brute_force
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    TICK_PS,
    TICK_RATE,
    UPDATE_PS,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

CI = reproducible(100)
PLENTY = 50_000
FINE = 1e-4
"""Relative distance at which a proof must succeed where nothing is relaxed."""


@st.composite
def priced_cases(draw: st.DrawFn) -> tuple[Case, Prices]:
    """A case with prices that no column generation has looked at."""
    case = draw(cases(max_pipelines=600))
    price = st.integers(0, 8).map(lambda n: n / 4)
    packing = np.array([draw(price) for _ in case.problem.packing_rows])
    most, least = draw(st.sampled_from(((0.0, 0.0), (0.7, 0.0), (0.0, -0.4))))
    return case, Prices(0.0, packing, most, least, 0.0)


@CI
@given(priced_cases(), st.sampled_from((1.0, 1.0, 1.001, 1.2)))
def test_never_refutes_a_target_that_a_plan_reaches(
    given_: tuple[Case, Prices], slack: float
) -> None:
    case, prices = given_
    best = brute_force(case.problem, case.setting)
    if best.time_ps is not None:
        assert not _refutes(case, prices, int(best.time_ps * slack))


@settings(CI, max_examples=60)
@given(priced_cases())
def test_never_refutes_a_target_that_the_best_placement_reaches(
    given_: tuple[Case, Prices],
) -> None:
    """Every hop may turn out as fast as anywhere in the cluster."""
    case, prices = given_
    best = brute_force(case.problem, case.setting, bound_hops)
    if best.time_ps is not None:
        assert not _refutes(case, prices, best.time_ps)


@cache
def bounded() -> tuple[tuple[Case, int, int], ...]:
    """Cases with their optima, and the bounds that are proven when those are known."""
    found: list[tuple[Case, int, int]] = []

    @settings(CI, max_examples=50)
    @given(cases(max_pipelines=600))
    def collect(case: Case) -> None:
        best = brute_force(case.problem, case.setting).time_ps
        if best is not None:
            found.append((case, best, _bound(case, best)))

    collect()
    assert len(found) > 20
    return tuple(found)


def test_bound_of_a_setting_is_never_above_its_optimum() -> None:
    for case, best, bound in bounded():
        assert bound <= best, case
    for case, best, _ in bounded()[:25]:
        assert _bound(case, 3 * best) <= best, case


@settings(CI, max_examples=50)
@given(priced_cases())
def test_a_refuted_target_stays_refuted_below(given_: tuple[Case, Prices]) -> None:
    case, prices = given_
    best = brute_force(case.problem, case.setting).time_ps or 100 * TICK_PS
    refuted = [_refutes(case, prices, int(best * f)) for f in (0.3, 0.6, 0.9)]
    assert refuted == sorted(refuted, reverse=True)


def test_refutes_half_the_optimum_in_most_cases() -> None:
    met = [bound >= best // 2 for _, best, bound in bounded()]
    assert sum(met) >= 0.8 * len(met)


def test_one_chip_is_bounded_tightly() -> None:
    case = _chips(1, batch=5)
    optimum = 5 * 6 * TICK_PS + UPDATE_PS
    fair = _fair(case.problem)
    assert _refutes(case, fair, int(optimum * (1 - FINE)))
    assert not _refutes(case, fair, optimum)


def test_equal_chips_are_bounded_where_the_batch_divides() -> None:
    case = _chips(4, batch=8)
    optimum = 2 * 6 * TICK_PS + UPDATE_PS
    assert _refutes(case, _fair(case.problem), int(optimum * (1 - FINE)))


def test_whole_micro_batches_count_not_fractions() -> None:
    """Nine micro-batches on four chips: one runs three in 18 ticks, fractions would take 13.5."""
    case = _chips(4, batch=9)
    assert _refutes(case, _fair(case.problem), 18 * TICK_PS)


def test_more_pipelines_than_chips_are_refuted_at_any_time() -> None:
    case = _chips(2, batch=8)
    crowded = Case(case.problem, replace(case.setting, replicas=(3, 8)))
    # A chip at 100 rows and 90 back for every pipeline: each still costs more than its rows.
    prices = Prices(0.0, np.array([100.0]), 0.0, -90.0, 0.0)
    assert _refutes(crowded, prices, 10**6 * TICK_PS)


def test_layers_that_take_no_time_are_no_obstacle() -> None:
    classes = (island_class(0, 1, 2),)
    problem = build_problem(
        (LayerTicks(0, 0), LayerTicks(2, 4)),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        global_batch=4,
        max_stages=2,
    )
    case = Case(problem, open_setting(problem))
    optimum = 2 * 6 * TICK_PS + UPDATE_PS
    assert brute_force(problem, case.setting).time_ps == optimum
    assert _refutes(case, _fair(problem), int(optimum * (1 - FINE)))
    assert not _refutes(case, _fair(problem), optimum)


@pytest.mark.parametrize("light", [2, 3])
@pytest.mark.parametrize("beyond", [1.01, 1.5, 3.0])
def test_a_heavy_layer_at_the_front_says_nothing_of_how_light_ones_synchronise(
    light: int, beyond: float
) -> None:
    """The slow class holds the light layers at the end, which sum their gradients in no time."""
    classes = tuple(island_class(c, 1, 2, update_rate=TICK_RATE * 1e4) for c in (0, 1))
    slow, fast = Route(TICK_RATE, 0.0, "slow"), Route(TICK_RATE * 200, 0.0, "fast")
    routes = {(0, 0): fast, (1, 1): slow, (0, 1): fast, (1, 0): fast}
    plain, heavy = LayerTicks(1, 1), LayerTicks(1, 1, parameters=400)
    layers = (plain, heavy, *(LayerTicks(1, 1, parameters=1),) * light, plain)
    problem = build_problem(
        layers,
        topology(classes, routes),
        slowness=(1, 1),
        degrees=((1,), (1,)),
        boundary=(0,) * len(layers),
        max_stages=3,
        global_batch=2,
    )
    case = Case(problem, Setting((2, 2), ((0, 2), (2, len(layers)))))
    optimum = brute_force(problem, case.setting, bound_hops)
    assert optimum is not None
    assert _bound(case, int(optimum.time_ps * beyond)) <= optimum.time_ps


def test_stopping_early_proves_nothing() -> None:
    case = _chips(1, batch=5)
    pricers = _pricers(case.problem, case.setting)
    for limits in ({"max_queries": 0}, {"max_queries": PLENTY, "interrupted": lambda: True}):
        outcome = refute(
            case.problem, case.setting, pricers, _fair(case.problem), TICK_PS * 8, **limits
        )
        assert not outcome.proven


def test_candidates_of_a_failed_proof_are_worth_more_than_they_cost() -> None:
    case = _chips(2, batch=8)
    outcome = refute(
        case.problem,
        case.setting,
        _pricers(case.problem, case.setting),
        _fair(case.problem),
        4 * 6 * TICK_PS + UPDATE_PS + TICK_PS,
        max_queries=PLENTY,
    )
    assert [(c.size.rows, c.micro_batches, len(c.pipeline)) for c in outcome.candidates] == [
        (1, 4, 1)
    ]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("max_stages", [1, 2, 5, 16])
def test_depth_groups_hold_every_count_once(most: int, max_stages: int) -> None:
    groups = depth_groups(most, max_stages)
    counts = [m for low, high in groups for m in range(low, high + 1)]
    assert counts == list(range(1, most + 1))


def _refutes(case: Case, prices: Prices, target_ps: int) -> bool:
    outcome = refute(
        case.problem,
        case.setting,
        _pricers(case.problem, case.setting),
        prices,
        target_ps,
        max_queries=PLENTY,
    )
    return outcome.proven


def _pricers(problem: Problem, setting: Setting) -> list[Pricer]:
    return [
        Pricer(build_space(problem, setting, rows, optimistic=True), problem.max_stages)
        for rows in sorted(problem.tables.boundary_bytes)
    ]


def _bound(case: Case, ceiling_ps: int) -> int:
    """What a setting's relaxation proves, at most the ceiling."""
    sizes = [Size(rows) for rows in sorted(case.problem.tables.boundary_bytes)]
    relaxation = Relaxation(case.problem, case.setting, sizes, ceiling_ps)
    relaxation.improve(ceiling_ps, rounds=20, max_queries=PLENTY)
    return min(relaxation.bound_ps, ceiling_ps)


def _fair(problem: Problem) -> Prices:
    """Every chip is worth the same."""
    single = [1.0 if tp == 1 else 0.0 for _, tp, _ in problem.packing_rows]
    return Prices(0.0, np.array(single), 0.0, 0.0, 0.0)


def _chips(count: int, *, batch: int) -> Case:
    """Single chips of one class; the model is one layer of six ticks and needs no memory."""
    classes = (island_class(0, 1, count),)
    problem = build_problem(
        (LayerTicks(2, 4),),
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        global_batch=batch,
        max_stages=2,
    )
    return Case(problem, open_setting(problem))
