"""The relaxation of ``pipelines`` where all inner layers and cuts are alike, many times faster.

There a stage of n inner layers under option o and recomputation p takes c·n with c = c[p, o], and
n may be anything up to k, the least of what the takt and the memory allow. The cheapest stage
that ends at layer i is, up to constants, the least of ``cost[j] - λ·c·j`` over the window
i - k ≤ j < i: two look-ups in a table of minima over powers of two. So a pass walks over the
layers, and all queries, options and policies advance together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.costing import Ints
from planner.search.space import Floats, StageSpace

SLACK = 1 + 1e-12
BLOCKS = 12
"""Parts of the model in each of which the room for synchronisation counts as equal."""


class Items:
    """Seconds per layer and length limits of every (policy, option) of a uniform space."""

    def __init__(self, space: StageSpace) -> None:
        middle, depth = space.time[0][:, :, :, 0], space.depth[0][:, :, :, 0]
        kept = _distinct(middle, depth)
        self.space = space
        self.layers = space.layers
        self.seconds: Floats = middle[kept, 0] if middle.shape[1] else middle[kept].sum(axis=1)
        self._depth = depth[kept]
        leads = space.leads
        before = leads.before[np.isfinite(leads.before)]
        forward = float(np.diff(before[1:-1]).max(initial=0.0))
        # what a layer of a stage takes of the room beyond the forward pass that counts anyway
        self._taken: Floats = np.maximum(self.seconds + leads.finish - forward, 0.0)
        self._steep: Floats = np.maximum(self.seconds + leads.steep - forward, 0.0)
        self._most: dict[int, Ints] = {}
        self._scratch: Floats = np.empty(0)

    def scratch(self, size: int) -> Floats:
        """A buffer that passes reuse, at least so large."""
        if len(self._scratch) < size:
            self._scratch = np.empty(size)
        return self._scratch

    def most(self, depth: int) -> Ints:
        """``[policy, option]``: most inner layers that fit with ``depth`` in flight."""
        if depth not in self._most:
            self._most[depth] = (self._depth >= depth).sum(axis=1)
        return self._most[depth]

    def within(self, takts: Floats) -> Ints:
        """``[policy, option, query]``: most inner layers within the takt."""
        with np.errstate(divide="ignore"):
            count = np.floor(takts * SLACK / self.seconds[:, :, None])
        out: Ints = np.minimum(count, self.layers).astype(np.int64)
        return out

    def in_room(self, rooms: Floats, end: int) -> Ints:
        """``[policy, option, query]``: most inner layers of a stage that ends at layer ``end``.

        It must be through with its synchronisation in the room that is left beside the other
        micro-batches; n layers of it leave only the forward passes of those before them hidden.
        """
        leads = self.space.leads
        left = np.maximum(rooms * SLACK - leads.before[end] - leads.after[end], 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            count = left / self._taken[:, :, None]
            beyond = (left + leads.relief[:, None]) / self._steep[:, :, None]
            count = np.floor(np.fmin(count, beyond))
        known = np.nan_to_num(count, nan=self.layers)
        out: Ints = np.clip(known, 0, self.layers).astype(np.int64)
        return out

    def lengths(self, depths: Ints, takts: Floats) -> Ints:
        """``[policy, option, query]``: most inner layers within memory and takt."""
        kinds, of = np.unique(depths, return_inverse=True)
        by_memory = np.stack([self.most(int(d)) for d in kinds], axis=-1)[:, :, of]
        out: Ints = np.minimum(by_memory, self.within(takts))
        return out


def _distinct(middle: Floats, depth: Ints) -> list[int]:
    """Policies that differ from every earlier one in time or memory."""
    kept: list[int] = []
    for p in range(len(middle)):
        if not any(
            np.array_equal(middle[p], middle[q]) and np.array_equal(depth[p], depth[q])
            for q in kept
        ):
            kept.append(p)
    return kept


class _Minima:
    """Running minima over windows of the last values pushed, for cells with own window lengths.

    ``push`` appends one value per cell; ``least`` is the minimum over each cell's last ``length``
    values, or over all of them where there are fewer (infinite for length 0). Level t of the table
    holds minima of the last 2^t values.
    """

    def __init__(self, buffer: Floats, cells: int, steps: int, longest: int) -> None:
        self.levels = max(1, int(longest).bit_length())
        self.cells = cells
        self.at = -1
        self.row = steps * cells
        self.flat = buffer[: self.levels * self.row]
        self.table = self.flat.reshape(self.levels, steps, cells)
        self.each = np.arange(cells)

    @staticmethod
    def room(cells: int, steps: int, longest: int) -> int:
        """Entries of the buffer that such a table needs."""
        return max(1, int(longest).bit_length()) * steps * cells

    def push(self, values: Floats) -> None:
        """Append one value per cell."""
        self.at += 1
        self.table[0, self.at] = values
        for level in range(1, self.levels):
            earlier = self.at - (1 << (level - 1))
            if earlier < 0:
                self.table[level, self.at] = self.table[level - 1, self.at]
            else:
                np.minimum(
                    self.table[level - 1, self.at],
                    self.table[level - 1, earlier],
                    out=self.table[level, self.at],
                )

    def bases(self, length: Ints) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
        """What :meth:`least` needs of window lengths, before the current step is known."""
        level = _LOG2[np.maximum(length, 1)]
        start = level * self.row + self.each
        back = (length - (1 << level)) * self.cells
        first = ((1 << level) - 1) * self.cells
        return start, back, first, length < 1

    def least(self, bases: tuple[Ints, Ints, Ints, NDArray[np.bool_]]) -> Floats:
        """Minimum per cell over its window."""
        start, back, first, empty = bases
        now = self.at * self.cells
        # the older half never begins before the first value, and never after the newer one
        older = np.minimum(np.maximum(now - back, first), now)
        out: Floats = np.minimum(self.flat.take(start + now), self.flat.take(start + older))
        out[empty] = np.inf
        return out


_LOG2 = np.array([0, *(n.bit_length() - 1 for n in range(1, 4097))])


class Before:
    """Least cost of the layers before every stage, whatever its position: a relaxation.

    A stage that ends at layer i has at least so many stages behind it as are needed to hold the
    layers from i on, each as long as the longest at its depth; one more are in flight.
    """

    def __init__(
        self,
        items: Items,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        caps: Ints,
        rooms: Floats | None = None,
    ) -> None:
        self.items, self.space = items, items.space
        self.prices, self.takts, self.weights, self.caps = prices, takts, weights, caps
        self.rooms = rooms
        self.fewest: Ints = np.ones(len(takts), dtype=np.int64)
        """Stages that a pipeline of each query has at least."""
        self.come: Floats = np.empty(0)
        """``[layer, option, query]``: what the layers before a stage cost, its hop included."""

    def run(self, *, keep: bool) -> Floats:
        """The relaxed answer per query; ``keep`` the cost before every layer for an exact pass."""
        space, length = self.space, self.space.layers
        options, queries = len(self.prices), len(self.takts)
        if keep:
            self.come = np.empty((length, options, queries))
        by_takt = self.items.within(self.takts)
        behind = self._behind(by_takt)
        if space.chunks > 1:
            # with so many stages more is in flight, so that shorter stages and more of them are
            # needed: no pipeline has fewer than the first pass says, and so none fewer than this
            self.fewest = self._fewest(behind)
            behind = self._behind(by_takt)
            self.fewest = self._fewest(behind)
        depth = space.held(1 + behind, self.fewest[:, None], self.caps[:, None])
        kinds, of = np.unique(depth, return_inverse=True)
        of = of.reshape(depth.shape)
        by_memory = np.stack([self.items.most(int(d)) for d in kinds])
        lengths = np.minimum(by_memory[:, :, :, None], by_takt)
        # slower policies matter only where they make room for more layers than the faster ones
        policy, option = np.nonzero(_longer(self.items.seconds, lengths).T)[::-1]
        lengths = lengths[:, policy, option]
        shape = (len(policy), queries)
        size = (len(policy) * queries, length, int(lengths.max(initial=1)))
        minima = _Minima(self.items.scratch(_Minima.room(*size)), *size)
        groups = np.flatnonzero(np.diff(option, prepend=-1))
        present = option[groups]
        tolls = Tolls(space, self.takts, self.weights)
        per_layer = self.weights * self.items.seconds[policy, option, None]
        price = self.prices[:, None]
        heads = np.stack([space.times(int(d)).head for d in kinds])
        heads = heads[of, :, np.arange(length + 1)[None, :]].transpose(1, 2, 0)  # [end, option, q]
        first = self._toll(heads) + price + self.weights * space.finish.T[:, :, None]
        first[~space.ends.T] = np.inf
        last = self._toll(self.tails(np.arange(queries))) + price
        if space.back is not None:
            to_first, from_last = (
                back[:, None] > self.takts * SLACK for back in space.slowest_back
            )
            first[:, to_first] = last[:, from_last] = np.inf
        closed = not space.starts.all()
        every = np.arange(queries)
        changes = np.flatnonzero((of[:, 1:] != of[:, :-1]).any(axis=0)) + 1
        changed = set(changes.tolist()) | {1}
        reach = np.full(length, length)
        if self.rooms is not None and (self.items.in_room(self.rooms, 1) >= by_takt).all():
            self.rooms = None  # the takt is the tighter limit everywhere
        if self.rooms is not None:
            head, tail = self.space.late
            first[head[:, :, None] > self.rooms * SLACK] = np.inf
            last[tail[:, :, None] > self.rooms * SLACK] = np.inf
            edges = np.unique(np.linspace(1, length, BLOCKS + 1).astype(np.int64))
            changed |= set(edges[:-1].tolist())
            reach[1:] = edges[np.searchsorted(edges, np.arange(1, length), side="right")] - 1
        bases = None
        least: Floats = first[length].min(axis=0)
        for i in range(1, length):
            if i in changed:
                window = lengths[of[:, i], :, every].T
                if self.rooms is not None:
                    # the last end of the block has the most room
                    room = self.items.in_room(self.rooms, int(reach[i]))
                    window = np.minimum(window, room[policy, option])
                bases = minima.bases(window.reshape(-1))
            came = first[i]
            if i > 1 and bases is not None:
                inner = minima.least(bases).reshape(shape) + per_layer * i
                inner = np.minimum.reduceat(inner, groups, axis=0) + price[present]
                if closed:
                    inner[~space.ends[present, i]] = np.inf
                came = came.copy()
                came[present] = np.minimum(came[present], inner)
            # the hop to the next stage's option
            cost = tolls.onward(i, came)
            np.minimum(least, (cost + last[i]).min(axis=0), out=least)
            if keep:
                self.come[i] = cost
            if closed:
                cost[~space.starts[:, i]] = np.inf
            minima.push((cost[option] - per_layer * i).reshape(-1))
        return least

    def tails(self, chosen: Ints) -> Floats:
        """``[first, option, query]``: seconds of last stages, with what these hold in flight."""
        depth = self.space.held(1, self.fewest[chosen], self.caps[chosen])
        kinds, of = np.unique(depth, return_inverse=True)
        each = np.stack([self.space.times(int(d)).tail.T for d in kinds], axis=2)
        return each if len(kinds) == 1 else each[:, :, of]

    def _toll(self, seconds: Floats) -> Floats:
        """λ·time ``[..., query]``, infinite beyond the takt."""
        legal = seconds <= self.takts * SLACK
        return np.where(legal, self.weights * np.where(legal, seconds, 0.0), np.inf)

    def _fewest(self, behind: Ints) -> Ints:
        """``[query]``: a first stage of as many layers as any, and what those behind it need."""
        heads = (self.space.times(1).head[:, :, None] <= self.takts * SLACK).any(axis=0)
        length = self.space.layers
        reach = np.where(heads, np.arange(length + 1)[:, None], 0).max(axis=0)
        out: Ints = 1 + behind[np.arange(len(self.takts)), reach]
        return out

    def _behind(self, by_takt: Ints) -> Ints:
        """``[query, i]``: least number of stages that the layers from i on need."""
        length = self.space.layers
        left = length - np.arange(length + 1)
        covered = np.zeros(len(self.takts), dtype=np.int64)
        out = np.zeros((len(self.takts), length + 1), dtype=np.int64)
        tails = self.tails(np.arange(len(self.takts)))
        for stages in range(1, length + 1):
            out += left[None, :] > covered[:, None]
            if (covered >= length).all():
                break
            if stages == 1:
                fits = (tails <= self.takts * SLACK).any(axis=1)
                most = np.where(fits, left[:length, None], 0).max(axis=0)
            else:
                depth = self.space.held(stages, self.fewest, self.caps)
                kinds, of = np.unique(depth, return_inverse=True)
                fitting = [self.items.most(int(d)) for d in kinds]
                most = np.minimum(np.stack(fitting, axis=-1)[:, :, of], by_takt).max(axis=(0, 1))
            covered = covered + np.maximum(most, 1)
        return out


def _longer(seconds: Floats, lengths: Ints) -> NDArray[np.bool_]:
    """``[policy, option]``: whether some stage under it is longer than under every faster one.

    ``lengths[kind, policy, option, query]``. One policy of every option is kept in any case.
    """
    out = np.ones(seconds.shape, dtype=np.bool_)
    for p in range(len(seconds)):
        for q in range(len(seconds)):
            faster = (seconds[q] < seconds[p]) | ((seconds[q] == seconds[p]) & (q < p))
            covered = (lengths[:, q] >= lengths[:, p]).all(axis=(0, 2))
            out[p] &= ~(faster & covered)
    return out


class Tolls:
    """λ-weighted hops ``[from, to, query]`` by cut; cuts with equal hops share one array.

    Options that hop alike are one kind, of which only the cheapest member matters.
    """

    def __init__(self, space: StageSpace, takts: Floats, weights: Floats) -> None:
        self.space, self.takts, self.weights = space, takts, weights
        self.known: dict[int, Floats] = {}
        self.kind = space.hop_kind
        self.order: Ints = np.argsort(self.kind, kind="stable")
        self.first: Ints = np.flatnonzero(np.diff(self.kind[self.order], prepend=-1))
        self.alone = len(self.first) == len(self.kind)
        self.members = np.arange(len(self.kind)) if self.alone else self.order[self.first]

    def onward(self, cut: int, came: Floats) -> Floats:
        """``[to, query]``: least of ``came[from, query]`` and the hop."""
        if self.alone:
            out: Floats = (came[:, None] + self(cut)).min(axis=0)
            return out
        best = np.minimum.reduceat(came[self.order], self.first, axis=0)
        out = (best[:, None] + self(cut)).min(axis=0)
        return out[self.kind]

    def back(self, cut: int, value: Floats) -> Floats:
        """``[layer, from, query]``: least of ``value[layer, to, query]`` and the hop."""
        if self.alone:
            return _least_over(value, self(cut))
        best = np.minimum.reduceat(value[:, self.order], self.first, axis=1)
        return _least_over(best, self(cut))[:, self.kind]

    def __call__(self, cut: int) -> Floats:
        """The array of one cut, by kinds."""
        kind = int(self.space.cut_kind[cut])
        if kind not in self.known:
            hop = self.space.hop[self.members[:, None], self.members[None, :], cut][:, :, None]
            legal = hop <= self.takts
            # every round of chunks but the first waits for its hops as well
            passes = 2.0 * self.space.chunks
            toll = np.where(legal, passes * self.weights * np.where(legal, hop, 0.0), np.inf)
            self.known[kind] = toll
        return self.known[kind]


def _least_over(value: Floats, toll: Floats) -> Floats:
    """``[layer, from, query]``: least of ``value[layer, to, query] + toll[from, to, query]``."""
    going = np.full_like(value, np.inf)
    for option in np.flatnonzero(np.isfinite(value).any(axis=(0, 2))):
        across = value[:, option, None, :] + toll[None, :, option]
        np.minimum(going, across, out=going)
    return going
