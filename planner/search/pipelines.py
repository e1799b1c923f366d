"""The best pipeline for given prices: a shortest path, for many takts and weights at once.

For a price per group of chips and a weight λ on the fill, find for each query (τ, λ)

    w(τ, λ) = min over pipelines with every stage and hop ≤ τ of  Σ_s price(o_s) + λ·φ

with φ = Σ_s (f+b)_s + 2·Σ hops + finish of the first stage. Additive over stages, so the dynamic
program runs from the last layer backwards over (stages used, first layer, option of the first
stage). A stage that is r-th from the end holds at least min(r, m) micro-batches in flight
(1F1B), which decides the fastest recomputation that fits; ``depth_cap`` is that m.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.costing import Ints
from planner.search.space import Floats, StageSpace

SEVERAL_SLACK = 1.02
CHUNK = 64
"""Queries that share one pass of the dynamic program."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``[first, end)`` under the option at this index of the space."""

    option: int
    first: int
    end: int


@dataclass(frozen=True)
class Answer:
    """Minimal cost per query and the pipeline that attains it.

    A query whose minimum is not below its cutoff answers infinity and None. ``others`` are
    pairs (query, pipeline) of the next best numbers of stages, if they were asked for.
    """

    cost: Floats
    pipelines: tuple[tuple[Stage, ...] | None, ...]
    others: tuple[tuple[int, tuple[Stage, ...]], ...] = ()


