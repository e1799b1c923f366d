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

In-flight depth is taken as min(r, m) (classic 1F1B, the least of any depth rule), memory and
synchronisation at the optimistic end of the setting: each choice can only admit more pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from costmodels.units import PS_PER_S
from planner.costing import Ints
from planner.search.columns import Column
from planner.search.master import Prices
from planner.search.pipelines import Answer, Pricer, Stage
from planner.search.problem import Problem, Setting, largest_share
from planner.search.space import Floats

REACH = 1.25
"""How far beyond the target, and below the shortest takt, first boxes are laid out."""
FIRST_RATIO = 1.03
"""Takts per box before anything is known."""
PARTS = 4
"""How many boxes a box is split into: wide passes cost little more than narrow ones."""
COUNTS_ABOVE = 1.005
"""Boxes narrower than this keep the counts that their parent left them."""
FINEST = 1e-5
"""Relative width at which a box is not split further."""
FINE = 0.002
"""Up to this width narrow boxes are priced with several weights."""
LEAF_WEIGHTS = (0.0, 0.4, 0.7, 1.0, 1.5, 3.0, 12.0, 256.0)
"""Weights on the fill, in rows per takt, with which a narrow box is priced."""
SPREAD = 0.002
"""Counts of a box that take no longer than this part of the target are not told apart."""
BATCH = 256
"""Boxes that are split before the lowest ones are chosen anew."""
EXACT_BELOW = 1.004
"""Boxes narrower than this are priced with positions, wider ones without."""
ROW_MARGIN = 1e-6
ROUNDING = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A pipeline that is worth more than its price, with the micro-batches it assumed."""

    rows: int
    pipeline: tuple[Stage, ...]
    micro_batches: int


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
        most = -(-problem.global_batch // pricer.space.rows)
        busiest = -(-share // pricer.space.rows) if prices.busiest < 0 else most + 1
        each = theta * (prices.most + prices.least) + extra
        for low, high, price in (
            (1, busiest - 1, each),
            (busiest, most, each + theta * prices.busiest),
        ):
            if low <= high:
                option_prices = theta * pricer.space.option_prices(prices.packing)
                counts = (low, high)
                searches.append(
                    _Search(pricer, option_prices, price, counts, max(tolerance, FINEST))
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
    return Refutation(
        target_ps,
        max(0, bound_ps),
        tuple(c for s in searches for c in s.candidates),
        sum(s.queries for s in searches),
    )


@dataclass(frozen=True, slots=True)
class _Boxes:
    """Takts ``points[a] .. points[b]`` with counts ``low .. high``, and the least T of each."""

    a: Ints
    b: Ints
    low: Ints
    high: Ints
    least: Floats

    def take(self, chosen: Ints | Floats) -> _Boxes:
        return _Boxes(
            self.a[chosen], self.b[chosen], self.low[chosen], self.high[chosen], self.least[chosen]
        )

    def __len__(self) -> int:
        return len(self.a)


def _join(one: _Boxes, two: _Boxes) -> _Boxes:
    return _Boxes(
        np.concatenate([one.a, two.a]),
        np.concatenate([one.b, two.b]),
        np.concatenate([one.low, two.low]),
        np.concatenate([one.high, two.high]),
        np.concatenate([one.least, two.least]),
    )


@dataclass(frozen=True)
class _Firsts:
    """Boxes to begin with, from the takt ``alone`` to ``reach``, for all rounds of a relaxation.

    ``cost`` bounds w of every box from below at the option prices of the row of ``prices``, for
    targets up to that of ``targets``.
    """

    a: Ints
    b: Ints
    alone: float
    reach: float
    cost: Floats
    prices: Floats
    targets: Floats


class _Search:
    """The boxes of one micro-batch size and some counts of micro-batches.

    ``leaves`` is the least T of boxes left as they are.
    """

    def __init__(
        self,
        pricer: Pricer,
        option_prices: Floats,
        pipeline_price: float,
        counts: tuple[int, int],
        tolerance: float,
    ) -> None:
        self.pricer = pricer
        self.rows = pricer.space.rows
        self.option_prices = option_prices
        self.pipeline_price = pipeline_price
        self.least, self.most = counts
        self.tolerance = tolerance
        self.candidates: list[Candidate] = []
        self.leaves = np.inf
        self.target = np.inf
        self.queries = 0
        self._met: dict[tuple[Stage, ...], bool] = {}
        points = pricer.breakpoints()
        # a stage of layers that take no time is never the slowest one
        self.points = points[points > 0]
        none = np.zeros(0, dtype=np.int64)
        self.open = _Boxes(none, none, none, none, np.zeros(0))

    def lowest(self, ceiling: float) -> float:
        """The least T of any open box, or the ceiling if that is lower."""
        return min(ceiling, float(self.open.least.min(initial=np.inf)))

    def start(self, target: float) -> None:
        """First boxes: takts up to the target in equal ratios, any number of micro-batches.

        Most of them are as hopeless as in the round before: what a box cost at other prices, times
        the least ratio of the prices, is a bound that needs no pricing.
        """
        self.target = target
        firsts = self._firsts(target)
        kept = np.flatnonzero(self.points[firsts.a] <= target * (1 + ROUNDING))
        a, b = firsts.a[kept], firsts.b[kept]
        boxes = _Boxes(a, b, np.full_like(a, self.least), self._most(a, target), np.zeros(len(a)))
        weights, cutoffs = self._natural(boxes, target)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(firsts.prices > 0, self.option_prices / firsts.prices, np.inf)
            known = firsts.cost * ratio.min(axis=1, initial=1.0)
        known[np.isinf(firsts.cost)] = np.inf  # no pipeline at all, whatever the prices
        known[firsts.targets < target] = 0.0
        ask = np.flatnonzero((known[kept] < cutoffs) & (boxes.high >= boxes.low))
        cost = self._floor(boxes.take(ask), weights[ask], cutoffs[ask])
        firsts.cost[kept[ask]] = cost
        firsts.prices[kept[ask]] = self.option_prices
        firsts.targets[kept[ask]] = target
        left = ask[cost < cutoffs[ask]]
        self.open = self._priced(boxes.take(left), target, firsts.cost[kept[left]])

    def _firsts(self, target: float) -> _Firsts:
        """The first boxes, those of an earlier round if they reach from far enough to the target.

        A pipeline that does the whole batch alone is no faster for a shorter takt.
        """
        alone = target / (self.most + self.pricer.max_stages)
        known = self.pricer.firsts.get((self.least, self.most))
        if isinstance(known, _Firsts) and known.alone <= alone and target <= known.reach:
            return known
        reach, alone = target * REACH, alone / REACH
        points = self.points[self.points <= reach * (1 + ROUNDING)]
        edges = []
        at = 0
        while at < len(points):
            top = max(points[at] * FIRST_RATIO, alone)
            end = max(at, int(np.searchsorted(points, top, side="right")) - 1)
            edges.append((at, end))
            at = end + 1
        a = np.array([e[0] for e in edges], dtype=np.int64)
        b = np.array([e[1] for e in edges], dtype=np.int64)
        none = np.zeros((len(a), len(self.option_prices)))
        firsts = _Firsts(a, b, alone, reach, np.zeros(len(a)), none, np.zeros(len(a)))
        self.pricer.firsts[self.least, self.most] = firsts
        return firsts

    def _most(self, a: Ints, target: float) -> Ints:
        """Most micro-batches by the target at these takts: m of them take at least m takts."""
        count = np.floor(target / self.points[a] * (1 + ROUNDING)) if len(a) else np.zeros(0)
        out: Ints = np.minimum(self.most, np.minimum(count, 1 << 40).astype(np.int64))
        return out

    def split(self, ceiling: float, target: float) -> None:
        """Split the lowest open boxes; those too narrow for it are settled."""
        order = np.argsort(self.open.least, kind="stable")
        order = order[self.open.least[order] < ceiling]
        chosen, rest = order[:BATCH], order[BATCH:]
        boxes, self.open = self.open.take(chosen), self.open.take(np.sort(rest))
        ratio = self.points[boxes.b] / self.points[boxes.a]
        narrow = (boxes.a == boxes.b) | (ratio <= 1 + self.tolerance)
        if narrow.any():
            vague = self._settle(boxes.take(np.flatnonzero(narrow)), target)
            if len(vague):
                parts = self._priced(self._counts(vague), target, recount=True)
                self.open = _join(self.open, parts)
        wide = boxes.take(np.flatnonzero(~narrow))
        if len(wide):
            self.open = _join(self.open, self._priced(self._parts(wide, target), target))

    def _counts(self, boxes: _Boxes) -> _Boxes:
        """Every box cut into parts of about as many counts: the more, the less room is left."""
        edges = [boxes.low + (boxes.high + 1 - boxes.low) * k // PARTS for k in range(PARTS + 1)]
        low, high = np.concatenate(edges[:-1]), np.concatenate(edges[1:]) - 1
        kept = np.flatnonzero(high >= low)
        a, b, least = (np.tile(own, PARTS) for own in (boxes.a, boxes.b, boxes.least))
        return _Boxes(a, b, low, high, least).take(kept)

    def _parts(self, boxes: _Boxes, target: float) -> _Boxes:
        """Every box cut into parts of equal ratio, as far as its takts allow."""
        low, high = np.log(self.points[boxes.a]), np.log(self.points[boxes.b])
        edges = [boxes.a]
        for k in range(1, PARTS):
            at = np.exp(low + (high - low) * k / PARTS)
            cut = np.searchsorted(self.points, at, side="right")
            edges.append(np.clip(cut, edges[-1], boxes.b + 1))
        edges.append(boxes.b + 1)
        a = np.concatenate(edges[:-1])
        b = np.concatenate(edges[1:]) - 1
        kept = np.flatnonzero(b >= a)
        repeated = np.tile(np.arange(len(boxes)), PARTS)[kept]
        a, b, low, high = a[kept], b[kept], boxes.low[repeated], self._most(a[kept], target)
        left = np.flatnonzero(high >= low)
        return _Boxes(a, b, low, high, boxes.least[repeated]).take(left)

    def _ask(self, boxes: _Boxes, weights: Floats, cutoffs: Floats, *, trace: bool) -> Answer:
        """Shortest paths of boxes; infinite where they reach their cutoff."""
        self.queries += len(boxes)
        return self.pricer.solve(
            self.option_prices,
            self.points[boxes.b],
            weights,
            boxes.low,
            cutoffs=cutoffs,
            trace=trace,
            rooms=self._rooms(boxes),
        )

    def _rooms(self, boxes: _Boxes) -> Floats:
        """Seconds that the fewest micro-batches of boxes leave for fill and finish."""
        out: Floats = self.target - (boxes.low - 1) * self.points[boxes.a]
        return out

    def _floor(self, boxes: _Boxes, weights: Floats, cutoffs: Floats) -> Floats:
        """Lower bounds on the shortest paths of boxes, rough where they reach their cutoff."""
        self.queries += len(boxes)
        takts = self.points[boxes.b]
        return self.pricer.floor(
            self.option_prices, takts, weights, boxes.low, cutoffs, self._rooms(boxes)
        )

    def _priced(
        self,
        boxes: _Boxes,
        target: float,
        natural: Floats | None = None,
        *,
        recount: bool = False,
    ) -> _Boxes:
        """The boxes that may hold a violation below the target, each with its least T.

        ``natural``: bounds at the natural weights where they are known; such boxes are new, and
        all of them are asked for their counts.
        """
        if len(boxes) == 0:
            return boxes
        ratio = self.points[boxes.b] / self.points[boxes.a]
        counted = np.flatnonzero(ratio > (0.0 if recount or natural is not None else COUNTS_ABOVE))
        ask = boxes.take(counted)
        weights = np.zeros(len(counted))
        cutoffs = (self.rows * ask.high - self.pipeline_price).astype(np.float64)
        if natural is None:
            own = self._natural(boxes, target)
            ask = _join(boxes, ask)
            weights = np.concatenate([own[0], weights])
            cutoffs = np.concatenate([own[1], cutoffs])
        cost = self._floor(ask, weights, cutoffs)
        if natural is None:
            natural, cost = cost[: len(boxes)], cost[len(boxes) :]
        kept, raised = self._without(boxes, counted, cost, natural, target)
        # fewer counts mean more in flight: where that can matter the same question is asked again
        raised &= kept.low <= 2 * self.pricer.max_stages
        left = kept.take(np.flatnonzero(~raised))
        again = self._least_of(kept.take(np.flatnonzero(raised)), target, exact=False)
        left = _join(left, again)
        ratio = self.points[left.b] / self.points[left.a]
        near = ratio <= EXACT_BELOW
        fine = self._least_of(left.take(np.flatnonzero(near)), target, exact=True)
        return _join(left.take(np.flatnonzero(~near)), fine)

    def _natural(self, boxes: _Boxes, target: float) -> tuple[Floats, Floats]:
        """The weight at which the count does not matter in (1), and the cost that reaches T."""
        shortest = self.points[boxes.a]
        weights = self.rows / shortest
        return weights, weights * (target + shortest) - self.pipeline_price

    def _least_of(self, boxes: _Boxes, target: float, *, exact: bool) -> _Boxes:
        """Equation (1) at its natural weight; boxes that reach the target are left away."""
        if len(boxes) == 0:
            return boxes
        weights, cutoffs = self._natural(boxes, target)
        if exact:
            cost = self._ask(boxes, weights, cutoffs, trace=False).cost
        else:
            cost = self._floor(boxes, weights, cutoffs)
        least = (cost + self.pipeline_price) / weights - self.points[boxes.a]
        kept = np.flatnonzero(np.isfinite(cost) & (least < target))
        boxes, least = boxes.take(kept), least[kept]
        return _Boxes(boxes.a, boxes.b, boxes.low, boxes.high, np.maximum(boxes.least, least))

    def _without(
        self, boxes: _Boxes, counted: Ints, free: Floats, cost: Floats, target: float
    ) -> tuple[_Boxes, NDArray[np.bool_]]:
        """Boxes that (1) leaves open without the counts that (2) rules out; which lost some."""
        low = boxes.low.copy()
        paid = np.where(np.isfinite(free), (free + self.pipeline_price) / self.rows - 1e-9, np.inf)
        paid = np.minimum(np.floor(paid), 1 << 40).astype(np.int64)
        low[counted] = np.maximum(low[counted], paid + 1)
        least = (cost + self.pipeline_price) * self.points[boxes.a] / self.rows
        least = np.maximum(boxes.least, least - self.points[boxes.a])
        kept = np.flatnonzero(np.isfinite(cost) & (least < target) & (low <= boxes.high))
        raised = low[kept] > boxes.low[kept]
        left = _Boxes(boxes.a[kept], boxes.b[kept], low[kept], boxes.high[kept], least[kept])
        return left, raised

    def _settle(self, boxes: _Boxes, target: float) -> _Boxes:
        """Boxes too narrow to split: what stays below the target is a leaf.

        Returned are those whose pipelines are no better than their price: the fewest of their
        counts leave more room to synchronise than the others, so the counts must be told apart.
        """
        if self.tolerance > FINE:
            return self._leave(boxes, target)
        return self._weigh(boxes, target)

    def _vague(self, box: _Boxes, target: float) -> bool:
        """Whether the counts of a box take long enough to be told apart."""
        spread = (box.high - box.low) * self.points[box.a]
        return bool(spread[0] > max(SPREAD, self.tolerance / 4) * target)

    def _leave(self, boxes: _Boxes, target: float) -> _Boxes:
        """Leaves of a coarse look: their pipelines teach the prices."""
        shortest = self.points[boxes.a]
        weights = self.rows / shortest
        cutoffs = weights * (target + shortest) - self.pipeline_price
        answer = self._ask(boxes, weights, cutoffs, trace=True)
        cost, pipelines = answer.cost, answer.pipelines
        least = np.maximum((cost + self.pipeline_price) / weights - shortest, boxes.least)
        vague = []
        for k, pipeline in enumerate(pipelines):
            met = self._meet(pipeline, int(boxes.low[k]), int(boxes.high[k]), target)
            if least[k] < target and not met and self._vague(boxes.take(np.array([k])), target):
                vague.append(k)
            else:
                self.leaves = min(self.leaves, float(least[k]))
        return boxes.take(np.array(vague, dtype=np.int64))

    def _weigh(self, boxes: _Boxes, target: float) -> _Boxes:
        """Leaves of a fine look: the best weight for every whole count."""
        each = len(LEAF_WEIGHTS)
        repeated = boxes.take(np.repeat(np.arange(len(boxes)), each))
        shortest = self.points[repeated.a]
        factors = np.tile(np.array(LEAF_WEIGHTS), len(boxes))
        weights = factors * self.rows / shortest
        high = np.maximum(
            self.rows * repeated.low + weights * (target - (repeated.low - 1) * shortest),
            self.rows * repeated.high + weights * (target - (repeated.high - 1) * shortest),
        )
        answer = self._ask(repeated, weights, high - self.pipeline_price, trace=True)
        cost, pipelines = answer.cost, answer.pipelines
        vague = []
        for k in range(len(boxes)):
            part = slice(k * each, (k + 1) * each)
            if np.isinf(cost[part]).any():
                continue  # some weight rules out every count
            box = boxes.take(np.array([k]))
            least = max(self._least(box, cost[part], weights[part]), float(boxes.least[k]))
            if least >= target:
                continue
            met = [
                self._meet(pipeline, int(boxes.low[k]), int(boxes.high[k]), target)
                for pipeline in pipelines[part]
            ]
            if not any(met) and self._vague(box, target):
                vague.append(k)
            else:
                self.leaves = min(self.leaves, least)
        return boxes.take(np.array(vague, dtype=np.int64))

    def _least(self, box: _Boxes, cost: Floats, weights: Floats) -> float:
        """Least T over whole counts, each with its best weight."""
        shortest = float(self.points[box.a[0]])
        counts = np.arange(int(box.low[0]), int(box.high[0]) + 1, dtype=np.float64)
        missing = cost[:, None] + self.pipeline_price - self.rows * counts[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (counts - 1) * shortest + missing / weights[:, None]
        at[weights == 0] = np.where(missing[weights == 0] >= 0, np.inf, -np.inf)
        return float(at.max(axis=0).min())

    def _meet(self, pipeline: tuple[Stage, ...] | None, low: int, high: int, target: float) -> bool:
        """Keep a pipeline as a candidate if it is really worth more than its price; whether."""
        if pipeline is None:
            return False
        if pipeline in self._met:
            return self._met[pipeline]
        size = len(pipeline)
        space = self.pricer.space
        times = [
            space.stage_time(st.option, st.first, st.end, min(size - s, low))
            for s, st in enumerate(pipeline)
        ]
        hops = [float(space.hop[a.option, b.option, b.first]) for a, b in pairwise(pipeline)]
        fill = sum(times) + 2 * sum(hops)
        fill += space.finish_after(pipeline, times, fill)
        slowest = max(*times, *hops, 1e-12)
        count = min(high, int((target - fill) / slowest * (1 + ROUNDING)) + 1)
        price = sum(float(self.option_prices[s.option]) for s in pipeline) + self.pipeline_price
        worth = self.rows * min(float(high), (target - fill) / slowest + 1)
        met = fill <= target and count >= max(low, self.least) and worth > price * (1 + ROUNDING)
        if met:
            self.candidates.append(Candidate(self.rows, pipeline, count))
        self._met[pipeline] = met
        return met


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


def reduced_value(column: Column, prices: Prices, theta: float, target_ps: int) -> float:
    """Rows that a column is worth at the target beyond its scaled price."""
    price = float(np.dot(prices.packing, column.usage)) + prices.most + prices.least
    return column.rows * column.micro_batches(target_ps) - theta * price
