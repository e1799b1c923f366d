"""The only conversion constants of the project.

Inside, everything is in seconds, bytes, bytes/s and FLOP/s. Data files and people speak other
units; a figure is multiplied by one of these where it enters and divided where it leaves.
"""

from __future__ import annotations

from typing import Final

PS_PER_S: Final = 10**12
"""Picoseconds in a second: cost tables hold whole picoseconds."""

US: Final = 1e-6
"""Seconds in a microsecond: a person's figure times this, where the last digit is free."""

US_PER_S: Final = 10**6
"""Microseconds in a second: dividing by it keeps 3.4 us the nearest number to 3.4e-6 s."""

MIB: Final = 2**20
"""Bytes in a mebibyte."""

GIB: Final = 2**30
"""Bytes in a gibibyte: what a memory label calls "GB"."""

GB: Final = 10**9
"""Bytes in a gigabyte: what a bandwidth calls "GB" in GB/s."""

GBIT: Final = 10**9 / 8
"""Bytes in a gigabit: what a network port calls "G" in 100G or Gb/s."""

TERA: Final = 10**12
"""FLOP/s in a TFLOP/s."""

S_PER_HOUR: Final = 3_600
"""Seconds in an hour: prices are per chip and hour."""

S_PER_DAY: Final = 86_400
"""Seconds in a day."""

W_PER_KW: Final = 10**3
"""Watts in a kilowatt."""


def bytes_of(precision: str) -> int:
    """Bytes of one stored activation or weight element in a precision.

    FP8 and FP4 training keep weights and activations in 16 bits and cast at the matrix products,
    so "fp8" and "fp4" take two bytes as well. Raises LookupError for an unknown precision.
    """
    try:
        return _ELEMENT_BYTES[precision]
    except KeyError:
        known = ", ".join(_ELEMENT_BYTES)
        raise LookupError(f"unknown precision {precision!r}; known: {known}") from None


_ELEMENT_BYTES: Final = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 2, "fp4": 2}
