"""Where each stage's time goes over the whole step: the work by cause, and the waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from costmodels.units import PS_PER_S
from planner.report.format import duration, percent
from planner.report.groups import PipelineGroup, StageGroup
from planner.report.html.figure import HALF, Chart, Key, layout, plain, plotting, words
from planner.report.html.palette import IDLE, OPERATIONS, TIME
from planner.report.html.view import View
from planner.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Share:
    """Seconds of a step by cause, for one stage of the slowest pipeline of a group."""

    group: int
    stage: StageGroup
    parts: tuple[float, ...]
    """In the order of :data:`PARTS`."""

    @property
    def waits(self) -> float:
        """Seconds in which the stage does nothing."""
        return self.parts[-1]


PARTS: tuple[tuple[str, str], ...] = (
    *((word, colour) for _, word, colour in TIME),
    ("synchronisation", OPERATIONS["sync"]),
    ("update", OPERATIONS["update"]),
    ("waits", IDLE),
)


def waiting(fraction: float) -> str:
    """``waits 2.1 %``."""
    return f"waits {percent(fraction)}" if fraction >= 5e-5 else "never waits"


def slowest(group: PipelineGroup, timeline: Timeline) -> int:
    """The pipeline of the group that the step waits for longest."""
    return max(group.numbers, key=lambda n: (timeline.runs[n].end_ps, -n))


def shares(view: View, timeline: Timeline) -> tuple[Share, ...]:
    """One per stage of every group."""
    finish = timeline.finish_ps()
    found = []
    for g, group in enumerate(view.groups):
        p = slowest(group, timeline)
        for stage in group.stages:
            s = stage.number - 1
            own = view.plan.pipelines[p]
            times = max(
                (r.time_s for r in own.stages[s].replicas),
                key=lambda t: t.forward_total + t.backward_total,
            )
            work = [getattr(times, field) * own.micro_batches for field, _, _ in TIME]
            after = [finish.get((p, s, c), 0) / PS_PER_S for c in ("sync", "update")]
            waits = max(0.0, timeline.step_time_s - sum(work) - sum(after))
            found.append(Share(g, stage, (*work, *after, waits)))
    return tuple(found)


def time_chart(view: View, timeline: Timeline, groups: Sequence[int], identity: str) -> Chart:
    """A row per stage of some groups; every row is as long as the step."""
    go = plotting()
    rows = [share for share in shares(view, timeline) if share.group in groups]
    step = timeline.step_time_s
    found = layout(len(rows))
    found["annotations"] = [a for n, row in enumerate(rows) for a in _words(view, n, row, step)]
    found["xaxis"] |= {"range": [0, 1], "tickformat": ".0%", "fixedrange": True}
    found["xaxis"]["title"]["text"] = f"part of the step ({duration(step)})"
    figure = go.Figure(data=_traces(go, view, rows, step), layout=found)
    about = f"Time of {len(rows)} kinds of stages by cause."
    keys = tuple(Key(*part) for k, part in enumerate(PARTS) if any(row.parts[k] for row in rows))
    return Chart(identity, figure.to_json(), found["height"], about, keys)


def _words(view: View, n: int, row: Share, step: float) -> list[dict[str, Any]]:
    label = view.label(row.group, row.stage.number - 1)
    return [
        words(n, f"{label} · {view.chips(row.stage.first)}"),
        words(n, waiting(row.waits / step), right=True),
    ]


def _traces(go: Any, view: View, rows: Sequence[Share], step: float) -> list[Any]:  # noqa: ANN401
    traces = []
    for k, (name, colour) in enumerate(PARTS):
        values = [row.parts[k] for row in rows]
        traces.append(
            go.Bar(
                orientation="h",
                name=name,
                y=list(range(len(rows))),
                base=[sum(row.parts[:k]) / step for row in rows],
                x=[value / step for value in values],
                width=2 * HALF,
                marker={"color": colour, "line": {"width": 0}},
                customdata=[
                    [
                        duration(value),
                        percent(value / step),
                        plain(view.stage_name(row.group, row.stage)),
                    ]
                    for value, row in zip(values, rows)
                ],
                hovertemplate=f"<b>{name}</b> %{{customdata[0]}} (%{{customdata[1]}})"
                "<br>%{customdata[2]}<extra></extra>",
            )
        )
    return traces
