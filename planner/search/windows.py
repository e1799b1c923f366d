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
from planner.search.uniform import SLACK, Items, Tolls

SHRINK = 0.7
"""Share of queries still open below which the others are taken out of the arrays."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    """``going[layer, option, k]`` of the open queries, and where each query stands among them."""

    going: Floats
    place: Ints


class Windows:
    """One batch of queries: see :class:`planner.search.pipelines.Pricer` for what they ask."""

    def __init__(
        self,
        items: Items,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        caps: Ints,
        rest: Floats,
        *,
        slope: int,
        most_stages: int,
    ) -> None:
        """``rest[query, i]``: what the layers before i cost at least."""
        self.items, self.space = items, items.space
        self.prices, self.takts, self.weights, self.caps = prices, takts, weights, caps
        self.rest = rest.T
        self.slope = slope
        self.most = min(most_stages, self.space.layers)
        self.best_at = np.zeros(len(takts), dtype=np.int64)
        self._ahead: list[_Ahead | None] = [None]

    def depths(self, position: int, open_: Ints) -> Ints:
        """Micro-batches that a stage this far from the end must have room for."""
        out: Ints = np.minimum(self.slope * (position - 1) + 1, self.caps[open_])
        return out

    def run(self, limits: Floats) -> Floats:
        """Least cost per query; infinity where it is not below the limit."""
        space, length = self.space, self.space.layers
        best = limits.copy()
        open_ = np.arange(len(best))
        tolls = Tolls(space, self.takts, self.weights)
        whole = self._first(open_, 1)[length]
        self._complete(1, open_, whole.min(axis=0), best)
        tail = space.times(1).tail.T[:, :, None]
        value = self._toll(tail, open_) + self.prices[None, :, None]
        for position in range(2, self.most + 1):
            value[~space.starts.T] = np.inf
            value[0] = np.inf
            least = value.min(axis=1)
            hopeful = ((least + self.rest[:length, open_]) < best[open_]).any(axis=0)
            if not hopeful.any():
                break
            if hopeful.mean() < SHRINK:
                open_ = open_[hopeful]
                value = value[:, :, hopeful]
                tolls = Tolls(space, self.takts[open_], self.weights[open_])
            place = np.full(len(best), -1)
            place[open_] = np.arange(len(open_))
            going = self._enter(value, tolls)
            self._ahead.append(_Ahead(going, place))
            first = self._first(open_, position)[1:length] + going[1:]
            self._complete(position, open_, first.min(axis=(0, 1)), best)
            value = self._inner(position, open_, going)
        return np.where(self.best_at > 0, best, np.inf)

    def _complete(self, position: int, open_: Ints, cost: Floats, best: Floats) -> None:
        """Keep whole pipelines that are better than the best known."""
        better = cost < best[open_]
        best[open_[better]] = cost[better]
        self.best_at[open_[better]] = position

    def _toll(self, seconds: Floats, open_: Ints) -> Floats:
        """λ·time ``[..., query]``, infinite beyond the takt."""
        legal = seconds <= self.takts[open_] * SLACK
        return np.where(legal, self.weights[open_] * np.where(legal, seconds, 0.0), np.inf)

    def _first(self, open_: Ints, position: int) -> Floats:
        """``[end, option, query]``: cost of a first stage at this position."""
        space = self.space
        kinds, of = np.unique(self.depths(position, open_), return_inverse=True)
        heads = np.stack([space.times(int(d)).head.T for d in kinds], axis=2)
        out = self._toll(heads[:, :, of], open_)
        out += self.prices[None, :, None] + self.weights[open_] * space.finish.T[:, :, None]
        out[~space.ends.T] = np.inf
        return out

    def _enter(self, value: Floats, tolls: Tolls) -> Floats:
        """``[layer, from, query]``: the least over the next stage's option, its hop included."""
        going = np.full_like(value, np.inf)
        cuts: dict[int, list[int]] = {}
        for i in range(1, self.space.layers):
            cuts.setdefault(int(self.space.cut_kind[i]), []).append(i)
        for members in cuts.values():
            toll = tolls(members[0])
            part = slice(members[0], members[-1] + 1) if _run(members) else np.array(members)
            for option in np.flatnonzero(np.isfinite(value[part]).any(axis=(0, 2))):
                across = value[part, option, None, :] + toll[None, :, option]
                going[part] = np.minimum(going[part], across)
        return going

    def _inner(self, position: int, open_: Ints, going: Floats) -> Floats:
        """``[layer, option, query]``: value of inner stages that begin there, at this position."""
        space, length = self.space, self.space.layers
        takts, weights = self.takts[open_], self.weights[open_]
        longest = self.items.lengths(self.depths(position, open_), takts)
        toll = weights * self.items.seconds[:, :, None]
        out = np.full(going.shape, np.inf)
        if length < 3 or longest.max(initial=0) < 1:
            return out
        ending = np.where(space.ends.T[1:length, :, None], going[1:], np.inf)
        layer = np.arange(1, length, dtype=np.float64)
        options = np.flatnonzero(
            np.isfinite(ending).any(axis=(0, 2)) & (longest > 0).any(axis=(0, 2))
        )
        for p in range(len(toll)):
            each = toll[p, options]
            table = ending[:, options] + layer[:, None, None] * each
            least = _window_minima(table.reshape(length - 1, -1), longest[p, options].reshape(-1))
            value = least.reshape(length - 2, len(options), -1)
            value -= layer[:-1, None, None] * each
            out[1:-1, options] = np.minimum(out[1:-1, options], value)
        out += self.prices[None, :, None]
        return out

    def trace(self, chosen: Ints) -> list[tuple[tuple[int, int, int], ...]]:
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
        return [tuple(own) for own in stages]

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
        ahead = self._ahead[position - 1]
        if ahead is None:
            cost[:, :, :length] = np.inf
        else:
            behind = ahead.going[:, :, ahead.place[queries]].transpose(2, 1, 0)
            cost[:, :, :length] += behind
            cost[:, :, length] = np.inf
        cost += self.prices[None, :, None]
        hop = space.hop[before, :, start]
        open_ = hop <= self.takts[queries, None]
        toll = np.where(open_, 2.0 * weights[:, 0] * np.where(open_, hop, 0.0), np.inf)
        toll[~space.starts[:, np.minimum(start, length - 1)].T] = np.inf
        toll[first] = 0.0
        cost += toll[every, :, None]
        return cost


def _run(members: list[int]) -> bool:
    """Whether they are consecutive."""
    return members[-1] - members[0] + 1 == len(members)


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
