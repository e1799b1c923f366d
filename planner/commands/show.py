"""``planner show plan.json``: a plan for a person."""

from __future__ import annotations

from planner.commands.options import DetailsOption, FormatOption, PlanArgument
from planner.commands.output import STDOUT, Format, write_text
from planner.commands.output import show as show_page
from planner.inputs.document import Document
from planner.inputs.reading import read_document
from planner.partition_file import looks_like_partition, parse_partition
from planner.plan_file import read_plan


def show(
    plan: PlanArgument, format_: FormatOption = Format.text, details: DetailsOption = False
) -> None:
    """Draw a plan or a partition: stages, chips, memory, where the time goes.

    planner show plan.json --details
    """
    document = read_document(plan)
    if looks_like_partition(document.data):
        _show_partition(document, format_)
        return
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


def _show_partition(document: Document, format_: Format) -> None:
    """Draw what ``planner partition`` wrote."""
    found = parse_partition(document)
    if format_ is Format.json:
        write_text(STDOUT, found.to_json())
        return
    from planner.report.partition import partition_page

    show_page(partition_page(found))
