"""What a layout file may say: the plan that somebody would have made by hand, in a few lines.

    tp: 8
    pp: 4
    dp: 2
    micro_batch_rows: 1
    recompute: full

The same on one line, ``"tp: 8, pp: 4, dp: 2"``, is understood where a file is expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planner.errors import InputError, Problem
from planner.inputs.document import DataPath, Document
from planner.inputs.reading import (
    nearest,
    parse_document,
    problems_from_validation,
    read_document,
)
from planner.inputs.resources import SUFFIXES, fixture, fixture_names

Policy = Literal["none", "selective", "full", "offload", "full_offload"]
Offload = Literal["none", "optimizer"]

MAX_DEGREE = 1_000_000

Degree = Annotated[int, Field(strict=True, ge=1, le=MAX_DEGREE)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_DEGREE)]
Interval = tuple[Count, Count]


class LayoutSpec(BaseModel):
    """One layout as written; None means that the planner fills it in and says so.

    ``tp`` is the tensor-parallel degree, one for all stages or one per stage; ``pp`` the number of
    stages, ``dp`` the number of pipelines (by default as many as the chips allow).
    ``micro_batches`` per pipeline follow from the job's batch; where given they are compared with
    it. ``layers_per_stage`` counts blocks (embedding and head go to the first and the last stage),
    or holds intervals ``[first, end)`` over all layers of the model. ``in_flight`` is how many
    micro-batches a stage holds: ``deep`` by the depth rule within memory, ``classic`` the stages
    from here to the end, or one number per stage. ``chips`` names kinds of chips in the order in
    which stages take them; kinds that are not named stay idle. ``placement`` lists the devices of
    every stage instead, pipeline by pipeline, as ``node0/0-7`` or ``node[0-3]/0-7``.

    ``cp`` devices share every sequence; ``ep`` devices hold different experts, each divided among
    ``expert_tp`` (by default 1); ``virtual`` chunks of layers lie on every stage (interleaved
    1F1B); ``zero`` 2 shards gradients as well, 3 weights too (FSDP), over ``shard`` replicas
    (by default all). A layout with any of these is uniform: one value of everything for all
    stages, chips of one kind (ZeRO 2 and 3 alone, in one stage: of several).

    ``offload: optimizer``, for all stages or one entry per stage, keeps the optimizer's state in
    the host's memory and updates it there. ``recompute: offload`` recomputes selectively and leaves
    what is kept in the host's memory between the passes, ``full_offload`` recomputes everything and
    leaves the checkpoints there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tp: Degree | tuple[Degree, ...] = 1
    pp: Degree | None = None
    dp: Degree | None = None
    micro_batch_rows: Degree = 1
    micro_batches: Degree | None = None
    schedule: Literal["1f1b", "gpipe"] = "1f1b"
    recompute: Policy | tuple[Policy, ...] = "none"
    zero: Annotated[int, Field(strict=True, ge=0, le=3)] | None = None
    cp: Degree = 1
    ep: Degree = 1
    expert_tp: Degree | None = None
    virtual: Degree = 1
    shard: Degree | None = None
    layers_per_stage: tuple[Count | Interval, ...] | None = None
    in_flight: Literal["deep", "classic"] | tuple[Degree, ...] = "deep"
    offload: Offload | tuple[Offload, ...] = "none"
    chips: tuple[str, ...] | None = None
    placement: tuple[str | tuple[str, ...], ...] | None = None


UNIFORM = ("cp", "ep", "expert_tp", "virtual", "shard")
"""Fields that only a uniform layout may have."""

FOREIGN = {
    "etp": ("the tensor-parallel degree of experts is called expert_tp", "write expert_tp"),
    "vpp": ("chunks of layers per stage are called virtual", "write virtual"),
}
"""What other planners and runtimes write."""

PER_STAGE = ("tp", "recompute", "layers_per_stage", "in_flight", "offload", "placement")
"""Fields that may be lists with one entry per stage."""


@dataclass(frozen=True, slots=True)
class LayoutInput:
    """A layout whose fields agree with one another. ``stages`` is its pipeline depth."""

    name: str
    document: Document
    spec: LayoutSpec
    stages: int

    def where(self, *path: str | int) -> str:
        """``file:line: field``, as a problem cites it."""
        return self.document.where(path)

    @property
    def uniform(self) -> bool:
        """Whether the layout asks for techniques that only uniform layouts are priced with."""
        spec = self.spec
        return (
            any(getattr(spec, field) not in (1, None) for field in UNIFORM) or (spec.zero or 0) > 1
        )

    def stated(self, field: str) -> bool:
        """Whether the layout says anything about a field."""
        return field in self.spec.model_fields_set


