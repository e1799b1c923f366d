"""What a notebook shows of a plan, a replay and plans side by side: HTML without scripts."""

from __future__ import annotations

from costmodels.units import GIB
from planner.plan import Plan
from planner.report.format import count, duration, percent, ratio
from planner.report.html.head import headline, tiles
from planner.report.html.page import asset
from planner.report.html.palette import IDLE, INK, MUTED, OPERATIONS
from planner.report.html.pipelines import pipelines
from planner.report.html.tags import Html, tag
from planner.report.html.view import view_of
from planner.report.side_by_side import SideBySide
from planner.timeline import PipelineRun, StageTrack, Timeline

WIDTH, ROW, BAR = 900, 40, 16
"""Pixels of a drawn replay: its width, a row, the bar in it."""

MOST_RUNS = 3
"""Pipelines that are drawn; those that run alike are drawn once."""

THINNEST = 0.7
"""Pixels: operations and gaps below this are drawn together with their neighbours."""


def plan_html(plan: Plan) -> str:
    """Headline, figures, and the pipelines stage by stage."""
    view = view_of(plan)
    return _block(headline(view), tiles(plan), pipelines(view))


def side_by_side_html(plans: SideBySide) -> str:
    """A table of the plans and a bar for each step time."""
    rows = plans.rows()
    longest = max(float(str(row["step_time_s"])) for row in rows)
    heads = ("", "step time", "", "tokens/s", "MFU", "chips", "memory left", "gap")
    numbers = heads[1:2] + heads[3:]
    cells = [
        tag(
            "tr",
            tag(
                "td", tag("b", str(row["name"])), tag("div", str(row["plan_class"]), class_="note")
            ),
            tag("td", duration(float(str(row["step_time_s"]))), class_="number"),
            tag("td", _bar(float(str(row["step_time_s"])) / longest), _held(row["ratio"])),
            tag("td", count(float(str(row["tokens_per_s"]))), class_="number"),
            tag("td", percent(float(str(row["mfu"]))), class_="number"),
            tag("td", f"{row['chips']:,}", class_="number"),
            tag(
                "td", f"{float(str(row['least_memory_left_bytes'])) / GIB:.1f} GiB", class_="number"
            ),
            tag(
                "td",
                "—" if row["gap"] is None else percent(float(str(row["gap"]))),
                class_="number",
            ),
        )
        for row in rows
    ]
    head = tag("tr", [tag("th", t, class_="number" if t in numbers else None) for t in heads])
    return _block(tag("table", tag("thead", head), tag("tbody", cells)))


def timeline_html(timeline: Timeline) -> str:
    """Each distinct pipeline as a drawing: operations, synchronisation, and the waiting between."""
    alike: dict[object, list[int]] = {}
    for p, (run, tracks) in enumerate(zip(timeline.runs, timeline.tracks)):
        alike.setdefault((run, tuple(track.name for track in tracks)), []).append(p)
    drawn = [_pipeline(timeline, numbers) for numbers in list(alike.values())[:MOST_RUNS]]
    left = len(alike) - len(drawn)
    more = (
        tag("p", f"{left} other kinds of pipelines are not drawn", class_="note") if left else None
    )
    return _block(
        tag("p", "Replay of a step: ", tag("b", duration(timeline.step_time_s)), class_="lead"),
        _legend(),
        drawn,
        more,
    )


def _block(*content: Html | list[Html] | None) -> str:
    """Content with its own style, which reaches nothing outside of it."""
    own = ":scope { background: #fff; color: var(--ink); padding: 8px 12px; font-size: 14px; }"
    style = asset("page.css").replace(":root", ":scope") + own
    scoped = tag("style", Html(f"@scope (.planner-plan) {{ {style} }}"))
    return tag("div", scoped, *content, class_="planner-plan")


def _bar(part: float) -> Html:
    style = f"width:{120 * part:.0f}px;height:12px;background:{OPERATIONS['forward']}"
    return tag("div", style=style)


def _held(value: object) -> str | None:
    held = float(str(value))
    return None if abs(held - 1) < 5e-4 else ratio(held)


def _legend() -> Html:
    words = ("forward", "backward", "sync", "update")
    known = [(word, OPERATIONS[word]) for word in words] + [("waits", IDLE)]
    return tag(
        "p",
        [
            tag(
                "span",
                tag("span", class_="swatch", style=f"background:{colour};border-color:{colour}"),
                word,
            )
            for word, colour in known
        ],
        class_="legend",
    )


def _pipeline(timeline: Timeline, numbers: list[int]) -> Html:
    first = numbers[0]
    run, tracks = timeline.runs[first], timeline.tracks[first]
    end = timeline.step_time_ps or 1
    rows = [_row(timeline, first, s, run, track, end) for s, track in enumerate(tracks)]
    height = ROW * len(tracks)
    many = f" and {len(numbers) - 1} like it" if len(numbers) > 1 else ""
    return tag(
        "div",
        tag("h3", f"pipeline {first}{many}"),
        tag("svg", rows, viewBox=f"0 0 {WIDTH} {height}", width="100%", role="img"),
    )


def _row(
    timeline: Timeline, p: int, s: int, run: PipelineRun, track: StageTrack, end: int
) -> list[Html]:
    """The words of a stage and its bar."""
    top = s * ROW + ROW - BAR - 4
    waits = percent(run.bubble_fraction(s))
    parts = [
        _rect(0, WIDTH, top, IDLE),
        *(_rect(*span, top, OPERATIONS[kind]) for kind, span in _pixels(run, s, end)),
    ]
    for piece in timeline.finish:
        if (piece.pipeline, piece.stage) == (p, s):
            start, stop = (WIDTH * t / end for t in (piece.start_ps, piece.end_ps))
            parts.append(_rect(start, max(stop, start + THINNEST), top, OPERATIONS[piece.category]))
    return [
        tag("text", track.name, x=0, y=top - 5, style=f"font-size:12px;fill:{INK}"),
        tag(
            "text",
            f"waits {waits}",
            x=WIDTH,
            y=top - 5,
            style=f"font-size:12px;fill:{MUTED};text-anchor:end",
        ),
        *parts,
    ]


def _pixels(run: PipelineRun, s: int, end: int) -> list[tuple[str, tuple[float, float]]]:
    """Operations in pixels; neighbours too thin to tell apart are one, of the longer kind."""
    found: list[tuple[str, tuple[float, float]]] = []
    for (kind, _), (start, stop) in zip(run.orders[s], run.operations[s]):
        name = "forward" if kind == "F" else "backward"
        left, right = WIDTH * start / end, WIDTH * stop / end
        if found and right - found[-1][1][0] < THINNEST * 2:
            last, (first, _) = found[-1]
            found[-1] = (last, (first, right))
        else:
            found.append((name, (left, right)))
    return found


def _rect(left: float, right: float, top: float, colour: str) -> Html:
    return tag(
        "rect",
        x=f"{left:.2f}",
        y=f"{top}",
        width=f"{max(0.0, right - left):.2f}",
        height=BAR,
        fill=colour,
    )
