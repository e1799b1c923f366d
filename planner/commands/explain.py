"""``planner explain PLAN``: why a plan is as it is, and why it is not otherwise."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from planner.commands.options import FormatOption, OutputOption, PlanArgument, complete_file
from planner.commands.output import (
    STDOUT,
    Format,
    check_writable,
    show,
    show_json,
    write_text,
)
from planner.commands.searching import GapOption, TimeLimitOption, searching, told
from planner.errors import InputError, Problem
from planner.plan_file import read_plan


def explain(
    plan: PlanArgument,
    why_not: Annotated[
        list[str] | None,
        typer.Option(
            "--why-not",
            metavar="WISH",
            help="What you would rather have: tp=8, 'tp=4 on v100', pp=4, dp=2, rows=2, "
            "recompute=full, zero=0, 'use v100', 'without v100', 'all chips', precision=fp16, a "
            "layout or another plan. Commas join several. Repeatable.",
        ),
    ] = None,
    margins: Annotated[
        bool,
        typer.Option(
            "--margins",
            help="What each kind of chip is worth: plan again with one node (or chip) more and "
            "one less.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Price layouts for --why-not, but search nothing: seconds, no proof."
        ),
    ] = False,
    improved: Annotated[
        str | None,
        typer.Option(
            "--improved",
            metavar="FILE",
            help="Write the fastest neighbour here, if one is faster than the plan; planner plan "
            "--hint starts from it.",
            autocompletion=complete_file,
        ),
    ] = None,
    output: OutputOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Explain a plan: what decides its time and memory, and what other decisions would cost.

    planner explain plan.json --why-not tp=8 --why-not 'use v100' --margins

    A wish that is not granted is illegal (with the rule, and what is legal), does not fit (with
    the GiB that are missing), or slower (by how much, through which term). -o writes the plan that
    was found for the one wish.
    """
    from planner.aside import cpus
    from planner.explain import Ask, parse_wish
    from planner.explain import explain as explained
    from planner.report.explanation import explanation_page
    from planner.report.explanation_object import explanation_object
    from planner.whatif import Effort

    wishes = tuple(told(parse_wish, why_not or ()))
    if output is not None and len(wishes) != 1:
        message = "writes the plan of one wish"
        raise InputError([Problem("-o", message, "give one --why-not")])
    check_writable(output)
    check_writable(improved)
    found_plan = read_plan(plan)
    ask = Ask(
        margins=margins,
        wishes=wishes,
        search=not quick,
        effort=Effort(gap=gap, time_limit_s=time_limit),
        workers=cpus(),
    )
    with searching(quiet=format_ is Format.json and not sys.stderr.isatty()) as (say, stopped):
        found = explained(found_plan, ask, progress=say, interrupted=stopped)
    if improved is not None and (best := found.best_neighbour) is not None:
        write_text(improved, best.to_json())
    if output is not None:
        other = found.why_nots[0].plan
        if other is None:
            message = "there is no such plan to write"
            raise InputError([Problem(f"-o {output}", message, "leave -o out")])
        write_text(output, other.to_json())
    if STDOUT in (output, improved):
        return
    if format_ is Format.json:
        show_json(explanation_object(found))
    else:
        show(explanation_page(found))
