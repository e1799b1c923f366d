"""``planner report plan.json -o report.html``: one offline page about a plan."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from planner.commands.options import PlanArgument, complete_file
from planner.commands.output import STDOUT, check_writable, show, write_text
from planner.plan_file import read_plan


def report(
    plan: PlanArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the page here; - is standard output.",
            autocompletion=complete_file,
        ),
    ] = "report.html",
) -> None:
    """Write one self-contained HTML page: placement, timeline, memory, baselines, proof.

    planner report plan.json -o report.html

    The page needs no network and no other file. Drawing it needs plotly, the extra named report.
    """
    from planner.report.html.figure import plotting
    from planner.report.html.page import report_page
    from planner.restore import restore
    from planner.simulate import simulate

    check_writable(output)
    found = read_plan(plan)
    plotting()  # a missing library is said before the replay of thousands of chips
    world = restore(found)
    write_text(output, report_page(found, world, simulate(found, world)))
    if output != STDOUT:
        show(Text(f"wrote {output}; open it in a browser", style="dim"), to_stderr=True)
