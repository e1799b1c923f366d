"""The pass of :mod:`planner.search.exact_paths`, compiled: labels from the first stage to the last.

One call answers one query. First backwards over the layers, without times: which stages are legal,
how many stages the layers from each one on need, what they cost at least. Then labels forwards, one
row of buckets per layer and kind of chips; where a label cannot beat the cutoff it is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.costing import Ints
from planner.search.compiling import compiled, compiled_part
from planner.search.space import Floats

SLACK = 1 + 1e-12
"""Rounding of comparisons between sums of seconds."""
BUCKETS = 256
"""Buckets of a pass, unless its labels reach over much of the time."""
FINER = 4
"""Times as many buckets where labels reach over all of the time."""
UNREACHED = 1 << 30


class PathTables(NamedTuple):
    """What a pass reads of a space; names as in :class:`planner.search.space.StageSpace`.

    ``head``, ``tail`` and ``middle`` as in :class:`planner.search.space.Times`, by policy first.
    ``forward[policy, option, i]``: seconds of the forward passes of the layers before i.
    ``own[n, option]``: what n inner layers need to synchronise. ``passes[i]``: both passes of the
    layers before i at least. ``shortest[n - 1]``: the shortest stage of n inner layers or more.
    ``kind[option]``: its chips; ``hop[from, to, cut]`` between kinds.
    """

    chunks: int
    uniform: bool
    head_s: Floats
    head_depth: Ints
    tail_s: Floats
    tail_depth: Ints
    middle_s: Floats
    middle_depth: Ints
    forward: Floats
    finish: Floats
    own: Floats
    before: Floats
    after: Floats
    passes: Floats
    shortest: Floats
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    kind: Ints
    hop: Floats


class Asked(NamedTuple):
    """A query: see :class:`planner.search.exact_paths.Query`."""

    seconds: float
    micro_batches: int
    cutoff: float
    least_fill: float
    most_fill: float
    finer: int


class Moves(NamedTuple):
    """Stages ``[end, n, kind]`` of n layers that end there: seconds and the option that they take.

    Those of a first stage (all layers before) have n = 0 and include its finish. Infinite: none.
    """

    seconds: Floats
    option: Ints


class Labels(NamedTuple):
    """Costs ``[layer, kind, bucket]`` of stages to begin and of stages that end at a layer."""

    begun: Floats
    ended: Floats
    low: Ints
    high: Ints


class Backwards(NamedTuple):
    """``fewest[i]`` stages that the layers from i on need, and what those cost at least.

    ``onward[i, kind]`` by the chips of the stage that holds i, ``after[i, kind]`` by those of the
    stage that ends there.
    """

    fewest: Ints
    onward: Floats
    after: Floats


@compiled_part
def _in_time(
    chunks: int,
    early: float,
    own: float,
    behind: float,
    whole: float,
    seconds: float,
    forward: float,
    depth: int,
    q: Asked,
) -> bool:
    """Whether a stage may have synchronised by then, and satisfies (2) at the least fill.

    After ``early``, the forwards of the layers before, it does all its work; and its first backward
    waits for the stages ``behind`` it, with no more than its depth of forwards done.
    """
    limit = q.seconds * SLACK
    late = early + q.micro_batches * seconds
    if chunks > 1:
        return own + late <= limit
    done = (min(depth, q.micro_batches) - 1) * forward
    late = max(late, late + behind - done)
    if own + late > limit:
        return False
    return max(q.least_fill, whole) + (q.micro_batches - 1) * seconds - done <= limit


@compiled_part
def _enter(moves: Moves, j: int, n: int, kind: int, option: int, seconds: float) -> None:
    """The fastest option of a kind, the first of equal ones."""
    if seconds < moves.seconds[j, n, kind]:
        moves.seconds[j, n, kind], moves.option[j, n, kind] = seconds, option


@compiled_part
def _firsts(t: PathTables, q: Asked, j: int, need: int, moves: Moves) -> None:
    """Stages of the layers before j, with so many micro-batches in flight at least."""
    policies, options = t.head_s.shape[:2]
    for o in range(options):
        if not (t.ends[o, j] and t.starts[o, 0]):
            continue
        best = np.inf
        for p in range(policies):
            seconds, depth, own = t.head_s[p, o, j], t.head_depth[p, o, j], t.finish[o, j]
            if depth >= need and _in_time(
                t.chunks,
                0.0,
                own,
                t.after[j],
                t.passes[-1],
                seconds,
                t.forward[p, o, j],
                depth,
                q,
            ):
                best = min(best, seconds + own)
        _enter(moves, j, 0, t.kind[o], o, best)


@compiled_part
def _inner(t: PathTables, q: Asked, j: int, need: int, moves: Moves) -> int:
    """Stages that begin at a later layer than the first and end at j; the most layers of one."""
    policies, options = t.head_s.shape[:2]
    length = t.starts.shape[1]
    longest = j - 1
    if j < length:
        limit = q.seconds / q.micro_batches * SLACK
        longest = min(longest, int(np.searchsorted(t.shortest, limit, side="right")))
    for n in range(1, longest + 1):
        i = j - n
        at = 0 if t.uniform else i
        for o in range(options):
            if not (t.starts[o, i] and t.ends[o, j]):
                continue
            best, own = np.inf, t.own[max(min(j, length - 1) - i, 0), o]
            for p in range(policies):
                if j == length:
                    seconds, depth = t.tail_s[p, o, i], t.tail_depth[p, o, i]
                else:
                    seconds, depth = t.middle_s[p, n - 1, o, at], t.middle_depth[p, n - 1, o, at]
                if depth < need or t.passes[i] + q.micro_batches * seconds > q.seconds * SLACK:
                    continue
                forward = t.forward[p, o, j] - t.forward[p, o, i]
                if _in_time(
                    t.chunks,
                    t.before[i],
                    own,
                    t.after[j],
                    t.passes[-1],
                    seconds,
                    forward,
                    depth,
                    q,
                ):
                    best = min(best, seconds)
            _enter(moves, j, n, t.kind[o], o, best)
    return longest


@compiled_part
def _backwards(
    t: PathTables, q: Asked, price: Floats, needs: Ints, moves: Moves, b: Backwards
) -> float:
    """Legal stages, and what the layers from each one on cost; the least cost of all."""
    length, kinds = t.starts.shape[1], len(price)
    least = np.inf
    b.fewest[length] = 0
    b.after[length] = 0.0
    for j in range(length, 0, -1):
        if b.fewest[j] == UNREACHED:
            continue
        if j < length:
            for a in range(kinds):
                for c in range(kinds):
                    hop = t.hop[a, c, j]
                    if (q.micro_batches + 1) * hop + t.passes[j] <= q.seconds * SLACK:
                        b.after[j, a] = min(b.after[j, a], b.onward[j, c])
        position = 1 + b.fewest[j]
        need = needs[position]
        _firsts(t, q, j, need, moves)
        longest = _inner(t, q, j, need, moves)
        for a in range(kinds):
            cost = price[a] + b.after[j, a]
            if moves.seconds[j, 0, a] < np.inf:
                least = min(least, cost)
            for n in range(1, longest + 1):
                if moves.seconds[j, n, a] < np.inf:
                    b.fewest[j - n] = min(b.fewest[j - n], position)
                    b.onward[j - n, a] = min(b.onward[j - n, a], cost)
    return least


@compiled_part
def _advance(into: Floats, come: Floats, begin: int, stop: int, shift: int) -> None:
    """Labels ``[begin, stop)`` moved up by ``shift``; the last bucket holds all beyond."""
    last = len(into) - 1
    for at in range(begin, min(stop, last - shift)):
        into[at + shift] = min(into[at + shift], come[at])
    for at in range(max(begin, last - shift), stop):
        into[last] = min(into[last], come[at])


@compiled_part
def _cut(row: Floats, more: float, cutoff: float) -> tuple[int, int]:
    """Drop labels that reach the cutoff with what is to come; the span of those that are left."""
    low, high = len(row), 0
    for at in range(len(row)):
        if row[at] + more >= cutoff:
            row[at] = np.inf
        elif row[at] < np.inf:
            low, high = min(low, at), at + 1
    return low, high


@compiled_part
def _bucket(seconds: float, step: float, last: int) -> int:
    return int(min(seconds / step, float(last)))


@compiled_part
def _until(room: float, step: float, last: int) -> int:
    """The first bucket from which there is no room."""
    return int(min(np.floor(room / step), float(last))) + 1


@compiled_part
def _stage_until(q: Asked, seconds: float, step: float, last: int) -> int:
    """The first bucket from which a stage begins too late."""
    return _until(q.seconds * SLACK - q.micro_batches * seconds, step, last)


@compiled_part
def _hop_until(q: Asked, hop: float, step: float, last: int) -> int:
    """The same of a hop: all of what passes the channel, and the last one's return."""
    return _until(q.seconds * SLACK - (q.micro_batches + 1) * hop, step, last)


