"""The whole page: one file that needs neither a network nor another file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from planner.inputs.cluster import cluster_from_resolved
from planner.plan import Plan
from planner.report.format import duration
from planner.report.html.beside_chart import beside_chart, impossible
from planner.report.html.figure import Chart, Key, library_code
from planner.report.html.head import headline, tiles, understood
from planner.report.html.memory_chart import memory_chart
from planner.report.html.palette import IDLE
from planner.report.html.pipelines import pipelines
from planner.report.html.proof import alternatives, assumptions, origin, proof, warnings
from planner.report.html.tags import Child, Html, data_script, script, tag
from planner.report.html.time_chart import time_chart
from planner.report.html.timeline_chart import timeline_charts
from planner.report.html.topology import idle, topology
from planner.report.html.view import View, view_of
from planner.report.placement import placement
from planner.restore import Restored
from planner.timeline import Timeline

OPEN = 3
"""Charts of one kind that are drawn at once; the others are drawn when they are opened."""

MOST_ROWS = 40
"""Stages in one chart; where there are more, every group of pipelines has its own."""


def report_page(plan: Plan, world: Restored, timeline: Timeline) -> str:
    """The page's text. ``world`` is the plan's, ``timeline`` its replay.

    The same plan gives the same bytes. Raises InputError where the plotting library is missing.
    """
    view = view_of(plan)
    spec = cluster_from_resolved(plan.inputs.cluster.resolved)
    placed = placement(plan, spec, world.topology, view.groups)
    charts = {
        chart.identity: chart
        for chart in (
            *timeline_charts(view, timeline),
            *(memory_chart(view, part, f"memory-{n}") for n, part in enumerate(_parts(view))),
            *(time_chart(view, timeline, p, f"time-{n}") for n, p in enumerate(_parts(view))),
            beside_chart(plan),
        )
        if chart is not None
    }
    sections = [
        headline(view),
        tiles(plan),
        _section("Warnings", warnings(plan)),
        _section("What was asked", understood(world)),
        _section("Cluster and placement", topology(view, placed), idle(plan)),
        _section("Pipelines", pipelines(view)),
        _section("Timeline of a step", _timelines(view, charts)),
        _section("Memory", _stages(view, charts, "memory")),
        _section("Where the time goes", _breakdown(plan), _stages(view, charts, "time")),
        _section("Beside it", _beside(charts), impossible(plan), alternatives(plan)),
        _section("What is proved", proof(plan)),
        _section("Assumed, not given", assumptions(plan)),
        origin(plan),
    ]
    return _document(f"Plan {plan.plan_id[:12]}", sections, charts)


def _document(title: str, sections: list[Html | None], charts: dict[str, Chart]) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(asset("page.css"))),
    )
    body = tag(
        "body",
        tag("main", sections),
        tag("noscript", "The charts of this page need JavaScript; everything else is above."),
        _data(charts),
        script(library_code()),
        script(asset("page.js")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _data(charts: dict[str, Chart]) -> list[Html]:
    """The figures as data, each in an element of its own."""
    return [data_script(f"figure-{chart.identity}", chart.json) for chart in charts.values()]


@cache
def asset(name: str) -> str:
    """A file that lies beside this module."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _section(title: str, *content: Child) -> Html | None:
    found = [part for part in content if part]
    return tag("section", tag("h2", title), found) if found else None


def _figure(chart: Chart) -> Html:
    buttons = [
        tag(
            "button",
            zoom.name,
            type="button",
            data_chart=chart.identity,
            data_start=repr(zoom.start),
            data_end=repr(zoom.end),
            aria_pressed="true" if n == 0 else "false",
        )
        for n, zoom in enumerate(chart.zooms)
    ]
    return tag(
        "div",
        tag("div", buttons, class_="zooms") if buttons else None,
        tag("p", [_key(key) for key in chart.legend], class_="legend") if chart.legend else None,
        tag(
            "div",
            class_="chart",
            data_figure=chart.identity,
            style=f"height:{chart.height}px",
            role="img",
            aria_label=chart.about,
        ),
    )


def _key(key: Key) -> Html:
    """An entry of a chart's legend."""
    style = f"background:{key.colour}"
    if key.form == "box":
        style += f";border-color:{key.colour if key.colour != IDLE else '#c3cad2'}"
    return tag("span", tag("span", class_=f"swatch {key.form}", style=style), key.word)


def _timelines(view: View, charts: dict[str, Chart]) -> list[Html]:
    return [
        _folded(
            g,
            view.group_name(g)
            + ("; the slowest of them" if len(view.groups[g].numbers) > 1 else ""),
            charts[f"timeline-{g}"],
        )
        for g in range(len(view.groups))
    ]


def _folded(number: int, name: str, chart: Chart) -> Html:
    """A chart with its name, folded where it is not one of the first."""
    if number < OPEN:
        return tag("div", tag("h3", name), _figure(chart))
    return tag("details", tag("summary", name), _figure(chart))


def _parts(view: View) -> list[list[int]]:
    """Which groups of pipelines share a chart of their stages."""
    groups = range(len(view.groups))
    together = sum(len(group.stages) for group in view.groups) <= MOST_ROWS
    return [list(groups)] if together else [[g] for g in groups]


def _stages(view: View, charts: dict[str, Chart], what: str) -> list[Html]:
    parts = _parts(view)
    if len(parts) == 1:
        return [_figure(charts[f"{what}-0"])]
    return [
        _folded(n, view.group_name(part[0]), charts[f"{what}-{n}"]) for n, part in enumerate(parts)
    ]


def _breakdown(plan: Plan) -> Html:
    """The four parts of the step, as figures and as one bar."""
    parts = plan.estimate.breakdown_s
    known = [
        ("fill", parts.fill, "the first micro-batch down and up the pipeline", "#8d99a6"),
        ("steady", parts.steady, "all other micro-batches", "#4c8dca"),
        ("sync", parts.sync, "what gradient synchronisation adds", "#c0392b"),
        ("update", parts.update, "the optimizer", "#6b4c9a"),
    ]
    step = plan.estimate.step_time_s
    bar = [
        tag("div", style=f"width:{100 * value / step:.3f}%;background:{colour}")
        for _, value, _, colour in known
    ]
    rows = [
        tag(
            "li",
            tag("span", class_="swatch", style=f"background:{colour};border-color:{colour}"),
            tag("b", f"{name} {duration(value)}"),
            tag("span", f" {about}", class_="note"),
        )
        for name, value, about, colour in known
    ]
    return tag("div", tag("div", bar, class_="parts"), tag("ul", rows, class_="parts-words"))


def _beside(charts: dict[str, Chart]) -> Html | None:
    return _figure(charts["beside"]) if "beside" in charts else None
