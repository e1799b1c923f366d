"""``planner show plan.json``: a plan for a person."""

from __future__ import annotations

from planner.commands.options import DetailsOption, FormatOption, PlanArgument
from planner.commands.output import STDOUT, Format, write_text
from planner.commands.output import show as show_page
from planner.plan_file import read_plan


def show(
    plan: PlanArgument, format_: FormatOption = Format.text, details: DetailsOption = False
) -> None:
    """Draw a plan: what it was made for, stages, chips, memory, where the time goes.

    planner show plan.json --details
    """
    found = read_plan(plan)
    if format_ is Format.json:
        write_text(STDOUT, found.to_json())
        return
    from planner.report.page import plan_page
    from planner.report.understood import understood
    from planner.restore import restore

    world = restore(found)
    show_page(understood(world.model, world.topology, world.job))
    show_page(plan_page(found, details=details))
