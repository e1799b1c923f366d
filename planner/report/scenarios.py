"""Scenarios side by side and sweeps, for people and for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.report.bars import length
from planner.report.differences import known
from planner.report.explanation import TERMS
from planner.report.format import count, duration, memory, percent, plural, ratio
from planner.report.summary import section
from planner.scenario.rates import Rates
from planner.terms import Shape
from planner.whatif.comparison import Compared, Comparison
from planner.whatif.grid import Point, Sweep
from planner.whatif.money import Costs
from planner.whatif.outcome import Outcome
from planner.whatif.pareto import Front

BAR = 18
MOST_ROWS = 60

STATUS = {
    "infeasible": "nothing fits, proven",
    "limit": "no plan before the limit",
    "invalid": "not possible",
    "failed": "failed",
}
"""Outcomes without a plan in words."""


def shape_text(form: Shape | None) -> str:
    """``2 × 4 stages, tp 2–4``."""
    if form is None:
        return ""
    stages, tp = _span(form.stages), _span(form.tensor_parallel)
    text = f"{form.pipelines} × {plural_span(stages, 'stage')}, tp {tp}"
    recompute = [policy for policy in form.recompute if policy != "none"]
    return f"{text}, recompute {'/'.join(recompute)}" if recompute else text


def plural_span(span: str, noun: str) -> str:
    """``1 stage``, ``4 stages``, ``3–4 stages``."""
    return f"{span} {noun}" if span == "1" else f"{span} {noun}s"


def _span(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}–{values[1]}"


def chips_text(outcome: Outcome) -> str:
    """``8 × A100, 12 of 16 × V100``."""
    used = dict(outcome.used)
    parts = []
    for chip, have in outcome.fleet:
        n = used.get(chip, 0)
        parts.append(
            f"{n} × {short_name(chip)}" if n == have else f"{n} of {have} × {short_name(chip)}"
        )
    return ", ".join(parts)


def reason_text(outcome: Outcome) -> str:
    """Why there is no plan, in one line."""
    return f"{STATUS.get(outcome.status, outcome.status)}: {outcome.reason.splitlines()[0]}"


# -- side by side -----------------------------------------------------------------------------


def comparison_page(found: Comparison) -> RenderableType:
    """The base and every scenario, and where the time of each goes."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", max_width=40)
    for head in ("step", "tokens/s", "against base", "USD/M tokens", "kWh/M tokens"):
        table.add_column(head, justify="right", no_wrap=True)
    base = found.base.outcome.tokens_per_s
    for row in found.rows:
        rate = row.outcome.tokens_per_s
        if rate is None:
            table.add_row(row.case.scenario.name, "—", "—", "—", "—", "—")
            continue
        table.add_row(
            row.case.scenario.name,
            duration(row.outcome.step_time_s or 0.0),
            count(rate),
            against(base, rate, is_base=row is found.base),
            known(row.costs.usd_per_million_tokens, "{:.4g}"),
            known(row.costs.kwh_per_million_tokens, "{:.4g}"),
        )
    parts: list[RenderableType] = [table, Text()]
    parts += [_plan_lines(row) for row in found.rows]
    parts.append(Text())
    parts.append(section("Where the step goes", terms_side_by_side(found.rows)))
    parts.append(rates_note(found.base.case.rates))
    return Group(*parts)


def against(base: float | None, rate: float, *, is_base: bool = False) -> Text:
    """How many times the base's tokens per second."""
    if is_base or base is None:
        return Text("—", style="dim")
    return Text(ratio(rate / base), style="green" if rate > base * 1.0005 else "")


def _plan_lines(row: Compared) -> Text:
    text = Text.assemble((f"{row.case.scenario.name}: ", "dim"))
    if row.outcome.status != "planned":
        text.append(reason_text(row.outcome), style="red")
        return text
    left = row.outcome.left_bytes or 0
    text.append(
        f"{shape_text(row.outcome.shape)} on {chips_text(row.outcome)}; "
        f"{memory(left)} left on {short_name(row.outcome.tightest_chip)}"
    )
    gap = outcome_gap(row.outcome)
    if gap is not None:
        text.append(f"; at most {percent(gap)} from the best", style="dim")
    return text


def outcome_gap(outcome: Outcome) -> float | None:
    """The proven gap of a plan; None without a bound."""
    if not outcome.lower_bound_s or not outcome.objective_s:
        return None
    return (outcome.objective_s - outcome.lower_bound_s) / outcome.objective_s


def terms_side_by_side(rows: Sequence[Compared]) -> RenderableType:
    """Seconds by cause, one column per scenario."""
    planned = [r for r in rows if r.outcome.terms is not None]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for _ in planned:
        table.add_column(justify="right", max_width=24)
    table.add_row("", *(Text(r.case.scenario.name, style="dim") for r in planned))
    for name, words in TERMS.items():
        values = [getattr(r.outcome.terms, name) for r in planned]
        if any(values):
            table.add_row(words, *(duration(v) for v in values))
    return table


def rates_note(rates: Rates) -> Text:
    """Which prices and powers were taken, and from where; what is unknown."""
    lines = []
    for own in rates.chips:
        price, power = own.usd_per_hour, own.watts
        name = short_name(own.chip)
        cost = f"{price.value:g} USD/h ({_source(price.source)})" if price else "price unknown"
        draw = f"{power.value:g} W ({_source(power.source)})" if power else "power unknown"
        lines.append(f"{name}: {cost}, {draw}")
    return Text("\n".join(lines), style="dim")


def _source(text: str) -> str:
    return text.split(":")[0].split(",")[0]


def comparison_object(found: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON."""
    return {
        "scenarios": [
            {
                "name": row.case.scenario.name,
                "changes": [c.text for c in row.case.scenario.changes],
                **outcome_object(row.outcome, row.costs),
            }
            for row in found.rows
        ]
    }


def outcome_object(outcome: Outcome, costs: Costs) -> dict[str, Any]:
    """An outcome and what it costs; an unknown cost is null."""
    return {
        **outcome.as_json(),
        "tokens_per_s": outcome.tokens_per_s,
        "usd_per_hour": costs.usd_per_hour,
        "kilowatts": costs.kilowatts,
        "usd_per_million_tokens": costs.usd_per_million_tokens,
        "kwh_per_million_tokens": costs.kwh_per_million_tokens,
    }


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
