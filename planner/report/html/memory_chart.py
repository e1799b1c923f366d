"""Memory of the fullest chip of every stage, item by item, against what is usable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from costmodels.catalog.names import short_name
from costmodels.units import GIB
from planner.report.format import device_list, gib, memory
from planner.report.groups import StageGroup
from planner.report.html.figure import (
    HALF,
    PIXELS,
    Chart,
    Key,
    layout,
    plain,
    plotting,
    words,
)
from planner.report.html.palette import IDLE, INK, MEMORY
from planner.report.html.view import View, shortened

DEVICES = 90
"""Letters of a device list in a chart."""

BAD = "#b3261e"


def memory_chart(view: View, groups: Sequence[int], identity: str) -> Chart:
    """One row per stage of some groups of equal pipelines."""
    go = plotting()
    rows = [(g, stage) for g in groups for stage in view.groups[g].stages]
    found = layout(len(rows))
    found["annotations"] = [a for n, row in enumerate(rows) for a in _words(view, n, *row)]
    found["xaxis"]["title"]["text"] = "GiB on the stage's fullest chip"
    most = max(s.tightest.memory_bytes.usable for _, s in rows)
    peak = max(s.tightest.memory_bytes.peak for _, s in rows)
    found["xaxis"]["range"] = [0, max(most, peak) / GIB * 1.002]
    found["shapes"] = [_track(n, stage) for n, (_, stage) in enumerate(rows)]
    found["xaxis"]["fixedrange"] = True
    traces = [_item(go, view, rows, *item) for item in MEMORY]
    traces.append(_usable(go, rows))
    figure = go.Figure(data=traces, layout=found)
    about = f"Memory of {len(rows)} kinds of stages by item."
    return Chart(identity, figure.to_json(), found["height"], about, _legend(rows))


def _legend(rows: list[tuple[int, StageGroup]]) -> tuple[Key, ...]:
    """Items that are anywhere, and what is free."""
    memories = [stage.tightest.memory_bytes for _, stage in rows]
    items = [Key(w, c) for field, w, c in MEMORY if any(getattr(m, field) for m in memories)]
    return (*items, Key("free", IDLE), Key("usable", INK, "mark"))


def _track(row: int, stage: StageGroup) -> dict[str, Any]:
    """The background of a row: where it shows, memory is free."""
    return {
        "type": "rect",
        "layer": "below",
        "x0": 0,
        "x1": stage.tightest.memory_bytes.usable / GIB,
        "y0": row - HALF,
        "y1": row + HALF,
        "fillcolor": IDLE,
        "line": {"width": 0},
    }


def _words(view: View, n: int, g: int, stage: StageGroup) -> list[dict[str, Any]]:
    figures = stage.tightest.memory_bytes
    left = figures.usable - figures.peak
    says = f"{gib(left)} GiB left" if left >= 0 else f"{gib(-left)} GiB short"
    label = view.label(g, stage.number - 1)
    where = shortened(device_list(stage.devices), DEVICES)
    text = f"{label} · {view.chips(stage.first)} · {where}"
    colour = BAD if left < 0 else INK
    return [words(n, text), words(n, says, right=True, colour=colour)]


def _item(
    go: Any,  # noqa: ANN401
    view: View,
    rows: list[tuple[int, StageGroup]],
    field: str,
    name: str,
    colour: str,
) -> Any:  # noqa: ANN401
    """One item over all rows, each bar from where the items before it end."""
    before = [f for f, _, _ in MEMORY[: [m[0] for m in MEMORY].index(field)]]
    memories = [stage.tightest.memory_bytes for _, stage in rows]
    sizes = [int(getattr(m, field)) for m in memories]
    return go.Bar(
        orientation="h",
        name=name,
        y=list(range(len(rows))),
        base=[sum(int(getattr(m, f)) for f in before) / GIB for m in memories],
        x=[size / GIB for size in sizes],
        width=2 * HALF,
        marker={"color": colour, "line": {"width": 0}},
        customdata=[
            [memory(size), _place(view, g, stage)] for size, (g, stage) in zip(sizes, rows)
        ],
        hovertemplate=f"<b>{name}</b> %{{customdata[0]}}<br>%{{customdata[1]}}<extra></extra>",
    )


def _place(view: View, g: int, stage: StageGroup) -> str:
    chip = short_name(stage.tightest.chip)
    where = shortened(device_list(stage.devices), DEVICES)
    return f"{plain(view.stage_name(g, stage))}<br>{plain(where)} ({plain(chip)})"


def _usable(go: Any, rows: list[tuple[int, StageGroup]]) -> Any:  # noqa: ANN401
    usable = [stage.tightest.memory_bytes.usable for _, stage in rows]
    return go.Scatter(
        mode="markers",
        name="usable",
        x=[size / GIB for size in usable],
        y=list(range(len(rows))),
        marker={"symbol": "line-ns", "size": PIXELS, "line": {"width": 2.5, "color": INK}},
        customdata=[memory(size) for size in usable],
        hovertemplate="<b>usable</b> %{customdata}<extra></extra>",
    )
