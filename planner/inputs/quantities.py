"""Field types for values that people write with a unit: bandwidths and memory sizes.

Inside, a bandwidth is an ``int`` of bytes per second and a memory size an ``int`` of bytes; in a
file both are strings that carry their unit, because a bare ``100`` has meant Gb/s, GB/s and
"both ways" to different people. Decimal arithmetic keeps the way there and back exact.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from planner.inputs.reading import field_error

_BYTE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

_NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"
_BANDWIDTH = re.compile(
    _NUMBER + r"\s*(?P<prefix>[KMGT]?)(?P<unit>b/s|bit/s|bps|B/s|Byte/s|byte/s)"
)
_MEMORY = re.compile(_NUMBER + r"\s*(?P<prefix>[KMGT]i?|)B")

_BARE = re.compile(r"\d+(?:\.\d+)?")

MAX_BANDWIDTH = 10 * 10**12
"""10 TB/s one way: ten times the fastest published scale-up link of one chip."""


def parse_bandwidth(value: object) -> int:
    """Bytes per second of ``"100 Gb/s"`` (bits) or ``"12.5 GB/s"`` (bytes).

    Raises PydanticCustomError, a ValueError, for a bare number, an unknown unit, zero, or more
    than 10 TB/s.
    """
    text = str(value).strip()
    match = _BANDWIDTH.fullmatch(text) if isinstance(value, str) else None
    if match is None:
        units = ("Gb/s' (bits)", "GB/s' (bytes, 8 times as much)")
        raise _unreadable(text, "a bandwidth", "100", *units)
    scale = Decimal(_BYTE_UNITS[match["prefix"]])
    if match["unit"] in ("b/s", "bit/s", "bps"):
        scale /= 8
    result = int((Decimal(match["number"]) * scale).to_integral_value())
    if result <= 0:
        raise field_error("carries nothing", "leave the link out instead")
    if result > MAX_BANDWIDTH:
        raise field_error(
            f"is {Decimal(result) / 10**9:,.0f} GB/s, more than any link carries one way",
            "check the unit: 1 Gb/s is an eighth of 1 GB/s",
        )
    return result


def parse_memory(value: object) -> int:
    """Bytes of ``"80 GiB"`` (2**30) or ``"80 GB"`` (10**9).

    Raises PydanticCustomError, a ValueError, for a bare number or an unknown unit: GB and GiB
    differ by 7 %.
    """
    text = str(value).strip()
    match = _MEMORY.fullmatch(text) if isinstance(value, str) else None
    if match is None:
        raise _unreadable(text, "a memory size", "80", "GiB' (2**30 bytes)", "GB' (10**9 bytes)")
    scale = (_BYTE_UNITS | _BINARY_UNITS)[match["prefix"]]
    return int((Decimal(match["number"]) * scale).to_integral_value())


def format_bandwidth(bytes_per_s: int) -> str:
    """The exact value in GB/s, as :func:`parse_bandwidth` reads it back."""
    return f"{_plain(Decimal(bytes_per_s) / 10**9)} GB/s"


def format_memory(size: int) -> str:
    """The exact value in GiB where it is short, else in bytes; :func:`parse_memory` reads it."""
    gib = _plain(Decimal(size) / 2**30)
    return f"{gib} GiB" if len(gib) <= 8 and parse_memory(f"{gib} GiB") == size else f"{size} B"


def describe_bandwidth(bytes_per_s: float) -> str:
    """Both common units, for people: ``100 Gb/s (12.5 GB/s)``."""
    return f"{bytes_per_s * 8 / 1e9:g} Gb/s ({bytes_per_s / 1e9:g} GB/s)"


def _unreadable(text: str, what: str, example: str, *units: str) -> PydanticCustomError:
    bare = _BARE.fullmatch(text) is not None
    number = text if bare else example
    remedy = "write " + " or ".join(f"'{number} {unit}" for unit in units)
    return field_error("has no unit" if bare else f"is not {what} with its unit", remedy)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Bandwidth = Annotated[
    int,
    BeforeValidator(parse_bandwidth),
    PlainSerializer(format_bandwidth, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[0-9.]+\s*[KMGT]?(b/s|bit/s|bps|B/s|Byte/s|byte/s)$",
            "examples": ["100 Gb/s", "12.5 GB/s"],
        }
    ),
]
"""Bytes per second, written with its unit. The direction is in the field's name."""

MemorySize = Annotated[
    int,
    BeforeValidator(parse_memory),
    PlainSerializer(format_memory, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[0-9.]+\s*([KMGT]i?)?B$", "examples": ["80 GiB"]}
    ),
]
"""Bytes, written with GB or GiB."""
