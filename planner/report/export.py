"""What an export says: the files, how to start them, what differs; and what each target can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.errors import Problem
from planner.exporters import TARGETS, ChipVerdict, Exported
from planner.exporters.capability import Capability
from planner.plan import Plan
from planner.report.format import plural


def export_page(plan: Plan, exported: Exported, folder: str) -> RenderableType:
    """The export for a person."""
    capability = TARGETS[exported.target].CAPABILITY
    title = Text.assemble(
        ("Exported ", "bold"),
        plan.plan_id[:12],
        f" for {capability.title}: {plural(len(exported.files), 'file')} in {folder}",
    )
    rules = plural(len(exported.checked.rules), "rule")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, items in (
        ("start", exported.written.run),
        ("add", exported.written.todo),
        ("differs", exported.differences),
        ("checked", (f"{rules} of the target, on the files as read back (listed in README.md)",)),
        ("by itself", (capability.checked_by_target,)),
    ):
        for k, item in enumerate(items):
            table.add_row(name if k == 0 else "", item)
    return Group(title, Text(""), table)


def export_object(plan: Plan, exported: Exported, folder: str) -> dict[str, Any]:
    """The export for programs."""
    return {
        "target": exported.target,
        "plan_id": plan.plan_id,
        "folder": folder,
        "files": [file.path for file in exported.files],
        "run": list(exported.written.run),
        "todo": list(exported.written.todo),
        "differences": list(exported.differences),
        "checked": list(exported.checked.rules),
        "checked_by_target": TARGETS[exported.target].CAPABILITY.checked_by_target,
    }


def targets_page(
    refused: Mapping[str, Sequence[Problem]] | None, chips: Sequence[ChipVerdict] = ()
) -> RenderableType:
    """Every target with what it runs, or with what it refuses about one plan and its chips."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    if refused is not None:
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, exporter in TARGETS.items():
        if refused is None:
            table.add_row(name, targets_line(exporter.CAPABILITY))
        else:
            problems = refused[name]
            verdict = Text("no", style="bold red") if problems else Text("yes", style="bold green")
            why = [f"{p.where}: {p.message}" for p in problems] or [exporter.CAPABILITY.writes]
            table.add_row(name, verdict, "\n".join(why))
    lines = [Text(line) for line in map(chip_line, chips) if line]
    return Group(table, Text(""), *lines) if lines else table


def chip_line(verdict: ChipVerdict) -> str:
    """What runs on one kind of chip, "" where every target does."""
    if not verdict.refused:
        return ""
    if len(verdict.refused) == len(TARGETS):
        why = verdict.refused[0][1].partition("; ")[0]
        return f"{verdict.name}: no target runs on it, it can only be planned and simulated ({why})"
    names = ", ".join(name for name, _ in verdict.refused)
    return f"{verdict.name}: not with {names}"


def targets_line(capability: Capability) -> str:
    """One target in a sentence."""
    classes = " and ".join(capability.plan_classes)
    return f"{capability.title}: {capability.writes}; runs {classes} plans"


def targets_object(
    refused: Mapping[str, Sequence[Problem]] | None, chips: Sequence[ChipVerdict] = ()
) -> dict[str, Any]:
    """The same for programs."""
    found = []
    for name, exporter in TARGETS.items():
        c = exporter.CAPABILITY
        entry: dict[str, Any] = {
            "target": name,
            "title": c.title,
            "writes": c.writes,
            "plan_classes": list(c.plan_classes),
            "checked_by_target": c.checked_by_target,
        }
        if refused is not None:
            entry["refused"] = [
                {"where": p.where, "message": p.message, "remedy": p.remedy} for p in refused[name]
            ]
        found.append(entry)
    answer: dict[str, Any] = {"targets": found}
    if refused is not None:
        answer["chips"] = [{"name": v.name, "refused": dict(v.refused)} for v in chips]
    return answer
