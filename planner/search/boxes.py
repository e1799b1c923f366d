"""Boxes of takts and micro-batch counts: how ``bound`` searches all pipelines of one size at once.

A box is split until it cannot lower the bound further, or is too narrow to matter: then it is a
leaf, and the pipelines found in it are worth more than their price. Where they are not, the box
is open only because the fewest of its counts leave most room to synchronise: it is split by counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planner.costing import Ints
from planner.search.pipelines import Answer, Pricer
from planner.search.problem import Size
from planner.search.space import Floats, Stage

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
ROUNDING = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A pipeline that is worth more than its price, with the micro-batches it assumed.

    Stages of a size with several chunks are folded ones (:mod:`planner.search.folded`).
    """

    size: Size
    pipeline: tuple[Stage, ...]
    micro_batches: int


@dataclass(frozen=True, slots=True)
class Boxes:
    """Takts ``points[a] .. points[b]`` with counts ``low .. high``, and the least T of each."""

    a: Ints
    b: Ints
    low: Ints
    high: Ints
    least: Floats

    def take(self, chosen: Ints | Floats) -> Boxes:
        """Some of them, by place or by mask."""
        return Boxes(
            self.a[chosen], self.b[chosen], self.low[chosen], self.high[chosen], self.least[chosen]
        )

    def __len__(self) -> int:
        return len(self.a)


def join(one: Boxes, two: Boxes) -> Boxes:
    """Both, one after the other."""
    return Boxes(
        np.concatenate([one.a, two.a]),
        np.concatenate([one.b, two.b]),
        np.concatenate([one.low, two.low]),
        np.concatenate([one.high, two.high]),
        np.concatenate([one.least, two.least]),
    )


@dataclass(frozen=True)
class Firsts:
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


