"""The result of an import: a document that has passed its checks, and where each part is from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from costmodels.catalog import Catalog
from planner.errors import InputError, Problem
from planner.inputs.cluster import cluster_from_document
from planner.inputs.document import JsonValue
from planner.inputs.layout_spec import parse_layout
from planner.inputs.reading import parse_document

WIDTH = 96
"""Columns of a written file."""


class _Plain(yaml.SafeDumper):
    """Writes equal values out each time: people read these files."""

    def ignore_aliases(self, data: object) -> bool:
        """No anchors."""
        return True


@dataclass(frozen=True, slots=True)
class Imported:
    """A document of ours made from a foreign file.

    ``read`` is what the file says, ``given`` what options said, ``open`` what neither says: the
    planner's defaults hold there, or it is left out.
    """

    kind: Literal["cluster", "layout", "job"]
    source: str
    format: str
    data: dict[str, JsonValue]
    read: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @property
    def _nested(self) -> bool:
        return any(isinstance(value, (dict, list)) for value in self.data.values())

    def to_yaml(self) -> str:
        """The file's text: comments that say where everything is from, then the document."""
        lines = [f"# {self.kind.capitalize()} imported from {self.source} ({self.format})."]
        for title, notes in (
            ("From the file", self.read),
            ("Given by options", self.given),
            ("Said by neither", self.open),
        ):
            lines += [f"# {title}: {note}" for note in notes]
        body = yaml.dump(
            self.data,
            Dumper=_Plain,
            sort_keys=False,
            default_flow_style=None if self._nested else False,
            width=WIDTH,
            allow_unicode=True,
        )
        return "\n".join(line.replace("\n", " ") for line in lines) + "\n" + body


def checked_cluster(imported: Imported, catalog: Catalog) -> Imported:
    """The same, after the checks of a cluster file. Raises InputError with every problem."""
    cluster = cluster_from_document(parse_document(imported.to_yaml(), "import"), catalog)
    notes = (*imported.open, *cluster.notes, *(w.splitlines()[0] for w in cluster.warnings))
    return Imported(
        imported.kind,
        imported.source,
        imported.format,
        imported.data,
        imported.read,
        imported.given,
        tuple(dict.fromkeys(notes)),
    )


def checked_layout(imported: Imported) -> Imported:
    """The same, after the checks of a layout file. Raises InputError with every problem."""
    parse_layout(parse_document(imported.to_yaml(), "import"))
    return imported


def asked(option: str, why: str, example: str) -> Problem:
    """What a format cannot say, and the option that says it."""
    return Problem(option, why, f"add {option} {example}")


def counted(number: int, noun: str, many: str = "") -> str:
    """``1 host``, ``18 hosts``."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InputError if there are problems."""
    if problems:
        raise InputError(problems)
