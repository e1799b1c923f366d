"""The best pipeline for given prices: a shortest path, for many takts and weights at once.

For a price per group of chips and a weight λ on the fill, find for each query (τ, λ)

    w(τ, λ) = min over pipelines with every stage and hop ≤ τ of  Σ_s price(o_s) + λ·φ

with φ = Σ_s (f+b)_s + 2·Σ hops + finish of the first stage. Additive over stages, so the dynamic
program runs from the last layer backwards over (stages used, first layer, option of the first
stage). A stage that is r-th from the end holds at least min(r, m) micro-batches in flight
(1F1B), which decides the fastest recomputation that fits; ``depth_cap`` is that m.

A relaxation without positions comes first: the least cost of the layers before a stage. Its answer
alone settles many queries; for the others it tells which states can still beat the cutoff, usually
a few per cent, and only those are extended. Where all inner layers are alike compiled passes do
both, one query at a time (:mod:`planner.search.passes`); elsewhere the queries of a batch share
numpy operations (:class:`_Come`, :class:`_Sweep`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from planner.aside import cpus
from planner.costing import Ints
from planner.search.passes import SLACK, STRETCHES, ask
from planner.search.space import Floats, Stage, StageSpace
from planner.search.uniform import Items

ROUNDING = 1e-9
"""Relative error of a difference of sums, amply."""
SHARED = 8
"""From so many queries on two threads answer them."""
CELLS = 48_000
"""States ``query x option x layer`` of one pass: what stays in a core's cache."""

_BESIDE = ThreadPoolExecutor(max_workers=1)


@dataclass(frozen=True)
class Answer:
    """Minimal cost per query and, where asked for, the pipeline that attains it.

    A query whose minimum is not below its cutoff answers infinity and None.
    """

    cost: Floats
    pipelines: tuple[tuple[Stage, ...] | None, ...]


class _Queries(NamedTuple):
    """Queries as the compiled passes take them: see :func:`planner.search.passes.ask`."""

    takts: Floats
    weights: Floats
    caps: Ints
    rooms: Floats
    limits: Floats
    rests: Floats

    def every_other(self, first: int) -> _Queries:
        """Every second one, from the first or from the second on."""
        arrays: list[Any] = [np.ascontiguousarray(array[first::2]) for array in self]
        return _Queries(*arrays)


