"""A calibration for people: the error before and after, and every factor that moved."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.report.format import plural
from planner.report.summary import section
from planner.report.validation import figures
from planner.validate.calibrate import Calibrated

SECTIONS = {
    "vendor": "vendor",
    "architecture": "architecture",
    "sustained": "products",
    "attention": "attention",
}


def calibration_page(found: Calibrated, source: str) -> RenderableType:
    """The report of ``planner calibrate``."""
    head = Text.assemble((source, "bold cyan"), f"  {plural(len(found.rows), 'row')} used")
    parts: list[RenderableType] = [Padding(head, (0, 0, 1, 0))]
    parts.append(section("Error of the step time, %", _errors(found)))
    if found.changes:
        parts.append(section("What moved", _changes(found)))
    return Group(*parts)


def _errors(found: Calibrated) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for head in ("rows", "median", "mean", "90th", "bias"):
        table.add_column(head, justify="right")
    table.add_row("before", *figures(found.before))
    table.add_row("after, the same rows", *figures(found.after))
    for held in found.held_out:
        table.add_row(f"after, left out by {held.name}", *figures(held.summary))
    return table


def _changes(found: Calibrated) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("factor", no_wrap=True)
    for head in ("before", "after", "90 % interval", "rows"):
        table.add_column(head, justify="right")
    for change in found.changes:
        fitted = change.after
        table.add_row(
            f"{SECTIONS[change.section]}: {change.key}",
            f"{change.before:.3f}",
            f"{fitted.value:.3f}",
            f"{fitted.low:.3f} – {fitted.high:.3f}",
            str(fitted.rows),
        )
    return table
