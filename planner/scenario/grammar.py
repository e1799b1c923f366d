"""How changes are written: ``replace v100 by a100-sxm-80gb; link network x2; seq_len=8192``.

    replace CHIP by CHIP            link LINK xFACTOR | =RATE | efficiency=SHARE
    nodes OF =N | +N | -N           chips OF +N | -N
    memory CHIP xFACTOR             speed CHIP xFACTOR        efficiency CHIP xFACTOR
    price CHIP=USD_PER_HOUR         power CHIP=WATTS
    allow TECHNIQUE                 forbid TECHNIQUE          model=MODEL
    FIELD=VALUE                     a field of the job, or cluster.PATH, model.PATH

OF is a chip or the name of a node; LINK is network, network:NAME, fabric:CHIP or host:CHIP.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pydantic_core import PydanticCustomError

from planner.errors import InputError, Problem
from planner.inputs.job import JobSpec
from planner.inputs.overrides import ROOTS
from planner.inputs.problems import nearest
from planner.inputs.quantities import parse_bandwidth
from planner.inputs.reading import parse_value
from planner.scenario import changes as c

SEPARATOR = ";"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]*"
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?"

_WORDS = (
    "replace", "link", "nodes", "chips", "memory", "speed", "efficiency", "price", "power",
    "allow", "forbid", "model",
)  # fmt: skip


def parse_changes(text: str, *, where: str = "") -> tuple[c.Change, ...]:
    """The changes of one scenario. InputError with every part that is not understood."""
    problems: list[Problem] = []
    found: list[c.Change] = []
    for part in text.split(SEPARATOR):
        if not part.strip():
            continue
        try:
            found.append(parse_change(part, where=where))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(found)


def parse_change(text: str, *, where: str = "") -> c.Change:
    """One change. Raises InputError that says how it is written."""
    line = " ".join(text.split())
    at = f"{where}: change '{line}'" if where else f"change '{line}'"
    for pattern, build in _FORMS:
        match = pattern.fullmatch(line)
        if match is not None:
            try:
                return build(match)
            except (ValueError, PydanticCustomError) as error:
                raise InputError([_unreadable(at, error)]) from None
    return _field(line, at)


def _unreadable(at: str, error: Exception) -> Problem:
    if isinstance(error, PydanticCustomError):
        remedy = str((error.context or {}).get("remedy", ""))
        return Problem(at, f"the rate {error.message()}", remedy)
    return Problem(at, str(error))


def _field(line: str, at: str) -> c.Change:
    """``seq_len=8192`` or ``cluster.nodes.0.count=4``."""
    target, equals, value = (part.strip() for part in line.partition("="))
    parts = [p for p in re.split(r"\.|\[(\d+)\]", target) if p]
    if not equals or not parts or " " in target:
        word = line.split(" ")[0] if line else ""
        close = nearest(word, _WORDS)
        hint = f"did you mean {close[0]}? " if close and word not in _WORDS else ""
        forms = __doc__.split("\n\n")[1] if __doc__ else ""
        remedy = f"{hint}write one of\n{forms}"
        raise InputError([Problem(at, "is not understood", remedy)])
    root, path = (parts[0], tuple(parts[1:])) if parts[0] in ROOTS else ("job", tuple(parts))
    if root == "job" and path and path[0] not in JobSpec.model_fields:
        known = list(JobSpec.model_fields)
        close = nearest(path[0], known)
        remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise InputError([Problem(at, f"the job has no field {path[0]!r}", remedy)])
    return c.SetField(root, path, parse_value(value, at), value)


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise ValueError(f"{text} is not above 0")
    return value


def _link(match: re.Match[str]) -> c.Change:
    if match["factor"] is not None:
        return c.ScaleLink(match["link"], _positive(match["factor"]))
    return c.SetLink(match["link"], parse_bandwidth(match["rate"].strip()))


def _link_share(match: re.Match[str]) -> c.Change:
    share = _positive(match["share"])
    if share > 1:
        raise ValueError("an efficiency is a share of the nominal rate, at most 1")
    return c.SetLinkEfficiency(match["link"], share)


def _counted(match: re.Match[str]) -> c.Change:
    count = int(match["count"])
    if match["what"] == "chips":
        return c.AddChips(match["of"], count if match["sign"] == "+" else -count)
    if match["sign"] == "=":
        return c.SetNodes(match["of"], count)
    return c.AddNodes(match["of"], count if match["sign"] == "+" else -count)


def _scaled(match: re.Match[str]) -> c.Change:
    chip, factor = match["chip"], _positive(match["factor"])
    if match["what"] == "memory":
        return c.ScaleMemory(chip, factor)
    return (c.ScaleSpeed if match["what"] == "speed" else c.ScaleEfficiency)(chip, factor)


def _rate(match: re.Match[str]) -> c.Change:
    kind = c.SetPrice if match["what"] == "price" else c.SetPower
    value = float(match["value"])
    if value <= 0:
        raise ValueError("what is free or unknown is left out, never 0")
    return kind(match["chip"], value)


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], c.Change]], ...] = (
    (
        re.compile(rf"replace (?P<old>{_NAME}) (?:by|with) (?P<new>{_NAME})"),
        lambda m: c.ReplaceChip(m["old"], m["new"]),
    ),
    (
        re.compile(rf"link (?P<link>{_NAME}) efficiency ?= ?(?P<share>{_NUMBER})"),
        _link_share,
    ),
    (
        re.compile(rf"link (?P<link>{_NAME}) ?(?:x ?(?P<factor>{_NUMBER})|= ?(?P<rate>.+))"),
        _link,
    ),
    (
        re.compile(rf"(?P<what>nodes) (?P<of>{_NAME}) ?(?P<sign>[=+-]) ?(?P<count>\d+)"),
        _counted,
    ),
    (
        re.compile(rf"(?P<what>chips) (?P<of>{_NAME}) ?(?P<sign>[+-]) ?(?P<count>\d+)"),
        _counted,
    ),
    (
        re.compile(
            rf"(?P<what>memory|speed|efficiency) (?P<chip>{_NAME}) ?x ?(?P<factor>{_NUMBER})"
        ),
        _scaled,
    ),
    (
        re.compile(
            rf"(?P<what>price|power) (?P<chip>{_NAME}) ?= ?(?P<value>{_NUMBER})"
            r" ?(?:USD/h|usd/h|W)?"
        ),
        _rate,
    ),
    (
        re.compile(rf"(?P<what>allow|forbid) (?P<name>{_NAME})"),
        lambda m: c.SetTechnique(m["name"].replace("-", "_"), m["what"] == "allow"),
    ),
    (re.compile(r"model ?= ?(?P<model>\S.*)"), lambda m: c.SetModel(m["model"].strip())),
)
