"""What somebody would rather have: ``tp=8``, ``pp=4, recompute=full``, ``use v100``, a layout.

    tp=8 · tp=8 on v100 · cp=2 · ep=8 · pp=4 · dp=2 · rows=2
    recompute=full · zero=0 · schedule=gpipe · interleaved
    use v100 · without v100 · all chips · offload · precision=fp16 · global_batch=1024
    offload=activations · compression=fp8
    a layout (a file, or its fields: 'tp: 8, pp: 4') · another plan.json

Several are joined by commas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from costmodels.price import WAYS
from planner.errors import InputError, Problem
from planner.estimate import LayoutInput, PlanLayout, read_layout
from planner.inputs.job import JobSpec
from planner.inputs.problems import nearest
from planner.inputs.resources import fixture
from planner.scenario.changes import Change
from planner.scenario.grammar import parse_change


@dataclass(frozen=True)
class Degrees:
    """Decisions wished for; None leaves one open. ``tp_on``: a chip's name, for that kind only."""

    text: str
    tp: int | None = None
    tp_on: str | None = None
    pp: int | None = None
    dp: int | None = None
    rows: int | None = None
    recompute: str | None = None
    zero: int | None = None
    schedule: str | None = None
    cp: int | None = None
    ep: int | None = None


@dataclass(frozen=True)
class Chips:
    """Which chips are wished for: ``use`` one kind, go ``without`` one, or ``all`` of them."""

    text: str
    what: str
    chip: str = ""


@dataclass(frozen=True)
class Changed:
    """Another job or cluster wished for."""

    text: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Given:
    """A layout or a plan wished for."""

    text: str
    layout: LayoutInput | PlanLayout


Wish: TypeAlias = Degrees | Chips | Changed | Given

_NAMES = {
    "tp": "tp", "tensor_parallel": "tp", "tensor-parallel": "tp",
    "pp": "pp", "stages": "pp", "pipeline_parallel": "pp",
    "dp": "dp", "pipelines": "dp", "data_parallel": "dp",
    "rows": "rows", "micro_batch_rows": "rows", "micro_batch": "rows", "mbs": "rows",
    "recompute": "recompute", "zero": "zero", "schedule": "schedule",
    "cp": "cp", "context_parallel": "cp", "context-parallel": "cp",
    "ep": "ep", "expert_parallel": "ep", "expert-parallel": "ep",
}  # fmt: skip

_SHORT = ("tp", "pp", "dp", "cp", "ep")

_CHUNKS = ("vpp", "virtual", "chunks")
"""How many chunks per stage somebody wants: only that there are several can be asked for."""

_INTERLEAVED = ("interleaved", "interleaving", "vpp")

_TECHNIQUES = {
    "offload": "optimizer_offload=true",
    "optimizer offload": "optimizer_offload=true",
    "offload=optimizer": "optimizer_offload=true",
    "offload=true": "optimizer_offload=true",
    "activation offload": "activation_offload=true",
    "offload=activations": "activation_offload=true",
    **{f"compression={form}": f"gradient_compression={form}" for form in ("fp16", "fp8", "int4")},
}
"""Techniques of a job that are switched on by a word."""

_CHIPS = re.compile(r"(?P<what>use|using|with|without|no|drop) (?P<chip>[A-Za-z0-9][\w.-]*)")
_ALL = re.compile(r"(?:use )?(?:all|every) chips?")
_ASSIGNED = re.compile(r"(?P<name>[\w.-]+) ?= ?(?P<value>[^=]+?)(?: on (?P<chip>[\w.-]+))?")