def layout_document(text: str) -> Document:
    """Finds a layout: a file, a shipped name, or the fields themselves on one line.

    Raises InputError when it is none of them, or cannot be read.
    """
    path = Path(text)
    shipped = fixture("layouts", text)
    if path.name == text and shipped is not None and not path.is_file():
        return replace(read_document(shipped), source=shipped.stem)
    if path.is_file() or path.suffix.lower() in SUFFIXES:
        return read_document(path)
    if ":" in text:
        inner = text.strip()
        return parse_document(inner if inner.startswith("{") else f"{{{inner}}}", "layout")
    close = nearest(text, fixture_names("layouts"))
    remedy = "give a file, or the fields themselves: 'tp: 8, pp: 4, dp: 2' (planner layouts list)"
    if close:
        remedy = f"did you mean {close[0]}? Or {remedy}"
    raise InputError([Problem("layout", f"{text!r} is no file and no shipped layout", remedy)])


def parse_layout(document: Document) -> LayoutInput:
    """The layout that a document holds. Raises InputError with every problem found."""
    foreign = list(_foreign(document))
    try:
        spec = LayoutSpec.model_validate(document.data)
    except ValidationError as error:
        known = {problem.where for problem in foreign}
        found = problems_from_validation(error, document, LayoutSpec)
        raise InputError([*foreign, *(p for p in found if p.where not in known)]) from None
    stages = _stages(spec)
    if problems := list(_lengths(spec, stages, document)):
        raise InputError(problems)
    return LayoutInput(Path(document.source).stem, document, spec, stages)


def _foreign(document: Document) -> Iterator[Problem]:
    """Names that other planners and runtimes have: no typing mistakes."""
    for key in document.data if isinstance(document.data, dict) else ():
        if key in FOREIGN:
            yield Problem(document.where((key,)), *FOREIGN[key])


def _lists(spec: LayoutSpec) -> dict[str, int]:
    """How many entries each per-stage list has."""
    values = {field: getattr(spec, field) for field in PER_STAGE}
    return {field: len(value) for field, value in values.items() if isinstance(value, tuple)}


def _stages(spec: LayoutSpec) -> int:
    """Stages as stated, else as many as the first list has entries, else one."""
    return spec.pp or next((n for n in _lists(spec).values() if n), 1)


def _lengths(spec: LayoutSpec, stages: int, document: Document) -> Iterator[Problem]:
    lists = _lists(spec)
    source = f"pp: {stages}" if spec.pp else f"{next(iter(lists), 'pp')} has {stages}"
    for field, length in lists.items():
        if length != stages:
            remedy = "give one entry per stage"
            if field in ("tp", "recompute", "offload"):
                remedy += ", or one value for all of them"
            entries = "entry" if length == 1 else "entries"
            message = f"has {length} {entries}, but there are {stages} stages ({source})"
            yield Problem(document.where((field,)), message, remedy)
    if spec.chips is not None and spec.placement is not None:
        message = "says in which order chips are taken, but placement names every device"
        yield Problem(document.where(("chips",)), message, "keep one of the two")
    if spec.chips == ():
        yield Problem(document.where(("chips",)), "names no chip", "leave it out to use them all")
    yield from _depths(spec, document)
    yield from _uniform(spec, document)


def _uniform(spec: LayoutSpec, document: Document) -> Iterator[Problem]:
    """What excludes one another where a technique is only priced for uniform layouts."""
    asked = [f for f in UNIFORM if getattr(spec, f) not in (1, None)]
    asked += ["zero"] if (spec.zero or 0) > 1 else []
    if not asked:
        return
    for field, length in _lists(spec).items():
        message = f"has {length} entries, but {asked[0]} is priced for uniform layouts only"
        yield Problem(document.where((field,)), message, f"give one {field}, or leave {asked[0]}")
    if spec.offload != "none":
        message = f"is not priced together with {asked[0]}"
        yield Problem(document.where(("offload",)), message, "leave out one of the two")
    if spec.shard is not None and not spec.zero:
        message = "says over how many replicas nothing is sharded"
        yield Problem(document.where(("shard",)), message, "add zero: 1, 2 or 3")


def _depths(spec: LayoutSpec, document: Document) -> Iterator[Problem]:
    if isinstance(spec.in_flight, str):
        return
    where: DataPath = ("in_flight",)
    for s, (one, other) in enumerate(zip(spec.in_flight, spec.in_flight[1:]), start=1):
        if other > one:
            message = f"stage {s + 1} holds {other} micro-batches, more than the {one} of stage {s}"
            remedy = "depths must not increase along the pipeline: the schedule would deadlock"
            yield Problem(document.where((*where, s)), message, remedy)
