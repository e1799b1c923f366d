"""What every stage does when: one chart per group of equal pipelines.

A long step has the same pattern hundreds of times. Its first and last micro-batches are drawn one
by one, the steady middle of every stage as one block that says how busy it is. The whole of it is
in the trace that ``planner simulate --trace`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from costmodels.units import PS_PER_S
from planner.report.format import duration, percent
from planner.report.html.figure import HALF, Chart, Key, Zoom, layout, plotting, words
from planner.report.html.palette import IDLE, OPERATIONS
from planner.report.html.time_chart import slowest, waiting
from planner.report.html.view import View
from planner.timeline import PipelineRun, Span, Timeline

MOST_OPERATIONS = 1_600
"""Operations that are drawn one by one; more make a browser slow and a picture grey."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A bar: its row, its span in seconds, and what a person reads about it."""

    row: int
    start: float
    end: float
    text: str
    hint: str


def timeline_charts(view: View, timeline: Timeline) -> tuple[Chart, ...]:
    """One chart per group."""
    return tuple(_chart(view, timeline, g) for g in range(len(view.groups)))


def _chart(view: View, timeline: Timeline, g: int) -> Chart:
    go = plotting()
    p = slowest(view.groups[g], timeline)
    run = timeline.runs[p]
    window = _window(run)
    step = timeline.step_time_s
    scale, unit = (1.0, "s") if step >= 1 else (1e3, "ms")
    found = layout(len(run.orders))
    found["shapes"] = [_track(row, step * scale) for row in range(len(run.orders))]
    found["annotations"] = [
        words(n, f"{view.label(g, n)} · {view.chips(stage.first)}")
        for n, stage in enumerate(view.groups[g].stages)
    ] + [words(n, waiting(run.bubble_fraction(n)), right=True) for n in range(len(run.orders))]
    found["xaxis"] |= {"range": [0, step * scale], "ticksuffix": f" {unit}"}
    found["xaxis"]["title"]["text"] = "time since the step began"
    traces = [
        *_bars(go, _operations(run, window), scale),
        *_bars(go, _steady(run, window), scale),
        *_bars(go, _finish(timeline, p), scale),
        *_transfers(go, run, window, scale),
    ]
    figure = go.Figure(data=traces, layout=found)
    about = f"{view.group_name(g)}: operations of {len(run.orders)} stages over the step."
    return Chart(
        f"timeline-{g}",
        figure.to_json(),
        found["height"],
        about,
        _legend(run, window),
        _zooms(run, window, step, scale),
    )


def _legend(run: PipelineRun, window: range) -> tuple[Key, ...]:
    """What the colours mean."""
    keys = [Key(name, OPERATIONS[name]) for name in ("forward", "backward")]
    if window:
        keys.append(Key("steady state, many micro-batches joined", OPERATIONS["steady"]))
    keys += [
        Key("synchronisation", OPERATIONS["sync"]),
        Key("update", OPERATIONS["update"]),
        Key("waits", IDLE),
    ]
    if run.activations:
        keys += [Key(f"{n} sent", OPERATIONS[n], "line") for n in ("activations", "gradients")]
    return tuple(keys)


