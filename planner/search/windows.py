"""The exact pass of ``pipelines`` where all inner layers and cuts are alike: windows of minima.

There a stage of n inner layers under option o and recomputation p takes c·n with c = c[p, o], and
n may be anything up to k, the least of what the takt and the memory at its position allow. With
``going[j, o]`` the least cost behind a stage of option o that ends at layer j, the best such stage
from layer i on costs

    price_o − λ·c·i + min over i < j ≤ i + k of (going[j, o] + λ·c·j),

a minimum over a window, for all layers at once from minima over powers of two. One position after
the other; options, layers and queries advance together in a few large operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costing import Ints
from planner.search.space import Floats
from planner.search.uniform import SLACK, Before, Tolls

SHRINK = 0.7
"""Share of queries still open below which the others are taken out of the arrays."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """``going[layer - low, option, k]`` of the open queries, and where each query stands there.

    Outside of the layers kept nothing can beat the best answer.
    """

    going: Floats
    low: int
    place: Ints


class Windows:
    """One batch of queries: see :class:`planner.search.pipelines.Pricer` for what they ask."""

    def __init__(self, before: Before, chosen: Ints, *, slope: int, most_stages: int) -> None:
        """The chosen queries of a relaxation that kept what layers cost before every stage."""
        self.items, self.space = before.items, before.space
        self.prices, self.takts = before.prices, before.takts[chosen]
        self.weights, self.caps = before.weights[chosen], before.caps[chosen]
        self.fewest = before.fewest[chosen]
        self._last = before.tails(chosen)
        self.come = before.come[:, :, chosen]
        self.rooms = None if before.rooms is None else before.rooms[chosen]
        self._head, self._tail = self.space.late
        self.slope = slope
        self.most = min(most_stages, self.space.layers)
        self.best_at = np.zeros(len(chosen), dtype=np.int64)
        self._ahead: list[_Ahead | None] = [None]

    def depths(self, position: int, open_: Ints) -> Ints:
        """Micro-batches that a stage this far from the end must have room for."""
        if self.space.chunks == 1:
            return np.minimum(self.slope * (position - 1) + 1, self.caps[open_])
        return self.space.held(position, self.fewest[open_], self.caps[open_])

    def run(self, limits: Floats) -> Floats:
        """Least cost per query; infinity where it is not below the limit."""
        space, length = self.space, self.space.layers
        best = limits.copy()
        open_ = np.arange(len(best))
        come = self.come
        tolls = Tolls(space, self.takts, self.weights)
        self._complete(1, open_, self._first(open_, 1, length, length + 1), best)
        low = 1
        value = self._toll(self._last[1:], open_) + self.prices[None, :, None]
        if space.back is not None:
            value[:, space.slowest_back[1][:, None] > self.takts * SLACK] = np.inf
        if self.rooms is not None:
            value[self._tail[1:, :, None] > self.rooms * SLACK] = np.inf
        for position in range(2, self.most + 1):
            high = low + len(value)
            value[~space.starts.T[low:high]] = np.inf
            value[value + come[low:high] >= best[open_]] = np.inf
            hopeful = np.isfinite(value)
            rows = np.flatnonzero(hopeful.any(axis=(1, 2)))
            if len(rows) == 0:
                break
            kept = slice(int(rows[0]), int(rows[-1]) + 1)
            value, low = value[kept], low + kept.start
            stay = hopeful.any(axis=(0, 1))
            if stay.mean() < SHRINK:
                open_, value, come = open_[stay], value[:, :, stay], come[:, :, stay]
                tolls = Tolls(space, self.takts[open_], self.weights[open_])
            place = np.full(len(best), -1)
            place[open_] = np.arange(len(open_))
            going = self._enter(value, low, tolls)
            self._ahead.append(_Ahead(going, low, place))
            first = self._first(open_, position, low, low + len(going)) + going
            self._complete(position, open_, first, best)
            value, low = self._inner(position, open_, going, low)
        return np.where(self.best_at > 0, best, np.inf)

    def _complete(self, position: int, open_: Ints, cost: Floats, best: Floats) -> None:
        """Keep whole pipelines that are better than the best known."""
        least = cost.min(axis=(0, 1))
        better = least < best[open_]
        best[open_[better]] = least[better]
        self.best_at[open_[better]] = position

    def _toll(self, seconds: Floats, open_: Ints) -> Floats:
        """λ·time ``[..., query]``, infinite beyond the takt."""
        legal = seconds <= self.takts[open_] * SLACK
        return np.where(legal, self.weights[open_] * np.where(legal, seconds, 0.0), np.inf)

    def _first(self, open_: Ints, position: int, low: int, high: int) -> Floats:
        """``[end - low, option, query]``: cost of a first stage at this position."""
        space = self.space
        kinds, of = np.unique(self.depths(position, open_), return_inverse=True)
        heads = np.stack([space.times(int(d)).head.T[low:high] for d in kinds], axis=2)
        out = self._toll(heads[:, :, of], open_)
        out += self.prices[None, :, None] + self.weights[open_] * space.finish.T[low:high, :, None]
        out[~space.ends.T[low:high]] = np.inf
        if space.back is not None:
            out[:, space.slowest_back[0][:, None] > self.takts[open_] * SLACK] = np.inf
        if self.rooms is not None:
            out[self._head[low:high, :, None] > self.rooms[open_] * SLACK] = np.inf
        return out

    def _enter(self, value: Floats, low: int, tolls: Tolls) -> Floats:
        """``[layer - low, from, query]``: the least over the next stage's option, hop included."""
        kinds = self.space.cut_kind[low : low + len(value)]
        if (kinds == kinds[0]).all():
            return tolls.back(low, value)
        going = np.empty_like(value)
        for kind in np.unique(kinds):
            members = np.flatnonzero(kinds == kind)
            going[members] = tolls.back(low + int(members[0]), value[members])
        return going

    def _inner(self, position: int, open_: Ints, going: Floats, low: int) -> tuple[Floats, int]:
        """``[layer - low, option, query]``: inner stages at this position, and the new low."""
        space = self.space
        longest = self.items.lengths(self.depths(position, open_), self.takts[open_])
        high = low + len(going)
        if self.rooms is not None:
            # the last end has the most room
            longest = np.minimum(longest, self.items.in_room(self.rooms[open_], high - 1))
        start = max(1, low - int(longest.max(initial=0)))
        out = np.full((max(high - 1 - start, 0), *going.shape[1:]), np.inf)
        if len(out) == 0:
            return out, start
        ending = np.where(space.ends.T[low:high, :, None], going, np.inf)
        options = np.flatnonzero(
            np.isfinite(ending).any(axis=(0, 2)) & (longest > 0).any(axis=(0, 2))
        )
        layer = np.arange(start, high, dtype=np.float64)[:, None, None, None]
        each = self.weights[open_] * self.items.seconds[:, options, None]
        table = np.full((high - start, *each.shape), np.inf)
        np.add(ending[:, None, options], layer[low - start :] * each, out=table[low - start :])
        least = _window_minima(table.reshape(len(table), -1), longest[:, options].reshape(-1))
        value = least.reshape(len(out), *each.shape)
        value -= layer[:-1] * each
        out[:, options] = value.min(axis=1)
        out += self.prices[None, :, None]
        return out, start

    def trace(self, chosen: Ints) -> list[list[tuple[int, int, int]]]:
        """Stages ``(option, first, end)`` of the pipelines that attained the minimum of queries."""
        count = len(chosen)
        stages: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
        start = np.zeros(count, dtype=np.int64)
        before = np.zeros(count, dtype=np.int64)
        for position in range(int(self.best_at[chosen].max(initial=0)), 0, -1):
            on = np.flatnonzero(self.best_at[chosen] >= position)
            cost = self._onward(position, chosen[on], start[on], before[on])
            flat = cost.reshape(len(on), -1).argmin(axis=1)
            option, end = np.unravel_index(flat, cost.shape[1:])
            for k, o, j in zip(on.tolist(), option.tolist(), end.tolist(), strict=True):
                stages[k].append((o, int(start[k]), j))
            start[on], before[on] = end, option
        return stages

    def _onward(self, position: int, queries: Ints, start: Ints, before: Ints) -> Floats:
        """``[query, option, end]``: cost from a start on with every next stage."""
        space, length = self.space, self.space.layers
        every = np.arange(len(queries))
        ends = np.arange(length + 1)
        kinds, of = np.unique(self.depths(position, queries), return_inverse=True)
        shape = (len(queries), len(self.prices), length + 1)
        step = np.full(shape, np.inf)
        first = start == 0
        for k, depth in enumerate(kinds):
            times = space.times(int(depth))
            own = np.flatnonzero((of == k) & first)
            step[own] = times.head[None]
            own = np.flatnonzero((of == k) & ~first)
            if position == 1:
                step[own, :, length] = times.tail[:, start[own]].T
            elif len(own) and len(times.middle):
                size = ends[None, :] - start[own, None]
                inner = (size >= 1) & (ends < length)[None, :]
                at = np.clip(size - 1, 0, len(times.middle) - 1)
                table = times.middle[:, :, 0].T[:, at].transpose(1, 0, 2)
                step[own] = np.where(inner[:, None, :], table, np.inf)
        legal = (step <= (self.takts[queries] * SLACK)[:, None, None]) & space.ends[None]
        weights = self.weights[queries, None, None]
        cost = np.where(legal, weights * np.where(legal, step, 0.0), np.inf)
        cost[first] += (weights * space.finish[None])[first]
        if space.back is not None:
            late = [back > self.takts[queries, None] * SLACK for back in space.slowest_back]
            cost[first[:, None] & late[0]] = np.inf
            if position == 1:
                cost[late[1]] = np.inf
        ahead = self._ahead[position - 1]
        if ahead is None:
            cost[:, :, :length] = np.inf
        else:
            high = ahead.low + len(ahead.going)
            cost[:, :, ahead.low : high] += ahead.going[:, :, ahead.place[queries]].transpose(
                2, 1, 0
            )
            cost[:, :, : ahead.low] = cost[:, :, high:] = np.inf
        cost += self.prices[None, :, None]
        hop = space.hop[before, :, start]
        open_ = hop <= self.takts[queries, None]
        passes = 2.0 * space.chunks
        toll = np.where(open_, passes * weights[:, 0] * np.where(open_, hop, 0.0), np.inf)
        toll[~space.starts[:, np.minimum(start, length - 1)].T] = np.inf
        toll[first] = 0.0
        cost += toll[every, :, None]
        return cost


def _window_minima(table: Floats, longest: Ints) -> Floats:
    """``out[i, c]``: least of ``table[i + 1 : i + 1 + longest[c], c]``; one row fewer.

    Infinite where the window is empty.
    """
    rows, cells = table.shape
    out = np.full((rows - 1, cells), np.inf)
    top = np.arange(1, rows)[:, None]
    span, level = 1, table
    while True:
        own = np.flatnonzero((longest >= span) & (longest < 2 * span))
        if len(own):
            later = np.minimum(top + (longest[own] - span)[None, :], rows - 1)
            later *= cells
            later += own
            out[:, own] = np.minimum(level[1:, own], level.reshape(-1).take(later))
        if not (longest >= 2 * span).any():
            return out
        wider = level.copy()
        np.minimum(level[:-span], level[span:], out=wider[:-span])
        level, span = wider, 2 * span
        if span >= rows:  # windows reach past the end from every row
            own = np.flatnonzero(longest >= span)
            out[:, own] = level[1:, own]
            return out
