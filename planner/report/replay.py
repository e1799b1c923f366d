"""A replayed step for people: how long, where it waits, and where it differs from the plan."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.units import PS_PER_S
from planner.plan import Plan
from planner.report.format import device_list, duration, intervals, percent, plural
from planner.report.groups import PipelineGroup, pipeline_groups
from planner.timeline import Timeline


def replay_page(plan: Plan, timeline: Timeline) -> RenderableType:
    """Step time against the plan's, then busy and idle time of every stage."""
    planned = plan.estimate.step_time_s
    replayed = timeline.step_time_s
    off = replayed / planned - 1
    agrees = "as planned" if abs(off) < 5e-7 else f"{'+' if off > 0 else '−'}{percent(abs(off))}"
    head = Text.assemble(
        ("Replay ", "bold"),
        (plan.plan_id[:12], "bold cyan"),
        "  step ",
        (duration(replayed), "bold green"),
        f" · planned {duration(planned)} ({agrees})",
    )
    parts: list[RenderableType] = [head, Text()]
    for group in pipeline_groups(plan):
        parts.append(_heading(group))
        parts.append(Padding(_stages(group, timeline), (0, 0, 1, 2)))
    return Group(*parts)


def replay_object(plan: Plan, timeline: Timeline) -> dict[str, object]:
    """The same as a JSON value."""
    finish = timeline.finish_ps()
    return {
        "plan_id": plan.plan_id,
        "planned_step_time_s": plan.estimate.step_time_s,
        "simulated_step_time_s": timeline.step_time_s,
        "pipelines": [
            {
                "end_s": run.end_ps / PS_PER_S,
                "stages": [
                    {
                        "layers": list(stage.layers),
                        **({"chunks": [list(c) for c in stage.chunks]} if stage.chunks else {}),
                        "bubble_fraction": run.bubble_fraction(s),
                        "sync_s": finish.get((p, s, "sync"), 0) / PS_PER_S,
                        "update_s": finish.get((p, s, "update"), 0) / PS_PER_S,
                    }
                    for s, stage in enumerate(plan.pipelines[p].stages)
                ],
            }
            for p, run in enumerate(timeline.runs)
        ],
    }


def _heading(group: PipelineGroup) -> Text:
    count = len(group.numbers)
    text = Text("  ")
    text.append(plural(count, "pipeline") if count > 1 else "pipeline", style="bold")
    numbers = group.numbers
    shown = f"{numbers[0]}" if count == 1 else f"{numbers[0]} … {numbers[-1]}"
    text.append(f" ({shown}, one of them in the trace)" if count > 1 else f" {shown}", style="dim")
    return text


def _stages(group: PipelineGroup, timeline: Timeline) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", justify="right", style="dim")
    table.add_column("where", max_width=26, overflow="ellipsis", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    table.add_column("busy", no_wrap=True)
    table.add_column("waits", justify="right", no_wrap=True)
    table.add_column("last backward", justify="right", no_wrap=True)
    table.add_column("sync", justify="right", no_wrap=True)
    table.add_column("update", justify="right", no_wrap=True)
    finish = timeline.finish_ps()
    for s, stage in enumerate(group.stages):
        # The slowest pipeline of the group stands for all: it is what the step waits for.
        p = max(group.numbers, key=lambda n: (timeline.runs[n].end_ps, -n))
        run = timeline.runs[p]
        bubble = run.bubble_fraction(s)
        table.add_row(
            str(stage.number),
            device_list(stage.devices),
            intervals(stage.first.parts),
            _busy(1.0 - bubble),
            percent(bubble),
            duration(run.operations[s][-1][1] / PS_PER_S),
            duration(finish.get((p, s, "sync"), 0) / PS_PER_S),
            duration(finish.get((p, s, "update"), 0) / PS_PER_S),
        )
    return table


def _busy(fraction: float) -> Text:
    width = round(fraction * 16)
    return Text.assemble(("█" * width, "green"), ("░" * (16 - width), "dim"))
