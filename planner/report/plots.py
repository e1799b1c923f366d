"""Pictures of answers (extra ``[plot]``): PNG, SVG, or one self-contained HTML page.

matplotlib draws without a display and without state; the same answer gives the same bytes.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costmodels.catalog.names import short_name
from planner.errors import InputError, Problem
from planner.report.explanation import TERMS
from planner.terms import Terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.whatif import BreakEven, Comparison, Front, Sweep, Tornado

SUFFIXES = (".png", ".svg", ".html")

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Okabe and Ito's colours, which people with any kind of colour vision tell apart."""

DPI = 144
FEW = 8
"""Of more points than this only those on the front are drawn with their names."""


def check_plot(target: str | None) -> None:
    """Find out before the work that a picture cannot be made. Raises InputError."""
    if target is None:
        return
    if Path(target).suffix.lower() not in SUFFIXES:
        remedy = f"end the name in {', '.join(SUFFIXES)}"
        raise InputError([Problem(f"--plot {target}", "is no kind of picture", remedy)])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        message = "needs matplotlib, which is not installed"
        raise InputError(
            [Problem(f"--plot {target}", message, "pip install 'planner[plot]'")]
        ) from None


def picture(figure: Figure, target: str, *, title: str, table: Sequence[Sequence[str]]) -> bytes:
    """The bytes of a file for a figure; HTML carries the picture and its numbers as a table."""
    import matplotlib as mpl

    kind = Path(target).suffix.lower().lstrip(".")
    data = io.BytesIO()
    # a fixed salt and no date: the same figure is the same file
    with mpl.rc_context({"svg.hashsalt": "planner", "svg.fonttype": "none"}):
        if kind == "png":
            figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
            return data.getvalue()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    svg = data.getvalue().decode("utf-8")
    return svg.encode() if kind == "svg" else _page(svg, title, table).encode()


def _page(svg: str, title: str, table: Sequence[Sequence[str]]) -> str:
    """One page that needs nothing else."""
    drawn = svg[svg.index("<svg") :]
    head, *rows = table
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>\n" for row in rows
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>"
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}"
        "svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
        "th,td{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}"
        "th:first-child,td:first-child{text-align:left}"
        "</style></head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{drawn}\n"
        f"<table><thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
        "</body></html>\n"
    )


