"""A validation for people: errors by group, ranking, memory, and what could not be predicted."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.report.format import duration, plural
from planner.report.summary import section
from planner.validate.score import ErrorSummary, MemorySummary, Ranking
from planner.validate.summary import Validation, worst_first

WORST = 10
"""Rows shown of the worst ones."""

FEW_IDS = 4


def validation_page(found: Validation) -> RenderableType:
    """The report of ``planner validate``."""
    parts: list[RenderableType] = [_head(found)]
    if found.overall is not None:
        parts.append(section("Error of the step time, %", _errors(found)))
        parts.append(section("Worst rows", _worst(found)))
    if found.ranking is not None:
        parts.append(section("Ranking inside sweeps", Text(ranking_text(found.ranking))))
    if found.memory is not None:
        parts.append(section("Peak memory", Text(memory_text(found.memory))))
    if found.reasons:
        parts.append(section("Not predictable", _reasons(found)))
    if found.notes:
        parts.append(section("Notes", Text("\n".join(found.notes))))
    return Group(*parts)


def _head(found: Validation) -> RenderableType:
    rows = len(found.predictions)
    without = found.predicted - found.scored
    text = f"{plural(rows, 'row')} · {found.predicted} predicted · {found.scored} scored"
    if found.derived:
        text += f" ({found.derived} against a derived target)"
    if without:
        text += f" · {without} without a measured time"
    if rows - found.predicted:
        text += f" · {rows - found.predicted} not predictable"
    return Padding(Text.assemble((found.source, "bold cyan"), "  ", text), (0, 0, 1, 0))


def _errors(found: Validation) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    for head in ("rows", "median", "mean", "90th", "bias"):
        table.add_column(head, justify="right")
    if found.overall is not None:
        table.add_row(Text("all", "bold"), *figures(found.overall))
    for kind, groups in found.groups.items():
        table.add_row(Text(f"by {kind}", "dim"))
        _group_rows(table, groups)
    return table


def _group_rows(table: Table, groups: Mapping[str, ErrorSummary]) -> None:
    for name, summary in groups.items():
        table.add_row(f"  {name or '(none)'}", *figures(summary))


def figures(summary: ErrorSummary) -> tuple[str, ...]:
    """Rows, median, mean, 90th percentile and signed median, as text."""
    return (
        f"{summary.rows}",
        f"{summary.median:.1f}",
        f"{summary.mean:.1f}",
        f"{summary.p90:.1f}",
        f"{summary.bias:+.1f}",
    )


def _worst(found: Validation) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for p in worst_first(found.predictions)[:WORST]:
        measured = p.target.step_s if p.target is not None else None
        signed = 100 * ((p.step_s or 0.0) / (measured or 1.0) - 1)
        table.add_row(
            f"{signed:+.0f} %",
            p.row.id,
            f"{p.row['model']} on {p.row['chip_count']} {p.row['chip']}: "
            f"{duration(p.step_s or 0.0)} for {duration(measured or 0.0)}",
        )
    return table


def ranking_text(ranking: Ranking) -> str:
    """One sentence on how layouts are ranked."""
    return (
        f"{plural(ranking.sweeps, 'sweep')} of one source, model, chip and count: rank "
        f"correlation {ranking.rank_correlation:.2f}, {ranking.pairs:.0f} % of the pairs in the "
        f"right order, {ranking.regret:.1f} % of the speed lost by taking the top pick"
    )


def memory_text(memory: MemorySummary) -> str:
    """One sentence on memory and on what does not fit."""
    parts = []
    if memory.errors is not None:
        parts.append(
            f"{plural(memory.errors.rows, 'row')}: median error {memory.errors.median:.1f} %, "
            f"{memory.within_20:.0f} % within 20 %"
        )
    if memory.out_of_memory:
        parts.append(
            f"{memory.caught} of {memory.out_of_memory} runs that did not fit were told so"
        )
    if memory.ran:
        share = 100 * memory.false_alarms / memory.ran
        parts.append(f"{memory.false_alarms} of {memory.ran} that ran were refused ({share:.1f} %)")
    return "; ".join(parts)


def _reasons(found: Validation) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for reason, ids in found.reasons:
        shown = ", ".join(ids[:FEW_IDS]) + (", …" if len(ids) > FEW_IDS else "")
        table.add_row(str(len(ids)), Text.assemble(reason, (f"  {shown}", "dim")))
    return table
