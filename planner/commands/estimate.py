"""``planner estimate MODEL CLUSTER LAYOUT [JOB]``: the price of a layout, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from costmodels.units import GIB
from planner.commands.calibration_file import CalibrationOption
from planner.commands.loading import Loaded, load_inputs, read_overrides
from planner.commands.options import (
    ClusterArgument,
    DetailsOption,
    FormatOption,
    GlobalBatchOption,
    JobArgument,
    ModelArgument,
    OutputOption,
    PrecisionOption,
    ProfileOption,
    SeqLenOption,
    SetOption,
    complete_file,
)
from planner.commands.output import (
    STDOUT,
    Format,
    check_writable,
    show,
    show_json,
    write_text,
)
from planner.errors import InfeasibleError, InputError, Problem
from planner.inputs.overrides import Override
from planner.inputs.resources import fixture_names
from planner.report.format import duration

if TYPE_CHECKING:
    from planner.estimate import Estimated, LayoutInput, PlanLayout


def complete_layout(incomplete: str) -> list[str]:
    """Names of shipped layouts, and files."""
    names = [n for n in fixture_names("layouts") if n.startswith(incomplete)]
    return names + complete_file(incomplete)


LayoutArgument = Annotated[
    str,
    typer.Argument(
        metavar="LAYOUT",
        help="A layout file, a shipped name, a plan, or the fields on one line: "
        "'tp: 8, pp: 4, dp: 4, recompute: full'.",
        autocompletion=complete_layout,
    ),
]


def estimate(
    model: ModelArgument,
    cluster: ClusterArgument,
    layout: LayoutArgument,
    job: JobArgument = None,
    output: OutputOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    set_: SetOption = None,
    profile: ProfileOption = None,
    must_fit: Annotated[
        bool,
        typer.Option("--must-fit", help="Exit 3, and write nothing, if a chip is too small."),
    ] = False,
    calibration: CalibrationOption = None,
    format_: FormatOption = Format.text,
    details: DetailsOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report, only errors.")] = False,
) -> None:
    """Price a layout that you give, without searching: time, memory, and whether it fits.

    planner estimate llama-2-70b dgx-a100-x16 'tp: 8, pp: 4, recompute: selective'

    The layout is priced exactly as the search prices its own. What the search would not allow is
    priced with a warning; a layout that does not fit is priced too, and the report says so.
    """
    overrides, wrong = read_overrides(
        set_, global_batch=global_batch, seq_len=seq_len, precision=precision
    )
    check_writable(output)
    from planner.estimate import PlanLayout

    loaded, given = _load(model, cluster, layout, job, overrides, profile, calibration, wrong)
    if not isinstance(given, PlanLayout) and given.uniform:
        _uniform(loaded, given, output, format_, must_fit=must_fit, quiet=quiet)
        return
    from planner.estimate import estimate as price

    found = price(loaded.model, loaded.cluster, loaded.job, given, profile=loaded.profile)
    misfit = _misfit(found, given.name) if must_fit else None
    if misfit is not None and format_ is Format.json:
        raise misfit
    to_file = output is not None and output != STDOUT
    if output is not None and to_file and misfit is None:
        write_text(output, found.plan.to_json())
    if (output == STDOUT and misfit is None) or format_ is Format.json:
        write_text(STDOUT, found.plan.to_json())
    if format_ is Format.text and not quiet:
        _report(loaded, found, output if misfit is None else None, details=details)
    if misfit is not None:
        raise misfit


def _load(
    model: str,
    cluster: str,
    layout: str,
    job: str | None,
    overrides: Sequence[Override],
    profile: str | None,
    calibration: str | None,
    wrong: Sequence[Problem],
) -> tuple[Loaded, LayoutInput | PlanLayout]:
    """All inputs, or InputError with the problems of all of them."""
    from planner.estimate import read_layout  # late: it loads the solver's modules

    problems: list[Problem] = []
    loaded, given = None, None
    try:
        loaded = load_inputs(
            model, cluster, job, overrides, profile, calibration=calibration, found=wrong
        )
    except InputError as error:
        problems += error.problems
    try:
        given = read_layout(layout)
    except InputError as error:
        problems += error.problems
    if loaded is None or given is None:
        raise InputError(problems)
    return loaded, given


def _uniform(
    loaded: Loaded,
    given: LayoutInput,
    output: str | None,
    format_: Format,
    *,
    must_fit: bool,
    quiet: bool,
) -> None:
    """Price a layout with techniques that a plan file cannot hold: only the price is shown."""
    from planner.estimate.techniques import estimate_uniform
    from planner.report.uniform import uniform_json, uniform_page

    if output is not None:
        message = "a plan file holds no context or expert parallelism, interleaving or ZeRO 2 and 3"
        raise InputError([Problem(output, message, "leave out -o; --format json has the price")])
    if loaded.profile is not None:
        message = "a profile measures layers without these techniques: it cannot price the layout"
        raise InputError([Problem("--profile", message, "leave it out")])
    found = estimate_uniform(loaded.model, loaded.cluster, loaded.job, given)
    if must_fit and found.left_bytes < 0:
        short = -found.left_bytes / GIB
        text = f"the layout does not fit: {short:.2f} GiB too much on the fullest chip"
        raise InfeasibleError(text, where=given.name, remedies=list(found.remedies))
    if format_ is Format.json:
        show_json(uniform_json(found))
    elif not quiet:
        show(uniform_page(found))


def _misfit(found: Estimated, name: str) -> InfeasibleError | None:
    """The error of ``--must-fit``; None where the layout fits."""
    if found.fits:
        return None
    return InfeasibleError(
        "the layout does not fit: " + "; ".join(map(str, found.shortfalls)),
        where=name,
        remedies=[
            f"{change.change}: fits, {duration(change.step_time_s)} per step"
            for change in found.plan.alternatives
        ],
    )


def _report(loaded: Loaded, found: Estimated, output: str | None, *, details: bool) -> None:
    """The report of a plan, and last whether it fits."""
    from planner.commands.world import world_of
    from planner.report.fit import verdict
    from planner.report.page import plan_page
    from planner.report.understood import understood

    beside = output == STDOUT
    world = world_of(loaded)
    show(understood(world.model, world.topology, world.job), to_stderr=beside)
    show(plan_page(found.plan, details=details), to_stderr=beside)
    show(verdict(found.plan), to_stderr=beside)
    if output is not None and not beside:
        show(Text(f"wrote {output}; planner show {output} draws it again", "dim"), to_stderr=True)
