"""The event engine against the recurrence where nothing is shared, and by hand where it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.schedules import depth_rule, exact_time, stage_order, takt
from planner.replay import Channel, DeadlockError, Lane, replay


def lane(
    forward: list[int],
    backward: list[int],
    hops: list[Channel],
    depths: list[int],
    micro_batches: int,
    up: list[Channel] | None = None,
) -> Lane:
    orders = tuple(stage_order("1f1b", d, micro_batches) for d in depths)
    back = hops if up is None else up
    times = [tuple((own,) for own in each) for each in (forward, backward)]
    return Lane(orders, times[0], times[1], tuple(hops), tuple(back))


@st.composite
def plain_pipelines(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int], int]:
    stages = draw(st.integers(1, 6))
    times = st.lists(st.integers(1, 500), min_size=stages, max_size=stages)
    forward, backward = draw(times), draw(times)
    hop = draw(st.lists(st.integers(0, 500), min_size=stages - 1, max_size=stages - 1))
    slack = draw(st.integers(0, 300))
    depths = list(depth_rule(forward, backward, hop, takt(forward, backward, hop) + slack))
    return forward, backward, hop, depths, draw(st.integers(1, 16))


@given(plain_pipelines())
def test_equals_the_recurrence_to_the_picosecond_where_nothing_is_shared(
    case: tuple[list[int], list[int], list[int], list[int], int],
) -> None:
    forward, backward, hop, depths, m = case
    (run,) = replay([lane(forward, backward, [Channel(h) for h in hop], depths, m)], [])
    ends = tuple(spans[-1][1] for spans in run.operations)
    assert ends == exact_time("1f1b", forward, backward, hop, depths, m).stage_last_backward_end


@given(plain_pipelines(), st.integers(0, 200))
def test_equals_the_recurrence_where_the_capacity_is_enough(
    case: tuple[list[int], list[int], list[int], list[int], int], latency: int
) -> None:
    forward, backward, hop, depths, m = case
    # All channels, both ways, over one port that has just room for all of them at once.
    hops = [Channel(h, min(h, latency), ((0, 3.0),)) for h in hop]
    (run,) = replay([lane(forward, backward, hops, depths, m)], [3.0 * 2 * max(1, len(hop))])
    ends = tuple(spans[-1][1] for spans in run.operations)
    assert ends == exact_time("1f1b", forward, backward, hop, depths, m).stage_last_backward_end


@given(plain_pipelines(), st.floats(0.05, 1.0))
def test_contention_never_makes_a_pipeline_faster(
    case: tuple[list[int], list[int], list[int], list[int], int], room: float
) -> None:
    forward, backward, hop, depths, m = case
    hops = [Channel(h, 0, ((0, 1.0),)) for h in hop]
    (run,) = replay([lane(forward, backward, hops, depths, m)], [room])
    assert run.end_ps >= exact_time("1f1b", forward, backward, hop, depths, m).total


def test_two_transfers_that_meet_on_a_full_port_take_twice_as_long() -> None:
    hop = [Channel(100, 0, ((0, 1.0),))]
    free = [Channel(100)]
    pair = [lane([10, 10], [20, 20], hop, [2, 1], 1, up=free) for _ in range(2)]
    for run in replay(pair, [1.0]):
        assert run.activations == (((10, 210),),)
        assert run.end_ps == 210 + 10 + 20 + 100 + 20


def test_a_transfer_speeds_up_again_when_the_other_has_ended() -> None:
    # A flows 0-300 alone at first; B joins at 100 and needs 100 alone. Both go at half speed
    # until B is done at 300; A then has 100 left.
    slow = lane([0, 1], [0, 1], [Channel(300, 0, ((0, 1.0),))], [2, 1], 1, up=[Channel(0)])
    late = lane([100, 1], [0, 1], [Channel(100, 0, ((0, 1.0),))], [2, 1], 1, up=[Channel(0)])
    first, second = replay([slow, late], [1.0])
    assert second.activations == (((100, 300),),)
    assert first.activations == (((0, 400),),)


def test_latency_passes_at_full_speed_and_occupies_nothing() -> None:
    # B's bytes start to flow when A's have all arrived.
    quick = lane([0, 1], [0, 1], [Channel(50, 0, ((0, 1.0),))], [2, 1], 1, up=[Channel(0)])
    far = lane([0, 1], [0, 1], [Channel(90, 50, ((0, 1.0),))], [2, 1], 1, up=[Channel(0)])
    first, second = replay([quick, far], [1.0])
    assert (first.activations, second.activations) == ((((0, 50),),), (((0, 90),),))


def test_a_small_flow_suffers_as_much_as_a_large_one() -> None:
    large = lane([0, 1], [0, 1], [Channel(100, 0, ((0, 3.0),))], [2, 1], 1, up=[Channel(0)])
    small = lane([0, 1], [0, 1], [Channel(100, 0, ((0, 1.0),))], [2, 1], 1, up=[Channel(0)])
    runs = replay([large, small], [2.0])
    assert [run.activations for run in runs] == [(((0, 200),),)] * 2


def test_a_flow_goes_at_the_worst_ratio_on_its_way() -> None:
    both = lane([0, 1], [0, 1], [Channel(100, 0, ((0, 4.0), (1, 4.0)))], [2, 1], 1)
    (run,) = replay([both], [2.0, 1.0])
    assert run.activations == (((0, 400),),)


def test_activations_and_gradients_of_one_hop_do_not_disturb_each_other() -> None:
    down = [Channel(40, 0, ((0, 1.0),))]
    up = [Channel(40, 0, ((1, 1.0),))]
    (run,) = replay([lane([10, 10], [20, 20], down, [4, 1], 8, up=up)], [1.0, 1.0])
    assert run.end_ps == exact_time("1f1b", [10, 10], [20, 20], [40], [4, 1], 8).total


def test_a_deadlock_is_an_error_and_not_an_endless_wait() -> None:
    with pytest.raises(DeadlockError, match="2 stages wait"):
        replay([lane([1, 1], [1, 1], [Channel(0)], [1, 2], 4)], [])
