"""One line per checked file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from planner.report.format import plural


@dataclass(frozen=True, slots=True)
class Verdict:
    """A checked file: what it is, how many problems it has, what was understood of it."""

    name: str
    kind: str
    problems: int
    about: str


def verdicts(found: Sequence[Verdict]) -> Table:
    """A line per file, good or bad."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="dim")
    for verdict in found:
        good = verdict.problems == 0
        table.add_row(
            Text("ok", style="bold green") if good else Text("no", style="bold red"),
            verdict.name,
            verdict.kind,
            verdict.about if good else plural(verdict.problems, "problem"),
        )
    return table
