"""Reads a profile, finds what is missing in it, and fills a job from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import InputError, Problem
from planner.graphs.model_graph import ModelGraph
from planner.inputs.document import DataPath, Document
from planner.inputs.job import JobInput
from planner.inputs.job_spec import JobSpec
from planner.inputs.profile_spec import ProfileSpec, RowSpec
from planner.inputs.reading import nearest, problems_from_validation, read_document
from planner.inputs.resources import fixture, fixture_names

Way = tuple[int, int]
"""``(tensor_parallel, micro_batch_rows)``."""


@dataclass(frozen=True, slots=True)
class ProfileInput:
    """A checked profile and the file that it came from."""

    name: str
    source: str
    spec: ProfileSpec
    document: Document

    def where(self, *path: str | int) -> str:
        """``file:line: field``, as a problem cites it."""
        return self.document.where(path)


def load_profile(path: str | Path) -> ProfileInput:
    """Reads a profile file or a shipped profile. Raises InputError with every problem."""
    file = Path(path)
    shipped = fixture("profiles", str(path))
    if shipped is not None and not file.is_file():
        return parse_profile(read_document(shipped), shipped.stem)
    if not file.is_file() and file.suffix.lower() not in (".json", ".yaml", ".yml"):
        close = nearest(str(path), fixture_names("profiles"))
        remedy = f"did you mean {close[0]}?" if close else "give a JSON or YAML file"
        raise InputError([Problem("profile", f"{str(path)!r} is no file, no shipped one", remedy)])
    return parse_profile(read_document(file), file.stem)


def parse_profile(document: Document, name: str) -> ProfileInput:
    """The profile that a document holds. Raises InputError with every problem found."""
    try:
        spec = ProfileSpec.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, ProfileSpec)) from None
    found = ProfileInput(name, document.source, spec, document)
    if problems := [*_repeated(found), *_repeated_links(found), *_gaps(found)]:
        raise InputError(problems)
    return found


def looks_like_profile(data: object) -> bool:
    """Whether a JSON value is meant as a profile, right or wrong."""
    if not isinstance(data, dict):
        return False
    chips = data.get("chips")
    return "profile_version" in data or (
        isinstance(chips, list) and any(isinstance(c, dict) and "rows" in c for c in chips)
    )


def profile_from_resolved(value: Mapping[str, Any]) -> ProfileSpec:
    """The profile of ``inputs.profile.resolved``. ValidationError if it is not one."""
    return ProfileSpec.model_validate(value)


def layer_indices(row: RowSpec, names: Mapping[str, int]) -> range:
    """The layers that a row speaks of. KeyError for a name that the model does not have."""
    if isinstance(row.layer, int):
        return range(row.layer, row.layer + 1)
    if isinstance(row.layer, str):
        index = names[row.layer]
        return range(index, index + 1)
    return range(*row.layer)


def rows_by_way(
    rows: Sequence[RowSpec], names: Mapping[str, int]
) -> dict[Way, dict[int, tuple[int, RowSpec]]]:
    """Rows by degree and micro-batch, then by layer, each with its place in the file."""
    found: dict[Way, dict[int, tuple[int, RowSpec]]] = {}
    for place, row in enumerate(rows):
        layers = found.setdefault((row.tensor_parallel, row.micro_batch_rows), {})
        for layer in layer_indices(row, names):
            layers.setdefault(layer, (place, row))
    return found


def check_layers(profile: ProfileInput, model: ModelGraph) -> list[Problem]:
    """Whether every measured way covers exactly the layers of the model."""
    names = {layer.name: i for i, layer in enumerate(model.layers)}
    count = len(model.layers)
    problems: list[Problem] = []
    for c, chip in enumerate(profile.spec.chips):
        unknown = [
            (r, row) for r, row in enumerate(chip.rows) if _unknown(row, names, count) is not None
        ]
        for r, row in unknown[:3]:
            where = profile.where("chips", c, "rows", r, "layer")
            remedy = f"{model.name} has layers 0 to {count - 1}"
            problems.append(Problem(where, f"{_unknown(row, names, count)} is no layer", remedy))
        if unknown:
            continue
        for (tp, rows), layers in rows_by_way(chip.rows, names).items():
            missing = [i for i in range(count) if i not in layers]
            if missing:
                where = profile.where("chips", c)
                message = (
                    f"{chip.chip} at tp={tp}, {rows} rows has no measurement of layer "
                    f"{missing[0]} ({model.layers[missing[0]].name}), {len(missing)} missing"
                )
                remedy = f"measure all {count} layers of {model.name}, or leave this way out"
                problems.append(Problem(where, message, remedy))
                break
    return problems


def job_for_profile(
    job: JobInput, name: str, measured: ProfileSpec
) -> tuple[JobInput, tuple[str, ...]]:
    """The job with what it leaves open taken from a profile, and notes of what was taken.

    Raises InputError where the job asks for what was not measured.
    """
    spec = job.spec
    given: dict[str, Any] = spec.model_dump(mode="json", exclude_unset=True)
    notes: list[str] = []
    problems: list[Problem] = []
    wanted: tuple[tuple[str, int | str], ...] = (
        ("seq_len", measured.seq_len),
        ("precision", measured.precision),
    )
    for field, value in wanted:
        asked = getattr(spec, field)
        if asked is None:
            given[field] = value
            notes.append(f"{_WORDS[field]} {value}: that of the profile {name}")
        elif asked != value:
            message = f"is {asked}, but the profile {name} was measured at {value}"
            remedy = f"--set job.{field}={value}, or measure at {asked}"
            problems.append(Problem(f"job: {field}", message, remedy))
    for field in ("lora", "frozen_layers"):
        if getattr(spec, field):
            message = f"the profile {name} was measured with all weights trained"
            remedy = "leave the profile out, or train all weights"
            problems.append(Problem(f"job: {field}", message, remedy))
    if problems:
        raise InputError(problems)
    sizes = sorted({row.micro_batch_rows for chip in measured.chips for row in chip.rows})
    if spec.micro_batch_rows is None:
        fitting = [rows for rows in sizes if rows <= spec.global_batch] or sizes[:1]
        given["micro_batch_rows"] = fitting
        notes.append(f"rows per micro-batch tried: {', '.join(map(str, fitting))}, as measured")
    techniques = dict(given.get("techniques", {}))
    if spec.techniques.sequence_parallel != measured.sequence_parallel:
        techniques["sequence_parallel"] = measured.sequence_parallel
        how = "with" if measured.sequence_parallel else "without"
        notes.append(f"{how} sequence parallelism, as it was measured")
    if techniques:
        given["techniques"] = techniques
    return JobInput(job.name, job.source, JobSpec.model_validate(given)), tuple(notes)


_WORDS = {"seq_len": "sequence length", "precision": "precision"}


def _unknown(row: RowSpec, names: Mapping[str, int], count: int) -> str | None:
    """The layer of a row that the model does not have, as text; None if it has all of them."""
    if isinstance(row.layer, str):
        return None if row.layer in names else repr(row.layer)
    last = row.layer if isinstance(row.layer, int) else row.layer[1] - 1
    return str(last) if last >= count else None


def _repeated(profile: ProfileInput) -> Iterator[Problem]:
    """Layers that are measured twice in the same way, and chips that appear twice."""
    chips: dict[str, int] = {}
    for c, chip in enumerate(profile.spec.chips):
        if chip.chip.lower() in chips:
            where = profile.where("chips", c, "chip")
            message = f"{chip.chip} has rows already, in chips[{chips[chip.chip.lower()]}]"
            yield Problem(where, message, "put all rows of a chip together")
        chips.setdefault(chip.chip.lower(), c)
        seen: dict[tuple[int, int, int | str], int] = {}
        for r, row in enumerate(chip.rows):
            layers = [row.layer] if isinstance(row.layer, str) else layer_indices(row, {})
            for layer in layers:
                key = (row.tensor_parallel, row.micro_batch_rows, layer)
                if key in seen:
                    where = profile.where("chips", c, "rows", r)
                    message = f"layer {layer} was given by rows[{seen[key]}] already"
                    yield Problem(where, message, "keep one of the two")
                    break
                seen[key] = r


def _repeated_links(profile: ProfileInput) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str, int], int] = {}
    for n, link in enumerate(profile.spec.links):
        key = (link.source.lower(), link.target.lower(), link.where, link.chips)
        if key in seen:
            message = f"the same link as links[{seen[key]}]"
            yield Problem(profile.where("links", n), message, "keep one of the two")
        seen.setdefault(key, n)


def _gaps(profile: ProfileInput) -> Iterator[Problem]:
    """Layers by number must run from 0 without a hole, the same in every way of running them."""
    for c, chip in enumerate(profile.spec.chips):
        if any(isinstance(row.layer, str) for row in chip.rows):
            continue  # only the model knows which names there are
        ways = rows_by_way(chip.rows, {})
        count = max(max(layers) for layers in ways.values()) + 1
        for (tp, rows), layers in ways.items():
            missing = [i for i in range(count) if i not in layers]
            if missing:
                path: DataPath = ("chips", c)
                message = f"{chip.chip} at tp={tp}, {rows} rows lacks layer {missing[0]} of {count}"
                yield Problem(profile.document.where(path), message, "measure it, or drop this way")
                break
