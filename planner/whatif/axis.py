"""One axis of a sweep: a change with many values.

    link network = 25Gb/s, 50Gb/s, 100Gb/s        nodes v100 = 0..4
    seq_len = 2048..32768*2                       speed v100 x0.6..1.0/0.1
    replace v100 by a100-sxm-40gb, h100-sxm-80gb  model = llama-2-7b, llama-2-13b

``a..b`` counts in ones, ``a..b/step`` in steps, ``a..b*factor`` by a factor; both ends belong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from planner.errors import InputError, Problem
from planner.scenario.changes import Change
from planner.scenario.grammar import parse_change

MAX_VALUES = 10_000

_HEAD = re.compile(
    r"(?P<head>.+?)(?P<sign> ?= ?| ?x ?(?=[\d.,/* ]+$)| ?[+-](?=[\d., ]+$)| by | with )"
    r"(?P<values>.+)"
)
_NUMBER = r"-?\d*\.?\d+"
_RANGE = re.compile(
    rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?:(?P<sign>[/*])(?P<step>{_NUMBER}))?(?P<unit>.*)"
)
_LEADING = re.compile(rf"({_NUMBER})(.*)")


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an axis: how it is written, its number (None for names), its change."""

    text: str
    number: float | None
    change: Change


@dataclass(frozen=True, slots=True)
class Axis:
    """What varies (``nodes v100``), its values in order, and the unit that they share."""

    name: str
    values: tuple[Value, ...]
    unit: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers on a scale."""
        return all(v.number is not None for v in self.values)


def parse_axis(text: str) -> Axis:
    """An axis as it is written. Raises InputError with every value that is not understood."""
    line = " ".join(text.split())
    match = _HEAD.fullmatch(line)
    where = f"axis '{line}'"
    if match is None:
        remedy = "write a change with several values, such as 'nodes v100 = 0..4'"
        raise InputError([Problem(where, "is not understood", remedy)])
    problems: list[Problem] = []
    values: list[Value] = []
    texts = _expanded(match["values"], where)
    for value in texts:
        try:
            change = parse_change(f"{match['head']}{match['sign']}{value}")
        except InputError as error:
            problems += [Problem(where, p.message, p.remedy) for p in error.problems]
            continue
        values.append(Value(value, _number(value), change))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if len(values) < 2:
        raise InputError([Problem(where, "has one value", "give several: a, b or a..b")])
    sign = match["sign"].strip()
    name = match["head"].strip() + (f" {sign}" if sign in ("x", "+", "-", "by", "with") else "")
    units = {_unit(v.text) for v in values}
    if len(units) > 1 or any(v.number is None for v in values):
        return Axis(name, tuple(Value(v.text, None, v.change) for v in values))
    return Axis(name, tuple(values), units.pop())


def _unit(text: str) -> str:
    match = _LEADING.fullmatch(text)
    return match[2].strip() if match else text


def _number(text: str) -> float | None:
    """The number that a value starts with, if all that follows may be a unit."""
    match = _LEADING.fullmatch(text)
    if match is None or not re.fullmatch(r" ?[A-Za-z/%]*", match[2]):
        return None
    return float(match[1])


def _expanded(text: str, where: str) -> list[str]:
    """The values of a list, with ranges written out, each once."""
    found: list[str] = []
    for part in text.split(","):
        item = part.strip()
        if not item:
            continue
        match = _RANGE.fullmatch(item)
        found += _range(match, where) if match else [item]
        if len(found) > MAX_VALUES:
            raise InputError([Problem(where, f"has more than {MAX_VALUES:,} values", "fewer")])
    return list(dict.fromkeys(found))


def _range(match: re.Match[str], where: str) -> list[str]:
    low, high = Decimal(match["low"]), Decimal(match["high"])
    step = Decimal(match["step"] or 1)
    geometric = match["sign"] == "*"
    if low > high or (geometric and (step <= 1 or low <= 0)) or (not geometric and step <= 0):
        remedy = "write a..b with a below b, a..b/step above 0 or a..b*factor above 1"
        raise InputError([Problem(where, f"{match[0]!r} is no range", remedy)])
    found: list[str] = []
    value = low
    while value <= high and len(found) <= MAX_VALUES:
        found.append(f"{value.normalize():f}{match['unit']}")
        value = value * step if geometric else value + step
    return found