_Found = tuple[Floats, dict[int, list[tuple[int, int, int]]]]
"""Cost of every query, and the stages ``(option, first, end)`` of those that were traced."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """Ways on: ``going[x, option]`` is the least cost behind a stage that ends at ``cut[x]``.

    Sorted by query, then by cut.
    """

    query: Ints
    cut: Ints
    going: Floats


class Pricer:
    """Answers queries over one space; keeps the tables that queries share."""

    def __init__(self, space: StageSpace, max_stages: int) -> None:
        self.space = space
        self.max_stages = max_stages
        self._points: Floats | None = None
        self._lengths: tuple[Floats, Ints] | None = None
        self.firsts: dict[tuple[int, int], object] = {}
        """What a proof remembers from one round to the next (``bound``)."""
        self.items = Items(space, max_stages) if space.uniform and space.layers > 2 else None

    def breakpoints(self) -> Floats:
        """All distinct stage times and hop times: the takts that a pipeline can have."""
        if self._points is None:
            space = self.space
            values = [
                time[np.isfinite(time) & (depth > 0)]
                for time, depth in zip(space.time, space.depth, strict=True)
            ]
            hop = space.hop
            values.append(hop[np.isfinite(hop) & (hop > 0)])
            if space.back is not None:
                values.append(space.back[np.isfinite(space.back) & (space.back > 0)])
            self._points = np.unique(np.concatenate(values))
        return self._points

    def longest(self, takts: Floats) -> Ints:
        """Most layers of any stage within each takt, with one micro-batch in flight; at least 1."""
        if self._lengths is None:
            times, length = self.space.times(1), self.space.layers
            seconds, counts = [], []
            for table, count in (
                (times.middle, np.arange(1, len(times.middle) + 1)[:, None, None]),
                (times.tail, length - np.arange(length)[None, :]),
                (times.head, np.arange(length + 1)[None, :]),
            ):
                seconds.append(table.ravel())
                counts.append(np.broadcast_to(count, table.shape).ravel())
            flat, count = np.concatenate(seconds), np.concatenate(counts)
            order = np.argsort(flat, kind="stable")
            self._lengths = (flat[order], np.maximum.accumulate(count[order]))
        found = np.searchsorted(self._lengths[0], takts * SLACK, side="right")
        out: Ints = np.maximum(1, np.concatenate([[1], self._lengths[1]])[found])
        return out

    def fluid(self, prices: Floats, takts: Floats, weights: Floats) -> Floats:
        """``[query, i]``: least cost of layers before i if stages could be filled exactly.

        A stage no longer than τ costs at least price · time / τ, so every layer costs at least
        min over options of (price / τ + λ) · time. Hops, memory and finish are left out.
        """
        rate = np.maximum(prices, 0.0)[None, :] / takts[:, None] + weights[:, None]
        with np.errstate(invalid="ignore"):
            each = rate[:, :, None] * self.space.layer_time[None]
        each[np.isnan(each)] = np.inf  # free layers that no option may run
        each = each.min(axis=1)
        return np.concatenate([np.zeros((len(takts), 1)), np.cumsum(each, axis=1)], axis=1)

    def floor(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_caps: Ints,
        limits: Floats,
        rooms: Floats | None = None,
    ) -> Floats:
        """Lower bounds on the cost of every query, without positions; rough where over the limit.

        ``depth_caps``: the least number of micro-batches that each query speaks about. ``rooms``:
        the seconds that these leave for the last one, in which every stage must synchronise.
        """
        if len(takts) == 0 or not self.space.options:
            return np.full(len(takts), np.inf)
        fluid = self.fluid(prices, takts, weights)
        out = fluid[:, -1].copy()
        alive = np.flatnonzero(out < limits)
        if self.items is not None:
            queries = _queries(takts, weights, depth_caps, rooms, limits, fluid, alive)
            found = self._ask(prices, queries, exact=False)[0]
            out[alive] = np.maximum(out[alive], found)
            return out
        for part in self._parts(takts, alive):
            come = _Come(self, prices, takts[part], weights[part], depth_caps[part])
            out[part] = np.maximum(out[part], come.run())
        return out

    def solve(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_caps: Ints | int,
        *,
        cutoffs: Floats | None = None,
        trace: bool = True,
        slope: int = 1,
        rooms: Floats | None = None,
    ) -> Answer:
        """Run the dynamic program for all queries; ``prices`` per option of the space.

        ``depth_caps``: the least number of micro-batches that each query speaks about. ``slope``
        asks for room for slope·(r − 1) + 1 micro-batches r stages from the end instead of r: what
        slow hops and stages filled to the takt really need (a guide for plans, never for bounds).
        """
        cost = np.full(len(takts), np.inf)
        pipelines: list[tuple[Stage, ...] | None] = [None] * len(takts)
        if len(takts) == 0 or not self.space.options:
            return Answer(cost, tuple(pipelines))
        limits = np.full(len(takts), np.inf) if cutoffs is None else cutoffs
        caps = np.broadcast_to(np.asarray(depth_caps, dtype=np.int64), (len(takts),))
        fluid = self.fluid(prices, takts, weights)
        alive = np.flatnonzero(fluid[:, -1] < limits)
        queries = _queries(takts, weights, caps, rooms, limits, fluid, alive)
        answer = self._passed if self.items is not None else self._swept
        cost[alive], stages = answer(prices, queries, slope, trace=trace)
        for k, own in stages.items():
            pipelines[alive[k]] = tuple(Stage(*stage) for stage in own)
        return Answer(cost, tuple(pipelines))

    def _passed(self, prices: Floats, queries: _Queries, slope: int, *, trace: bool) -> _Found:
        """Answers of the compiled passes, where inner layers are alike."""
        cost, count, stages = self._ask(prices, queries, slope=slope, trace=trace)
        traced = np.flatnonzero(count).tolist() if trace else []
        return cost, {k: stages[k, : count[k]].tolist() for k in traced}

    def _swept(self, prices: Floats, queries: _Queries, slope: int, *, trace: bool) -> _Found:
        """Answers of the sweeps over any space."""
        cost = np.full(len(queries.takts), np.inf)
        stages: dict[int, list[tuple[int, int, int]]] = {}
        limits = queries.limits
        for part in self._parts(queries.takts, np.arange(len(cost))):
            asked = (queries.takts[part], queries.weights[part], queries.caps[part])
            come = _Come(self, prices, *asked)
            least = come.run()
            for left in _batches(np.flatnonzero(least < limits[part]), self._states()):
                for stretch in STRETCHES:
                    own = part[left]
                    limit = limits[own]
                    if np.isfinite(stretch):
                        limit = np.minimum(limit, least[left] * stretch)
                    exact = _Sweep(self, come, left, slope)
                    found = exact.run(limit)
                    done = np.isfinite(found)
                    cost[own[done]] = found[done]
                    if trace:
                        traced = exact.trace(np.flatnonzero(done))
                        stages |= dict(zip(own[done].tolist(), traced, strict=True))
                    left = left[~done & (limit < limits[own])]
                    if len(left) == 0:
                        break
        return cost, stages

    def _ask(
        self,
        prices: Floats,
        queries: _Queries,
        *,
        exact: bool = True,
        slope: int = 1,
        trace: bool = False,
    ) -> tuple[Floats, Ints, Ints]:
        """The compiled passes, where inner layers are alike."""
        if self.items is None:
            raise LookupError("inner layers differ")
        tables, how = self.items.tables, (slope, self.max_stages, exact, trace)
        if len(queries.takts) < SHARED or cpus() == 1:
            return ask(tables, prices, *queries, *how)
        # every other query on a second thread: the compiled passes hold no lock
        mine, theirs = (queries.every_other(k) for k in (0, 1))
        begun = _BESIDE.submit(ask, tables, prices, *theirs, *how)
        own = ask(tables, prices, *mine, *how)
        return _woven(own, begun.result())

    def _parts(self, takts: Floats, alive: Ints) -> list[Ints]:
        """The living queries in batches of similar takts."""
        chosen = alive[np.argsort(takts[alive], kind="stable")]
        return _batches(chosen, self._states())

    def _states(self) -> int:
        """Queries of one exact pass."""
        return max(1, CELLS // (len(self.space.options) * (self.space.layers + 1)))


def _queries(
    takts: Floats,
    weights: Floats,
    caps: Ints,
    rooms: Floats | None,
    limits: Floats,
    fluid: Floats,
    chosen: Ints,
) -> _Queries:
    """The chosen queries; ``fluid[query, i]`` is what the layers before i cost at least."""
    return _Queries(
        takts=takts[chosen],
        weights=weights[chosen],
        caps=caps[chosen],
        rooms=np.full(len(chosen), np.inf) if rooms is None else rooms[chosen],
        limits=limits[chosen],
        rests=(fluid[chosen, -1:] - fluid[chosen]) * (1 - ROUNDING),
    )


def _woven(
    even: tuple[Floats, Ints, Ints], odd: tuple[Floats, Ints, Ints]
) -> tuple[Floats, Ints, Ints]:
    """Answers of every other query, and of those between, in their order."""
    out: list[Any] = []
    for one, other in zip(even, odd, strict=True):
        both = np.empty((len(one) + len(other), *one.shape[1:]), one.dtype)
        both[::2], both[1::2] = one, other
        out.append(both)
    return out[0], out[1], out[2]


def _batches(chosen: Ints, size: int) -> list[Ints]:
    """Consecutive parts of at most the size."""
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


class _Come:
    """Least cost of the layers before every stage, whatever its position: a relaxation.

    A stage that ends at layer i has at least ⌈(L − i) / longest⌉ stages behind it, where longest
    is the most layers of any stage within the takt; that many and one more are in flight.
    """

    def __init__(
        self, pricer: Pricer, prices: Floats, takts: Floats, weights: Floats, caps: Ints
    ) -> None:
        self.pricer = pricer
        self.space = pricer.space
        self.prices = prices
        self.takts = takts
        self.weights = weights
        self.caps = caps
        self.cost = np.full((len(takts), len(prices), self.space.layers + 1), np.inf)
        self._hop_tolls: dict[int, Floats] = {}

    def run(self) -> Floats:
        """Fill ``cost[query, option, i]``; the relaxed answer per query."""
        space, length = self.space, self.space.layers
        price = self.prices[None, :]
        longest = self.pricer.longest(self.takts)
        behind = -(-(length - np.arange(length)) // longest[:, None])
        depth = np.minimum(1 + behind, self.caps[:, None])  # of a stage that ends at layer i
        depths, of = np.unique(depth, return_inverse=True)
        of = of.reshape(depth.shape)
        tolls = [self._tolls(int(d)) for d in depths] if space.uniform else []
        stacked = np.stack(tolls) if tolls else None
        heads = np.stack([space.times(int(d)).head for d in depths])
        every = np.arange(len(self.takts))
        for i in range(1, length):
            came = self._toll(heads[of[:, i], :, i]) + self.weights[:, None] * space.finish[:, i]
            count = min(i - 1, int(longest.max()))
            if count:
                if stacked is not None:
                    toll = stacked[of[:, i], every, :, :count]
                else:
                    toll = self._uneven(depths, of[:, i], i, count)
                before = self.cost[:, :, i - count : i][:, :, ::-1]
                np.minimum(came, (before + toll).min(axis=2), out=came)
            came += price
            came[:, ~space.ends[:, i]] = np.inf
            self._enter(i, came)
        first = np.minimum(1, self.caps)[:1]
        tail = self._toll(space.times(int(first[0])).tail.T[None])  # [query, i, option]
        whole = tail[:, 0] + self.weights[:, None] * space.finish[None, :, length] + price
        last = self.cost[:, :, 1:length] + np.moveaxis(tail[:, 1:], 1, 2) + price[:, :, None]
        least: Floats = whole.min(axis=1)
        if last.shape[2]:
            least = np.minimum(least, last.min(axis=(1, 2)))
        return least

    def _toll(self, seconds: Floats) -> Floats:
        """λ·time, infinite beyond the takt; ``seconds`` broadcasts against the queries."""
        shape = (-1,) + (1,) * (seconds.ndim - 1)
        legal = seconds <= self.takts.reshape(shape) * SLACK
        weights = self.weights.reshape(shape)
        return np.where(legal, weights * np.where(np.isfinite(seconds), seconds, 0.0), np.inf)

    def _tolls(self, depth: int) -> Floats:
        """``[query, option, n - 1]`` of inner stages, where all inner layers are alike."""
        return self._toll(self.space.times(depth).middle[:, :, 0].T[None])

    def _uneven(self, depths: Ints, of: Ints, i: int, count: int) -> Floats:
        """``[query, option, n - 1]`` of inner stages that end at layer i."""
        n = np.arange(count)
        steps = [self.space.times(int(d)).middle[n, :, i - 1 - n].T for d in depths]
        tolls = np.stack([self._toll(step[None]) for step in steps])
        out: Floats = tolls[of, np.arange(len(of))]
        return out

    def _enter(self, i: int, came: Floats) -> None:
        """Hop from a stage that ends at layer i to the next one's option."""
        kind = int(self.space.cut_kind[i])
        if kind not in self._hop_tolls:
            legal = self.space.hop[None, :, :, i] <= self.takts[:, None, None]
            hop = np.where(legal, self.space.hop[None, :, :, i], 0.0)
            self._hop_tolls[kind] = np.where(legal, 2 * self.weights[:, None, None] * hop, np.inf)
        self.cost[:, :, i] = (came[:, :, None] + self._hop_tolls[kind]).min(axis=1)


