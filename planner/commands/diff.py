"""``planner diff A B``: what changes from one plan to another."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from planner.commands.options import complete_file
from planner.commands.output import STDOUT, check_writable, show, show_json, write_text
from planner.commands.rates import PowerOption, PriceOption, rates_for
from planner.plan_file import read_plan


class DiffFormat(StrEnum):
    """How the comparison is written."""

    text = "text"
    json = "json"
    markdown = "markdown"


def _plan_argument(name: str, text: str) -> typer.models.ArgumentInfo:
    found: typer.models.ArgumentInfo = typer.Argument(
        metavar=name, help=text, autocompletion=complete_file
    )
    return found


def diff(
    before: Annotated[str, _plan_argument("BEFORE", "The plan to start from.")],
    after: Annotated[str, _plan_argument("AFTER", "The plan to go to.")],
    price: PriceOption = None,
    power: PowerOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the Markdown here; - is standard output.",
            autocompletion=complete_file,
        ),
    ] = None,
    format_: Annotated[
        DiffFormat,
        typer.Option(
            "--format",
            metavar="text|json|markdown",
            help="How to answer: for people, for programs, for a review.",
        ),
    ] = DiffFormat.text,
) -> None:
    """Compare two plans: layout, layers that move, time, memory, cost, checkpoints.

    planner diff before.json after.json --format markdown

    Figures are those in the plans; nothing is priced anew. Costs are those of the chips in use.
    """
    check_writable(output)
    from planner.diff import diff as compared
    from planner.report.differences import diff_markdown, diff_object, diff_page
    from planner.scenario.inputs import inputs_of
    from planner.whatif.money import costs_of
    from planner.whatif.outcome import outcome_of

    plans = read_plan(before), read_plan(after)
    found = compared(*plans)
    costs = []
    for plan in plans:
        inputs = inputs_of(plan)
        outcome = outcome_of(plan, inputs.chip_counts)
        costs.append(costs_of(outcome, rates_for(inputs, price, power)))
    pair = (costs[0], costs[1])
    if output is not None:
        write_text(output, diff_markdown(found, pair))
        if output == STDOUT:
            return
    if format_ is DiffFormat.json:
        show_json(diff_object(found, pair))
    elif format_ is DiffFormat.markdown:
        write_text(STDOUT, diff_markdown(found, pair))
    else:
        show(diff_page(found, pair))