@compiled_part
def _forwards(
    t: PathTables,
    q: Asked,
    price: Floats,
    moves: Moves,
    b: Backwards,
    labels: Labels,
    step: float,
) -> None:
    """Labels of stages to begin and of stages that end, layer by layer."""
    length, kinds = t.starts.shape[1], len(price)
    last = labels.begun.shape[2] - 1
    for j in range(1, length + 1):
        labels.low[j], labels.high[j] = last + 1, 0
        if b.fewest[j] == UNREACHED:
            continue
        begun, ended = labels.begun[j], labels.ended[j]
        begun[:] = np.inf
        ended[:] = np.inf
        for a in range(kinds):
            if moves.seconds[j, 0, a] < np.inf:
                ended[a, _bucket(moves.seconds[j, 0, a], step, last)] = 0.0
            for n in range(1, j):
                seconds, low, high = moves.seconds[j, n, a], labels.low[j - n, a], 0
                if seconds < np.inf:
                    high = min(_stage_until(q, seconds, step, last), labels.high[j - n, a])
                if low < high:
                    shift = _bucket(seconds, step, last)
                    _advance(ended[a], labels.begun[j - n, a], low, high, shift)
            for at in range(last + 1):
                ended[a, at] += price[a]
            low, high = _cut(ended[a], b.after[j, a], q.cutoff)
            if j == length or low >= high:
                continue
            for c in range(kinds):
                hop = t.hop[a, c, j]
                if hop < np.inf and b.onward[j, c] < np.inf:
                    stop = min(_hop_until(q, hop, step, last), high)
                    _advance(begun[c], ended[a], low, stop, _bucket(2.0 * hop, step, last))
        for c in range(kinds):
            labels.low[j, c], labels.high[j, c] = _cut(begun[c], b.onward[j, c], q.cutoff)


