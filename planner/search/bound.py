"""Why no plan of the declared space is faster: a lower bound on the step time from prices.

Farley's argument. Take any prices y ≥ 0 of the packing rows and of the pipelines, and let D be
what the whole fleet is worth at these prices. If every pipeline p, with the m_p micro-batches
that it could finish by T, brings no more than its price,

    rows · m_p  ≤  θ · (Σ_k y_k usage_p[k] + y_pipeline)      with θ = (B − ε) / D,

then no combination of pipelines finishes B rows by T. Nothing needs to have converged. Of at most
R pipelines one has ⌈B/R⌉ rows or more; a price on that is part of D, and counts in the price of
such pipelines.

The greatest such T is found for all pipelines at once. A *box* is an interval [τ₁, τ₂] of takts
(stage and hop times are finitely many) with an interval of micro-batch counts. A pipeline of the
box with m micro-batches has fill φ ≤ T − (m − 1)·τ₁, so for every weight λ > 0 it violates the
condition only at

    T  >  (m − 1)·τ₁ + (w(τ₂, λ) + y_pipeline − rows·m) / λ                               (1)

where w is the shortest-path value of ``pipelines`` with every stage ≤ τ₂, and for λ = 0 only if
rows·m > w(τ₂, 0) + y_pipeline (2). At λ = rows/τ₁ the right side of (1) does not depend on m; (2)
cuts off small counts, and with them lets later stages hold more micro-batches in memory. The
bound is the least T over all boxes; the lowest boxes are split until they cannot lower it, or are
too narrow to matter: these yield pipelines to add as columns.

No stage may be through with its synchronisation after T. What m - 1 micro-batches leave of T is the
room for the last one, which limits how many layers a stage may have (``passes._in_room``).

In-flight depth is taken as min(r, m) (classic 1F1B, the least of any depth rule; of interleaved
pipelines see ``folded``, whose counts are of pairs and whose hops weigh v times), memory and
synchronisation at the optimistic end of the setting: each choice can only admit more pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.boxes import FINEST, ROUNDING, BoxSearch, Candidate
from planner.search.columns import Column
from planner.search.master import Prices
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, largest_share

ROW_MARGIN = 1e-6


@dataclass(frozen=True)
class Refutation:
    """The bound that the prices prove, at most the target, and pipelines that stand in its way."""

    target_ps: int
    bound_ps: int
    candidates: tuple[Candidate, ...]
    queries: int

    @property
    def proven(self) -> bool:
        """Whether no plan of the setting reaches the batch by the target."""
        return self.bound_ps >= self.target_ps


def refute(
    problem: Problem,
    setting: Setting,
    pricers: Sequence[Pricer],
    prices: Prices,
    target_ps: int,
    *,
    max_queries: int,
    tolerance: float = FINEST,
    max_candidates: int = 24,
    interrupted: Callable[[], bool] = lambda: False,
    unscaled: bool = False,
) -> Refutation:
    """The greatest step time, up to the target, that these prices rule out for the setting.

    ``tolerance``: boxes narrower than this are left alone (the bound stays valid, but looser).
    ``unscaled``: the greatest time at which no pipeline is worth more than these very prices,
    whatever the fleet is worth at them.
    """
    goal = problem.global_batch - ROW_MARGIN
    worth = goal if unscaled else prices.value(problem, setting)
    if worth > 0.5 * goal:
        theta, extra = goal / worth, 0.0
    else:
        # Far below the batch: what is missing goes on the price of every pipeline instead.
        theta, extra = 1.0, (goal - worth) / setting.replicas[1]
    target = target_ps / PS_PER_S
    share = largest_share(problem.global_batch, setting)
    searches = []
    for pricer in pricers:
        space = pricer.space
        most = -(-problem.global_batch // space.rows) * space.chunks
        busiest = -(-share // space.rows) * space.chunks if prices.busiest < 0 else most + 1
        each = theta * (prices.most + prices.least) + extra
        for low, high, price in (
            (1, busiest - 1, each),
            (busiest, most, each + theta * prices.busiest),
        ):
            if low <= high:
                option_prices = theta * pricer.space.option_prices(prices.packing)
                counts = (low, high)
                searches.append(
                    BoxSearch(pricer, option_prices, price, counts, max(tolerance, FINEST))
                )
    queries = 0
    candidates: list[Candidate] = []
    if max_queries <= 0 or interrupted():
        return Refutation(target_ps, 0, (), 0)
    for search in searches:
        search.start(target)
    while True:
        ceiling = min([target, *(s.leaves for s in searches)])
        lowest = min(searches, key=lambda s: s.lowest(ceiling), default=None)
        if lowest is None or lowest.lowest(ceiling) >= ceiling:
            break
        queries = sum(s.queries for s in searches)
        candidates = [c for s in searches for c in s.candidates]
        if queries >= max_queries or interrupted():
            break
        # with enough pipelines met, only what could lower the bound further is looked at
        lowest.split(target if len(candidates) < max_candidates else ceiling, target)
    bound = min([target, *(min(s.leaves, s.lowest(np.inf)) for s in searches)])
    bound_ps = target_ps if bound >= target else int(bound * PS_PER_S * (1 - ROUNDING)) - 2
    found = [c for s in searches for c in s.candidates]
    late = [] if found or bound >= target else [c for s in searches for c in s.late]
    return Refutation(
        target_ps,
        max(0, bound_ps),
        (*found, *late[:max_candidates]),
        sum(s.queries for s in searches),
    )


def depth_groups(most: int, max_stages: int) -> list[tuple[int, int]]:
    """Intervals of micro-batch counts that share a depth cap (the interval's lower end).

    Beyond ``max_stages`` micro-batches no stage is limited by their number (interleaved ones are up
    to a little more; the groups steer prices alone).
    """
    groups = []
    low = 1
    while low < min(max_stages, most + 1):
        high = min(max(low, round(low * 1.5)), max_stages - 1, most)
        groups.append((low, high))
        low = high + 1
    if low <= most:
        groups.append((low, most))
    return groups


def reduced_value(column: Column, prices: Prices, theta: float, target_ps: int) -> float:
    """Rows that a column is worth at the target beyond its scaled price."""
    price = float(np.dot(prices.packing, column.usage)) + prices.most + prices.least
    return column.rows * column.micro_batches(target_ps) - theta * price