def parse_wish(text: str) -> Wish:
    """The wish of one ``--why-not``. Raises InputError that says how wishes are written."""
    line = " ".join(text.split())
    if _names_a_layout(line):
        return Given(line, read_layout(line))
    match = _CHIPS.fullmatch(line)
    if match is not None:
        without = match["what"] in ("without", "no", "drop")
        return Chips(line, "without" if without else "use", match["chip"])
    if line in _INTERLEAVED:
        return Degrees(line, schedule="interleaved")
    if line in _TECHNIQUES:
        return Changed(line, (parse_change(f"techniques.{_TECHNIQUES[line]}"),))
    if _ALL.fullmatch(line):
        return Chips(line, "all")
    return _assignments(line)


def _names_a_layout(line: str) -> bool:
    suffix = Path(line).suffix.lower()
    is_file = suffix in (".json", ".yaml", ".yml") or Path(line).is_file()
    return is_file or fixture("layouts", line) is not None or ": " in line


def _assignments(line: str) -> Wish:
    """``tp=8, pp=4``: all of them degrees, or all of them fields of the job."""
    degrees, changes = Degrees(line), list[Change]()
    problems: list[Problem] = []
    stated = False
    for part in (p.strip() for p in re.split(r",(?![^\[]*\])| and ", line)):
        match = _ASSIGNED.fullmatch(part)
        name = match["name"].lower() if match else ""
        if match and name in _NAMES:
            stated = True
            try:
                degrees = _with(degrees, _NAMES[name], match["value"].strip(), match["chip"])
            except ValueError as error:
                problems.append(Problem(_at(line), f"{part}: {error}"))
        elif match and name in _CHUNKS:
            message = "how many chunks a stage holds is decided by the search"
            problems.append(Problem(_at(line), message, "ask for interleaved, without a number"))
        else:
            _change(part, match is not None, line, changes, problems)
    if stated and changes:
        message = "mixes decisions of the plan with changes of its job"
        problems.append(Problem(_at(line), message, "ask one after the other"))
    if problems:
        raise InputError(problems)
    return Changed(line, tuple(changes)) if changes else degrees


def _change(
    part: str, assigned: bool, line: str, changes: list[Change], problems: list[Problem]
) -> None:
    """A field of the job, or what is wrong with it."""
    head = part.split("=")[0].strip()
    if assigned and head.partition(".")[0] not in (*JobSpec.model_fields, "job", "cluster"):
        close = nearest(head, [*_NAMES, *JobSpec.model_fields])
        short = [n for n in _SHORT if len(head) == 2 and (n[0] == head[0] or n[1] == head[1])]
        near = (short or close)[:1]
        remedy = f"did you mean {near[0]}?" if near else "write tp=8, use v100 or a layout"
        problems.append(Problem(_at(line), f"{head!r} is no decision and no field", remedy))
        return
    try:
        changes.append(parse_change(part))
    except InputError:
        forms = (__doc__ or "").split("\n\n")[1]
        problems.append(Problem(_at(line), "is not understood", f"write one of\n{forms}"))


def _at(line: str) -> str:
    return f"--why-not '{line}'"


def _with(degrees: Degrees, name: str, value: str, chip: str | None) -> Degrees:
    if chip is not None and name != "tp":
        raise ValueError("only tp can be asked for on one kind of chip")
    match name:
        case "tp":
            return replace(degrees, tp=_count(value), tp_on=chip)
        case "pp":
            return replace(degrees, pp=_count(value))
        case "dp":
            return replace(degrees, dp=_count(value))
        case "cp":
            return replace(degrees, cp=_count(value))
        case "ep":
            return replace(degrees, ep=_count(value))
        case "rows":
            return replace(degrees, rows=_count(value))
        case "recompute":
            return replace(degrees, recompute=_one_of(value, WAYS))
        case "zero":
            return replace(degrees, zero=int(_one_of(value, ("0", "1", "2", "3"))))
    return replace(degrees, schedule=_one_of(value, ("1f1b", "gpipe", "interleaved")))


def _count(value: str) -> int:
    if not re.fullmatch(r"\d+", value) or int(value) < 1:
        raise ValueError(f"{value!r} is no whole number from 1 up")
    return int(value)


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
