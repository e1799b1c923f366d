"""The chosen plan beside what people would have made by hand."""

from __future__ import annotations

from planner.plan import Plan
from planner.report.format import duration, ratio
from planner.report.html.figure import HALF, Chart, layout, plain, plotting, words
from planner.report.html.tags import Html, tag

OWN, OTHER = "#2f7d32", "#9fb3c8"


def beside_chart(plan: Plan) -> Chart | None:
    """A row per plan that has a time; None where nothing stands beside it."""
    known = [(b.name, b.step_time_s) for b in plan.baselines if b.step_time_s is not None]
    if not known:
        return None
    go = plotting()
    own = plan.estimate.step_time_s
    rows = [("this plan", own), *known]
    longest = max(time for _, time in rows)
    scale, unit = (1.0, "s") if longest >= 1 else (1e3, "ms")
    found = layout(len(rows))
    found["annotations"] = [
        a
        for n, (name, time) in enumerate(rows)
        for a in (words(n, name), words(n, _figure(own, time), right=True))
    ]
    found["xaxis"] |= {
        "range": [0, longest * scale * 1.002],
        "ticksuffix": f" {unit}",
        "fixedrange": True,
    }
    found["xaxis"]["title"]["text"] = "step time"
    bar = go.Bar(
        orientation="h",
        y=list(range(len(rows))),
        x=[time * scale for _, time in rows],
        width=2 * HALF,
        marker={"color": [OWN, *(OTHER for _ in known)], "line": {"width": 0}},
        hovertext=[f"<b>{plain(name)}</b><br>{duration(time)}" for name, time in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    figure = go.Figure(data=[bar], layout=found)
    return Chart("beside", figure.to_json(), found["height"], "Step times side by side.")


def impossible(plan: Plan) -> Html | None:
    """Baselines that cannot be, and why."""
    rows = [
        tag("li", tag("b", b.name), f": {b.description}")
        for b in plan.baselines
        if b.step_time_s is None
    ]
    return tag("ul", rows) if rows else None


def _figure(own: float, time: float) -> str:
    speedup = time / own
    if abs(speedup - 1) < 5e-4:
        return duration(time)
    return f"{duration(time)} ({ratio(speedup)})"
