"""Scenarios side by side, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.report.differences import known
from planner.report.explanation import SHORT
from planner.report.format import count, duration, memory, percent, ratio
from planner.report.summary import section
from planner.scenario.rates import Rates
from planner.terms import Shape
from planner.whatif.comparison import Compared, Comparison
from planner.whatif.money import Costs
from planner.whatif.outcome import Outcome

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
    chunks = f" of {_span(form.chunks)} chunks" if form.chunks != (1, 1) else ""
    text = f"{form.pipelines} × {plural_span(stages, 'stage')}{chunks}, tp {tp}"
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
    parts += [Text(text, style="yellow") for text in _unmeasured(found)]
    parts.append(Text())
    parts.append(section("Where the step goes", terms_side_by_side(found.rows)))
    rates = {r.chip: r for row in found.rows for r in row.case.rates.chips}
    parts.append(rates_note(Rates(tuple(rates.values()))))
    return Group(*parts)


def against(base: float | None, rate: float, *, is_base: bool = False) -> Text:
    """How many times the base's tokens per second."""
    if is_base or base is None:
        return Text("—", style="dim")
    return Text(ratio(rate / base), style="green" if rate > base * 1.0005 else "")


def _unmeasured(found: Comparison) -> tuple[str, ...]:
    """What the plans say of chips that their profile does not hold."""
    said = (w for row in found.rows if row.plan is not None for w in row.plan.warnings)
    return tuple(dict.fromkeys(w for w in said if w.startswith("profile: ")))


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
    """Seconds by cause, one line per scenario; a cause that nobody has is left out."""
    planned = [(r.case.scenario.name, dict(t.items())) for r in rows if (t := r.outcome.terms)]
    causes = [name for name in SHORT if any(terms[name] for _, terms in planned)]
    table = Table.grid(padding=(0, 2))
    table.add_column(max_width=40)
    for _ in causes:
        table.add_column(justify="right")
    table.add_row("", *(Text(SHORT[name], style="dim") for name in causes))
    for scenario, terms in planned:
        table.add_row(scenario, *(duration(terms[name]) for name in causes))
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
