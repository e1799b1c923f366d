"""A tornado for people and for programs."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.report.differences import known
from planner.report.format import duration, ratio
from planner.report.summary import section
from planner.whatif.sensitivity import Bar, Side, Tornado

HALF = 10
"""Columns of a bar on either side of the step time as it is."""


def tornado_page(found: Tornado) -> RenderableType:
    """Every input lower and higher, the largest swing first, and where the plan is overtaken."""
    own = found.chosen.estimate.step_time_s
    down, up = f"÷ {found.spread:g}", f"× {found.spread:g}"
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column(down, justify="right", no_wrap=True)
    table.add_column(f"{duration(own)} as it is", justify="center", no_wrap=True)
    table.add_column(up, justify="right", no_wrap=True)
    table.add_column("another plan is better", max_width=30)
    widest = max((_deviation(s, own) for b in found.bars for s in (b.low, b.high)), default=0.0)
    for bar in found.bars:
        table.add_row(
            bar.input.name,
            _time(bar.low, 1 / found.spread),
            _drawn(bar, own, widest),
            _time(bar.high, found.spread),
            Text(flips_text(bar), style="yellow" if any(bar.flips) else "dim"),
        )
    parts: list[RenderableType] = [table, Text()]
    note = "green: faster, red: slower; each side planned again, and the chosen plan kept"
    parts.append(Text(note, style="dim"))
    if found.prices:
        parts += [Text(), section("Cost of a million tokens", _prices(found))]
    return Group(*parts)


def _deviation(side: Side, own: float) -> float:
    best = side.best_s
    return abs(best - own) if best is not None else 0.0


def _time(side: Side, asked: float) -> Text:
    best = side.best_s
    if best is None:
        return Text("no plan" if side.planned else "not possible", style="red")
    text = Text(duration(best))
    if abs(side.factor / asked - 1) > 1e-9:
        text.append(f" at {ratio(side.factor)}", style="dim")
    return text


def _drawn(bar: Bar, own: float, widest: float) -> Text:
    """Seconds saved to the left of the middle, seconds lost to the right."""
    left, right = 0.0, 0.0
    for side in (bar.low, bar.high):
        best = side.best_s
        if best is not None:
            left, right = max(left, own - best), max(right, best - own)
    scale = HALF / widest if widest else 0.0
    cells = round(left * scale), round(right * scale)
    text = Text(" " * (HALF - cells[0]))
    text.append("█" * cells[0], style="green")
    text.append("│", style="dim")
    text.append("█" * cells[1], style="red")
    text.append(" " * (HALF - cells[1]))
    return text


def flips_text(bar: Bar) -> str:
    """The factors at which the chosen plan is overtaken."""
    found = [f"{'below' if f < 1 else 'above'} {ratio(f)}" for f in bar.flips if f is not None]
    return " and ".join(found) if found else "no"


def _prices(found: Tornado) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(justify="right", no_wrap=True)
    heads = ("price of", f"÷ {found.spread:g}", "as it is", f"× {found.spread:g}")
    table.add_row(*(Text(h, style="dim") for h in heads))
    now = known(found.usd_per_million_tokens, "{:.4f}")
    for bar in found.prices:
        table.add_row(
            short_name(bar.chip), known(bar.low, "{:.4f}"), now, known(bar.high, "{:.4f}")
        )
    note = "USD, chips in use; a price changes no plan, the fastest is chosen"
    return Group(table, Text(note, style="dim"))


def tornado_object(found: Tornado) -> dict[str, Any]:
    """The tornado as plain JSON."""
    return {
        "step_time_s": found.chosen.estimate.step_time_s,
        "plan_id": found.chosen.plan_id,
        "spread": found.spread,
        "inputs": [
            {
                "name": bar.input.name,
                "swing_s": None if math.isinf(bar.swing_s) else bar.swing_s,
                "low": _side(bar.low),
                "high": _side(bar.high),
                "overtaken_below": bar.flips[0],
                "overtaken_above": bar.flips[1],
            }
            for bar in found.bars
        ],
        "usd_per_million_tokens": found.usd_per_million_tokens,
        "prices": [
            {"chip": p.chip, "low_usd_per_million": p.low, "high_usd_per_million": p.high}
            for p in found.prices
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    outcome = side.planned.outcome if side.planned else None
    return {
        "factor": side.factor,
        "kept_step_time_s": side.kept_s,
        "replanned_step_time_s": outcome.step_time_s if outcome else None,
        "status": outcome.status if outcome else "invalid",
        "reason": side.reason,
    }