class _Sweep:
    """One pass of the dynamic program over a batch of queries, on the states that matter."""

    def __init__(self, pricer: Pricer, come: _Come, chosen: Ints, slope: int) -> None:
        self.space = pricer.space
        self.prices = come.prices
        self.takts = come.takts[chosen]
        self.weights = come.weights[chosen]
        self.caps = come.caps[chosen]
        self.come = come.cost[chosen]
        self.slope = slope
        self.most = min(pricer.max_stages, self.space.layers)
        self.entries: list[_Entry] = []
        self.best_at = np.zeros(len(chosen), dtype=np.int64)

    def depth(self, position: int, caps: Ints) -> Ints:
        """Micro-batches that a stage this far from the end must have room for."""
        out: Ints = np.minimum(self.slope * (position - 1) + 1, caps)
        return out

    def run(self, limits: Floats) -> Floats:
        """Least cost per query; infinity where it is not below the limit."""
        best = limits.copy()
        options = len(self.prices)
        every = np.arange(len(best))
        last = _Entry(every, np.full_like(every, self.space.layers), np.zeros((len(best), options)))
        entry: _Entry | None = last
        for position in range(1, self.most + 1):
            if entry is None:
                break
            self.entries.append(entry)
            self._complete(position, entry, best)
            value = self._extend(position, entry, best)
            entry = self._enter(value)
        return np.where(self.best_at > 0, best, np.inf)

    def _toll(self, query: Ints, seconds: Floats) -> Floats:
        """λ·time of rows that belong to queries; infinite beyond the takt."""
        shape = (-1,) + (1,) * (seconds.ndim - 1)
        legal = seconds <= (self.takts[query] * SLACK).reshape(shape)
        finite = np.where(legal, seconds, 0.0)
        return np.where(legal, self.weights[query].reshape(shape) * finite, np.inf)

    def _complete(self, position: int, entry: _Entry, best: Floats) -> None:
        """First stages from layer 0 to a cut that can go on: keep what beats the best."""
        depths, of = np.unique(self.depth(position, self.caps[entry.query]), return_inverse=True)
        head = np.stack([self.space.times(int(d)).head for d in depths])[of, :, entry.cut]
        cost = self._toll(entry.query, head) + entry.going + self.prices
        cost += self.weights[entry.query, None] * self.space.finish[:, entry.cut].T
        total = np.full(len(best), np.inf)
        np.minimum.at(total, entry.query, cost.min(axis=1))
        better = total < best
        best[better] = total[better]
        self.best_at[better] = position

    def _extend(self, position: int, entry: _Entry, best: Floats) -> Floats:
        """``[query, option, i]``: value of stages that begin at layer i ≥ 1; inf where hopeless."""
        length = self.space.layers
        value = np.full((len(best), len(self.prices), length), np.inf)
        depths, of = np.unique(self.depth(position, self.caps[entry.query]), return_inverse=True)
        if position == 1:
            tail = np.stack([self.space.times(int(d)).tail for d in depths])[of]
            value = self._toll(entry.query, tail) + self.prices[None, :, None]
            value[:, :, 0] = np.inf
        else:
            self._middles(entry, depths, of, best, value)
        value[:, ~self.space.starts] = np.inf
        value[value + self.come[:, :, :length] >= best[:, None, None]] = np.inf
        return value

    def _middles(self, entry: _Entry, depths: Ints, of: Ints, best: Floats, value: Floats) -> None:
        """Inner stages that end at the entry's cuts, by length; written where they improve."""
        going = np.where(self.space.ends[:, entry.cut].T, entry.going, np.inf) + self.prices
        takts = self.takts[entry.query] * SLACK
        for option in np.flatnonzero(np.isfinite(going).any(axis=0)):
            self._lengthen(int(option), going[:, option], takts, entry, depths, of, best, value)

    def _lengthen(
        self,
        option: int,
        going: Floats,
        takts: Floats,
        entry: _Entry,
        depths: Ints,
        of: Ints,
        best: Floats,
        value: Floats,
    ) -> None:
        """Stages of one option before the entry's cuts, for every number of layers."""
        table = np.stack([self.space.times(int(d)).middle[:, option] for d in depths])
        reach = np.flatnonzero((table <= takts.max()).any(axis=(0, 2)))
        longest = min(int(reach[-1]) + 1 if len(reach) else 0, int(entry.cut.max()) - 1)
        if longest < 1:
            return
        # a longer stage leaves less before it: hopeful at all only if the longest one is
        least = self.come[entry.query, option, np.maximum(entry.cut - longest, 1)]
        x = np.flatnonzero(going + least < best[entry.query])
        if len(x) == 0:
            return
        query, n = entry.query[x], np.arange(longest)
        start = entry.cut[x, None] - 1 - n[None, :]
        inside = np.maximum(start, 0)
        if self.space.uniform:
            step = table[of[x], :longest, 0]
        else:
            step = table[of[x, None], n[None, :], inside]
        cost = going[x, None] + self._toll(query, step)
        hope = cost + self.come[query[:, None], option, inside]
        at, n_at = np.nonzero((hope < best[query, None]) & (start >= 1))
        np.minimum.at(value[:, option], (query[at], start[at, n_at]), cost[at, n_at])

    def _enter(self, value: Floats) -> _Entry | None:
        """Add the hop from a stage of option o: min over the next stage's option."""
        query, cut = np.nonzero(np.isfinite(value).any(axis=1))
        if len(query) == 0:
            return None
        states = value[query, :, cut]
        hop = self.space.hop[:, :, cut]
        going = np.full(states.shape, np.inf)
        takts, weights = self.takts[query, None], 2.0 * self.weights[query, None]
        for after in np.flatnonzero(np.isfinite(states).any(axis=0)):
            across = hop[:, after].T
            legal = across <= takts
            toll = np.where(legal, weights * np.where(legal, across, 0.0), np.inf)
            np.minimum(going, states[:, after, None] + toll, out=going)
        return _Entry(query, cut, going)

    def trace(self, chosen: Ints) -> list[list[tuple[int, int, int]]]:
        """Stages ``(option, first, end)`` of the pipelines that attained the minimum of queries."""
        return [self._trace(int(k)) for k in chosen]

    def _trace(self, k: int) -> list[tuple[int, int, int]]:
        """Walk forwards through the states that attained the minimum of query k."""
        space, weight = self.space, float(self.weights[k])
        slack = float(self.takts[k]) * SLACK
        stages: list[tuple[int, int, int]] = []
        start = 0
        for position in range(int(self.best_at[k]), 0, -1):
            entry = self.entries[position - 1]
            rows = slice(*np.searchsorted(entry.query, [k, k + 1]))
            cuts, ahead = entry.cut[rows], entry.going[rows].T
            times = space.times(int(self.depth(position, self.caps[k])))
            extra: Floats | float = 0.0
            if start == 0:
                step, extra = times.head[:, cuts], space.finish[:, cuts]
            elif position == 1:
                step = times.tail[:, start, None]
            else:
                later = cuts > start
                cuts, ahead = cuts[later], ahead[:, later]
                step = times.middle[cuts - start - 1, :, 0 if space.uniform else start].T
                step = np.where(space.ends[:, cuts], step, np.inf)
            legal = step <= slack
            cost = np.where(legal, weight * (np.where(legal, step, 0.0) + extra), np.inf)
            cost = cost + ahead + self.prices[:, None]
            if stages:
                hop = space.hop[stages[-1][0], :, start]
                legal_hop = hop <= slack / SLACK
                toll = np.where(legal_hop, 2.0 * weight * np.where(legal_hop, hop, 0.0), np.inf)
                cost = cost + toll[:, None]
                cost[~space.starts[:, start]] = np.inf
            option, at = np.unravel_index(int(np.argmin(cost)), cost.shape)
            stages.append((int(option), start, int(cuts[at])))
            start = stages[-1][2]
        return stages
