"""Bandwidths and memory sizes carry their unit, and come back exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.inputs.quantities import (
    describe_bandwidth,
    format_bandwidth,
    format_memory,
    parse_bandwidth,
    parse_memory,
)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("100 Gb/s", 12_500_000_000),
        ("100Gbps", 12_500_000_000),
        ("12.5 GB/s", 12_500_000_000),
        ("400 Gbit/s", 50_000_000_000),
        ("1.6 Tb/s", 200_000_000_000),
        ("500 MB/s", 500_000_000),
    ],
)
def test_bits_are_an_eighth_of_bytes(text, bytes_per_s):
    assert parse_bandwidth(text) == bytes_per_s


@pytest.mark.parametrize("value", [100, 100.0, "100"])
def test_a_bare_bandwidth_is_an_error_that_names_both_units(value):
    with pytest.raises(ValueError, match="has no unit") as caught:
        parse_bandwidth(value)
    assert "Gb/s' (bits)" in caught.value.context["remedy"]
    assert "GB/s' (bytes, 8 times as much)" in caught.value.context["remedy"]


def test_a_stray_bandwidth_is_an_error():
    with pytest.raises(ValueError, match="47,775 GB/s, more than any link"):
        parse_bandwidth("47775 GB/s")


def test_zero_bandwidth_is_an_error():
    with pytest.raises(ValueError, match="carries nothing"):
        parse_bandwidth("0 GB/s")


@pytest.mark.parametrize("text", ["fast", "100 G", "100 Gb", "-5 GB/s", "1e3 GB/s", ""])
def test_text_that_is_no_bandwidth_is_an_error(text):
    with pytest.raises(ValueError, match="not a bandwidth"):
        parse_bandwidth(text)


def test_gib_and_gb_differ_by_seven_percent():
    assert parse_memory("80 GiB") / parse_memory("80 GB") == pytest.approx(1.0737, rel=1e-4)


def test_a_bare_memory_size_is_an_error():
    with pytest.raises(ValueError, match="has no unit"):
        parse_memory("80")


@given(st.integers(1, 10**13))
def test_any_bandwidth_survives_writing_and_reading(bytes_per_s):
    assert parse_bandwidth(format_bandwidth(bytes_per_s)) == bytes_per_s


@given(st.integers(0, 2**50))
def test_any_memory_size_survives_writing_and_reading(size):
    assert parse_memory(format_memory(size)) == size


def test_both_units_are_shown_to_people():
    assert describe_bandwidth(12.5e9) == "100 Gb/s (12.5 GB/s)"
