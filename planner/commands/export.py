"""``planner export plan.json --to TARGET -o DIR``: files for a runtime, checked before written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from planner.commands.loading import load_inputs
from planner.commands.options import FormatOption, SetOption, complete_cluster, complete_file
from planner.commands.output import Format, check_folder, show, show_json, write_folder
from planner.commands.world import digests_of
from planner.errors import InputError, Problem
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.plan_file import read_plan, require_same_inputs


def complete_target(incomplete: str) -> list[str]:
    """Names of targets."""
    from planner.exporters import TARGETS

    return [name for name in TARGETS if name.startswith(incomplete)]


def export(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PLAN [MODEL CLUSTER [JOB]]",
            help="A file that planner plan -o wrote; after --against the inputs to compare with.",
            autocompletion=complete_cluster,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="The runtime: torch, torchtitan, megatron, megatron-bridge, deepspeed, "
            "accelerate, flagscale, mindspeed, colossalai, paddle, kubernetes or slurm.",
            autocompletion=complete_target,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder to make; it appears complete or not at all.",
            autocompletion=complete_file,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it exists.")
    ] = False,
    against: Annotated[
        bool,
        typer.Option(
            "--against",
            help="Compare the plan with the MODEL CLUSTER [JOB] that stand after it: exit 5 if "
            "it was made for others.",
        ),
    ] = False,
    list_: Annotated[
        bool,
        typer.Option(
            "--list",
            help="List the targets and what each can run; with a plan, which of them run it and "
            "why the others do not.",
        ),
    ] = False,
    set_: SetOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Write a plan as runnable files for a runtime; what it cannot run is refused by name.

    planner export plan.json --to megatron -o megatron/

    The files are read back and held against every rule of the target before they appear.
    """
    given = list(files or ())
    plan = _plan(given, against, set_)
    if list_:
        _list(plan, format_)
        return
    if plan is None or to is None or output is None:
        raise InputError(list(_missing(plan, to, output)))
    check_folder(output, overwrite=overwrite)
    _export(plan, to, output, overwrite, format_)


def _export(plan: Plan, to: str, output: str, overwrite: bool, format_: Format) -> None:
    from planner.exporters import export_plan
    from planner.report.export import export_object, export_page

    exported = export_plan(plan, to)
    written = [(file.path, file.text, file.executable) for file in exported.files]
    write_folder(output, written, overwrite=overwrite)
    if format_ is Format.json:
        show_json(export_object(plan, exported, output))
    else:
        show(export_page(plan, exported, output), wrap=True)


def _plan(given: Sequence[str], against: bool, set_: Sequence[str] | None) -> Plan | None:
    """The plan, compared with the inputs beside it where that is asked for."""
    inputs = given[1:]
    if against and len(inputs) not in (2, 3):
        message = "needs a plan and then MODEL CLUSTER [JOB]"
        remedy = "planner export plan.json --against MODEL CLUSTER JOB --to TARGET -o DIR"
        raise InputError([Problem("--against", message, remedy)])
    if inputs and not against:
        message = "one plan is exported at a time"
        raise InputError([Problem(inputs[0], message, "add --against to compare with inputs")])
    if not given:
        return None
    plan = read_plan(given[0])
    if against:
        job = inputs[2] if len(inputs) == 3 else None
        loaded = load_inputs(inputs[0], inputs[1], job, parse_overrides(set_ or ()))
        require_same_inputs(plan, digests_of(loaded))
    return plan


def _missing(plan: Plan | None, to: str | None, output: str | None) -> list[Problem]:
    problems = []
    if plan is None:
        problems.append(Problem("PLAN", "is missing", "give a file that planner plan -o wrote"))
    if to is None:
        problems.append(Problem("--to", "is missing", "see planner export --list"))
    if output is None:
        problems.append(Problem("--output", "is missing", "name the folder to make: -o DIR"))
    return problems


def _list(plan: Plan | None, format_: Format) -> None:
    from planner.exporters import TARGETS, chip_verdicts, problems_of
    from planner.report.export import targets_object, targets_page

    refused = None if plan is None else {t: problems_of(plan, t) for t in TARGETS}
    chips = () if plan is None else chip_verdicts(plan)
    if format_ is Format.json:
        show_json(targets_object(refused, chips))
    else:
        show(targets_page(refused, chips))
