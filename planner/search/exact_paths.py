"""The cheapest pipeline that could be through by a time, by what its schedule takes at least.

With m micro-batches by T, every stage j of a pipeline satisfies

    finish_0 + P_j + m·g_j ≤ T                                P_j = Σ_{s<j} (g_s + 2·h_s)      (1)
    finish_0 + φ + (m − 1)·g_j − (min(D_j, m) − 1)·f_j ≤ T    φ = Σ g + 2·Σ h                  (2)

(``schedules.lower_bound_time`` has the proof; D_j is as many as memory allows, at most). The least
price of such a pipeline is found by labels, from the first stage to the last: one per first layer
of the next stage, its chips, and finish_0 + P rounded down to buckets. Rounding down admits more
pipelines, so the answer is a lower bound; more buckets raise it. φ is known only at the end: a
query speaks about pipelines whose finish_0 + φ lies in an interval, and (2) takes its lower end.

Of the labels of one stage's layers only the price and P matter to what follows, so of all meshes
and recomputations on the same chips the fastest one that satisfies (2) stands for all. How many
micro-batches a stage must hold is known from below: a stage that ends at layer i has at least as
many stages behind it as cover the layers from i on in time. The same pass, backwards, says what
the layers from i on cost at least: labels that cannot beat the cutoff any more are dropped.

Folded pipelines (``folded``) are counted in pairs of a chunk and a micro-batch: there (1) is
``interleaved.lower_bound_time``, and (2) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.units import PS_PER_S
from planner.costing import Bools, Ints
from planner.search.space import Floats, Stage, StageSpace

SLACK = 1 + 1e-12
"""Rounding of comparisons between sums of seconds."""
BUCKETS = 256
"""Buckets of a pass, unless its labels reach over much of the time."""
FINER = 4
"""Times as many buckets where labels reach over all of the time."""
UNREACHED = 1 << 30


@dataclass(frozen=True, slots=True)
class Query:
    """What a pass asks for: pipelines with ``count`` micro-batches (or pairs) by ``seconds``.

    ``fills``: the interval of finish_0 + φ in seconds. ``cutoff``: costs from there on are of no
    interest. ``finer``: so many times as many buckets, which reach so much further.
    """

    seconds: float
    count: int
    cutoff: float
    fills: tuple[float, float] = (0.0, np.inf)
    finer: int = 1


@dataclass(frozen=True, slots=True)
class _Moves:
    """Stages that end at one layer: ``seconds[n, kind]`` of those of ``lengths[n]`` layers.

    They are those of the fastest option of the kind, infinite where none is legal; those of a first
    stage (of all layers before) include its finish. ``each[n, option]``: by option.
    """

    lengths: Ints
    seconds: Floats
    each: Floats


class ExactPaths:
    """Answers queries over one space at prices per option."""

    def __init__(self, space: StageSpace) -> None:
        self.space = space
        self.queries = 0
        chips = [(t.option.class_index, t.option.chips) for t in space.options]
        kinds = sorted(set(chips))
        self.kind: Ints = np.array([kinds.index(own) for own in chips], dtype=np.int64)
        self._order: Ints = np.argsort(self.kind, kind="stable")
        self._groups: Ints = np.searchsorted(self.kind[self._order], np.arange(len(kinds)))
        self.leaders: Ints = self._order[self._groups]
        """An option of every kind: all of them have equal prices and hops."""
        self.hop = space.hop[self.leaders][:, self.leaders]
        every = np.stack([[t.forward_ps[p] for t in space.options] for p in space.policies])
        self.forward: Floats = np.cumsum(np.pad(every, ((0, 0), (0, 0), (1, 0))), axis=2) / PS_PER_S
        least = space.layer_time.min(axis=0)
        self.passes: Floats = np.concatenate([[0.0], np.cumsum(least)])
        """Seconds of the layers before each one, at least."""
        middle = np.where(space.depth[0] > 0, space.time[0], np.inf)
        shortest = middle.min(axis=(0, 2, 3)) if middle.size else np.zeros(0)
        self._shortest: Floats = np.maximum.accumulate(shortest)

    def least(self, prices: Floats, query: Query) -> tuple[Stage, ...] | None:
        """A pipeline that may cost less than the cutoff; None proves that there is none.

        The pipeline is that of least relaxed cost: by itself it may cost more or take longer.
        """
        self.queries += 1
        if not self.space.options:
            return None
        return _Pass(self, prices[self.leaders], query).run()

    def firsts(self, j: int, need: int, query: Query) -> _Moves:
        """Stages of the layers before j, with ``need`` micro-batches in flight at least."""
        space = self.space
        time, depth = space.time[2][:, :, j], space.depth[2][:, :, j]
        legal = (depth >= need) & space.ends[:, j] & space.starts[:, 0]
        own = space.finish[:, j]
        late = self._late(time, depth, np.zeros_like(time), self.forward[:, :, j], j, query)
        legal &= (own + late <= query.seconds * SLACK) & self._filled(
            time, depth, self.forward[:, :, j], query
        )
        return self._by_kind(np.zeros(1, dtype=np.int64), np.where(legal, time + own, np.inf)[None])

    def inner(self, j: int, need: int, query: Query) -> _Moves:
        """Stages that begin at a later layer than the first and end at j."""
        space, length = self.space, self.space.layers
        if j == length:
            i = np.arange(length - 1, 0, -1)
            time = space.time[1][:, :, i].transpose(2, 0, 1)
            depth = space.depth[1][:, :, i].transpose(2, 0, 1)
        else:
            limit = query.seconds / query.count * SLACK
            longest = int(np.searchsorted(self._shortest, limit, side="right"))
            i = j - np.arange(1, min(longest, j - 1) + 1)
            at = np.zeros_like(i) if space.uniform else i
            time = space.time[0][:, j - i - 1, :, at]
            depth = space.depth[0][:, j - i - 1, :, at]
        legal = (depth >= need) & space.starts.T[i][:, None, :] & space.ends[:, j]
        whole = self.passes[i][:, None, None] + query.count * time
        legal &= whole <= query.seconds * SLACK
        layers = np.maximum(np.minimum(j, length - 1) - i, 0)
        own = space.leads.least(layers)[:, None, :]
        forward = self.forward[:, :, j] - self.forward[:, :, i].transpose(2, 0, 1)
        early = np.broadcast_to(space.leads.before[i][:, None, None], time.shape)
        late = self._late(time, depth, early, forward, j, query)
        legal &= (own + late <= query.seconds * SLACK) & self._filled(time, depth, forward, query)
        return self._by_kind(j - i, np.where(legal, time, np.inf))

    def _late(
        self, time: Floats, depth: Ints, early: Floats, forward: Floats, j: int, query: Query
    ) -> Floats:
        """Seconds until a stage that ends at j has its gradients, at least.

        After ``early``, the forwards of the layers before, it does all its work; and its first
        backward waits for the stages behind it, with no more than D forwards done.
        """
        late: Floats = early + query.count * time
        if self.space.chunks == 1:
            done = (np.minimum(depth, query.count) - 1) * forward
            late = np.maximum(late, late + self.space.leads.after[j] - done)
        return late

    def _filled(self, time: Floats, depth: Ints, forward: Floats, query: Query) -> Bools:
        """Whether stages satisfy (2) at the least fill that the query speaks about."""
        if self.space.chunks > 1:
            return np.ones(time.shape, dtype=np.bool_)
        fill = max(query.fills[0], float(self.passes[-1]))
        done = (np.minimum(depth, query.count) - 1) * forward
        with np.errstate(invalid="ignore"):  # no passes of what never fits
            out: Bools = fill + (query.count - 1) * time - done <= query.seconds * SLACK
        return out

    def _by_kind(self, lengths: Ints, seconds: Floats) -> _Moves:
        """The fastest recomputation and option of every kind; ``seconds[n, policy, option]``."""
        each = seconds.min(axis=1)
        if len(lengths) == 0:
            return _Moves(lengths, np.zeros((0, len(self.leaders))), each)
        least = np.minimum.reduceat(each[:, self._order], self._groups, axis=1)
        return _Moves(lengths, least, each)

    def fastest(self, each: Floats, kind: int) -> int:
        """The fastest option of a kind; ``each[option]``."""
        return int(np.where(self.kind == kind, each, np.inf).argmin())


class _Pass:
    """One query: backwards over layers without times, then labels forwards."""

    def __init__(self, paths: ExactPaths, price: Floats, query: Query) -> None:
        self.paths, self.price, self.query = paths, price, query
        length, kinds = paths.space.layers, len(price)
        self.layers = length
        self.moves: list[tuple[_Moves, _Moves] | None] = [None] * (length + 1)
        self.fewest: Ints = np.full(length + 1, UNREACHED, dtype=np.int64)
        """Stages that the layers from each one on need."""
        self.onward: Floats = np.full((length + 1, kinds), np.inf)
        """Cost of the layers from each one on, at least, by chips of the stage that holds it."""
        self.after: Floats = np.full((length + 1, kinds), np.inf)
        """The same by chips of the stage that ends there."""
        self.shown: list[tuple[Floats, Floats] | None] = [None] * (length + 1)
        self.step = 1.0
        self.last = 0

    def run(self) -> tuple[Stage, ...] | None:
        """The pipeline of least cost below the cutoff, or None."""
        if self._backwards() >= self.query.cutoff:
            return None
        self._grid()
        self._forwards()
        final = self.shown[self.layers]
        if final is None:
            return None
        ended = final[1].copy()
        fill = self.query.fills[1]
        if np.isfinite(fill):
            ended[:, min(self.last, int(fill * SLACK / self.step)) + 1 :] = np.inf
        kind, bucket = np.unravel_index(int(np.argmin(ended)), ended.shape)
        if not ended[kind, bucket] < self.query.cutoff:
            return None
        return self._trace(int(kind), int(bucket))

    def _backwards(self) -> float:
        """Legal stages, and what the layers from each one on cost; the least cost of all."""
        paths, query = self.paths, self.query
        space, least = paths.space, np.inf
        self.fewest[self.layers] = 0
        self.after[self.layers] = 0.0
        for j in range(self.layers, 0, -1):
            if self.fewest[j] == UNREACHED:
                continue
            if j < self.layers:
                hop = paths.hop[:, :, j]
                open_ = (query.count + 1) * hop + paths.passes[j] <= query.seconds * SLACK
                self.after[j] = np.where(open_, self.onward[j], np.inf).min(axis=1)
            position = 1 + int(self.fewest[j])
            need = int(space.held(position, position, query.count))
            firsts, inner = paths.firsts(j, need, query), paths.inner(j, need, query)
            self.moves[j] = firsts, inner
            cost = self.price + self.after[j]
            least = min(least, float(np.where(np.isfinite(firsts.seconds[0]), cost, np.inf).min()))
            i, legal = j - inner.lengths, np.isfinite(inner.seconds)
            reached = i[legal.any(axis=1)]
            self.fewest[reached] = np.minimum(self.fewest[reached], position)
            self.onward[i] = np.minimum(self.onward[i], np.where(legal, cost, np.inf))
        return least

    def _grid(self) -> None:
        """Buckets up to what some times the fewest stages fill; the last one holds all beyond."""
        query = self.query
        reach = 1.0
        if self.layers > 1 and self.fewest[1] < UNREACHED:
            stages = min(query.finer * (2 * int(self.fewest[1]) + 4), self.layers)
            reach = 1.0 - (1.0 - 1.0 / query.count) ** stages
        self.last = int(query.finer * BUCKETS * (1 + (FINER - 1) * reach))
        self.step = query.seconds * reach / self.last

    def _bucket(self, seconds: float) -> int:
        return int(min(seconds / self.step, self.last))

    def _shift(self, seconds: float) -> tuple[int, int]:
        """By how many buckets a stage moves a label, and the buckets from which it may begin."""
        query = self.query
        room = (query.seconds * SLACK - query.count * seconds) / self.step
        return self._bucket(seconds), int(min(np.floor(room), self.last)) + 1

    def _across(self, hop: float) -> tuple[int, int]:
        """The same of a hop: with its channel, all of what passes it, and the last one's return."""
        query = self.query
        room = (query.seconds * SLACK - (query.count + 1) * hop) / self.step
        return self._bucket(2.0 * hop), int(min(np.floor(room), self.last)) + 1

    def _forwards(self) -> None:
        """Labels ``[kind, bucket]`` of stages to begin and of stages that end, layer by layer."""
        shape = (len(self.price), self.last + 1)
        low = np.zeros((self.layers + 1, len(self.price)), dtype=np.int64)
        high = np.zeros_like(low)
        for j in range(1, self.layers + 1):
            moves = self.moves[j]
            if moves is None:
                continue
            firsts, inner = moves
            ended = np.full(shape, np.inf)
            for a in np.flatnonzero(np.isfinite(firsts.seconds[0])):
                ended[a, self._bucket(float(firsts.seconds[0, a]))] = 0.0
            i = j - inner.lengths
            alive = np.isfinite(inner.seconds) & (low[i] < high[i])
            for n, a in zip(*(found.tolist() for found in np.nonzero(alive)), strict=True):
                shift, stop = self._shift(float(inner.seconds[n, a]))
                begin, stop = int(low[i[n], a]), min(stop, int(high[i[n], a]))
                shown = self.shown[i[n]]
                if begin < stop and shown is not None:
                    _advance(ended[a], shown[0][a], begin, stop, shift)
            ended += self.price[:, None]
            ended[ended + self.after[j][:, None] >= self.query.cutoff] = np.inf
            begun = np.full(shape, np.inf)
            if j < self.layers:
                self._hop(j, ended, begun)
                begun[begun + self.onward[j][:, None] >= self.query.cutoff] = np.inf
            self.shown[j] = (begun, ended)
            low[j], high[j] = _spans(begun)

    def _hop(self, j: int, ended: Floats, begun: Floats) -> None:
        """From stages that end at j to the chips of the next stage."""
        low, high = _spans(ended)
        hop = self.paths.hop[:, :, j]
        for a in np.flatnonzero(low < high):
            for b in np.flatnonzero(np.isfinite(hop[a]) & np.isfinite(self.onward[j])):
                shift, stop = self._across(float(hop[a, b]))
                _advance(begun[b], ended[a], int(low[a]), min(stop, int(high[a])), shift)

    def _trace(self, kind: int, bucket: int) -> tuple[Stage, ...]:
        """Backwards from a last label, to labels that it can come from at the same cost."""
        stages: list[Stage] = []
        j = self.layers
        while True:
            moves, shown = self.moves[j], self.shown[j]
            assert moves is not None
            assert shown is not None
            firsts, inner = moves
            cost = shown[1][kind, bucket]
            seconds = float(firsts.seconds[0, kind])
            if (
                np.isfinite(seconds)
                and self._bucket(seconds) == bucket
                and self.price[kind] == cost
            ):
                stages.append(Stage(self.paths.fastest(firsts.each[0], kind), 0, j))
                return tuple(stages[::-1])
            n, begun = self._came(kind, bucket, j, float(cost))
            option = self.paths.fastest(inner.each[n], kind)
            stages.append(Stage(option, j - int(inner.lengths[n]), j))
            j -= int(inner.lengths[n])
            kind, bucket = self._left(kind, begun, j)

    def _came(self, kind: int, bucket: int, j: int, cost: float) -> tuple[int, int]:
        """The stage of this label that ends at j: its place among the moves, and where it began."""
        moves = self.moves[j]
        assert moves is not None
        for n, length in enumerate(moves[1].lengths.tolist()):
            seconds, shown = float(moves[1].seconds[n, kind]), self.shown[j - length]
            if not np.isfinite(seconds) or shown is None:
                continue
            for at in self._sources(bucket, *self._shift(seconds)):
                if shown[0][kind, at] + self.price[kind] == cost:
                    return n, at
        raise AssertionError("a label without a stage")

    def _left(self, kind: int, bucket: int, j: int) -> tuple[int, int]:
        """The label of a stage that ended at j, before the hop to this one."""
        shown = self.shown[j]
        assert shown is not None
        for a, hop in enumerate(self.paths.hop[:, kind, j].tolist()):
            if not np.isfinite(hop):
                continue
            for at in self._sources(bucket, *self._across(hop)):
                if shown[1][a, at] == shown[0][kind, bucket]:
                    return a, at
        raise AssertionError("a label without a hop")

    def _sources(self, bucket: int, shift: int, stop: int) -> range:
        """Buckets that a shift takes to this one."""
        if bucket == self.last:
            return range(max(0, bucket - shift), stop)
        return range(max(0, bucket - shift), min(stop, bucket - shift + 1))


def _advance(into: Floats, come: Floats, begin: int, stop: int, shift: int) -> None:
    """Labels ``[begin, stop)`` moved up by ``shift``; the last bucket holds all beyond."""
    last = len(into) - 1
    inside = min(stop, last - shift)
    if begin < inside:
        view = into[begin + shift : inside + shift]
        np.minimum(view, come[begin:inside], out=view)
    beyond = max(begin, last - shift)
    if beyond < stop:
        into[last] = min(into[last], come[beyond:stop].min())


def _spans(labels: NDArray[np.float64]) -> tuple[Ints, Ints]:
    """First and last (exclusive) bucket with a label, by kind; empty where there is none."""
    alive = np.isfinite(labels)
    some = alive.any(axis=1)
    first = np.where(some, alive.argmax(axis=1), 0)
    end = np.where(some, labels.shape[1] - alive[:, ::-1].argmax(axis=1), 0)
    return first, end
