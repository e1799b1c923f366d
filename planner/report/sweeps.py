"""Sweeps: a table of one axis, a grid of two, every figure as CSV and JSON."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report.bars import length
from planner.report.differences import known
from planner.report.format import count, duration, plural
from planner.report.scenarios import STATUS, outcome_object, reason_text, shape_text
from planner.report.summary import section
from planner.whatif.grid import Point, Sweep
from planner.whatif.outcome import Outcome
from planner.whatif.pareto import Front

BAR = 18
MOST_ROWS = 60


# -- sweeps -----------------------------------------------------------------------------------


def sweep_page(found: Sweep, front: Front | None) -> RenderableType:
    """A table of one axis, a grid of two, and the points that nobody beats."""
    body = _line(found, front) if len(found.axes) == 1 else _grid(found)
    parts: list[RenderableType] = [body, Text()]
    counts: dict[str, int] = {}
    for point in found.points:
        status = point.outcome.status if point.outcome else "not done"
        counts[status] = counts.get(status, 0) + 1
    words = ", ".join(
        f"{n} {STATUS.get(status, status)}" for status, n in counts.items() if status != "planned"
    )
    parts.append(Text(f"{plural(counts.get('planned', 0), 'plan')}{f', {words}' if words else ''}"))
    if front is not None:
        parts += [
            Text(),
            section(f"Nobody beats ({' and '.join(front.goals)})", _front(found, front)),
        ]
    return Group(*parts)


def _line(found: Sweep, front: Front | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(found.axes[0].name, justify="right", no_wrap=True)
    for head in ("step", "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("USD/M tokens", justify="right", no_wrap=True)
    table.add_column("plan")
    rates = [p.outcome.tokens_per_s for p in found.points if p.outcome]
    longest = max((r for r in rates if r is not None), default=1.0)
    best = set(front.best) if front else set()
    for number, point in enumerate(found.points[:MOST_ROWS]):
        label = Text(point.values[0].text, style="bold" if number in best else "")
        outcome = point.outcome
        if outcome is None or outcome.tokens_per_s is None:
            why = reason_text(outcome) if outcome else "not done"
            table.add_row(label, "—", "—", "", "—", Text(why, style="dim"))
            continue
        table.add_row(
            label,
            duration(outcome.step_time_s or 0.0),
            count(outcome.tokens_per_s),
            Text(length(outcome.tokens_per_s, longest, BAR), style="cyan"),
            known(point.costs.usd_per_million_tokens, "{:.4g}"),
            Text(shape_text(outcome.shape), style="dim"),
        )
    return table


def _grid(found: Sweep) -> Table:
    """Tokens per second, the first axis down, the second across."""
    down, across = found.axes
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(f"{down.name} ↓ · {across.name} →", no_wrap=True)
    for value in across.values:
        table.add_column(value.text, justify="right", no_wrap=True)
    width = len(across.values)
    best = max((p.outcome.tokens_per_s or 0.0 for p in found.points if p.outcome), default=0.0)
    for n, value in enumerate(down.values[:MOST_ROWS]):
        cells = found.points[n * width : (n + 1) * width]
        table.add_row(value.text, *(_cell(c, best) for c in cells))
    table.caption = "tokens/s"
    return table


def _cell(point: Point, best: float) -> Text:
    if point.outcome is None:
        return Text("·", style="dim")
    rate = point.outcome.tokens_per_s
    if rate is None:
        return Text("—", style="red")
    return Text(count(rate), style="bold green" if rate == best else "")


def _front(found: Sweep, front: Front) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(justify="right", no_wrap=True)
    for number in front.best:
        point = found.points[number]
        outcome = point.outcome
        rate = outcome.tokens_per_s if outcome else None
        table.add_row(
            Text(point_name(found, point), style="bold"),
            f"{count(rate or 0.0)} tokens/s",
            f"{known(point.costs.usd_per_million_tokens, '{:.4g}')} USD/M tokens",
            f"{known(point.costs.kwh_per_million_tokens, '{:.4g}')} kWh/M tokens",
        )
    if not front.unknown:
        return table
    text = (
        f"{plural(len(front.unknown), 'point')} not judged: no plan, or an unknown price or power"
    )
    return Group(table, Text(text, style="dim"))


def point_name(found: Sweep, point: Point) -> str:
    """``nodes v100 2, link network 100Gb/s``."""
    pairs = zip(found.axes, point.values, strict=True)
    return ", ".join(f"{axis.name} {value.text}" for axis, value in pairs)


CSV_COLUMNS = (
    "status", "step_time_s", "lower_bound_s", "tokens_per_s", "mfu", "chips_used",
    "usd_per_hour", "kilowatts", "usd_per_million_tokens", "kwh_per_million_tokens",
    "left_gib", "tightest_chip", "pipelines", "stages_min", "stages_max", "tp_min", "tp_max",
    "recompute", "compute_s", "recompute_s", "tensor_parallel_s", "pipeline_s", "sync_s",
    "update_s", "plan_id", "reason",
)  # fmt: skip


def sweep_csv(found: Sweep) -> str:
    """One line per point; what is unknown is empty, never 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(axis.name for axis in found.axes), *CSV_COLUMNS])
    for point in found.points:
        writer.writerow([*(v.text for v in point.values), *_csv_values(point)])
    return text.getvalue()


def _csv_values(point: Point) -> list[object]:
    outcome, costs = point.outcome or Outcome(status="limit", reason="not done"), point.costs
    form, terms = outcome.shape, outcome.terms
    gib = 2**30
    return [
        outcome.status,
        outcome.step_time_s,
        outcome.lower_bound_s,
        outcome.tokens_per_s,
        outcome.mfu,
        outcome.chips_used or None,
        costs.usd_per_hour,
        costs.kilowatts,
        costs.usd_per_million_tokens,
        costs.kwh_per_million_tokens,
        None if outcome.left_bytes is None else outcome.left_bytes / gib,
        outcome.tightest_chip,
        *(
            [form.pipelines, *form.stages, *form.tensor_parallel, " ".join(form.recompute)]
            if form
            else [None] * 6
        ),
        *([value for _, value in terms.items()] if terms else [None] * 6),
        outcome.plan_id,
        outcome.reason.splitlines()[0] if outcome.reason else "",
    ]


def sweep_object(found: Sweep, front: Front | None) -> dict[str, Any]:
    """The sweep as plain JSON."""
    best = set(front.best) if front else set()
    return {
        "axes": [
            {"name": a.name, "unit": a.unit, "values": [v.text for v in a.values]}
            for a in found.axes
        ],
        "complete": found.complete,
        "points": [
            {
                "values": [v.text for v in point.values],
                "on_front": number in best,
                **(outcome_object(point.outcome, point.costs) if point.outcome else {}),
            }
            for number, point in enumerate(found.points)
        ],
        "front_goals": list(front.goals) if front else [],
    }
