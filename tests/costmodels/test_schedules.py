"""Schedules against hand-worked cases, a naive replay, and the two proved bounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from costmodels.schedules import (
    PERIOD_TOLERANCE,
    Op,
    best_depths,
    depth_rule,
    exact_time,
    fill,
    formula_time,
    lower_bound_time,
    period,
    stage_order,
    takt,
    upper_bound_time,
)

Times = tuple[list[int], list[int], list[int]]


@st.composite
def pipelines(
    draw: st.DrawFn, max_time: int = 1000, max_hop: int = 1000, max_stages: int = 8
) -> Times:
    stages = draw(st.integers(1, max_stages))
    time = st.integers(1, max_time)
    forward = draw(st.lists(time, min_size=stages, max_size=stages))
    backward = draw(st.lists(time, min_size=stages, max_size=stages))
    hop = draw(st.lists(st.integers(0, max_hop), min_size=stages - 1, max_size=stages - 1))
    return forward, backward, hop


@st.composite
def with_depths(draw: st.DrawFn) -> tuple[Times, tuple[int, ...]]:
    """Depths by the rule, by the rule for a takt that is not reached, capped, or arbitrary."""
    times = draw(pipelines())
    kind = draw(st.sampled_from(["rule", "too-deep", "capped", "any"]))
    if kind == "any":
        stages = len(times[0])
        depths = draw(st.lists(st.integers(1, 12), min_size=stages, max_size=stages))
        return times, tuple(sorted(depths, reverse=True))
    best = takt(*times)
    wanted = max(1, best // draw(st.integers(1, 3))) if kind == "too-deep" else best
    rule = depth_rule(*times, wanted)
    cap = draw(st.integers(1, rule[0])) if kind == "capped" else rule[0]
    return times, tuple(min(cap, d) for d in rule)


def replay(orders: Sequence[Sequence[Op]], times: Times, micro_batches: int) -> tuple[int, ...]:
    """Last backward of each stage by brute force: run whatever can run until nothing is left."""
    forward, backward, hop = times
    stages = len(forward)
    ready = {("F", 0, i): 0 for i in range(micro_batches)}
    ready |= {("B", stages - 1, i): 0 for i in range(micro_batches)}
    done, free = [0] * stages, [0] * stages
    channel = {("F", s): 0 for s in range(stages)} | {("B", s): 0 for s in range(stages)}
    progress = True
    while progress:
        progress = False
        for s in range(stages):
            while done[s] < len(orders[s]):
                kind, i = orders[s][done[s]]
                if (kind, s, i) not in ready:
                    break
                work = forward[s] if kind == "F" else backward[s]
                free[s] = max(free[s], ready[kind, s, i]) + work
                done[s] += 1
                progress = True
                target = s + 1 if kind == "F" else s - 1
                if 0 <= target < stages:
                    start = max(channel[kind, s], free[s])
                    channel[kind, s] = start + hop[min(s, target)]
                    ready[kind, target, i] = channel[kind, s]
    assert done == [2 * micro_batches] * stages, "the schedule deadlocked"
    return tuple(free)


def test_order_of_one_f_one_b_warms_up_alternates_and_drains() -> None:
    order = stage_order("1f1b", in_flight=2, micro_batches=3)
    assert order == (("F", 0), ("F", 1), ("B", 0), ("F", 2), ("B", 1), ("B", 2))


def test_gpipe_runs_every_forward_before_any_backward() -> None:
    order = stage_order("gpipe", in_flight=1, micro_batches=3)
    assert order == (("F", 0), ("F", 1), ("F", 2), ("B", 0), ("B", 1), ("B", 2))


@given(st.integers(1, 12), st.integers(1, 12))
def test_a_stage_never_holds_more_than_its_depth(in_flight: int, micro_batches: int) -> None:
    held, most = 0, 0
    for kind, _ in stage_order("1f1b", in_flight, micro_batches):
        held += 1 if kind == "F" else -1
        most = max(most, held)
    assert (held, most) == (0, min(in_flight, micro_batches))


def test_one_stage_takes_its_work_and_nothing_else() -> None:
    assert exact_time("1f1b", [3], [5], [], [1], 7).total == 7 * (3 + 5)


def test_equal_stages_with_free_hops_take_m_plus_s_minus_1_slots() -> None:
    forward, backward, hop = [1] * 4, [2] * 4, [0] * 3
    assert exact_time("1f1b", forward, backward, hop, [4, 3, 2, 1], 10).total == (10 + 4 - 1) * 3


def test_two_stages_worked_by_hand() -> None:
    # F0 0-2 | hop 2-3 | F0 3-5 B0 5-8 | hop 8-9 | B0 9-12 at stage 0, which did F1 2-4 meanwhile:
    # F1 arrives at 5, runs 8-10, B1 10-13, hop 13-14, B1 14-17.
    times = exact_time("1f1b", [2, 2], [3, 3], [1], [2, 1], 2)
    assert times.stage_last_backward_end == (17, 13)


def test_a_shallow_pipeline_waits_for_the_round_trip() -> None:
    forward, backward, hop = [10, 10], [20, 20], [30]
    assert period(forward, backward, hop, (2, 1)) == (30 + 30 + 2 * 30) // 2
    assert period(forward, backward, hop, (4, 1)) == 30


def test_depth_rule_is_the_classic_depth_when_hops_are_free_and_stages_equal() -> None:
    assert depth_rule([1] * 4, [2] * 4, [0] * 3, 3) == (4, 3, 2, 1)


def test_depth_rule_goes_deeper_when_hops_are_slow() -> None:
    assert depth_rule([1] * 3, [2] * 3, [1, 1], 3) == (5, 3, 1)


@given(pipelines(), st.integers(0, 2000))
def test_the_depth_rule_sustains_its_takt(times: Times, slack: int) -> None:
    wanted = takt(*times) + slack
    assert period(*times, depth_rule(*times, wanted)) <= wanted


@given(pipelines(max_stages=4), st.data())
def test_no_depths_within_the_limits_have_a_shorter_period(times: Times, data: st.DataObject):
    count = len(times[0])
    limits = [data.draw(st.integers(1, 7)) for _ in range(count)]
    found = best_depths(*times, limits, depth_rule(*times, takt(*times)))
    # depths fall along the pipeline, and the last stage holds one micro-batch
    every = [(*deeper[::-1], 1) for deeper in combinations(range(2, 8), count - 1)]
    legal = [d for d in every if all(own <= most for own, most in zip(d, limits))]
    assert (found is None) == (not legal)
    if found is not None:
        assert all(own <= most for own, most in zip(found, limits))
        least = min(period(*times, d) for d in legal)
        assert period(*times, found) <= least * (1 + PERIOD_TOLERANCE) + 1


def test_a_stage_behind_one_that_memory_cuts_short_is_better_shallow() -> None:
    """Four equal stages, hops as long as a stage; the second one has room for five, not seven."""
    times = [1] * 4, [2] * 4, [3] * 3
    assert depth_rule(*times, 3) == (10, 7, 4, 1)
    # the second and the third stage and the hops between take 12; 5 - 4 + 1 micro-batches share it
    assert period(*times, (10, 5, 4, 1)) == 12 // 2
    assert best_depths(*times, (10, 5, 4, 1), (10, 7, 4, 1)) == (7, 5, 3, 1)
    # from the second to the last: 21 among 5 - 1 + 1, which is as much as any depths allow
    assert period(*times, (7, 5, 3, 1)) == -(-21 // 5)
    deep, shallow = (exact_time("1f1b", *times, d, 100) for d in ((10, 5, 4, 1), (7, 5, 3, 1)))
    assert (deep.total, shallow.total) == (615, 453)


def test_rejects_depths_that_deadlock() -> None:
    with pytest.raises(ValueError, match="deadlocks"):
        exact_time("1f1b", [1, 1], [1, 1], [0], [1, 2], 4)


def test_rejects_vectors_of_different_pipelines() -> None:
    with pytest.raises(ValueError, match="2 stages needs 2 backward times and 1 hops"):
        formula_time([1, 1], [1], [], 1, [1, 1])


@given(with_depths(), st.integers(1, 20), st.sampled_from(["1f1b", "gpipe"]))
def test_recurrence_equals_a_naive_replay_and_never_deadlocks(
    case: tuple[Times, tuple[int, ...]], micro_batches: int, schedule: str
) -> None:
    times, depths = case
    name = "gpipe" if schedule == "gpipe" else "1f1b"
    orders = [stage_order(name, d, micro_batches) for d in depths]
    ends = exact_time(name, *times, depths, micro_batches).stage_last_backward_end
    assert ends == replay(orders, times, micro_batches)


@settings(max_examples=300)
@given(with_depths(), st.integers(1, 40))
def test_the_exact_time_lies_between_the_proved_bounds(
    case: tuple[Times, tuple[int, ...]], micro_batches: int
) -> None:
    times, depths = case
    exact = exact_time("1f1b", *times, depths, micro_batches).total
    assert lower_bound_time(*times, depths, micro_batches) <= exact
    assert exact <= upper_bound_time(*times, depths, micro_batches)


@settings(max_examples=300)
@given(with_depths(), st.integers(1, 40))
def test_the_formula_is_an_upper_bound_when_slowest_forward_and_backward_fit_one_period(
    case: tuple[Times, tuple[int, ...]], micro_batches: int
) -> None:
    (forward, backward, hop), depths = case
    slowest = max(*forward, *hop, 0) + max(*backward, *hop, 0)
    assume(slowest <= period(forward, backward, hop, depths))
    exact = exact_time("1f1b", forward, backward, hop, depths, micro_batches).total
    assert exact <= formula_time(forward, backward, hop, micro_batches, depths)


@given(pipelines(), st.integers(1, 20))
def test_the_formula_is_an_upper_bound_for_gpipe(times: Times, micro_batches: int) -> None:
    depths = [micro_batches] * len(times[0])
    exact = exact_time("gpipe", *times, depths, micro_batches).total
    assert exact <= formula_time(*times, micro_batches, depths, "gpipe")
    assert exact <= upper_bound_time(*times, depths, micro_batches)
    assert exact >= lower_bound_time(*times, depths, micro_batches)


@pytest.mark.parametrize(
    ("forward", "backward", "hop", "micro_batches"),
    [
        # Bottlenecks whose b/f differ (one recomputes), with small stages behind them: the first
        # stage hands all its forwards over late, the second still has its long backwards to do.
        ([250, 333] + [5] * 10, [750, 666] + [14] * 10, [0] * 11, 10),
        # A channel slower than any stage: it is full once with forwards, then once with gradients.
        ([100] * 4, [200] * 4, [400, 0, 0], 4),
    ],
    ids=["mixed-recomputation", "slow-channel"],
)
def test_the_formula_alone_is_not_an_upper_bound(
    forward: list[int], backward: list[int], hop: list[int], micro_batches: int
) -> None:
    depths = depth_rule(forward, backward, hop, takt(forward, backward, hop))
    exact = exact_time("1f1b", forward, backward, hop, depths, micro_batches).total
    assert exact > formula_time(forward, backward, hop, micro_batches, depths)
    assert exact <= upper_bound_time(forward, backward, hop, depths, micro_batches)


@given(pipelines(), st.integers(1, 12))
def test_one_micro_batch_takes_the_fill(times: Times, in_flight: int) -> None:
    depths = [in_flight] * len(times[0])
    assert exact_time("1f1b", *times, depths, 1).total == fill(*times)


@given(with_depths(), st.integers(1, 20), st.integers(2, 9))
def test_scaling_every_time_scales_the_step(
    case: tuple[Times, tuple[int, ...]], micro_batches: int, factor: int
) -> None:
    times, depths = case
    scaled = [[factor * x for x in vector] for vector in times]
    once = exact_time("1f1b", *times, depths, micro_batches).total
    assert exact_time("1f1b", *scaled, depths, micro_batches).total == factor * once


@given(with_depths(), st.integers(1, 20))
def test_more_depth_never_raises_the_proved_lower_bound(
    case: tuple[Times, tuple[int, ...]], micro_batches: int
) -> None:
    times, depths = case
    deeper = [d + 1 for d in depths]
    bound = lower_bound_time(*times, depths, micro_batches)
    assert lower_bound_time(*times, deeper, micro_batches) <= bound
