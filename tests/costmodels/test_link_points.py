"""Measured messages over a link, and the times between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.link_points import LinkPoints

LINK = LinkPoints(4, ((1_000_000, 0.001), (10_000_000, 0.004), (100_000_000, 0.034)))


def test_a_measured_message_takes_its_measured_time():
    assert LINK.seconds(10_000_000) == 0.004


def test_between_two_messages_time_is_linear():
    assert LINK.seconds(5_500_000) == pytest.approx(0.0025)


def test_a_shorter_message_waits_as_long_as_the_shortest():
    assert LINK.seconds(10) == 0.001


def test_a_longer_message_goes_at_the_rate_of_the_longest():
    assert LINK.seconds(200_000_000) == pytest.approx(0.068)


def test_no_bytes_take_no_time():
    assert LINK.seconds(0) == 0


def test_bandwidth_and_latency_are_those_of_the_points():
    assert LINK.bandwidth == pytest.approx(100_000_000 / 0.034)
    assert LINK.latency_s == pytest.approx(0.001 - 1_000_000 * 0.034 / 100_000_000)


@pytest.mark.parametrize("points", [(), ((1, 0.1), (1, 0.2)), ((1, 0.2), (2, 0.1)), ((1, 0.0),)])
def test_points_that_do_not_increase_are_refused(points):
    with pytest.raises(ValueError, match="increase"):
        LinkPoints(1, points)


increasing = st.lists(
    st.tuples(st.integers(1, 10**8), st.floats(1e-6, 0.1)), min_size=1, max_size=6
).map(
    lambda steps: tuple(
        (sum(b for b, _ in steps[: n + 1]), sum(s for _, s in steps[: n + 1]))
        for n in range(len(steps))
    )
)


@given(increasing, st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_longer_message_never_arrives_earlier_nor_beats_the_bandwidth(points, one, other):
    link = LinkPoints(1, points)
    low, high = sorted((one, other))
    assert link.seconds(low) <= link.seconds(high)
    assert link.rate(high) <= link.bandwidth * (1 + 1e-9)
