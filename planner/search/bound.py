"""Why no plan of the declared space is faster: refutation of a target time.

Farley's argument. Take any prices y ≥ 0 of the packing rows and of the pipelines, and let D be
what the whole fleet is worth at these prices. If every pipeline p, with the m_p micro-batches
that it could finish by T, is worth its price,

    rows · m_p  ≤  θ · (Σ_k y_k usage_p[k] + y_pipeline)      with θ = (B − ε) / D,

then no combination of pipelines finishes B rows by T. Nothing needs to have converged.

The condition is checked for all pipelines at once. The takts that a pipeline can have are finitely
many; they are cut into intervals [τ₁, τ₂]. A pipeline with takt in the interval and m micro-batches
has fill φ ≤ T − (m − 1)·τ₁, so for every weight λ ≥ 0 its price is at least

    w(τ₂, λ) − λ·(T − (m − 1)·τ₁)

where w is the shortest-path value of ``pipelines`` with every stage ≤ τ₂. Intervals that fail are
split; an interval of a single takt that still fails yields a pipeline to add as a column, or stays
open. In-flight depth is taken as min(r, m) (classic 1F1B, the least of any depth rule), memory and
synchronisation at the optimistic end of the setting: each choice can only admit more pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.columns import Column
from planner.search.master import Prices
from planner.search.pipelines import Pricer, Stage
from planner.search.problem import Problem, Setting
from planner.search.space import Floats

FIRST_RATIO = 1.06
CAPPED_STAGES = 2
FINEST_RATIO = 1.0 + 1e-5
FINAL_WEIGHTS = (0.0, 0.4, 1.0, 2.0, 4.0, 16.0, 256.0)
ROW_MARGIN = 1e-6


@dataclass(frozen=True)
class Candidate:
    """A pipeline that the refutation met where it failed, with the micro-batches it assumed."""

    rows: int
    pipeline: tuple[Stage, ...]
    micro_batches: int


@dataclass(frozen=True)
class Refutation:
    """Outcome: proven infeasible, or candidates for new columns (possibly none)."""

    proven: bool
    candidates: tuple[Candidate, ...]
    queries: int


def depth_groups(most: int, max_stages: int) -> list[tuple[int, int]]:
    """Intervals of micro-batch counts that share a depth cap (the interval's lower end).

    Beyond ``max_stages`` micro-batches no stage is limited by their number.
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


def refute(
    problem: Problem,
    setting: Setting,
    pricers: Sequence[Pricer],
    prices: Prices,
    target_ps: int,
    *,
    max_queries: int,
    max_candidates: int = 24,
    interrupted: Callable[[], bool] = lambda: False,
) -> Refutation:
    """Try to prove that no plan of the setting reaches the batch by the target."""
    worth = prices.value(problem, setting)
    goal = problem.global_batch - ROW_MARGIN
    if worth > 0.5 * goal:
        theta, extra = goal / worth, 0.0
    else:
        # Far below the batch: what is missing goes on the price of every pipeline instead.
        theta, extra = 1.0, (goal - worth) / setting.replicas[1]
    pipeline_price = theta * (prices.most + prices.least) + extra
    candidates: list[Candidate] = []
    queries = 0
    open_left = False
    target = target_ps / PS_PER_S
    for pricer in pricers:
        rows = pricer.space.rows
        option_prices = theta * pricer.space.option_prices(prices.packing)
        most = -(-problem.global_batch // rows)
        task = _Task(
            pricer,
            rows,
            option_prices,
            pipeline_price,
            target,
            depth_groups(most, problem.max_stages),
            max_candidates,
        )
        left = max_queries - queries
        if left <= 0 or interrupted():
            return Refutation(False, tuple(candidates), queries)
        task.run(left, interrupted)
        queries += task.queries
        candidates += task.candidates
        open_left |= task.open
        if len(candidates) >= max_candidates:
            return Refutation(False, tuple(candidates), queries)
    return Refutation(not open_left and not candidates, tuple(candidates), queries)


@dataclass(frozen=True, slots=True)
class _Item:
    """Takts ``points[a] .. points[b]`` with counts ``low .. high`` of micro-batches."""

    a: int
    b: int
    low: int
    high: int


class _Task:
    """Refutation for one micro-batch size."""

    def __init__(
        self,
        pricer: Pricer,
        rows: int,
        option_prices: Floats,
        pipeline_price: float,
        target: float,
        groups: Sequence[tuple[int, int]],
        max_candidates: int,
    ) -> None:
        self.pricer = pricer
        self.rows = rows
        self.option_prices = option_prices
        self.pipeline_price = pipeline_price
        self.target = target
        self.groups = groups
        self.max_candidates = max_candidates
        self.candidates: list[Candidate] = []
        self.open = False
        self.queries = 0
        self._met: set[tuple[Stage, ...]] = set()
        points = pricer.breakpoints()
        # a stage of layers that take no time is never the slowest one
        self.points = points[(points > 0) & (points <= target * (1 + 1e-12))]

    def run(self, max_queries: int, interrupted: Callable[[], bool]) -> None:
        """Level by level: all intervals of one level share the passes of the shortest path."""
        work = self._first_intervals()
        while work:
            if self.queries >= max_queries or interrupted():
                self.open = True
                return
            work = self._check(work)
            if len(self.candidates) >= self.max_candidates:
                self.open = True
                return

    def _first_intervals(self) -> list[_Item]:
        cuts: list[tuple[int, int]] = []
        start = 0
        points = self.points
        while start < len(points):
            end = int(np.searchsorted(points, points[start] * FIRST_RATIO, side="right")) - 1
            cuts.append((start, max(start, end)))
            start = max(start, end) + 1
        return [
            _Item(a, b, low, high)
            for low, high in self.groups
            for a, b in cuts
            if points[a] * low <= self.target * (1 + 1e-12)  # m micro-batches take at least m takts
        ]

    def _counts(self, item: _Item) -> Floats:
        """Micro-batch counts that a pipeline of this takt could reach by the target."""
        top = min(item.high, int(self.target / self.points[item.a] * (1 + 1e-12)))
        return np.arange(item.low, top + 1, dtype=np.float64)

    def _cutoffs(self, items: Sequence[_Item], weights: Floats) -> Floats:
        """Cost from which on one weight alone proves the item for every count."""
        taus = self.points[[i.a for i in items]]
        low = np.array([i.low for i in items], dtype=np.float64)
        high = np.array([i.high for i in items], dtype=np.float64)
        high = np.minimum(high, np.floor(self.target / taus * (1 + 1e-12)))
        worth = [
            self.rows * m - self.pipeline_price + weights * (self.target - (m - 1) * taus)
            for m in (low, high)  # linear in the count, so an end is the greatest
        ]
        return np.where(high >= low, np.maximum(*worth), -np.inf)

    def _shortfall(self, cost: Floats, weights: Floats, item: _Item) -> float:
        """Greatest value minus price over all counts, with the best weight for each count."""
        counts = self._counts(item)
        if len(counts) == 0:
            return -np.inf
        room = self.target - (counts - 1) * self.points[item.a]
        price = (cost[:, None] - weights[:, None] * room[None, :]).max(axis=0)
        return float((self.rows * counts - self.pipeline_price - price).max())

    def _check(self, items: list[_Item]) -> list[_Item]:
        """Prove what one weight proves; split the rest, meeting candidates on the way."""
        lows = self.points[[i.a for i in items]]
        highs = self.points[[i.b for i in items]]
        # Where the group's greatest count, not the time, limits the value, the fill is free
        # (weight 0); else a second of fill is worth one micro-batch per takt.
        capped = lows * (np.array([i.high for i in items]) + CAPPED_STAGES) < self.target
        weights = np.where(capped, 0.0, self.rows / lows)
        answer = self.pricer.solve(
            self.option_prices,
            highs,
            weights,
            np.array([i.low for i in items]),
            cutoffs=self._cutoffs(items, weights),
        )
        self.queries += len(items)
        split: list[_Item] = []
        final: list[_Item] = []
        for k, item in enumerate(items):
            if answer.cost[k] == np.inf:
                continue
            self._meet(answer.pipelines[k], item)
            if item.b > item.a and highs[k] / lows[k] > FINEST_RATIO:
                middle = float(np.sqrt(lows[k] * highs[k]))
                cut = int(np.searchsorted(self.points, middle, side="right")) - 1
                cut = min(max(cut, item.a), item.b - 1)
                split.append(_Item(item.a, cut, item.low, item.high))
                split.append(_Item(cut + 1, item.b, item.low, item.high))
            else:
                final.append(item)
        if final and len(self.candidates) < self.max_candidates:
            self._finish(final)
        return split

    def _finish(self, singles: list[_Item]) -> None:
        """Single takts that one weight did not settle: more weights, then they stay open."""
        each = len(FINAL_WEIGHTS)
        items = [item for item in singles for _ in FINAL_WEIGHTS]
        lows = self.points[[i.a for i in items]]
        weights = np.tile(np.array(FINAL_WEIGHTS), len(singles)) * self.rows / lows
        answer = self.pricer.solve(
            self.option_prices,
            self.points[[i.b for i in items]],
            weights,
            np.array([i.low for i in items]),
            cutoffs=self._cutoffs(items, weights),
        )
        self.queries += len(weights)
        for k, item in enumerate(singles):
            part = slice(k * each, (k + 1) * each)
            if np.any(np.isinf(answer.cost[part])):
                continue  # some weight proves it: its cost is not below its cutoff
            if self._shortfall(answer.cost[part], weights[part], item) <= 0:
                continue
            self.open = True
            for pipeline in answer.pipelines[part]:
                self._meet(pipeline, item)

    def _meet(self, pipeline: tuple[Stage, ...] | None, item: _Item) -> None:
        """Keep a pipeline as a candidate if it is really worth more than its price."""
        if pipeline is None or pipeline in self._met:
            return
        self._met.add(pipeline)
        size = len(pipeline)
        space = self.pricer.space
        times = [
            float(
                self.pricer.stage_times(size - s, item.low)[st.option, st.first, st.end - st.first]
            )
            for s, st in enumerate(pipeline)
        ]
        hops = [float(space.hop[a.option, b.option, b.first]) for a, b in pairwise(pipeline)]
        head = pipeline[0]
        fill = sum(times) + 2 * sum(hops) + float(space.finish[head.option, head.end - head.first])
        if fill > self.target:
            return
        slowest = max(*times, *hops, 1e-12)
        count = min(item.high, int((self.target - fill) / slowest * (1 + 1e-12)) + 1)
        price = sum(float(self.option_prices[s.option]) for s in pipeline) + self.pipeline_price
        if count >= item.low and self.rows * count > price * (1 + 1e-9):
            self.candidates.append(Candidate(self.rows, pipeline, count))


def reduced_value(column: Column, prices: Prices, theta: float, target_ps: int) -> float:
    """Rows that a column is worth at the target beyond its scaled price."""
    price = float(np.dot(prices.packing, column.usage)) + prices.most + prices.least
    return column.rows * column.micro_batches(target_ps) - theta * price