@compiled_part
def _from(row: Floats, cost: float, own: float, bucket: int, shift: int, stop: int) -> int:
    """The bucket from which a shift leads to this one at this cost; -1 where there is none."""
    last = len(row) - 1
    if bucket < last:
        stop = min(stop, bucket - shift + 1)
    for at in range(max(0, bucket - shift), stop):
        if row[at] + own == cost:
            return at
    return -1


@compiled_part
def _trace(
    t: PathTables,
    q: Asked,
    price: Floats,
    moves: Moves,
    labels: Labels,
    step: float,
    kind: int,
    bucket: int,
    out: Ints,
) -> int:
    """``out[k] = (option, first, end)`` from the last stage to the first; how many."""
    last, j = labels.begun.shape[2] - 1, t.starts.shape[1]
    for k in range(len(out)):
        cost, first = labels.ended[j, kind, bucket], moves.seconds[j, 0, kind]
        if first < np.inf and _bucket(first, step, last) == bucket and price[kind] == cost:
            out[k, 0], out[k, 1], out[k, 2] = moves.option[j, 0, kind], 0, j
            return k + 1
        at, n = -1, 0
        while at < 0:
            n += 1
            assert n < j, "a label without a stage"
            seconds = moves.seconds[j, n, kind]
            if seconds < np.inf and labels.low[j - n, kind] < labels.high[j - n, kind]:
                stop = _stage_until(q, seconds, step, last)
                shift = _bucket(seconds, step, last)
                row = labels.begun[j - n, kind]
                at = _from(row, cost, price[kind], bucket, shift, stop)
        out[k, 0], out[k, 1], out[k, 2] = moves.option[j, n, kind], j - n, j
        j -= n
        cost, bucket, a = labels.begun[j, kind, at], at, -1
        at = -1
        while at < 0:
            a += 1
            assert a < len(price), "a label without a hop"
            hop = t.hop[a, kind, j]
            if hop < np.inf:
                stop, shift = _hop_until(q, hop, step, last), _bucket(2.0 * hop, step, last)
                at = _from(labels.ended[j, a], cost, 0.0, bucket, shift, stop)
        kind, bucket = a, at
    return 0


@compiled
def least_path(t: PathTables, price: Floats, needs: Ints, q: Asked) -> Ints:
    """Stages ``(option, first, end)``, last one first, of the cheapest path below the cutoff.

    No stage: there is none. ``needs[position]``: micro-batches that a stage so far from the end
    has in flight at least.
    """
    length, kinds = t.starts.shape[1], len(price)
    none = np.zeros((0, 3), dtype=np.int64)
    moves = Moves(
        np.full((length + 1, length, kinds), np.inf),
        np.zeros((length + 1, length, kinds), dtype=np.int64),
    )
    b = Backwards(
        np.full(length + 1, UNREACHED, dtype=np.int64),
        np.full((length + 1, kinds), np.inf),
        np.full((length + 1, kinds), np.inf),
    )
    if _backwards(t, q, price, needs, moves, b) >= q.cutoff:
        return none
    # buckets up to what some times the fewest stages fill; the last one holds all beyond
    reach = 1.0
    if length > 1 and b.fewest[1] < UNREACHED:
        stages = min(q.finer * (2 * b.fewest[1] + 4), length)
        reach = 1.0 - (1.0 - 1.0 / q.micro_batches) ** float(stages)
    last = int(q.finer * BUCKETS * (1 + (FINER - 1) * reach))
    step = q.seconds * reach / last
    labels = Labels(
        np.empty((length + 1, kinds, last + 1)),
        np.empty((length + 1, kinds, last + 1)),
        np.full((length + 1, kinds), last + 1, dtype=np.int64),
        np.zeros((length + 1, kinds), dtype=np.int64),
    )
    _forwards(t, q, price, moves, b, labels, step)
    stop = last + 1
    if q.most_fill < np.inf:
        stop = min(last, int(q.most_fill * SLACK / step)) + 1
    best, kind, bucket = q.cutoff, -1, 0
    for a in range(kinds):
        for at in range(stop):
            if labels.ended[length, a, at] < best:
                best, kind, bucket = labels.ended[length, a, at], a, at
    if kind < 0:
        return none
    out = np.empty((length, 3), dtype=np.int64)
    return out[: _trace(t, q, price, moves, labels, step, kind, bucket, out)]
