"""Vendors print matrix rates with 2:4 sparsity, which training does not use. Catch them.

Figures of this kind in a chip file would make a chip look twice as fast as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files

from costmodels.catalog.errors import AmbiguousChip, UnknownChip
from costmodels.catalog.names import NameIndex

# A peak above this multiple of the catalogue's figure for the same chip is no overclock.
_HIGHEST_RATIO = 1.5

_FIELDS = ("tf32_tflops", "fp16_tflops", "bf16_tflops", "fp8_tflops")
_HALF = ("fp16_tflops", "bf16_tflops")

# (fields, sparse figure of the datasheet, dense figure, chips). NVIDIA and AMD datasheets.
_SPARSE: tuple[tuple[tuple[str, ...], float, float, str], ...] = (
    (_HALF, 624, 312, "A100 and A800"),
    (_HALF, 1979, 989, "H100, H200 and H800 SXM"),
    (("fp8_tflops",), 3958, 1979, "H100, H200 and H800 SXM"),
    (_HALF, 1513, 756, "H100 and H800 PCIe"),
    (("fp8_tflops",), 3026, 1513, "H100 and H800 PCIe"),
    (_HALF, 1671, 835, "H100 NVL"),
    (("fp8_tflops",), 3341, 1671, "H100 NVL"),
    (_HALF, 3958, 989, "H100 (its sparse FP8 figure)"),
    (_HALF, 4500, 2250, "B200"),
    (("fp8_tflops",), 9000, 4500, "B200"),
    (_HALF, 5000, 2500, "GB200"),
    (("fp8_tflops",), 10000, 5000, "GB200"),
    (_HALF, 733, 362, "L40S"),
    (("fp8_tflops",), 1466, 733, "L40S"),
    (_HALF, 2614.9, 1307, "MI300X"),
    (("fp8_tflops",), 5229.8, 2614, "MI300X"),
)


@lru_cache(maxsize=1)
def _catalogue() -> tuple[NameIndex, dict[str, Mapping[str, object]]]:
    data = files("costmodels.catalog") / "data"
    rows = json.loads((data / "chips.json").read_text(encoding="utf-8"))
    rows += json.loads((data / "packages.json").read_text(encoding="utf-8"))["chips"]
    return NameIndex.of(row["id"] for row in rows), {row["id"]: row for row in rows}


def _base(record: Mapping[str, object]) -> Mapping[str, object] | None:
    """The catalogue's record of the same chip, found by parent, id or name."""
    index, rows = _catalogue()
    for field in ("inherit", "id", "name"):
        name = record.get(field)
        if isinstance(name, str):
            try:
                return rows[index.resolve(name)]
            except (UnknownChip, AmbiguousChip):
                continue
    return None


def check_peak(
    chip_record: Mapping[str, object], parent: Mapping[str, object] | None = None
) -> list[str]:
    """What is wrong with the matrix rates (TFLOP/s, dense) of a chip record; empty if nothing.

    ``parent`` is the record that it inherits from, which stands in where its own id and name are
    not the catalogue's. A figure within 1 % of twice the catalogue's dense figure of the same
    chip, or equal to a datasheet's sparse figure, is rejected with the dense one offered; so is a
    figure above 1.5 times the catalogue's.
    """
    base = _base(chip_record) or parent
    messages = []
    for field in ("fp32_tflops", *_FIELDS):
        value = chip_record.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        dense = base.get(field) if base else None
        message = None
        if isinstance(dense, int | float):
            message = _against_catalogue(field, value, dense)
        elif base is None:
            message = _against_datasheets(field, value)
        if message:
            messages.append(message)
    return messages


def _against_catalogue(field: str, value: float, dense: float) -> str | None:
    if field in _FIELDS and abs(value / (2 * dense) - 1) < 0.01:
        return f"{field} {value:g} is the figure with sparsity; write the dense one: {dense:g}"
    if value > _HIGHEST_RATIO * dense:
        ratio = value / dense
        return (
            f"{field} {value:g} is {ratio:.1f} times the catalogue's dense {dense:g}; "
            "write the dense rate of one chip"
        )
    return None


def _against_datasheets(field: str, value: float) -> str | None:
    for fields, sparse, dense, chips in _SPARSE:
        if field in fields and abs(value - sparse) < 0.5:
            return (
                f"{field} {value:g} is the figure with sparsity of {chips}; "
                f"write the dense one: {dense:g}"
            )
    return None
