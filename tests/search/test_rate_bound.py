"""The bound on time x rate against brute force: never above the optimum, and not idle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.units import PS_PER_S
from planner.search.problem import Problem
from planner.search.rate_bound import RateSearch
from planner.search.rate_master import Duals, RateMaster, least_rate, row_rates
from planner.search.rate_plans import RatePlans
from tests.oracle import brute_force
from tests.rate_oracle import least_product
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    TICK_PS,
    UPDATE_PS,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

PLENTY = 20_000
RATES = st.lists(st.sampled_from((1.0, 2.0, 5.0)), min_size=3, max_size=3)
CLAIMED = 1.5
"""How far above the optimum a plan is claimed to be, so that the bound has room to be wrong."""


@settings(reproducible(12))
@given(cases(max_layers=4, max_pipelines=100, max_batch=5), RATES, st.sampled_from((1.0, 1.3, 3.0)))
def test_bound_is_never_above_the_cheapest_plan(
    case: Case, rates: list[float], slack: float
) -> None:
    problem = case.problem
    fastest = brute_force(problem, open_setting(problem)).time_ps
    if fastest is None:
        return
    own, latest = rates[: len(problem.topology.classes)], int(fastest * slack)
    best = least_product(problem, open_setting(problem), own, latest)
    assert best is not None
    found = RateSearch(problem, own, latest).prove(best * CLAIMED, 0.01, PLENTY)
    assert 0 < found.product <= best * (1 + 1e-9)


def test_bound_is_near_the_optimum_in_most_cases() -> None:
    near: list[bool] = []

    @settings(reproducible(12))
    @given(cases(max_pipelines=150, max_batch=6), RATES)
    def collect(case: Case, rates: list[float]) -> None:
        problem = case.problem
        fastest = brute_force(problem, open_setting(problem)).time_ps
        if fastest is not None:
            own, latest = rates[: len(problem.topology.classes)], int(fastest * 1.3)
            best = least_product(problem, open_setting(problem), own, latest)
            assert best is not None
            found = RateSearch(problem, own, latest).prove(best, 0.02, PLENTY)
            near.append(found.product >= 0.8 * best)

    collect()
    assert sum(near) >= 0.6 * len(near)


def _two_kinds(batch: int = 8) -> Problem:
    """Two single chips: class 0 takes 3 ticks for a row, class 1 takes 6."""
    classes = (island_class(0, 1, 1), island_class(1, 1, 1))
    return build_problem(
        (LayerTicks(1, 2),),
        topology(classes, even_routes(classes)),
        slowness=(1, 2),
        degrees=((1,), (1,)),
        global_batch=batch,
        max_stages=1,
    )


@pytest.mark.parametrize(
    ("rates", "latest_ticks", "expected_ticks", "expected_rate"),
    [
        # the fast chip alone does 8 rows in 24 ticks; at equal rates it is the cheapest
        ((1.0, 1.0), 60, 24, 1.0),
        # at three times the rate the slow one is: 48 ticks at 1 instead of 24 at 3
        ((3.0, 1.0), 60, 48, 1.0),
        # ... unless it has no time for that
        ((3.0, 1.0), 30, 24, 3.0),
        # in 20 ticks only both do it: 6 rows and 2 rows, 18 ticks
        ((3.0, 1.0), 20, 18, 4.0),
    ],
)
def test_hand_worked_floors_and_rates(
    rates: tuple[float, float], latest_ticks: int, expected_ticks: int, expected_rate: float
) -> None:
    problem, latest = _two_kinds(), latest_ticks * TICK_PS + UPDATE_PS
    best = least_product(problem, open_setting(problem), rates, latest)
    expected = (expected_ticks * TICK_PS + UPDATE_PS) / PS_PER_S * expected_rate
    assert best == pytest.approx(expected)
    found = RateSearch(problem, rates, latest).prove(expected, 0.01, PLENTY)
    assert found.product <= expected * (1 + 1e-9)


def test_a_bound_without_queries_is_that_of_the_work_alone() -> None:
    """8 rows of 3 ticks on the fast chip at rate 1: 24 ticks, without the update."""
    problem = _two_kinds()
    found = RateSearch(problem, (1.0, 1.0), 60 * TICK_PS).prove(1.0, 0.01, 0)
    assert found.product == pytest.approx(24 * TICK_PS / PS_PER_S)
    assert not found.complete


def test_multisets_of_least_rate_leave_the_dear_chip_idle() -> None:
    problem = _two_kinds()
    setting = open_setting(problem)
    latest = 60 * TICK_PS + UPDATE_PS
    search = RateSearch(problem, (3.0, 1.0), latest)
    (mix,) = search.mixes(latest, 1)
    assert mix.chips == pytest.approx((0.0, 1.0))
    plans = RatePlans(problem, setting, (3.0, 1.0))
    plans.seed(search.met()[0][1])
    solution = plans.solve(latest, 0)
    assert solution is not None
    assert [(c.stages[0].class_index, n) for c, n in zip(solution.columns, solution.counts)] == [
        (1, 1)
    ]


def test_least_rate_prefers_the_cheaper_columns_and_says_when_there_are_none() -> None:
    problem = _two_kinds()
    setting = open_setting(problem)
    plans = RatePlans(problem, setting, (1.0, 1.0))
    plans.seed(RateSearch(problem, (1.0, 1.0), 60 * TICK_PS).met()[0][1])
    columns = list(plans._columns.values())
    dear = [7 if c.stages[0].class_index == 0 else 2 for c in columns]
    late, soon = 60 * TICK_PS, 10 * TICK_PS
    counts = least_rate(problem, setting, columns, dear, late, work_limit=1.0, seed=0)
    assert counts is not None
    assert sum(r * n for r, n in zip(dear, counts)) == 2
    assert least_rate(problem, setting, columns, dear, soon, work_limit=1.0, seed=0) is None


def test_duals_prove_what_they_are_scaled_to() -> None:
    problem = _two_kinds()
    setting = open_setting(problem)
    duals = Duals(2.0, np.array([1.0, 3.0]), 0.5, 0.0, 1.0, np.zeros(2))
    scaled = duals.worth(problem, setting, 5.0)
    assert scaled.value(problem, setting) == pytest.approx(5.0)
    negative = Duals(2.0, np.zeros(2), 0.0, 100.0, 1.0, np.zeros(2))
    assert negative.worth(problem, setting, 5.0).row > 0


def test_a_class_is_paid_once_whatever_its_groups() -> None:
    classes = (island_class(0, 4, 1), island_class(1, 1, 1))
    problem = build_problem(
        (LayerTicks(1, 2),),
        topology(classes, even_routes(classes)),
        slowness=(1, 1),
        degrees=((1, 2, 4), (1,)),
    )
    assert row_rates(problem, (2.0, 3.0)).tolist() == [
        2.0 if c == 0 else 3.0 if c == 1 else 0.0 for c, _, _ in problem.packing_rows
    ]
    master = RateMaster(
        problem, open_setting(problem), row_rates(problem, (2.0, 3.0)), divisible=True
    )
    assert master.solve(TICK_PS) is not None
    assert not master.complete
