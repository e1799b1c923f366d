"""The picture of how many chips suffice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.report.plots import COLOURS, blank_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from planner.whatif.sizing import Sized


def size_figure(found: Sized) -> Figure:
    """Tokens per second over chips: what was planned, what is proven at most, what is needed."""
    figure, (axis,) = blank_figure()
    chips = found.node.chips
    planned = [(t.nodes * chips, t.outcome.tokens_per_s) for t in found.tried]
    proven = [(t.nodes * chips, t.outcome.most_tokens_per_s) for t in found.tried]
    series = (
        (proven, "at most (proven)", "_", COLOURS[4]),
        (planned, "planned", "o", COLOURS[0]),
    )
    for pairs, label, marker, colour in series:
        known = sorted((n, rate) for n, rate in pairs if rate is not None)
        axis.plot(
            [n for n, _ in known],
            [rate for _, rate in known],
            marker=marker,
            markersize=9,
            linestyle=":",
            color=colour,
            label=label,
        )
    axis.axhline(found.target_tokens_per_s, color="#555555", linewidth=1, label="needed")
    axis.axvline(found.chips, color=COLOURS[2], linestyle="--", label=f"{found.chips:,} chips")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel(f"{found.node.name} chips")
    axis.set_ylabel("tokens per second")
    axis.legend(frameon=False)
    return figure


def size_table(found: Sized) -> list[list[str]]:
    """The numbers under the picture."""
    rows = [["chips", "tokens/s", "at most (proven)"]]
    for tried in sorted(found.tried, key=lambda t: t.nodes):
        rates = (tried.outcome.tokens_per_s, tried.outcome.most_tokens_per_s)
        texts = ["—" if rate is None else f"{rate:,.0f}" for rate in rates]
        rows.append([f"{tried.nodes * found.node.chips:,}", *texts])
    return rows
