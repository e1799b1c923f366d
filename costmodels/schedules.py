"""Pipeline schedules: order of operations, depth, period, and the time of a step.

A pipeline has S stages. Stage s spends ``forward_ps[s]`` (f) and ``backward_ps[s]`` (b) on one
micro-batch, g = f + b; the hop s -> s+1 takes ``hop_ps[s]`` (h) in either direction. All times
are integer picoseconds, so sums are the same in any order and on any machine.

Model of a hop: the activations of micro-batch i leave stage s when F_i ends, occupy the channel
s -> s+1 for h (one transfer at a time, first in first out) and are then available; gradients do
the same on the opposite channel (full duplex). A stage does one operation at a time.

Three figures, never mixed:

* :func:`exact_time` solves the max-plus recurrence of the schedule: what happens when every
  operation takes its time and nothing is contended;
* :func:`formula_time` is ``fill + (m - 1) * period``, additive over stages: the objective of the
  integer program;
* :func:`lower_bound_time` and :func:`upper_bound_time` enclose :func:`exact_time` (both proved).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["1f1b", "gpipe", "interleaved"]
"""Interleaved ones have functions of their own (:mod:`costmodels.interleaved`); here they raise
``ValueError``."""
Op = tuple[Literal["F", "B"], int]
PERIOD_TOLERANCE = 1e-5
"""Relative precision of the least period within depth limits."""


@dataclass(frozen=True, slots=True)
class ExactTimes:
    """What the recurrence gives, in picoseconds after the step began.

    ``stage_last_backward_end[s]`` is when stage s has its gradients and may synchronise them;
    ``total`` is the greatest of them.
    """

    total: int
    stage_last_backward_end: tuple[int, ...]


def stage_order(schedule: ScheduleName, in_flight: int, micro_batches: int) -> tuple[Op, ...]:
    """The operations of one stage in order: ``("F", i)`` and ``("B", i)``.

    1F1B with depth D starts min(D, m) forwards, then alternates one backward and one forward,
    then drains. GPipe is 1F1B with D = m. Both run backwards in the order of the forwards.
    Raises ``ValueError`` for a depth or a number of micro-batches below one.
    """
    if in_flight < 1 or micro_batches < 1:
        raise ValueError(
            f"in_flight and micro_batches must be at least 1, got {in_flight} and {micro_batches}"
        )
    depth = _effective(schedule, in_flight, micro_batches)
    order: list[Op] = [("F", i) for i in range(depth)]
    for i in range(micro_batches):
        order.append(("B", i))
        if i + depth < micro_batches:
            order.append(("F", i + depth))
    return tuple(order)


def fill(forward_ps: Sequence[int], backward_ps: Sequence[int], hop_ps: Sequence[int]) -> int:
    """Time of one micro-batch alone, down and up the pipeline: sum of g plus twice sum of h."""
    return sum(forward_ps) + sum(backward_ps) + 2 * sum(hop_ps)


def takt(forward_ps: Sequence[int], backward_ps: Sequence[int], hop_ps: Sequence[int]) -> int:
    """Least time between two micro-batches at any depth: the slowest stage or channel."""
    slowest = max(f + b for f, b in zip(forward_ps, backward_ps, strict=True))
    return max(slowest, max(hop_ps, default=0))


def depth_rule(
    forward_ps: Sequence[int], backward_ps: Sequence[int], hop_ps: Sequence[int], takt_ps: int
) -> tuple[int, ...]:
    """Micro-batches in flight per stage that sustain one micro-batch every ``takt_ps``.

    The last stage holds 1; a stage holds at least one more than the next one, and enough that
    every round trip s -> j -> s is covered: D_s >= D_j - 1 + ceil(A_sj / takt) with A_sj the sum
    of g over s..j plus twice the hops between. With these depths :func:`period` is at most
    ``takt_ps``, provided that this is no less than :func:`takt`.
    Raises ``ValueError`` when ``takt_ps`` is not positive.
    """
    if takt_ps < 1:
        raise ValueError(f"takt_ps must be positive, got {takt_ps}")
    stages = _check(forward_ps, backward_ps, hop_ps)
    depths = [1] * stages
    # from the end of the last stage backwards: A_sj = (where j ends) - (where s begins)
    begins = -(forward_ps[-1] + backward_ps[-1])
    latest = 0  # over j > s: where j ends, and D_j - 1 takts later
    for s in range(stages - 2, -1, -1):
        ends = begins - 2 * hop_ps[s]
        begins = ends - forward_ps[s] - backward_ps[s]
        depth = max(depths[s + 1] + 1, -(-(latest - begins) // takt_ps))
        depths[s] = depth
        latest = max(latest, ends + (depth - 1) * takt_ps)
    return tuple(depths)


def period(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    depths: Sequence[int],
) -> int:
    """Time between two micro-batches in the steady state of 1F1B at these depths, rounded up.

    The greatest cycle mean of the schedule: the slowest stage, the slowest channel, or a round
    trip s -> j -> s that only D_s - D_j + 1 micro-batches share.
    Raises ``ValueError`` where depths increase along the pipeline (such a schedule deadlocks).
    """
    stages = _check(forward_ps, backward_ps, hop_ps, depths)
    longest = takt(forward_ps, backward_ps, hop_ps)
    for s in range(stages - 1):
        trip = forward_ps[s] + backward_ps[s]
        for j in range(s + 1, stages):
            trip += forward_ps[j] + backward_ps[j] + 2 * hop_ps[j - 1]
            longest = max(longest, -(-trip // (depths[s] - depths[j] + 1)))
    return longest


def best_depths(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    limits: Sequence[int],
    wanted: tuple[int, ...],
) -> tuple[int, ...] | None:
    """Depths within ``limits`` with the least period; None where the classic depths do not fit.

    ``wanted``: what :func:`depth_rule` asks for at the takt. It asks for no more as the period
    grows, so bisection finds the least period that it grants within the limits.
    """
    count = len(forward_ps)
    if any(limit < count - s for s, limit in enumerate(limits)):
        return None
    low = takt(forward_ps, backward_ps, hop_ps)

    def within(tau: int) -> tuple[int, ...] | None:
        depths = depth_rule(forward_ps, backward_ps, hop_ps, tau)
        return depths if all(d <= m for d, m in zip(depths, limits)) else None

    if all(d <= m for d, m in zip(wanted, limits)):
        return wanted
    classic = tuple(range(count, 0, -1))
    high = period(forward_ps, backward_ps, hop_ps, classic)
    best = within(high) or classic
    while high - low > 1 and (high - low) > high * PERIOD_TOLERANCE:
        middle = (low + high) // 2
        found = within(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def formula_time(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    micro_batches: int,
    depths: Sequence[int],
    schedule: ScheduleName = "1f1b",
) -> int:
    """``fill + (m - 1) * period``: additive over stages and easy to optimise.

    For GPipe the period is the slowest forward (or hop) plus the slowest backward (or hop), and
    the formula is an upper bound on :func:`exact_time`. For 1F1B it is one where the slowest
    forward (or hop) plus the slowest backward (or hop) fit into one period, which they do not where
    a stage far behind in b/f follows some far ahead, or a hop is slower than every stage: see
    :func:`upper_bound_time`.
    """
    _check(forward_ps, backward_ps, hop_ps, depths)
    if schedule == "interleaved":
        raise ValueError("costmodels.interleaved prices interleaved schedules")
    if schedule == "gpipe":
        hop = max(hop_ps, default=0)
        tau = max(hop, *forward_ps) + max(hop, *backward_ps)
    else:
        tau = period(forward_ps, backward_ps, hop_ps, depths)
    return fill(forward_ps, backward_ps, hop_ps) + (micro_batches - 1) * tau


def exact_time(
    schedule: ScheduleName,
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    depths: Sequence[int],
    micro_batches: int,
) -> ExactTimes:
    """Solve the recurrence of the schedule: each operation starts as soon as it may.

    Round k runs, down the pipeline, the forward that each stage does just before its backward of
    micro-batch k, then up the pipeline the backwards of k. Depths that never increase along the
    pipeline make this a valid order of evaluation, and free of deadlock.
    Raises ``ValueError`` where depths increase (after capping at ``micro_batches``).
    """
    if micro_batches < 1:
        raise ValueError(f"micro_batches must be at least 1, got {micro_batches}")
    capped = tuple(_effective(schedule, d, micro_batches) for d in depths)
    stages = _check(forward_ps, backward_ps, hop_ps, capped)
    last = stages - 1
    down = (*hop_ps, 0)  # the hop that a stage's forward sends into
    free = [0] * stages  # when the stage may begin its next operation
    arrived: list[list[int]] = [[] for _ in range(stages + 1)]
    arrived[0] = [0] * micro_batches

    for s in range(stages):  # warm-up: D_s forwards, all but the last outside the rounds
        f, h, now, channel = forward_ps[s], down[s], 0, 0
        for ready in arrived[s][: capped[s]]:
            now = (ready if ready > now else now) + f
            channel = (now if now > channel else channel) + h
            arrived[s + 1].append(channel)
        free[s] = now

    forwards = list(zip(range(stages), forward_ps, down, capped, arrived, arrived[1:]))
    upwards = list(zip(range(last, -1, -1), backward_ps[::-1], (0, *hop_ps)[::-1]))
    channels = [0] * stages  # when the gradient channel into s - 1 is free
    for k in range(micro_batches):
        if k:
            for s, f, h, depth, queue, sent in forwards:
                i = k + depth - 1
                if i < micro_batches:
                    ready, now = queue[i], free[s]
                    free[s] = now = (ready if ready > now else now) + f
                    channel = sent[-1]
                    sent.append((now if now > channel else channel) + h)
        gradient = 0
        for s, b, h in upwards:
            now = free[s]
            free[s] = now = (gradient if gradient > now else now) + b
            gradient = channels[s]
            channels[s] = gradient = (now if now > gradient else gradient) + h
    return ExactTimes(max(free), tuple(free))


def lower_bound_time(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    depths: Sequence[int],
    micro_batches: int,
) -> int:
    """A proved lower bound on :func:`exact_time` of 1F1B at these depths (GPipe: depths = m).

    For every stage j, T(m) >= P_j + m * g_j + I_j. F_0 reaches j after the forwards and hops
    before it, and once B_{m-1} has left j the backwards before it follow: P_j. Between the two,
    j works m * g_j and idles at least I_j: B_i starts no earlier than R_j (the round trip beyond
    j) after F_i ends, and in that window j can run at most D - 1 forwards (i = 0), D - 1
    backwards (i = m - 1) or D - 1 of each; the windows of i = 0, D, 2D, ... and m - 1 do not
    overlap. The bound falls in D, so an upper bound on a depth may stand in for it.
    """
    stages = _check(forward_ps, backward_ps, hop_ps, depths)
    m = micro_batches
    total = fill(forward_ps, backward_ps, hop_ps)
    before, best = 0, 0
    for j in range(stages):
        f, b = forward_ps[j], backward_ps[j]
        beyond = total - before - f - b
        waiting = depths[j] - 1
        if m > depths[j]:
            idle = max(0, beyond - waiting * f) + max(0, beyond - waiting * b)
            windows = max(0, (m - 1) // depths[j] - 1)
            idle += windows * max(0, beyond - waiting * (f + b))
        else:
            idle = max(0, beyond - (m - 1) * f, beyond - (m - 1) * b)
        best = max(best, before + m * (f + b) + idle)
        if j < stages - 1:
            before += f + b + 2 * hop_ps[j]
    return best


def upper_bound_time(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    depths: Sequence[int],
    micro_batches: int,
) -> int:
    """A proved upper bound on :func:`exact_time` of 1F1B at these depths (GPipe: depths = m).

    (m - 1) * period + max_j [A_0j + (min(D_j, m) - 1) * max(0, F_j + B_j - period)], where A_0j
    is the sum of g over 0..j plus twice the hops between, F_j the slowest forward or hop up to j
    and B_j the slowest backward or hop up to j. It equals the formula time wherever the slowest
    forward plus the slowest backward fit into one period.

    Proof: the step is the longest walk F_0 -> B_{m-1} at stage 0 through the event graph. Take
    ``period`` off per micro-batch advanced; then no cycle is positive, so that only three parts
    remain: forwards to a first turn at stage j, a simple path down to k and up to j', backwards
    from the last turn at j'. A turn F_i -> B_{i-D+1} needs i >= D - 1 (that many forwards in a
    row before the first one) and i <= m - 1 (that many backwards in a row after the last one).
    With one turn the rows cost at most (m-1) F_j + (D_j-1) B_j, or the same with F and B
    exchanged. With two, the round trip k..j or k..j' is at most (D_k - D_j + 1) periods, and
    what remains is at most A_0j + (D_j-1) (F_j + B_j - period) of the later stage.
    """
    stages = _check(forward_ps, backward_ps, hop_ps, depths)
    if min(depths) >= micro_batches:
        tau = formula_time(forward_ps, backward_ps, hop_ps, 2, depths, "gpipe")
        tau -= fill(forward_ps, backward_ps, hop_ps)
    else:
        tau = period(forward_ps, backward_ps, hop_ps, depths)
    trip, worst, slow_forward, slow_backward = 0, 0, 0, 0
    for j in range(stages):
        hop = hop_ps[j - 1] if j else 0
        trip += forward_ps[j] + backward_ps[j] + 2 * hop
        slow_forward = max(slow_forward, forward_ps[j], hop)
        slow_backward = max(slow_backward, backward_ps[j], hop)
        waiting = min(depths[j], micro_batches) - 1
        worst = max(worst, trip + waiting * max(0, slow_forward + slow_backward - tau))
    return worst + (micro_batches - 1) * tau


def _effective(schedule: ScheduleName, in_flight: int, micro_batches: int) -> int:
    """How many micro-batches a stage really holds at once."""
    if schedule == "interleaved":
        raise ValueError("costmodels.interleaved prices interleaved schedules")
    return micro_batches if schedule == "gpipe" else min(in_flight, micro_batches)


def _check(
    forward_ps: Sequence[int],
    backward_ps: Sequence[int],
    hop_ps: Sequence[int],
    depths: Sequence[int] | None = None,
) -> int:
    """Number of stages; ``ValueError`` where the vectors do not describe one pipeline."""
    stages = len(forward_ps)
    if stages < 1 or len(backward_ps) != stages or len(hop_ps) != stages - 1:
        raise ValueError(
            f"a pipeline of {stages} stages needs {stages} backward times and {stages - 1} hops, "
            f"got {len(backward_ps)} and {len(hop_ps)}"
        )
    if depths is not None:
        if len(depths) != stages or min(depths) < 1:
            raise ValueError(f"{stages} stages need as many depths of at least 1, got {depths}")
        for s in range(stages - 1):
            if depths[s] < depths[s + 1]:
                raise ValueError(
                    f"stage {s} holds {depths[s]} micro-batches and stage {s + 1} waits for "
                    f"{depths[s + 1]}: the schedule deadlocks"
                )
    return stages
