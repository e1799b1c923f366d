"""Compares the parameter count with the size that a model's name claims ("Qwen1.5-72B").

A wrong count almost always means a wrong configuration: a two-matrix MLP taken for a gated one,
ignored key-value groups, a missing head. So a clear contradiction stops the planner.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from planner.errors import Problem

TOLERANCE = 0.12
"""How far a count may be from the name: Llama-2-7B counts 6.74 B, Qwen1.5-7B counts 7.72 B."""

ACTIVE_TOLERANCE = 0.25
"""Model cards disagree on whether embeddings are active, so active sizes are held to less."""

_SIZE = re.compile(
    r"(?<![A-Za-z0-9.])(?P<active>a)?(?:(?P<copies>\d+)x)?"
    r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[bmt])(?P<tail>\d)?(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_UNIT = {"m": 1e6, "b": 1e9, "t": 1e12}


@dataclass(frozen=True, slots=True)
class NamedSize:
    """One size in a name. ``slack`` is the share that rounding to its last digit may hide."""

    text: str
    parameters: float
    slack: float
    copies: int = 1
    active: bool = False

    def allows(self, total: int, active: int) -> bool:
        """Whether a count agrees with it; experts share their attention, so 8x7B is at most 56."""
        if self.active:
            return abs(active / self.parameters - 1) <= max(ACTIVE_TOLERANCE, self.slack)
        if self.copies > 1:
            return 0.6 <= total / (self.parameters * self.copies) <= 1 + TOLERANCE
        return abs(total / self.parameters - 1) <= max(TOLERANCE, self.slack)


def sizes_in(name: str) -> tuple[NamedSize, ...]:
    """The sizes that a name claims; token counts and context lengths are not sizes.

    "1.1B-3T" is a size and a token count, "7B-1M" a size and a context length, "7b1" is 7.1 B.
    """
    found: list[tuple[NamedSize, str]] = []
    for match in _SIZE.finditer(name):
        text, unit = match["number"], match["unit"].lower()
        if match["tail"]:
            if "." in text:
                continue
            text += f".{match['tail']}"
        number = float(text)
        if number == 0 or (unit == "m" and number < 10):
            continue
        digits = len(text.partition(".")[2])
        size = NamedSize(
            text=match[0],
            parameters=number * _UNIT[unit],
            slack=0.5 * 10**-digits / number,
            copies=int(match["copies"] or 1),
            active=bool(match["active"]),
        )
        found.append((size, unit))
    if any(unit != "t" for _, unit in found):
        found = [(size, unit) for size, unit in found if unit != "t"]
    return tuple(size for size, _ in found)


def check_size(
    names: Sequence[str], total: int, active: int, where: str
) -> tuple[list[Problem], list[str]]:
    """Problems when no name agrees with the count, notes when only some of them disagree.

    ``names`` are what the model is called (file, folder, ``_name_or_path``), repeats allowed.
    """
    claims: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        sizes = sizes_in(name)
        whole = [s for s in sizes if not s.active]
        wrong = [] if any(s.allows(total, active) for s in whole) else whole[:1]
        wrong += [s for s in sizes if s.active and not s.allows(total, active)]
        if sizes:
            claims[name] = [_claim(s, total, active) for s in wrong]
    wrong_names = {name: texts for name, texts in claims.items() if texts}
    messages = [
        f"the name {name} says {text}" for name, texts in wrong_names.items() for text in texts
    ]
    if len(wrong_names) < len(claims):
        return [], [f"{m}; another of its names agrees" for m in messages]
    remedy = "correct the configuration, or the name (file, folder or _name_or_path)"
    return [Problem(where, m, remedy) for m in messages], []


def _claim(size: NamedSize, total: int, active: int) -> str:
    if size.active:
        return f"{size.text} active but {size_text(active)} are counted as active ({active:,})"
    shown = size.text
    if size.copies > 1:
        shown += f" (at most {size_text(round(size.parameters * size.copies))})"
    return f"{shown} but the configuration has {size_text(total)} parameters ({total:,})"


def size_text(count: int) -> str:
    """A parameter count for people: ``8.03 B``."""
    if count >= 1e12:
        return f"{count / 1e12:.2f} T"
    if count >= 1e8:
        return f"{count / 1e9:.2f} B"
    return f"{count / 1e6:.2f} M" if count >= 1e6 else str(count)
