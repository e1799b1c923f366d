"""Profiles that other planners' tools measured, as our ``profile.json``.

Every reader returns the profile and notes of what it had to assume. The chips keep the names that
the source gives them unless ``chips`` maps them to names of the catalogue or of a cluster file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from planner.errors import InputError, Problem
from planner.inputs.job_spec import Precision
from planner.inputs.profile_spec import ChipProfileSpec, ProfileSpec, RowSpec

Layout = Literal["sailor", "metis"]
"""Whose files they are: a tree of ``profiles/MODEL/GPU/profile.json``, or one file per way."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says about the source.

    ``chips`` maps the source's names of chips; those that map to nothing keep theirs. ``seq_len``
    and ``precision`` are needed where the source is silent. ``zone`` picks one of several networks.
    """

    model: str | None = None
    chips: Mapping[str, str] = field(default_factory=dict)
    seq_len: int | None = None
    precision: Precision | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """A profile and what was assumed to make it."""

    spec: ProfileSpec
    notes: tuple[str, ...]


def recognise(path: Path) -> Layout:
    """Which layout a folder has. Raises InputError for another."""
    if path.is_dir() and (path / "profiles").is_dir():
        return "sailor"
    if path.is_dir() and any(path.glob("DeviceType.*_tp*_bs*.json")):
        return "metis"
    message = "holds neither profiles/MODEL/GPU/profile.json nor DeviceType.GPU_tpT_bsB.json files"
    raise InputError([Problem(str(path), message, "name the folder that holds the profiles")])


def import_profile(path: Path, wanted: Wanted, layout: Layout | None = None) -> Imported:
    """The profile in a folder. Raises InputError with every problem found."""
    from planner.inputs.foreign_profiles.metis import read_metis
    from planner.inputs.foreign_profiles.sailor import read_sailor

    which = layout or recognise(path)
    return read_sailor(path, wanted) if which == "sailor" else read_metis(path, wanted)


def chip_rows(chip: str, rows: Sequence[RowSpec]) -> ChipProfileSpec:
    """Rows of one chip, neighbouring layers with equal figures as one interval."""
    merged: list[RowSpec] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last is not None and _joins(last, row):
            first = last.layer[0] if isinstance(last.layer, tuple) else last.layer
            end = row.layer + 1 if isinstance(row.layer, int) else row.layer
            merged[-1] = RowSpec.model_validate({**last.model_dump(), "layer": (first, end)})
        else:
            merged.append(row)
    return ChipProfileSpec(chip=chip, rows=tuple(merged))


def _joins(last: RowSpec, row: RowSpec) -> bool:
    if not isinstance(row.layer, int) or isinstance(last.layer, str):
        return False
    end = last.layer[1] if isinstance(last.layer, tuple) else last.layer + 1
    one, other = last.model_dump(exclude={"layer"}), row.model_dump(exclude={"layer"})
    return end == row.layer and one == other
