"""Regions of the space: where their search begins, and where it ends."""

from __future__ import annotations

import pytest

from planner.search.engine import Engine, SearchLimits
from planner.search.problem import Problem
from planner.search.regions import balanced, roots
from tests.tick_problems import (
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    topology,
)

LAYER = LayerTicks(4, 8)


def two_vendors(layers: int, slowness: tuple[int, int], batch: int = 4) -> Problem:
    """One island of two chips per vendor, on one network."""
    classes = tuple(island_class(k, 2, 1, vendor=f"vendor{k}") for k in range(2))
    return build_problem(
        (LAYER,) * layers,
        topology(classes, even_routes(classes)),
        slowness=slowness,
        degrees=((1,), (1,)),
        global_batch=batch,
        max_stages=layers,
    )


@pytest.mark.parametrize(
    ("slowness", "fast_layers"),
    [((1, 1), 4), ((1, 3), 6), ((3, 1), 2)],
)
def test_cuts_begin_where_the_work_of_the_vendors_is_in_balance(slowness, fast_layers):
    """Eight layers: a vendor three times as fast holds three quarters of them."""
    problem = two_vendors(8, slowness)
    (region,) = (r for r in roots(problem) if r.vendors == ("vendor0", "vendor1"))
    assert balanced(problem, region).cuts == ((fast_layers, fast_layers),)


def test_a_region_without_cuts_stays_as_it_is():
    problem = two_vendors(8, (1, 1))
    region = next(r for r in roots(problem) if len(r.vendors) == 1)
    assert balanced(problem, region) == region


def test_cuts_never_meet():
    """Three vendors, three layers: each has one, however slow it is."""
    classes = tuple(island_class(k, 1, 1, vendor=f"vendor{k}") for k in range(3))
    problem = build_problem(
        (LAYER,) * 3,
        topology(classes, even_routes(classes)),
        slowness=(1, 50, 1),
        degrees=((1,),) * 3,
    )
    for region in roots(problem):
        if len(region.vendors) == 3:
            assert balanced(problem, region).cuts == ((1, 1), (2, 2))


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.5])
def test_a_search_ends_within_its_gap_and_does_not_go_on(gap):
    """A wide gap is reached with less work than a narrow one, and never missed by a search that
    calls itself complete."""
    problem = two_vendors(6, (1, 2), batch=6)
    work = {}
    for allowed in (0.0, gap):
        engine = Engine(problem, SearchLimits(gap=allowed, seed=0))
        engine.find()
        outcome = engine.prove()
        assert outcome.solution is not None
        best = outcome.solution.real_ps
        assert outcome.lower_bound_ps <= best
        if outcome.complete:
            assert outcome.lower_bound_ps >= best * (1 - allowed)
        work[allowed] = outcome.queries
    assert work[gap] <= work[0.0]
