"""Interleaved 1F1B: several chunks of layers per stage, their order, and the time of a step.

A pipeline has S stages of v chunks each. Its v·S chunks follow one another in the order of the
layers and are dealt out in turn: stage s holds the chunks s, S + s, 2S + s, ... One micro-batch
spends ``forward_ps[s][c]`` and ``backward_ps[s][c]`` in chunk c of stage s. What leaves stage s
goes to the next one in ``hop_ps[s]``, what leaves the last one goes back to the first in
``hop_ps[S - 1]``; gradients take as long the other way. Times are integer picoseconds, and hops are
as in :mod:`costmodels.schedules`: they only delay.

Micro-batches are taken in groups of at least S, each group through all of a stage's chunks before
the next one (Narayanan et al. 2021, section 2.2; groups are as equal as they can be). Depths count
(chunk, micro-batch) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from costmodels.schedules import ExactTimes


@dataclass(frozen=True, slots=True)
class Operation:
    """Forward or backward of one micro-batch through one chunk of a stage."""

    kind: Literal["F", "B"]
    chunk: int
    micro_batch: int


Order = tuple[Operation, ...]


def groups(micro_batches: int, stages: int) -> list[range]:
    """As many groups as can have a micro-batch per stage; sizes differ by one at most."""
    count = max(1, micro_batches // stages)
    ends = [micro_batches * k // count for k in range(count + 1)]
    return [range(first, end) for first, end in pairwise(ends)]


def classic_depths(stages: int, chunks: int = 1, micro_batches: int = 1) -> tuple[int, ...]:
    """The usual depth of every stage: S - s, or that of interleaved 1F1B in pairs."""
    if chunks == 1:
        return tuple(stages - s for s in range(stages))
    group = max(len(members) for members in groups(micro_batches, stages))
    return tuple(2 * (stages - s - 1) + (chunks - 1) * group + 1 for s in range(stages))


def sequences(micro_batches: int, stages: int, chunks: int) -> tuple[Order, Order]:
    """Forwards and backwards in the order in which a stage runs them."""
    forwards: list[Operation] = []
    backwards: list[Operation] = []
    parts = groups(micro_batches, stages) if chunks > 1 else [range(micro_batches)]
    for members in parts:
        forwards += [Operation("F", c, i) for c in range(chunks) for i in members]
        backwards += [Operation("B", c, i) for c in reversed(range(chunks)) for i in members]
    return tuple(forwards), tuple(backwards)


def alternate(forwards: Order, backwards: Order, depth: int) -> Order:
    """``depth`` forwards, then one backward and one forward in turn, then the other backwards."""
    order = list(forwards[:depth])
    for done, backward in enumerate(backwards):
        order.append(backward)
        if done + depth < len(forwards):
            order.append(forwards[done + depth])
    return tuple(order)


def orders(depths: Sequence[int], chunks: int, micro_batches: int) -> tuple[Order, ...]:
    """Operations of every stage at these depths, at most all pairs."""
    forwards, backwards = sequences(micro_batches, len(depths), chunks)
    total = micro_batches * chunks
    return tuple(alternate(forwards, backwards, min(depth, total)) for depth in depths)


def formula_time(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    micro_batches: int,
    chunks: int,
) -> int:
    """``fill + (m - 1) * takt`` of stages that take so long for all of their chunks.

    In pairs of a chunk and a micro-batch this is the formula of 1F1B: m·v pairs of g/v each. The
    first round of chunks fills the pipeline; the other v - 1 rounds before the steady state wait
    for their hops only, and so do those after it.
    """
    fill = fill_time(forward_ps, backward_ps, hop_ps, chunks)
    return fill + (micro_batches - 1) * takt(forward_ps, backward_ps, hop_ps, chunks)


def takt(
    forward_ps: Sequence[int], backward_ps: Sequence[int], hop_ps: Sequence[int], chunks: int
) -> int:
    """Least time between two micro-batches: the slowest stage, or channel with all its chunks."""
    slowest = max(f + b for f, b in zip(forward_ps, backward_ps, strict=True))
    return max(slowest, chunks * max(hop_ps))


def fill_time(
    forward_ps: Sequence[int], backward_ps: Sequence[int], hop_ps: Sequence[int], chunks: int
) -> int:
    """Formula time of a single micro-batch: the takt, and a v-th of the other stages."""
    tau = takt(forward_ps, backward_ps, hop_ps, chunks)
    others = sum(forward_ps) + sum(backward_ps) - tau
    return tau + -(-others // chunks) + 2 * chunks * sum(hop_ps[:-1])


def lower_bound_time(
    forward_ps: Sequence[Sequence[int]],
    backward_ps: Sequence[Sequence[int]],
    hop_ps: Sequence[int],
    micro_batches: int,
) -> int:
    """A proved lower bound on :func:`exact_time`, whatever the order of the operations.

    For every stage j: the first input reaches it after the first chunks of the stages before it,
    and what follows its last backward of its first chunk are their backwards of the first chunk;
    between the two it works m micro-batches through all its chunks.
    """
    before, best = 0, 0
    for j, (forward, backward) in enumerate(zip(forward_ps, backward_ps, strict=True)):
        best = max(best, before + micro_batches * (sum(forward) + sum(backward)))
        before += forward[0] + backward[0] + 2 * hop_ps[j]
    return best


def most_held(order: Order, chunk_bytes: Sequence[int]) -> tuple[int, ...]:
    """Micro-batches of every chunk that a stage holds when these bytes are at their peak."""
    held = [0] * len(chunk_bytes)
    now, peak, most = 0, -1, tuple(held)
    for op in order:
        if op.kind == "F":
            held[op.chunk] += 1
            now += chunk_bytes[op.chunk]
            if now > peak:
                peak, most = now, tuple(held)
        else:
            held[op.chunk] -= 1
            now -= chunk_bytes[op.chunk]
    return most


class Deadlock(ValueError):
    """Stages that wait for one another forever; ``stage`` is the first of them."""

    def __init__(self, stage: int) -> None:
        super().__init__(f"the schedule deadlocks at stage {stage}")
        self.stage = stage


def exact_time(
    forward_ps: Sequence[Sequence[int]],
    backward_ps: Sequence[Sequence[int]],
    hop_ps: Sequence[int],
    depths: Sequence[int],
    micro_batches: int,
) -> ExactTimes:
    """Solve the recurrence: each operation of each stage starts as soon as it may.

    ``hop_ps`` has an entry per stage. Raises :class:`Deadlock` where the depths make stages wait
    for one another, ``ValueError`` where the vectors do not describe one pipeline.
    """
    stages, chunks = _check(forward_ps, backward_ps, hop_ps, depths, micro_batches)
    plans = orders(depths, chunks, micro_batches)
    last = stages * chunks - 1
    # when the input of (virtual stage, micro-batch) is there; gradients of the last chunk are
    # there as soon as its forward has ended
    given: list[dict[int, int]] = [{} for _ in range(last + 1)]
    returned: list[dict[int, int]] = [{} for _ in range(last + 1)]
    given[0] = dict.fromkeys(range(micro_batches), 0)
    free, down, up = [0] * stages, [0] * stages, [0] * stages
    position, waiting = [0] * stages, list(range(stages))
    while waiting:
        moved = []
        for s in waiting:
            order, at, now = plans[s], position[s], free[s]
            before = at
            while at < len(order):
                op = order[at]
                virtual = op.chunk * stages + s
                ready = (given if op.kind == "F" else returned)[virtual].get(op.micro_batch)
                if ready is None:
                    break
                now = max(now, ready)
                if op.kind == "F":
                    now += forward_ps[s][op.chunk]
                    if virtual == last:
                        returned[virtual][op.micro_batch] = now
                    else:
                        down[s] = max(down[s], now) + hop_ps[s]
                        given[virtual + 1][op.micro_batch] = down[s]
                else:
                    now += backward_ps[s][op.chunk]
                    if virtual:
                        up[s] = max(up[s], now) + hop_ps[s - 1]
                        returned[virtual - 1][op.micro_batch] = up[s]
                at += 1
            position[s], free[s] = at, now
            if at > before:
                moved.append(s)
        stuck = [s for s in range(stages) if position[s] < len(plans[s])]
        if not moved and stuck:
            raise Deadlock(stuck[0])
        waiting = stuck
    return ExactTimes(max(free), tuple(free))


def stuck_stage(depths: Sequence[int], chunks: int, micro_batches: int) -> int | None:
    """The first stage that waits forever at these depths; None where all finish.

    Whether stages wait does not depend on how long anything takes. A stage that may hold nothing
    never starts.
    """
    if min(depths) < 1 or micro_batches < 1:
        return next((s for s, depth in enumerate(depths) if depth < 1), None)
    times = [[1] * chunks] * len(depths)
    try:
        exact_time(times, times, [0] * len(depths), depths, micro_batches)
    except Deadlock as found:
        return found.stage
    return None


def _check(
    forward_ps: Sequence[Sequence[int]],
    backward_ps: Sequence[Sequence[int]],
    hop_ps: Sequence[int],
    depths: Sequence[int],
    micro_batches: int,
) -> tuple[int, int]:
    """Numbers of stages and of chunks per stage."""
    stages = len(forward_ps)
    chunks = {len(own) for own in (*forward_ps, *backward_ps)}
    if stages < 1 or len(chunks) != 1 or micro_batches < 1 or min(depths, default=0) < 1:
        raise ValueError(
            f"{stages} stages of {sorted(chunks)} chunks, {micro_batches} micro-batches, depths "
            f"{tuple(depths)}: not a pipeline"
        )
    if not len(backward_ps) == len(hop_ps) == len(depths) == stages:
        raise ValueError(
            f"{stages} stages need as many backward times, hops and depths, got "
            f"{len(backward_ps)}, {len(hop_ps)} and {len(depths)}"
        )
    return stages, chunks.pop()
