"""Figures as people read them: every number with its unit, never more digits than it is worth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from costmodels.catalog.names import short_name
from costmodels.units import GIB

_ASCII = str.maketrans(
    {
        "×": "x",
        "·": "-",
        "–": "-",
        "—": "-",
        "…": "~",
        "→": ">",
        "≤": "<",
        "≥": ">",
        "−": "-",
        "≈": "~",
        "“": '"',
        "”": '"',
        "’": "'",
        "✓": "+",
        "✗": "x",
        "█": "#",
        "▓": "%",
        "▒": "=",
        "░": ".",
        "▌": "|",
        "▏": "|",
        "━": "=",
        "─": "-",
        "│": "|",
        "╵": "'",
        "╷": ",",
        "╴": "-",
        "╶": "-",
        "├": "+",
        "┤": "+",
        "┬": "+",
        "┴": "+",
        "┼": "+",
        "┌": "+",
        "┐": "+",
        "└": "+",
        "┘": "+",
        "╭": "+",
        "╮": "+",
        "╰": "+",
        "╯": "+",
    }
)


def ascii_text(text: str) -> str:
    """The text for a terminal without UTF-8; one character stays one, so that columns hold."""
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def duration(seconds: float) -> str:
    """``412 ps`` … ``12.43 s``, ``12 min 20 s``, ``5 h 12 min``, ``13.1 days``."""
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size >= 86_400 * 2:
        return f"{seconds / 86_400:.1f} days"
    if size >= 3_600:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    if size >= 600:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
        if size >= scale:
            return f"{_digits(seconds / scale, 4 if scale == 1.0 else 3)} {unit}"
    return f"{seconds / 1e-12:.0f} ps"


def milliseconds(seconds: float) -> str:
    """A bare figure in ms for a column whose head names the unit."""
    return _digits(seconds * 1e3, 3)


def gib(size: float) -> str:
    """A bare figure in GiB for a column whose head names the unit."""
    return f"{size / GIB:.1f}" if size < 1000 * GIB else f"{size / GIB:,.0f}"


def memory(size: float) -> str:
    """``61.2 GiB``; small sizes in MiB or KiB."""
    for scale, unit in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(size) >= scale:
            return f"{_digits(size / scale, 3)} {unit}"
    return f"{size:.0f} B"


def bandwidth(bytes_per_s: float) -> str:
    """Both units that people use: ``100 Gb/s (12.50 GB/s)``."""
    return f"{_digits(bytes_per_s * 8 / 1e9, 3)} Gb/s ({_digits(bytes_per_s / 1e9, 3)} GB/s)"


def flops(rate: float) -> str:
    """``312 TFLOP/s``; from ten thousand on in PFLOP/s."""
    if rate >= 1e16:
        return f"{_digits(rate / 1e15, 3)} PFLOP/s"
    return f"{_digits(rate / 1e12, 3)} TFLOP/s"


def count(number: float) -> str:
    """``168,742``: whole, with separators."""
    return f"{round(number):,}"


def percent(fraction: float) -> str:
    """``41.2 %``; below one per cent with two digits, so that a small gap is not called 0."""
    value = fraction * 100
    if value and abs(value) < 0.01:
        return "less than 0.01 %"
    return f"{value:.2f} %" if abs(value) < 1 else f"{value:.1f} %"


def ratio(value: float) -> str:
    """``1.34×``."""
    return f"{value:.2f}×" if value < 10 else f"{value:,.0f}×"


def plural(number: int, noun: str, many: str = "") -> str:
    """``1 chip``, ``2 chips``, ``1,536 chips``."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def interval(first: int, end: int) -> str:
    """Layers ``[first, end)`` as ``0–25``."""
    return f"{first}" if end == first + 1 else f"{first}–{end - 1}"


def intervals(parts: Sequence[tuple[int, int]]) -> str:
    """Layers of several chunks: ``1–6, 49–54``; of more than two the first and the last one."""
    if len(parts) <= 2:
        return ", ".join(interval(*part) for part in parts)
    return f"{interval(*parts[0])} … {interval(*parts[-1])}"


def held_layers(parts: Sequence[tuple[int, int]]) -> str:
    """:func:`intervals` and how many layers they are: ``0–25 (26)``, ``1–6 … 73–78 (24)``."""
    return f"{intervals(parts)} ({sum(end - first for first, end in parts)})"


def span(values: Iterable[int]) -> str:
    """``42`` if all are equal, else ``42–43``."""
    known = sorted(set(values))
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,}–{known[-1]:,}"


def device_list(devices: Sequence[str]) -> str:
    """``node0/0-3``, ``node[0-11]/0-7``: hosts with the same device numbers are joined."""
    by_host: dict[str, list[str]] = {}
    for device in devices:
        host, _, number = device.rpartition("/")
        by_host.setdefault(host, []).append(number)
    by_numbers: dict[str, list[str]] = {}
    for host, numbers in by_host.items():
        by_numbers.setdefault(_ranges(numbers), []).append(host)
    return ", ".join(
        f"{hosts}/{numbers}"
        for numbers, names in by_numbers.items()
        for hosts in _joined_names(names)
    )


def short_chip_names(chips: Iterable[str]) -> Mapping[str, str]:
    """The shortest head of each chip's name that has a number and tells it from the others.

    ``nvidia-a100-sxm-80gb`` is ``A100`` unless another A100 is among the chips.
    """
    full = {chip: short_name(chip) for chip in sorted(set(chips))}
    result = {}
    for chip, name in full.items():
        parts = name.split("-")
        heads = ["-".join(parts[:end]) for end in range(1, len(parts) + 1)]
        others = [other for other in full.values() if other != name]
        result[chip] = next(
            (
                h
                for h in heads
                if any(c.isdigit() for c in h)
                and not any(o == h or o.startswith(f"{h}-") for o in others)
            ),
            name,
        )
    return result


def _digits(value: float, significant: int) -> str:
    """So many significant digits, but never fewer than the whole number has."""
    size = abs(value)
    whole = len(str(int(size))) if size >= 1 else 0
    if size < 1:
        return f"{value:.{significant}g}"
    return f"{value:,.{max(0, significant - whole)}f}"


def _ranges(numbers: Sequence[str]) -> str:
    """``0-3,7`` of 0 1 2 3 7; anything that is not a number stays as it is."""
    if not all(n.isdigit() for n in numbers):
        return ",".join(numbers)
    ordered = sorted({int(n) for n in numbers})
    runs: list[list[int]] = []
    for n in ordered:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _joined_names(names: Sequence[str]) -> list[str]:
    """Names that differ in their trailing number only, joined: ``node[0-11]``."""
    by_stem: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)", name)
        by_stem.setdefault(match[1] if match else name, []).append(match[2] if match else "")
    result = []
    for stem, numbers in by_stem.items():
        plain = len(numbers) > 1 and all(n and str(int(n)) == n for n in numbers)
        result += [f"{stem}[{_ranges(numbers)}]"] if plain else [f"{stem}{n}" for n in numbers]
    return result
