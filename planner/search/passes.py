"""The two passes of ``pipelines``, compiled.

A query is a takt τ and a weight λ at given prices of the options. The first pass
(:func:`_before`) finds what the layers before every stage cost at least, whatever the stage's
position: a relaxation that settles most queries. The second one (:func:`_onwards`) goes from the
last stage to the first, position after position, and keeps only what the first pass says can still
beat the best.

Where all inner layers and cuts are alike, a stage of n inner layers under option o and
recomputation p takes c·n with c = c[p, o], and n may be anything up to the least of what the takt,
the memory and the time to synchronise allow. A slower recomputation matters only for lengths that
the faster ones have no room for, so the lengths of an option are cut into runs, one per
recomputation. Elsewhere every stage is looked up.

Plain loops over one query at a time; queries do not see one another. Nothing is allocated per
query. All that is compiled together is in this file (:mod:`planner.search.compiling` says why).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.costing import Ints
from planner.search.compiling import compiled, compiled_part
from planner.search.space import Floats

SLACK = 1 + 1e-12
"""Rounding of a comparison with the takt: a stage of exactly τ is legal."""
STRETCHES = np.array([1.04, 1.3, np.inf])
"""How far above the relaxation the answer is looked for, in turn: near it most states are lost."""

BEYOND = 1.1
"""Up to so many times its limit a relaxed answer is told: it may serve at other limits too."""


class Tables(NamedTuple):
    """What the passes read of a space; indexed by policy, option, layer or cut, in this order.

    ``head_s``, ``tail_s`` and their depths as in :class:`planner.search.space.Times`. ``hop[kind of
    cut, from, to]`` is indexed by kinds of options; ``to_first`` and ``from_last`` are those of
    ``StageSpace.slowest_back``, ``lead_before``, ``lead_after`` and ``relief`` of its leads, and
    ``late_head`` and ``late_tail`` of ``StageSpace.late``. Of the room to synchronise a layer
    takes ``taken`` or ``steep[policy, option]`` beyond the forward pass that counts anyway. For the
    other names see :class:`planner.search.space.StageSpace`.

    Where layers are not alike ``middle_s`` and ``middle_depth[option, policy, end, n - 1]`` are
    those of n inner layers up to an end. Where they are: ``seconds[policy, option]`` per inner
    layer, policies in ``order[rank, option]`` from fast to slow; ``most[depth, policy, option]``:
    most inner layers with room for so many micro-batches; ``blocks[i]``: the end that stands for
    layer i where the room to synchronise is asked.
    """

    chunks: int
    uniform: bool
    middle_s: Floats
    middle_depth: Ints
    seconds: Floats
    order: Ints
    most: Ints
    head_s: Floats
    head_depth: Ints
    tail_s: Floats
    tail_depth: Ints
    hop: Floats
    cut_kind: Ints
    hop_kind: Ints
    finish: Floats
    starts: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    to_first: Floats
    from_last: Floats
    lead_before: Floats
    lead_after: Floats
    taken: Floats
    steep: Floats
    relief: Floats
    late_head: Floats
    late_tail: Floats
    blocks: Ints


class Query(NamedTuple):
    """One question: the takt, the weight on the fill, the fewest micro-batches, and the room.

    ``room``: seconds that these leave for the last one; infinite where nobody asks. ``slope``: see
    :meth:`planner.search.pipelines.Pricer.solve`. ``stages``: most of a pipeline.
    ``longest``: layers of any stage at most, where they are not alike.
    """

    takt: float
    weight: float
    cap: int
    room: float
    slope: int
    stages: int
    longest: int


class Scratch(NamedTuple):
    """Room for one query.

    ``come[option, layer]``: what the layers before a stage cost, its hop included; ``open``: the
    same where a stage may begin. ``going[position, option, layer]``: the least cost behind a stage
    that ends there, ``spans`` the layers that are kept of it. ``value[option, layer]``: that of a
    stage which begins there, and what is behind it. ``first[option, layer]``: that of a first
    stage, ``barred`` where none may end. ``held[layer]``: micro-batches in flight there. ``within``
    and ``room``: most inner layers ``[policy, option]``. ``alive[option]``: the layers that are
    open, from the first to the last.
    """

    come: Floats
    open: Floats
    going: Floats
    spans: Ints
    value: Floats
    first: Floats
    toll: Floats
    kinds: Floats
    behind: Ints
    held: Ints
    within: Ints
    room: Ints
    alive: Ints
    barred: NDArray[np.bool_]


@compiled_part
def _in_flight(chunks: int, position: int, stages: int, count: int) -> int:
    """Micro-batches in flight: :meth:`planner.search.space.StageSpace.held`."""
    if chunks == 1:
        return min(position, count)
    group = min(stages, -(-count // chunks))
    return min(2 * position - 1 + (chunks - 1) * max(group, position), count)


@compiled_part
def _fitting(seconds: Floats, depth: Ints, row: int, at: int, held: int) -> float:
    """Seconds of the fastest recomputation ``[policy, row, at]`` with room for so many in flight.

    A row is an option of first and last stages, or an end of one option's inner stages.
    """
    best = np.inf
    for p in range(seconds.shape[0]):
        if depth[p, row, at] >= held and seconds[p, row, at] < best:
            best = seconds[p, row, at]
    return best


@compiled_part
def _least(row: Floats, each: float, low: int, high: int) -> float:
    """Least of ``row[j] - each · j`` for low ≤ j < high; four chains keep the processor busy."""
    a = b = c = d = np.inf
    j = low
    while j + 4 <= high:
        a = min(a, row[j] - each * j)
        b = min(b, row[j + 1] - each * (j + 1))
        c = min(c, row[j + 2] - each * (j + 2))
        d = min(d, row[j + 3] - each * (j + 3))
        j += 4
    while j < high:
        a = min(a, row[j] - each * j)
        j += 1
    return min(min(a, b), min(c, d))


@compiled_part
def _least_of(
    seconds: Floats, depth: Ints, row: Floats, q: Query, held: int, end: int, low: int, high: int
) -> float:
    """Least cost of stages of one option up to an end, with what is before them in ``row``."""
    best = np.inf
    for j in range(high - 1, low - 1, -1):
        if _quickest(seconds, end, end - j) > q.takt * SLACK:
            break  # a longer one is no faster, though it may fit where this one does not
        fastest = _fitting(seconds, depth, end, end - j - 1, held)
        if fastest <= q.takt * SLACK:
            best = min(best, row[j] + q.weight * fastest)
    return best


@compiled_part
def _lower_all(
    seconds: Floats, depth: Ints, row: Floats, q: Query, cost: float, held: int, end: int
) -> int:
    """``row[i]`` is at most the cost with a stage from i to the end; the least such i."""
    begin = end
    for i in range(end - 1, 0, -1):
        if _quickest(seconds, end, end - i) > q.takt * SLACK:
            break
        fastest = _fitting(seconds, depth, end, end - i - 1, held)
        if fastest <= q.takt * SLACK:
            row[i] = min(row[i], cost + q.weight * fastest)
            begin = i
    return begin


@compiled_part
def _quickest(seconds: Floats, end: int, count: int) -> float:
    """Seconds of the fastest recomputation of so many inner layers up to an end, fit or not."""
    best = np.inf
    for p in range(seconds.shape[0]):
        best = min(best, seconds[p, end, count - 1])
    return best


@compiled_part
def _within(seconds: Floats, takt: float, layers: int, out: Ints) -> None:
    """``out[policy, option]``: most inner layers within the takt."""
    for p in range(out.shape[0]):
        for o in range(out.shape[1]):
            out[p, o] = int(min(np.floor(takt * SLACK / seconds[p, o]), layers))


@compiled_part
def _in_room(
    taken: Floats, steep: Floats, relief: Floats, left: float, layers: int, out: Ints
) -> None:
    """``out[policy, option]``: most inner layers of a stage that synchronises in what is left.

    n layers of it leave only the forward passes of those before them hidden.
    """
    left = max(left, 0.0)
    for p in range(out.shape[0]):
        for o in range(out.shape[1]):
            count = float(layers)
            if taken[p, o] > 0:
                count = min(count, np.floor(left / taken[p, o]))
            if steep[p, o] > 0:
                count = min(count, np.floor((left + relief[o]) / steep[p, o]))
            elif left + relief[o] < 0:
                count = 0.0
            out[p, o] = int(max(count, 0.0))


@compiled_part
def _stages_behind(t: Tables, q: Query, fewest: int, within: Ints, out: Ints) -> None:
    """``out[i]``: least number of stages that the layers from i on need."""
    options, layers = t.starts.shape
    out[:] = 0
    covered = 0
    for stages in range(1, layers + 1):
        for i in range(layers - covered):
            out[i] += 1
        most = 1
        held = _in_flight(t.chunks, stages, fewest, q.cap)
        if stages == 1:
            for i in range(layers - most):
                for o in range(options):
                    if _fitting(t.tail_s, t.tail_depth, o, i, held) <= q.takt * SLACK:
                        most = max(most, layers - i)
                if most > 1:
                    break
        else:
            held = min(held, t.most.shape[0] - 1)
            for p in range(within.shape[0]):
                for o in range(options):
                    most = max(most, min(t.most[held, p, o], within[p, o]))
        covered += most
        if covered >= layers:
            return


@compiled_part
def _fewest_stages(head_s: Floats, head_depth: Ints, takt: float, behind: Ints) -> int:
    """A first stage of as many layers as any, and what those behind it need."""
    for end in range(len(behind) - 1, 0, -1):
        for o in range(head_s.shape[1]):
            if _fitting(head_s, head_depth, o, end, 1) <= takt * SLACK:
                return int(1 + behind[end])
    return int(1 + behind[0])


@compiled_part
def _tolls(hop: Floats, passes: float, takt: float, out: Floats) -> None:
    """``out[kind of cut, from, to]``: weighted hops; infinite beyond the takt."""
    for cut in range(out.shape[0]):
        for a in range(out.shape[1]):
            for b in range(out.shape[2]):
                legal = hop[cut, a, b] <= takt
                out[cut, a, b] = passes * hop[cut, a, b] if legal else np.inf


@compiled_part
def _first(
    seconds: Floats, depth: Ints, finish: Floats, q: Query, price: float, o: int, j: int, held: int
) -> float:
    """Cost of a first stage of option o that ends at layer j; infinite beyond the takt."""
    fastest = _fitting(seconds, depth, o, j, held)
    if fastest > q.takt * SLACK:
        return np.inf
    return float(q.weight * fastest + (price + q.weight * finish[o, j]))


@compiled_part
def _no_first(t: Tables, q: Query, out: NDArray[np.bool_]) -> None:
    """``out[option, end]``: whether no first stage of the option may end there, however long."""
    for o in range(out.shape[0]):
        slow = t.to_first[o] > q.takt * SLACK
        for j in range(out.shape[1]):
            out[o, j] = slow or not t.ends[o, j] or t.late_head[j, o] > q.room * SLACK


@compiled_part
def _lasts(t: Tables, q: Query, prices: Floats, held: int, out: Floats) -> None:
    """``out[option, start]``: cost of last stages, not only ones; infinite where not legal."""
    for o in range(len(prices)):
        slow = t.from_last[o] > q.takt * SLACK
        out[o, 0] = np.inf
        for i in range(1, t.starts.shape[1]):
            out[o, i] = np.inf
            if slow or not t.starts[o, i] or t.late_tail[i, o] > q.room * SLACK:
                continue
            seconds = _fitting(t.tail_s, t.tail_depth, o, i, held)
            if seconds <= q.takt * SLACK:
                out[o, i] = q.weight * seconds + prices[o]


@compiled_part
def _before(
    t: Tables, q: Query, prices: Floats, s: Scratch, rest: Floats, stop: float
) -> tuple[float, int]:
    """The relaxed answer, and the stages that a pipeline has at least; fills ``come``.

    A stage that ends at layer i has at least so many stages behind it as are needed to hold the
    layers from i on, each as long as the longest at its depth; one more are in flight. Layers from
    i on cost ``rest[i]`` at least: what reaches the stop with them is let go, and an answer that
    would be above the stop is at least the stop.
    """
    options, layers = t.starts.shape
    seconds, order, by_depth, within, room = t.seconds, t.order, t.most, s.within, s.room
    ends, starts, hop_kind, cut_kind = t.ends, t.starts, t.hop_kind, t.cut_kind
    first, last, come, open_, kinds, toll = s.first, s.value, s.come, s.open, s.kinds, s.toll
    fewest = 1
    if t.uniform:
        _within(seconds, q.takt, layers, within)
        for _ in range(1 if t.chunks == 1 else 2):
            _stages_behind(t, q, fewest, within, s.behind)
            if t.chunks > 1:
                # with so many stages more is in flight, so that shorter stages and more of them
                # are needed: no pipeline has fewer than the first turn says, nor fewer than this
                fewest = _fewest_stages(t.head_s, t.head_depth, q.takt, s.behind)
    else:
        for i in range(layers + 1):
            s.behind[i] = -(-(layers - i) // q.longest)
    for i in range(layers + 1):
        s.held[i] = _in_flight(t.chunks, 1 + s.behind[i], fewest, q.cap)
    _tolls(t.hop, 2.0 * t.chunks * q.weight, q.takt, toll)
    _no_first(t, q, s.barred)
    head_s, head_depth, finish, barred = t.head_s, t.head_depth, t.finish, s.barred
    for o in range(options):
        for j in range(1, layers + 1):
            first[o, j] = np.inf
            if not barred[o, j]:
                held = s.held[j]
                first[o, j] = _first(head_s, head_depth, finish, q, prices[o], o, j, held)
    _lasts(t, q, prices, _in_flight(t.chunks, 1, fewest, q.cap), last)
    limited = t.uniform and np.isfinite(q.room)
    open_[:] = np.inf
    s.alive[:, 0], s.alive[:, 1] = layers, 0
    least, pruned = np.inf, False
    for o in range(options):
        least = min(least, first[o, layers])
    for i in range(1, layers):
        deep = min(s.held[i], by_depth.shape[0] - 1)
        if limited and (i == 1 or t.blocks[i] != t.blocks[i - 1]):
            # the last end of the block has the most room
            end = t.blocks[i]
            left = q.room * SLACK - t.lead_before[end] - t.lead_after[end]
            _in_room(t.taken, t.steep, t.relief, left, layers, room)
        kinds[:] = np.inf
        for o in range(options):
            came = first[o, i]
            if i > 1 and ends[o, i] and not t.uniform:
                low, high = s.alive[o, 0], s.alive[o, 1]
                inner = _least_of(
                    t.middle_s[o], t.middle_depth[o], open_[o], q, s.held[i], i, low, high
                )
                came = min(came, inner + prices[o])
            elif i > 1 and ends[o, i]:
                inner, done = np.inf, 0
                for rank in range(order.shape[0]):
                    p = order[rank, o]
                    longest = min(by_depth[deep, p, o], within[p, o])
                    if limited:
                        longest = min(longest, room[p, o])
                    if longest > done:
                        each = q.weight * seconds[p, o]
                        low, high = max(i - longest, s.alive[o, 0]), min(i - done, s.alive[o, 1])
                        inner = min(inner, _least(open_[o], each, low, high) + each * i)
                        done = longest
                came = min(came, inner + prices[o])
            kinds[hop_kind[o]] = min(kinds[hop_kind[o]], came)
        cut = cut_kind[i]
        for o in range(options):
            cost = np.inf
            for a in range(len(kinds)):
                cost = min(cost, kinds[a] + toll[cut, a, hop_kind[o]])
            if cost < np.inf and cost + rest[i] >= stop:
                cost, pruned = np.inf, True
            come[o, i] = cost
            if cost < np.inf and starts[o, i]:
                open_[o, i] = cost
                s.alive[o, 0], s.alive[o, 1] = min(s.alive[o, 0], i), i + 1
            least = min(least, cost + last[o, i])
    return (min(least, stop) if pruned else least), fewest


@compiled_part
def _depth(t: Tables, q: Query, position: int, fewest: int) -> int:
    """Micro-batches that a stage this far from the end must have room for."""
    if t.chunks == 1:
        return min(q.slope * (position - 1) + 1, q.cap)
    return _in_flight(t.chunks, position, fewest, q.cap)


@compiled_part
def _onwards(
    t: Tables, q: Query, prices: Floats, s: Scratch, fewest: int, limit: float
) -> tuple[float, int]:
    """Least cost below the limit with positions, and the stages of the pipeline that has it.

    Infinite, and no stage, where there is none.
    """
    options, layers = t.starts.shape
    seconds, order, by_depth, within, room = t.seconds, t.order, t.most, s.within, s.room
    ends, starts, hop_kind, cut_kind = t.ends, t.starts, t.hop_kind, t.cut_kind
    value, come, kinds, toll = s.value, s.come, s.kinds, s.toll
    head_s, head_depth, finish, barred = t.head_s, t.head_depth, t.finish, s.barred
    limited = t.uniform and np.isfinite(q.room)
    best, best_at = limit, 0
    held = _depth(t, q, 1, fewest)
    for o in range(options):
        if not barred[o, layers]:
            cost = _first(head_s, head_depth, finish, q, prices[o], o, layers, held)
            if cost < best:
                best, best_at = cost, 1
    _lasts(t, q, prices, held, value)
    low, high = 1, layers
    for position in range(2, min(q.stages, layers) + 1):
        begin, end = high, low
        for o in range(options):
            for j in range(low, high):
                if not starts[o, j] or value[o, j] + come[o, j] >= best:
                    value[o, j] = np.inf
                if value[o, j] < np.inf:
                    begin, end = min(begin, j), max(end, j + 1)
        if begin >= end:
            break
        low, high = begin, end
        s.spans[position, 0], s.spans[position, 1] = low, high
        going = s.going[position]
        for j in range(low, high):  # the least over the next stage's option, hop included
            going[:, j] = np.inf
            kinds[:] = np.inf
            for o in range(options):
                kinds[hop_kind[o]] = min(kinds[hop_kind[o]], value[o, j])
            for b in range(len(kinds)):
                if kinds[b] < np.inf:
                    for o in range(options):
                        cost = kinds[b] + toll[cut_kind[j], hop_kind[o], b]
                        going[o, j] = min(going[o, j], cost)
        held = _depth(t, q, position, fewest)
        for o in range(options):
            for j in range(low, high):
                if going[o, j] < best and not barred[o, j]:
                    cost = _first(head_s, head_depth, finish, q, prices[o], o, j, held)
                    if cost + going[o, j] < best:
                        best, best_at = cost + going[o, j], position
        if limited:
            # the last end has the most room
            left = q.room * SLACK - t.lead_before[high - 1] - t.lead_after[high - 1]
            _in_room(t.taken, t.steep, t.relief, left, layers, room)
        deep = min(held, by_depth.shape[0] - 1)
        begin = low
        for o in range(options):
            for i in range(high):
                value[o, i] = np.inf
            if not t.uniform:
                middle_s, middle_depth = t.middle_s[o], t.middle_depth[o]
                for j in range(low, high):
                    if going[o, j] < np.inf and ends[o, j]:
                        start = _lower_all(
                            middle_s, middle_depth, value[o], q, going[o, j], held, j
                        )
                        begin = min(begin, start)
                for i in range(begin, high):
                    value[o, i] += prices[o]
                continue
            done = 0
            for rank in range(order.shape[0]):
                p = order[rank, o]
                longest = min(by_depth[deep, p, o], within[p, o])
                if limited:
                    longest = min(longest, room[p, o])
                if longest <= done:
                    continue
                each = q.weight * seconds[p, o]
                for j in range(low, high):
                    if going[o, j] < np.inf and ends[o, j]:
                        start = max(1, j - longest)
                        begin = min(begin, start)
                        _lower(value[o], going[o, j] + j * each, each, start, j - done)
                done = longest
            for i in range(begin, high):
                value[o, i] += prices[o]
        low, high = begin, high - 1
    return (best if best_at else np.inf), best_at


@compiled_part
def _lower(row: Floats, cost: float, each: float, low: int, high: int) -> None:
    """``row[i]`` is at most ``cost - i · each`` for low ≤ i < high."""
    for i in range(low, high):
        row[i] = min(row[i], cost - i * each)


@compiled_part
def _trace(
    t: Tables, q: Query, prices: Floats, s: Scratch, fewest: int, stages: int, out: Ints
) -> int:
    """``out[stage] = (option, first, end)`` of the pipeline of so many stages that costs least.

    How many there are; 0 where rounding leaves none.
    """
    options, layers = t.starts.shape
    head_s, head_depth, finish, barred = t.head_s, t.head_depth, t.finish, s.barred
    start, before = 0, 0
    for k in range(stages):
        position = stages - k
        held = _depth(t, q, position, fewest)
        low, high = layers, layers + 1
        if position > 1:
            low, high = s.spans[position, 0], s.spans[position, 1]
        if position == 1:
            _lasts(t, q, prices, held, s.value)
        best, option, end = np.inf, 0, 0
        for o in range(options):
            toll = s.toll[t.cut_kind[start], t.hop_kind[before], t.hop_kind[o]] if start else 0.0
            if start and not t.starts[o, start]:
                continue
            for j in range(max(low, start + 1), high):
                if start == 0:
                    cost = np.inf
                    if not barred[o, j]:
                        cost = _first(head_s, head_depth, finish, q, prices[o], o, j, held)
                elif position == 1:
                    cost = s.value[o, start]
                elif t.ends[o, j]:
                    inner = _inner_s(t, q.takt, o, start, j, held)
                    cost = q.weight * inner + prices[o] if inner < np.inf else np.inf
                else:
                    cost = np.inf
                if position > 1:
                    cost += s.going[position, o, j]
                cost += toll
                if cost < best:
                    best, option, end = cost, o, j
        if best == np.inf:
            return 0
        out[k, 0], out[k, 1], out[k, 2] = option, start, end
        start, before = end, option
    return stages


@compiled_part
def _inner_s(t: Tables, takt: float, option: int, start: int, end: int, held: int) -> float:
    """Seconds of an inner stage; infinite where none is legal."""
    if not t.uniform:
        fastest = _fitting(t.middle_s[option], t.middle_depth[option], end, end - start - 1, held)
        return fastest if fastest <= takt * SLACK else np.inf
    deep = min(held, t.most.shape[0] - 1)
    for rank in range(t.order.shape[0]):
        p = t.order[rank, option]
        if end - start <= t.most[deep, p, option]:
            seconds = float(t.seconds[p, option] * (end - start))
            if seconds <= takt * SLACK:
                return seconds
    return np.inf


@compiled_part
def _scratch(t: Tables, stages: int) -> Scratch:
    options, layers = t.starts.shape
    policies, kinds = t.seconds.shape[0], t.hop.shape[1]
    return Scratch(
        np.full((options, layers), np.inf),
        np.full((options, layers), np.inf),
        np.empty((stages + 1, options, layers)),
        np.zeros((stages + 1, 2), dtype=np.int64),
        np.empty((options, layers)),
        np.empty((options, layers + 1)),
        np.empty((t.hop.shape[0], kinds, kinds)),
        np.empty(kinds),
        np.empty(layers + 1, dtype=np.int64),
        np.empty(layers + 1, dtype=np.int64),
        np.empty((policies, options), dtype=np.int64),
        np.empty((policies, options), dtype=np.int64),
        np.empty((options, 2), dtype=np.int64),
        np.empty((options, layers + 1), dtype=np.bool_),
    )


@compiled
def ask(
    t: Tables,
    prices: Floats,
    takts: Floats,
    weights: Floats,
    caps: Ints,
    rooms: Floats,
    limits: Floats,
    rests: Floats,
    longest: Ints,
    slope: int,
    most_stages: int,
    exact: bool,
    traced: bool,
) -> tuple[Floats, Ints, Ints]:
    """Cost of every query, the stages of its pipeline, and these where they are traced.

    The cost is infinite, and there is no stage, where it is not below the limit. Not ``exact``: the
    relaxed answer of every query, rough where it is over the limit. ``rests[query, i]``: what the
    layers from i on cost at least.
    """
    most = min(most_stages, t.starts.shape[1]) if exact else 0
    s = _scratch(t, most)
    cost, count = np.full(len(takts), np.inf), np.zeros(len(takts), dtype=np.int64)
    stages = np.zeros((len(takts) if traced else 0, most, 3), dtype=np.int64)
    for k in range(len(takts)):
        q = Query(takts[k], weights[k], caps[k], rooms[k], slope, most, longest[k])
        stop = limits[k] if exact else limits[k] * BEYOND
        least, fewest = _before(t, q, prices, s, rests[k], stop)
        if not exact:
            cost[k] = least
        elif least < limits[k]:
            for stretch in STRETCHES:
                limit = min(limits[k], least * stretch) if least > 0 else limits[k]
                found, count[k] = _onwards(t, q, prices, s, fewest, limit)
                if count[k]:
                    # the relaxation knows the room for synchronisation more closely
                    cost[k] = max(found, least)
                    if traced:
                        count[k] = _trace(t, q, prices, s, fewest, count[k], stages[k])
                    break
                if limit >= limits[k]:
                    break
    return cost, count, stages
