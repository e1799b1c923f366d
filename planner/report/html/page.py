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

OPEN_TIMELINES = 3
"""Groups whose timeline is drawn at once; the others are drawn when they are opened."""


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
            memory_chart(view),
            time_chart(view, timeline),
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
        _section("Memory", _figure(charts["memory"])),
        _section("Where the time goes", _breakdown(plan), _figure(charts["time"])),
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
    found = []
    for g in range(len(view.groups)):
        name = view.group_name(g)
        if len(view.groups[g].numbers) > 1:
            name += "; the slowest of them"
        body = _figure(charts[f"timeline-{g}"])
        if g < OPEN_TIMELINES:
            found.append(tag("div", tag("h3", name), body))
        else:
            found.append(tag("details", tag("summary", name), body))
    return found


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