def _window(run: PipelineRun) -> range:
    """Operations of every stage that are its steady middle; empty where all are drawn."""
    count = len(run.orders[0])
    each = 2 * min(_edge(run), max(2, MOST_OPERATIONS // (4 * len(run.orders))))
    return range(each, count - each) if count > 3 * each else range(count, count)


def _edge(run: PipelineRun) -> int:
    """Micro-batches at either end that show how a pipeline fills and drains."""
    return max(12, 2 * len(run.orders) + 4)


def _operations(run: PipelineRun, window: range) -> dict[str, list[Piece]]:
    found: dict[str, list[Piece]] = {"forward": [], "backward": []}
    for s, (order, spans) in enumerate(zip(run.orders, run.operations)):
        for k, ((kind, i), span) in enumerate(zip(order, spans)):
            if k in window:
                continue
            name = "forward" if kind == "F" else "backward"
            chunk = run.chunk_of(s, k)
            of = "" if chunk is None else f", chunk {chunk + 1}"
            hint = f"{name} of micro-batch {i + 1}{of}<br>{_when(span)}"
            found[name].append(_piece(s, span, str(i + 1), hint))
    return found


def _steady(run: PipelineRun, window: range) -> dict[str, list[Piece]]:
    """One block per stage that stands for all operations of the steady middle."""
    if not window:
        return {}
    found = []
    for s, (order, spans) in enumerate(zip(run.orders, run.operations)):
        part = spans[window.start : window.stop]
        whole = (part[0][0], part[-1][1])
        busy = percent(sum(end - start for start, end in part) / max(1, whole[1] - whole[0]))
        numbers = [i for _, i in order[window.start : window.stop]]
        what = f"micro-batches {min(numbers) + 1} … {max(numbers) + 1}"
        hint = f"forward and backward, {what}<br>busy {busy}<br>{_when(whole)}"
        found.append(_piece(s, whole, f"{what}, {busy} busy", hint))
    return {"steady": found}


def _finish(timeline: Timeline, pipeline: int) -> dict[str, list[Piece]]:
    """Synchronisation and update; reductions of one stage that overlap are one bar."""
    found: dict[str, list[Piece]] = {"sync": [], "update": []}
    spans: dict[tuple[int, str], list[Span]] = {}
    for piece in timeline.finish:
        if piece.pipeline == pipeline:
            key = (piece.stage, piece.category)
            spans.setdefault(key, []).append((piece.start_ps, piece.end_ps))
    for (stage, category), parts in spans.items():
        whole = (min(a for a, _ in parts), max(b for _, b in parts))
        name = "gradient synchronisation" if category == "sync" else "optimizer update"
        found[category].append(_piece(stage, whole, "", f"{name}<br>{_when(whole)}"))
    return found


def _piece(row: int, span: Span, text: str, hint: str) -> Piece:
    return Piece(row, span[0] / PS_PER_S, span[1] / PS_PER_S, text, hint)


def _when(span: Span) -> str:
    start, end = span[0] / PS_PER_S, span[1] / PS_PER_S
    return f"{duration(end - start)}, from {duration(start)} on"


def _bars(go: Any, pieces: dict[str, list[Piece]], scale: float) -> list[Any]:  # noqa: ANN401
    return [
        go.Bar(
            orientation="h",
            name=name,
            y=[piece.row for piece in part],
            base=[piece.start * scale for piece in part],
            x=[(piece.end - piece.start) * scale for piece in part],
            width=2 * HALF,
            marker={"color": OPERATIONS[name], "line": {"width": 0.5, "color": "#ffffff"}},
            text=[piece.text for piece in part],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"size": 11, "color": "#10202e"},
            hovertext=[piece.hint for piece in part],
            hovertemplate="%{hovertext}<extra></extra>",
        )
        for name, part in pieces.items()
        if part
    ]


def _transfers(
    go: Any,  # noqa: ANN401
    run: PipelineRun,
    window: range,
    scale: float,
) -> list[Any]:
    """Lines from the sending to the receiving stage, as long as the transfer takes."""
    traces = []
    for name, hops in (("activations", run.activations), ("gradients", run.gradients)):
        x: list[float | None] = []
        y: list[float | None] = []
        for s in range(len(hops)):
            for sent in run.transfers(s, down=name == "activations"):
                if any(k in window for k in sent.operations):
                    continue
                source, target = sent.stages
                side = HALF if target > source else -HALF
                x += [time / PS_PER_S * scale for time in sent.span]
                y += [source + side, target - side]
                x.append(None)
                y.append(None)
        if x:
            traces.append(
                go.Scatter(
                    mode="lines",
                    name=name,
                    x=x,
                    y=y,
                    line={"width": 1, "color": OPERATIONS[name]},
                    opacity=0.55,
                    hoverinfo="skip",
                )
            )
    return traces


def _track(row: int, end: float) -> dict[str, Any]:
    """The background of a stage: where it shows, the stage waits."""
    return {
        "type": "rect",
        "layer": "below",
        "x0": 0,
        "x1": end,
        "y0": row - HALF,
        "y1": row + HALF,
        "fillcolor": IDLE,
        "line": {"width": 0},
    }


def _zooms(run: PipelineRun, window: range, step: float, scale: float) -> tuple[Zoom, ...]:
    """The whole step, its beginning and its end."""
    count = len(run.orders[0]) // 2
    few = window.start // 2 if window else _edge(run)
    if 2 * few >= count:
        return ()
    first = run.operations[0][min(2 * few, len(run.operations[0]) - 1)][1] / PS_PER_S
    last = run.operations[0][max(0, len(run.operations[0]) - 2 * few)][0] / PS_PER_S
    return (
        Zoom("whole step", 0.0, step * scale),
        Zoom("start", 0.0, first * scale),
        Zoom("end", last * scale, step * scale),
    )