class Pricer:
    """Answers queries over one space; keeps the tables that queries share."""

    def __init__(self, space: StageSpace, max_stages: int) -> None:
        self.space = space
        self._max_stages = max_stages
        self._fastest: dict[int, Floats] = {}
        self._points: dict[int, Floats] = {}
        self._rooms: dict[tuple[int, int], Ints] = {}

    def stage_times(self, position: int, depth_cap: int) -> Floats:
        """Seconds ``[option, i, n]`` of a stage ``position``-th from the end (its depth, 1F1B)."""
        depth = min(position, depth_cap)
        if depth not in self._fastest:
            self._fastest[depth] = self.space.fastest(depth)
        return self._fastest[depth]

    def breakpoints(self) -> Floats:
        """All distinct stage times and hop times: the takts that a pipeline can have."""
        if 0 not in self._points:
            hop = self.space.hop
            values = [
                self.space.time[np.isfinite(self.space.time) & (self.space.depth > 0)],
                hop[np.isfinite(hop) & (hop > 0)],
            ]
            self._points[0] = np.unique(np.concatenate(values))
        return self._points[0]

    def fluid(self, prices: Floats, takts: Floats, weights: Floats) -> Floats:
        """``[query, i]``: least cost of layers before i if stages could be filled exactly.

        A stage no longer than τ costs at least price · time / τ, so every layer costs at least
        min over options of (price / τ + λ) · time. Hops and finish are left out.
        """
        # without memory: layers that do not fit alone may fit together (no tensor between them)
        layer_time = self.space.time[:, :, :, 1].min(axis=0)
        rate = prices[None, :] / takts[:, None] + weights[:, None]
        with np.errstate(invalid="ignore"):
            each = (rate[:, :, None] * layer_time[None]).min(axis=1)
        return np.concatenate([np.zeros((len(takts), 1)), np.cumsum(each, axis=1)], axis=1)

    def solve(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_caps: Ints | int,
        *,
        cutoffs: Floats | None = None,
        trace: bool = True,
        deep: bool = False,
        several: int = 1,
    ) -> Answer:
        """Run the dynamic program for all queries; ``prices`` per option of the space.

        ``depth_caps``: the least number of micro-batches that each query speaks about. ``deep``
        asks for room for 2r - 1 micro-batches r stages from the end instead of r: what slow hops
        and stages filled to the takt really need (a guide for plans, never for bounds).
        """
        queries = len(takts)
        cost = np.full(queries, np.inf)
        pipelines: list[tuple[Stage, ...] | None] = [None] * queries
        others: list[tuple[int, tuple[Stage, ...]]] = []
        if queries == 0 or not self.space.options:
            return Answer(cost, tuple(pipelines))
        limits = np.full(queries, np.inf) if cutoffs is None else cutoffs
        rest = self.fluid(prices, takts, weights)
        caps = np.broadcast_to(np.asarray(depth_caps, dtype=np.int64), (queries,))
        alive = np.flatnonzero(rest[:, -1] < limits)
        alive = alive[np.argsort(takts[alive], kind="stable")]
        for start in range(0, len(alive), CHUNK):
            part = alive[start : start + CHUNK]
            found, traced, more = self._chunk(
                prices,
                takts[part],
                weights[part],
                caps[part],
                limits[part],
                rest[part],
                trace,
                2 if deep else 1,
                several,
            )
            cost[part] = found
            others += [(int(part[k]), pipeline) for k, pipeline in more]
            for k, pipeline in zip(part, traced):
                pipelines[int(k)] = pipeline
        return Answer(cost, tuple(pipelines), tuple(others))

    def _chunk(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        caps: Ints,
        limits: Floats,
        rest: Floats,
        trace: bool,
        slope: int,
        several: int,
    ) -> tuple[Floats, list[tuple[Stage, ...] | None], list[tuple[int, tuple[Stage, ...]]]]:
        """Forward over positions from the end; only states that can still beat the cutoff live.

        A stage of layers [i, j) under policy p takes P_p[j] - P_p[i], so its cheapest way on is a
        minimum of λ·P_p[j] + going[j] over a window of j: two look-ups in a table of powers of two.
        """
        queries, options, length = len(takts), len(self.space.options), self.space.layers
        reach = [self._reach(p, takts) for p in self._policies]
        best = limits.copy()
        best_at = np.zeros(queries, dtype=np.int64)
        completed: list[list[tuple[float, int]]] = [[] for _ in range(queries)]
        # going[x, o, j - low]: cheapest way on from layer j for a stage of option o that ends
        # there, for query live[x]; entries keep it for every position
        live = np.arange(queries)
        low = length
        going = np.zeros((queries, options, 1))
        entries: list[tuple[Ints, int, Floats]] = []
        for position in range(1, min(self._max_stages, length) + 1):
            entries.append((live, low, going))
            high = low + going.shape[2] - 1
            depths, of = np.unique(
                np.minimum(slope * (position - 1) + 1, caps[live]), return_inverse=True
            )
            rooms = [np.stack([self._room(p, int(d)) for d in depths]) for p in self._policies]
            longest = max(int(r[live, :, :high].max()) for r in reach)
            first = max(0, low - longest)
            if first == 0:
                head = self._heads(depths, of, low, going, weights[live], takts[live])
                complete = (head + prices[None, :]).min(axis=1)
                if several > 1:
                    for x in np.flatnonzero(complete < limits[live]):
                        completed[int(live[x])].append((float(complete[x]), position))
                better = complete < best[live]
                best[live[better]] = complete[better]
                best_at[live[better]] = position
            if high <= first:
                break
            value = np.full((len(live), options, high - first), np.inf)
            for p, far, room in zip(self._policies, reach, rooms, strict=True):
                inner = slice(first, high)
                ends = np.minimum(far[live, :, inner], room[of, :, inner])
                base = weights[live, None, None] * self._prefix[p][None, :, first : high + 1]
                ahead = np.full((len(live), options, high - first), np.inf)
                ahead[:, :, low - first - 1 :] = base[:, :, low - first :] + going
                found = _window_minimum(ahead, ends)
                np.minimum(value, found - base[:, :, :-1], out=value)
            value += prices[None, :, None]
            # with several wanted, states that only the best of all rules out stay alive
            top = best if several == 1 else np.minimum(limits, best * SEVERAL_SLACK)
            bar = top[live, None, None] - rest[live, None, first:high]
            value[value >= bar] = np.inf
            if first == 0:
                value[:, :, 0] = np.inf
            alive = np.isfinite(value)
            keep = alive.any(axis=(1, 2))
            if not keep.any():
                break
            columns = np.flatnonzero(alive.any(axis=(0, 1)))
            low = first + int(columns[0])
            live = live[keep]
            value = value[keep, :, columns[0] : columns[-1] + 1]
            going = self._enter(value, takts[live], weights[live], low)
        pipelines: list[tuple[Stage, ...] | None] = [None] * queries
        cost = np.where(best_at > 0, best, np.inf)
        if trace:
            for hit in np.flatnonzero(best_at > 0):
                pipelines[int(hit)] = self._trace(
                    int(hit),
                    int(best_at[hit]),
                    entries,
                    prices,
                    takts[hit],
                    weights[hit],
                    int(caps[hit]),
                    slope,
                )
        more: list[tuple[int, tuple[Stage, ...]]] = []
        for k in range(queries) if several > 1 else ():
            for _, position in sorted(completed[k])[:several]:
                if position == best_at[k]:
                    continue
                pipeline = self._trace(
                    k, position, entries, prices, takts[k], weights[k], int(caps[k]), slope
                )
                if pipeline is not None:
                    more.append((k, pipeline))
        return cost, pipelines, more

    @cached_property
    def _prefix(self) -> Floats:
        """``[policy, option, j]``: seconds of layers before j."""
        single = np.where(np.isfinite(self.space.layer_time), self.space.layer_time, 0.0)
        zero = np.zeros((*single.shape[:2], 1))
        return np.concatenate([zero, np.cumsum(single, axis=2)], axis=2)

    @cached_property
    def _policies(self) -> tuple[int, ...]:
        """Policies that differ from every earlier one in time or memory."""
        kept: list[int] = []
        for p in range(len(self.space.policies)):
            same = any(
                np.array_equal(self._prefix[p], self._prefix[q])
                and np.array_equal(self.space.depth[p], self.space.depth[q])
                for q in kept
            )
            if not same:
                kept.append(p)
        return tuple(kept)

    def _reach(self, policy: int, takts: Floats) -> Ints:
        """``[query, option, i]``: most layers from i that a stage does within the takt."""
        prefix = self._prefix[policy]
        length = self.space.layers
        out = np.empty((len(takts), len(self.space.options), length), dtype=np.int64)
        start = np.arange(length)
        for o in range(len(self.space.options)):
            latest = prefix[o, None, :length] + takts[:, None] * (1 + 1e-12)
            found = np.searchsorted(prefix[o], latest.ravel(), side="right").reshape(latest.shape)
            out[:, o] = found - 1 - start
        return out

    def _room(self, policy: int, depth: int) -> Ints:
        """``[option, i]``: most layers from i that fit with ``depth`` in flight."""
        key = (policy, depth)
        if key not in self._rooms:
            fits = self.space.depth[policy] >= depth
            longest = fits.shape[2] - 1 - np.argmax(fits[:, :, ::-1], axis=2)
            self._rooms[key] = np.where(fits.any(axis=2), longest, 0)
        return self._rooms[key]

    def _heads(
        self, depths: Ints, of: Ints, low: int, going: Floats, weights: Floats, takts: Floats
    ) -> Floats:
        """``[query, option]``: cheapest first stage, synchronisation and update included."""
        begin = max(low, 1)
        ends = slice(begin, low + going.shape[2])
        times = np.stack([self.stage_times(int(d), int(d))[:, 0, ends] for d in depths])
        total = np.where(np.isfinite(times), times + self.space.finish[None, :, ends], 0.0)
        cost = weights[:, None, None] * total[of] + going[:, :, begin - low :]
        cost[~(times[of] <= takts[:, None, None] * (1 + 1e-12))] = np.inf
        out: Floats = cost.min(axis=2)
        return out

    def _enter(self, value: Floats, takts: Floats, weights: Floats, low: int) -> Floats:
        """Add the hop from a stage of option o: min over the next stage's option."""
        going = np.full(value.shape, np.inf)
        for after in range(value.shape[1]):
            if not np.isfinite(value[:, after]).any():
                continue
            hop = self.space.hop[:, after, low : low + value.shape[2]]
            if self._uniform_hops:
                hop = hop[:, :1]
            legal = hop[None] <= takts[:, None, None]
            finite = np.where(np.isfinite(hop), hop, 0.0)
            toll = np.where(legal, 2.0 * weights[:, None, None] * finite, np.inf)
            np.minimum(going, value[:, after, None, :] + toll, out=going)
        return going

    @cached_property
    def _uniform_hops(self) -> bool:
        """Whether all inner cuts carry the same bytes."""
        inner = self.space.hop[:, :, 1 : self.space.layers]
        return inner.shape[2] > 0 and np.array_equal(
            inner, np.broadcast_to(inner[:, :, :1], inner.shape)
        )

    def _trace(
        self,
        k: int,
        position: int,
        entries: list[tuple[Ints, int, Floats]],
        prices: Floats,
        takt: float,
        weight: float,
        depth_cap: int,
        slope: int,
    ) -> tuple[Stage, ...] | None:
        """Walk forwards through the states that attained the minimum."""
        space = self.space
        slack = takt * (1 + 1e-12)
        stages: list[Stage] = []
        start = 0
        previous: int | None = None
        for r in range(position, 0, -1):
            live, low, going = entries[r - 1]
            begin = max(low, start + 1)
            ends = slice(begin - start, low + going.shape[2] - start)
            time = self.stage_times(slope * (r - 1) + 1, depth_cap)[:, start, ends]
            ahead = going[int(np.searchsorted(live, k)), :, begin - low :]
            legal = time <= slack
            cost = np.where(legal, weight * np.where(legal, time, 0.0) + ahead, np.inf)
            cost += prices[:, None]
            if previous is None:
                cost = cost + weight * space.finish[:, ends]
            else:
                hop = space.hop[previous, :, start]
                toll = np.full(len(hop), np.inf)
                toll[hop <= takt] = 2.0 * weight * hop[hop <= takt]
                cost = cost + toll[:, None]
            option, index = np.unravel_index(int(np.argmin(cost)), cost.shape)
            if not np.isfinite(cost[option, index]):
                return None  # a window admitted a stage that its memory does not
            end = begin + int(index)
            stages.append(Stage(int(option), start, end))
            start = end
            previous = int(option)
        return tuple(stages)


def _window_minimum(values: Floats, lengths: Ints) -> Floats:
    """``[k, o, x]``: minimum of ``values[k, o, x : x + lengths[k, o, x]]``; inf if empty."""
    queries, options, size = values.shape
    lengths = np.minimum(lengths, size - np.arange(size))
    most = int(lengths.max(initial=0))
    if most <= 0:
        return np.full(values.shape, np.inf)
    levels = most.bit_length()
    table = np.empty((levels, queries, options, size))
    table[0] = values
    for level in range(1, levels):
        half = 1 << (level - 1)
        table[level] = table[level - 1]
        np.minimum(
            table[level - 1][:, :, :-half],
            table[level - 1][:, :, half:],
            out=table[level][:, :, :-half],
        )
    safe = np.maximum(lengths, 1)
    level_of = _LOG2[safe]
    at = level_of * values.size + np.arange(values.size).reshape(values.shape)
    flat = table.ravel()
    out = np.minimum(flat.take(at), flat.take(at + safe - (1 << level_of)))
    out[lengths <= 0] = np.inf
    return out


_LOG2 = np.array([0, *(n.bit_length() - 1 for n in range(1, 4097))])