def blank_figure(
    columns: int = 1, height: float = 4.2, width: float = 6.4
) -> tuple[Figure, list[Axes]]:
    """A figure with so many plots side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    found: Any = figure.subplots(1, columns, squeeze=False)
    axes = list(found[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, axis="y", color="#e5e5e5", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


# -- comparisons ------------------------------------------------------------------------------


def comparison_figure(found: Comparison) -> Figure:
    """A bar per scenario, stacked by where the time goes."""
    rows = [r for r in found.rows if r.outcome.terms is not None]
    figure, (axis,) = blank_figure(height=0.5 * len(rows) + 2.0, width=8.5)
    axis.grid(visible=False)
    names = [r.case.scenario.name for r in rows]
    _stacked(axis, names, [r.outcome.terms for r in rows if r.outcome.terms is not None])
    axis.set_xlabel("seconds per step")
    axis.invert_yaxis()
    axis.legend(
        frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.15), ncols=2
    )
    return figure


def _stacked(axis: Axes, names: Sequence[str], terms: Sequence[Terms]) -> None:
    left = [0.0] * len(terms)
    for n, (field, words) in enumerate(TERMS.items()):
        values = [float(getattr(t, field)) for t in terms]
        if any(values):
            axis.barh(names, values, left=left, color=COLOURS[n % len(COLOURS)], label=words)
            left = [a + b for a, b in zip(left, values, strict=True)]
    for n, total in enumerate(left):
        axis.text(total, n, f" {total:.3g} s", va="center", fontsize="small")


# -- sweeps -----------------------------------------------------------------------------------


def sweep_figure(found: Sweep, front: Front | None) -> Figure:
    """Lines over one axis, a map over two; the front beside it where costs are known."""
    priced = front is not None and len(front.best) > 0 and "cost" in front.goals
    figure, axes = blank_figure(2 if priced else 1)
    if len(found.axes) == 1:
        _lines(axes[0], found)
    else:
        _map(figure, axes[0], found)
    if priced and front is not None:
        _scatter(axes[1], found, front)
    return figure


def _lines(axis: Axes, found: Sweep) -> None:
    (over,) = found.axes
    points = [(v.values[0], v.outcome.tokens_per_s) for v in found.points if v.outcome is not None]
    known = [(value, rate) for value, rate in points if rate is not None]
    if over.numeric:
        axis.plot(
            [value.number for value, _ in known if value.number is not None],
            [rate for _, rate in known],
            marker="o",
            color=COLOURS[0],
        )
    else:
        axis.bar([value.text for value, _ in known], [r for _, r in known], color=COLOURS[0])
        axis.tick_params(axis="x", rotation=20)
    axis.set_ylim(0, 1.08 * max((rate for _, rate in known), default=1.0))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_ylabel("tokens per second")
    axis.set_xlabel(f"{over.name}, {over.unit}" if over.unit else over.name)


def _map(figure: Figure, axis: Axes, found: Sweep) -> None:
    down, across = found.axes
    width = len(across.values)
    rates = [
        [
            (p.outcome.tokens_per_s if p.outcome and p.outcome.tokens_per_s else float("nan"))
            for p in found.points[n * width : (n + 1) * width]
        ]
        for n in range(len(down.values))
    ]
    image = axis.imshow(rates, aspect="auto", origin="lower", cmap="viridis")
    axis.grid(visible=False)
    axis.set_xticks(range(width), [v.text for v in across.values], rotation=20)
    axis.set_yticks(range(len(down.values)), [v.text for v in down.values])
    axis.set_xlabel(across.name)
    axis.set_ylabel(down.name)
    figure.colorbar(image, ax=axis, label="tokens per second", format="{x:,.0f}")


def _scatter(axis: Axes, found: Sweep, front: Front) -> None:
    """Cost against speed; the colour is the energy where it is known."""
    shown = [
        (n, p.outcome.tokens_per_s, p.costs.usd_per_million_tokens, p.costs.kwh_per_million_tokens)
        for n, p in enumerate(found.points)
        if p.outcome is not None
    ]
    known = [(n, r, c, e) for n, r, c, e in shown if r is not None and c is not None]
    best = [entry for number in front.best for entry in known if entry[0] == number]
    energies = [e for *_, e in known]
    colours: Any = COLOURS[5] if None in energies else energies
    dots = axis.scatter([r for _, r, *_ in known], [c for *_, c, _ in known], c=colours, s=36)
    if None not in energies and axis.figure is not None:
        axis.figure.colorbar(dots, ax=axis, label="kWh per million tokens")
    ordered = sorted(best, key=lambda entry: entry[1])
    line = [r for _, r, *_ in ordered], [c for *_, c, _ in ordered]
    axis.plot(*line, color=COLOURS[4], zorder=0)
    axis.scatter(*line, facecolors="none", edgecolors=COLOURS[4], s=110)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    named: set[tuple[float, float]] = set()
    for number, rate, cost, _ in best if len(known) > FEW else known:
        if (rate, cost) in named:
            continue  # another point lies in the same place
        named.add((rate, cost))
        name = ", ".join(value.text for value in found.points[number].values)
        axis.annotate(name, (rate, cost), xytext=(6, -10), textcoords="offset points", fontsize=8)
    axis.locator_params(axis="x", nbins=5)
    axis.margins(x=0.15)
    axis.set_title(", ".join(a.name for a in found.axes), fontsize="small", loc="left")
    axis.set_xlabel("tokens per second")
    axis.set_ylabel("USD per million tokens")


def sweep_table(found: Sweep) -> list[list[str]]:
    """The numbers under the picture."""
    head = [*(a.name for a in found.axes), "step, s", "tokens/s", "USD/M tokens", "kWh/M tokens"]
    rows = [head]
    for point in found.points:
        outcome = point.outcome
        figures = [
            outcome.step_time_s if outcome else None,
            outcome.tokens_per_s if outcome else None,
            point.costs.usd_per_million_tokens,
            point.costs.kwh_per_million_tokens,
        ]
        missing = "unknown" if outcome and outcome.status == "planned" else "no plan"
        cells = [missing if f is None else f"{f:,.4g}" for f in figures]
        rows.append([*(v.text for v in point.values), *cells])
    return rows


# -- tornado and links ------------------------------------------------------------------------


def tornado_figure(found: Tornado) -> Figure:
    """The bars around the step time as it is, with the points where the plan is overtaken."""
    own = found.chosen.estimate.step_time_s
    bars = list(reversed(found.bars))
    figure, (axis,) = blank_figure(height=0.42 * len(bars) + 1.6, width=8.5)
    axis.grid(visible=False)
    for n, bar in enumerate(bars):
        for side, colour in ((bar.low, COLOURS[1]), (bar.high, COLOURS[0])):
            best = side.best_s
            if best is None:
                axis.text(own, n, "  no plan", va="center", fontsize="small", color=COLOURS[4])
            else:
                axis.barh(n, best - own, left=own, color=colour, height=0.7)
        flips = [f for f in bar.flips if f is not None]
        if flips:
            words = ", ".join(f"×{f:.2f}" for f in flips)
            axis.text(
                axis.get_xlim()[1], n, f" overtaken at {words}", va="center", fontsize="small"
            )
    axis.axvline(own, color="black", linewidth=0.8)
    axis.set_yticks(range(len(bars)), [b.input.name for b in bars])
    axis.set_xlabel(f"seconds per step; orange: ÷ {found.spread:g}, blue: × {found.spread:g}")
    return figure


def tornado_table(found: Tornado) -> list[list[str]]:
    """The numbers under the picture."""
    rows = [["input", "low, s", "high, s", "overtaken below", "overtaken above"]]
    for bar in found.bars:
        times = ["—" if s.best_s is None else f"{s.best_s:.4g}" for s in (bar.low, bar.high)]
        flips = ["—" if f is None else f"×{f:.3g}" for f in bar.flips]
        rows.append([bar.input.name, *times, *flips])
    return rows


def link_figure(found: BreakEven) -> Figure:
    """Step time over bandwidth: the chosen plan kept, and its rival."""
    figure, (axis,) = blank_figure()
    lines = (("this plan", "chosen_s", COLOURS[0]), ("the other", "rival_s", COLOURS[1]))
    for label, field, colour in lines:
        shown = [(p.bytes_per_s * 8 / 1e9, getattr(p, field)) for p in found.curve]
        known = [(rate, time) for rate, time in shown if time is not None]
        axis.plot(
            [r for r, _ in known], [t for _, t in known], marker="o", color=colour, label=label
        )
    if found.break_even_bytes_per_s is not None:
        axis.axvline(found.break_even_bytes_per_s * 8 / 1e9, color=COLOURS[4], linestyle="--")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_ylim(bottom=0)
    axis.set_xlabel(f"{found.link}, Gb/s")
    axis.set_ylabel("seconds per step")
    axis.legend(frameon=False)
    return figure


def link_table(found: BreakEven) -> list[list[str]]:
    """The numbers under the picture."""
    rows = [["Gb/s", "this plan, s", "the other, s"]]
    for point in found.curve:
        times = ["—" if t is None else f"{t:.4g}" for t in (point.chosen_s, point.rival_s)]
        rows.append([f"{point.bytes_per_s * 8 / 1e9:.4g}", *times])
    return rows


def comparison_table(found: Comparison) -> list[list[str]]:
    """The numbers under the picture."""
    rows = [["scenario", "step, s", "tokens/s", "chips"]]
    for row in found.rows:
        step, rate = row.outcome.step_time_s, row.outcome.tokens_per_s
        chips = ", ".join(f"{n} × {short_name(c)}" for c, n in row.outcome.used)
        rows.append(
            [
                row.case.scenario.name,
                "no plan" if step is None else f"{step:.4g}",
                "" if rate is None else f"{rate:,.0f}",
                chips,
            ]
        )
    return rows
