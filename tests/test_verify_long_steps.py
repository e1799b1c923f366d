"""Steps of hours: seconds as floats tell picoseconds apart only up to 2^53 of them."""

from costmodels.units import PS_PER_S
from planner.verify.figures import _same

LONG_PS = 40_802_800_074_502_803
"""11 hours, and more than 2^53 ps."""


def test_a_long_time_agrees_with_the_float_that_states_it():
    assert round(LONG_PS / PS_PER_S * PS_PER_S) != LONG_PS
    assert _same(LONG_PS / PS_PER_S, LONG_PS)


def test_short_times_agree_to_the_picosecond():
    assert _same(12.5, 12_500_000_000_000)
    assert not _same(12.5, 12_500_000_000_001)
