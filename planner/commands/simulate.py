"""``planner simulate plan.json``: replay a plan event by event."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from planner.commands.options import FormatOption, PlanArgument, complete_file
from planner.commands.output import STDOUT, Format, check_writable, show, show_json, write_file
from planner.errors import InputError, Problem
from planner.plan_file import read_plan


def simulate(
    plan: PlanArgument,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a Chrome trace here, one track per device; open it in Perfetto.",
            autocompletion=complete_file,
        ),
    ] = None,
    every_pipeline: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Write every pipeline into the trace; those that run alike are written once "
            "without it.",
        ),
    ] = False,
    format_: FormatOption = Format.text,
) -> None:
    """Replay one step of a plan event by event, with contention on the network.

    planner simulate plan.json --trace trace.json
    """
    from planner.report.replay import replay_object, replay_page
    from planner.simulate import simulate as replay
    from planner.timeline import write_trace

    if every_pipeline and trace is None:
        raise InputError([Problem("--all", "says what a trace holds", "add --trace FILE")])
    if trace == STDOUT:
        raise InputError([Problem("--trace", "cannot be standard output", "name a file")])
    check_writable(trace)
    found = read_plan(plan)
    timeline = replay(found)
    if trace is not None:
        write_file(trace, lambda file: write_trace(timeline, file, every_pipeline=every_pipeline))
    if format_ is Format.json:
        show_json(replay_object(found, timeline))
    else:
        show(replay_page(found, timeline))
    if trace is not None:
        show(
            Text(f"wrote {trace}; open it in https://ui.perfetto.dev", style="dim"), to_stderr=True
        )