class BoxSearch:
    """The boxes of one size of pipelines and some counts of micro-batches, of ``worth`` rows each.

    Of folded pipelines counts are of pairs of a chunk and a micro-batch, each worth its part.

    ``leaves`` is the least T of boxes left as they are. ``late`` are pipelines that would be worth
    more than their price if only their first stages had to synchronise: where nothing else is
    known, they show how much later to look.
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
        self.worth = pricer.space.worth
        self.option_prices = option_prices
        self.pipeline_price = pipeline_price
        self.least, self.most = counts
        self.tolerance = tolerance
        self.candidates: list[Candidate] = []
        self.late: list[Candidate] = []
        self.leaves = np.inf
        self.target = np.inf
        self.queries = 0
        self._met: dict[tuple[Stage, ...], bool] = {}
        points = pricer.breakpoints()
        # a stage of layers that take no time is never the slowest one
        self.points = points[points > 0]
        none = np.zeros(0, dtype=np.int64)
        self.open = Boxes(none, none, none, none, np.zeros(0))

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
        boxes = Boxes(a, b, np.full_like(a, self.least), self._most(a, target), np.zeros(len(a)))
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

    def _firsts(self, target: float) -> Firsts:
        """The first boxes, those of an earlier round if they reach from far enough to the target.

        A pipeline that does the whole batch alone is no faster for a shorter takt.
        """
        alone = target / (self.most + self.pricer.max_stages)
        known = self.pricer.firsts.get((self.least, self.most))
        if isinstance(known, Firsts) and known.alone <= alone and target <= known.reach:
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
        firsts = Firsts(a, b, alone, reach, np.zeros(len(a)), none, np.zeros(len(a)))
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
                self.open = join(self.open, parts)
        wide = boxes.take(np.flatnonzero(~narrow))
        if len(wide):
            self.open = join(self.open, self._priced(self._parts(wide, target), target))

    def _counts(self, boxes: Boxes) -> Boxes:
        """Every box cut into parts of about as many counts: the more, the less room is left."""
        edges = [boxes.low + (boxes.high + 1 - boxes.low) * k // PARTS for k in range(PARTS + 1)]
        low, high = np.concatenate(edges[:-1]), np.concatenate(edges[1:]) - 1
        whole = boxes.take(np.tile(np.arange(len(boxes)), PARTS))
        parts = Boxes(whole.a, whole.b, low, high, whole.least)
        return parts.take(np.flatnonzero(high >= low))

    def _parts(self, boxes: Boxes, target: float) -> Boxes:
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
        return Boxes(a, b, low, high, boxes.least[repeated]).take(left)

    def _ask(self, boxes: Boxes, weights: Floats, cutoffs: Floats, *, trace: bool) -> Answer:
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

    def _rooms(self, boxes: Boxes) -> Floats:
        """Seconds that the fewest micro-batches of boxes leave for fill and finish."""
        out: Floats = self.target - (boxes.low - 1) * self.points[boxes.a]
        return out

    def _floor(self, boxes: Boxes, weights: Floats, cutoffs: Floats) -> Floats:
        """Lower bounds on the shortest paths of boxes, rough where they reach their cutoff."""
        self.queries += len(boxes)
        takts = self.points[boxes.b]
        return self.pricer.floor(
            self.option_prices, takts, weights, boxes.low, cutoffs, self._rooms(boxes)
        )

    def _priced(
        self,
        boxes: Boxes,
        target: float,
        natural: Floats | None = None,
        *,
        recount: bool = False,
    ) -> Boxes:
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
        cutoffs = (self.worth * ask.high - self.pipeline_price).astype(np.float64)
        if natural is None:
            own = self._natural(boxes, target)
            ask = join(boxes, ask)
            weights = np.concatenate([own[0], weights])
            cutoffs = np.concatenate([own[1], cutoffs])
        cost = self._floor(ask, weights, cutoffs)
        if natural is None:
            natural, cost = cost[: len(boxes)], cost[len(boxes) :]
        kept, raised = self._without(boxes, counted, cost, natural, target)
        # fewer counts mean more in flight: where that can matter the same question is asked again
        raised &= kept.low <= 2 * self.pricer.max_stages * self.pricer.space.chunks
        left = kept.take(np.flatnonzero(~raised))
        again = self._least_of(kept.take(np.flatnonzero(raised)), target, exact=False)
        left = join(left, again)
        ratio = self.points[left.b] / self.points[left.a]
        near = ratio <= EXACT_BELOW
        fine = self._least_of(left.take(np.flatnonzero(near)), target, exact=True)
        return join(left.take(np.flatnonzero(~near)), fine)

    def _natural(self, boxes: Boxes, target: float) -> tuple[Floats, Floats]:
        """The weight at which the count does not matter in (1), and the cost that reaches T."""
        shortest = self.points[boxes.a]
        weights = self.worth / shortest
        return weights, weights * (target + shortest) - self.pipeline_price

    def _least_of(self, boxes: Boxes, target: float, *, exact: bool) -> Boxes:
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
        return Boxes(boxes.a, boxes.b, boxes.low, boxes.high, np.maximum(boxes.least, least))

    def _without(
        self, boxes: Boxes, counted: Ints, free: Floats, cost: Floats, target: float
    ) -> tuple[Boxes, NDArray[np.bool_]]:
        """Boxes that (1) leaves open without the counts that (2) rules out; which lost some."""
        low = boxes.low.copy()
        paid = np.where(np.isfinite(free), (free + self.pipeline_price) / self.worth - 1e-9, np.inf)
        paid = np.minimum(np.floor(paid), 1 << 40).astype(np.int64)
        low[counted] = np.maximum(low[counted], paid + 1)
        least = (cost + self.pipeline_price) * self.points[boxes.a] / self.worth
        least = np.maximum(boxes.least, least - self.points[boxes.a])
        kept = np.flatnonzero(np.isfinite(cost) & (least < target) & (low <= boxes.high))
        raised = low[kept] > boxes.low[kept]
        left = Boxes(boxes.a[kept], boxes.b[kept], low[kept], boxes.high[kept], least[kept])
        return left, raised

    def _settle(self, boxes: Boxes, target: float) -> Boxes:
        """Boxes too narrow to split: what stays below the target is a leaf.

        Returned are those whose pipelines are no better than their price: the fewest of their
        counts leave more room to synchronise than the others, so the counts must be told apart.
        """
        if self.tolerance > FINE:
            return self._leave(boxes, target)
        return self._weigh(boxes, target)

    def _vague(self, box: Boxes, target: float) -> bool:
        """Whether the counts of a box take long enough to be told apart."""
        spread = (box.high - box.low) * self.points[box.a]
        return bool(spread[0] > max(SPREAD, self.tolerance / 4) * target)

    def _leave(self, boxes: Boxes, target: float) -> Boxes:
        """Leaves of a coarse look: their pipelines teach the prices."""
        shortest = self.points[boxes.a]
        weights = self.worth / shortest
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

    def _weigh(self, boxes: Boxes, target: float) -> Boxes:
        """Leaves of a fine look: the best weight for every whole count."""
        each = len(LEAF_WEIGHTS)
        repeated = boxes.take(np.repeat(np.arange(len(boxes)), each))
        shortest = self.points[repeated.a]
        factors = np.tile(np.array(LEAF_WEIGHTS), len(boxes))
        weights = factors * self.worth / shortest
        high = np.maximum(
            self.worth * repeated.low + weights * (target - (repeated.low - 1) * shortest),
            self.worth * repeated.high + weights * (target - (repeated.high - 1) * shortest),
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

    def _least(self, box: Boxes, cost: Floats, weights: Floats) -> float:
        """Least T over whole counts, each with its best weight."""
        shortest = float(self.points[box.a[0]])
        chunks = self.pricer.space.chunks
        low = -(-int(box.low[0]) // chunks) * chunks
        counts = np.arange(low, int(box.high[0]) + 1, chunks, dtype=np.float64)
        if len(counts) == 0:
            return np.inf
        missing = cost[:, None] + self.pipeline_price - self.worth * counts[None, :]
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
        chunks = space.chunks
        times = [
            space.stage_time(st.option, st.first, st.end, int(space.held(size - s, size, low)))
            for s, st in enumerate(pipeline)
        ]
        hops = [float(space.hop[a.option, b.option, b.first]) for a, b in pairwise(pipeline)]
        fill = sum(times) + 2 * chunks * sum(hops)
        slowest = max(*times, *hops, space.back_s(pipeline), 1e-12)
        price = sum(float(self.option_prices[s.option]) for s in pipeline) + self.pipeline_price

        def stands(after: float) -> int:
            """Micro-batches by the target if they are worth more than the price; else 0."""
            room = (target - fill - after) / slowest
            count = min(high, int(room * (1 + ROUNDING)) + 1) if room >= 0 else 0
            worth = self.worth * min(float(high), room + 1)
            return count if count >= max(low, self.least) and worth > price * (1 + ROUNDING) else 0

        count = stands(space.finish_after(pipeline, times, fill))
        met = count > 0
        if met:
            self.candidates.append(Candidate(space.size, pipeline, -(-count // chunks)))
        else:
            head = pipeline[0]
            count = stands(float(space.finish[head.option, head.end]))
            if count > 0:
                self.late.append(Candidate(space.size, pipeline, -(-count // chunks)))
        self._met[pipeline] = met
        return met
