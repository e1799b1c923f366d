"""Gradients packed between hosts: what they shrink to, and what packing takes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.catalog import load_catalog
from costmodels.compression import Compression, CompressionName, compression_of
from costmodels.constants import shipped_constants
from costmodels.memory import StateBytes

MIXED = StateBytes(2, 2, 12)
WIDE = StateBytes(2, 4, 12)
FORMS: tuple[CompressionName, ...] = ("fp16", "fp8", "int4")
A100 = load_catalog().get("A100-SXM-80GB")


def test_a_scale_of_four_bytes_serves_256_values() -> None:
    assert Compression("fp16", MIXED, 1).packed == 2
    assert Compression("fp8", MIXED, 1).packed == 1 + Fraction(1, 64)
    assert Compression("int4", MIXED, 1).packed == Fraction(1, 2) + Fraction(1, 64)


def test_under_zero_1_the_weights_that_come_back_keep_their_width() -> None:
    """2 + 2 bytes become 1 1/64 + 2; in an all-reduce of 2 + 2 both ways shrink."""
    assert Compression("fp8", MIXED, 1).ratio == Fraction(193, 256)
    assert Compression("fp8", MIXED, 0).ratio == Fraction(65, 128)
    assert Compression("fp8", MIXED, 1).exchanged_bytes(256) == 193
    assert Compression("fp8", MIXED, 1).exchanged_bytes(257) == 194


def test_what_saves_nothing_is_no_compression() -> None:
    assert compression_of("none", MIXED, 1) is None
    assert compression_of("fp16", MIXED, 1) is None
    assert compression_of("fp16", WIDE, 1) is not None


def test_packing_streams_memory_once_per_pass_there_and_back() -> None:
    """10⁹ gradients of 2 bytes and 65/64 packed, twice, at the achieved share of 2 TB/s."""
    c = shipped_constants()
    once = 2e9 * (2 + 65 / 64) / (A100.memory_bandwidth * c.stream) + 2 * c.launch_s
    assert Compression("fp8", MIXED, 1).packing_s(1e9, A100) == pytest.approx(once)
    assert Compression("fp8", MIXED, 0).packing_s(1e9, A100) == pytest.approx(2 * once)
    assert Compression("fp8", MIXED, 1).packing_s(1e9, A100, derate=0.5) == pytest.approx(2 * once)


@given(
    st.sampled_from((MIXED, WIDE)),
    st.integers(0, 1),
    st.integers(0, 10**12),
    st.floats(1.0, 8.0),
)
def test_fewer_bits_and_faster_memory_are_never_slower(
    state: StateBytes, zero_level: int, size: int, faster: float
) -> None:
    forms = [Compression(name, state, zero_level) for name in FORMS]
    sent = [form.exchanged_bytes(size) for form in forms]
    assert sent == sorted(sent, reverse=True)
    times = [form.packing_s(size, A100) for form in forms]
    assert times == sorted(times, reverse=True)
    quick = replace(A100, memory_bandwidth=faster * A100.memory_bandwidth)
    for form, time in zip(forms, times, strict=True):
        assert form.packing_s(size, quick) <= time
        assert form.exchanged_bytes(size + 1) >= form.exchanged_bytes(size)
