"""``planner plan MODEL CLUSTER [JOB]``: the main job."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import RenderableType
from rich.text import Text

from planner.aside import cpus
from planner.commands.calibration_file import CalibrationOption
from planner.commands.constraint_options import (
    FloorOption,
    ForbidChipOption,
    ForbidNodeOption,
    GivenConstraints,
    MaxStagesOption,
    MaxTensorParallelOption,
    PinOption,
    PlanClassOption,
    PowerOption,
    PriceOption,
)
from planner.commands.loading import Loaded, load_inputs, read_overrides
from planner.commands.options import (
    ClusterArgument,
    DetailsOption,
    ForbidOption,
    FormatOption,
    GlobalBatchOption,
    JobArgument,
    ModelArgument,
    ObjectiveOption,
    OutputOption,
    PrecisionOption,
    ProfileOption,
    SeqLenOption,
    SetOption,
    complete_file,
)
from planner.commands.output import STDOUT, Format, check_writable, show, write_text
from planner.commands.progress import ProgressDisplay
from planner.errors import GateFailed, InputError, Problem
from planner.report.format import duration, percent

if TYPE_CHECKING:
    from planner.plan import Plan


def plan(
    model: ModelArgument,
    cluster: ClusterArgument,
    job: JobArgument = None,
    output: OutputOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    set_: SetOption = None,
    profile: ProfileOption = None,
    forbid: ForbidOption = None,
    objective: ObjectiveOption = None,
    forbid_chip: ForbidChipOption = None,
    forbid_node: ForbidNodeOption = None,
    pin: PinOption = None,
    max_tensor_parallel: MaxTensorParallelOption = None,
    max_stages: MaxStagesOption = None,
    plan_class: PlanClassOption = None,
    price: PriceOption = None,
    power: PowerOption = None,
    min_tokens_per_s: FloorOption = None,
    gap: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="FRACTION",
            help="Call the plan good when proven to be within this fraction of the best.",
        ),
    ] = 0.01,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, metavar="N", help="Seed of the solver.")
    ] = 0,
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Stop after this wall time with the best plan so far. Default limits are "
            "deterministic work; with this one the same input may give another plan.",
        ),
    ] = None,
    hint: Annotated[
        str | None,
        typer.Option(
            metavar="PLAN",
            help="Start from an earlier plan and never return a slower one.",
            autocompletion=complete_file,
        ),
    ] = None,
    exact_bound: Annotated[
        bool,
        typer.Option(
            "--exact-bound",
            help="Also prove a bound on the exact step time: minutes more. Not for cost or energy.",
        ),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2,
            metavar="N",
            envvar="PLANNER_PROCESSES",
            help="Processes that search; the plan is the same. Default: 2 if there are 2 cores.",
        ),
    ] = None,
    max_step_time: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Exit 6 if the step takes longer."),
    ] = None,
    min_mfu: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, metavar="FRACTION", help="Exit 6 if the MFU is lower."),
    ] = None,
    calibration: CalibrationOption = None,
    format_: FormatOption = Format.text,
    details: DetailsOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no report, only errors.")
    ] = False,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the progress here, one JSON object with the elapsed time per line.",
            autocompletion=complete_file,
        ),
    ] = None,
) -> None:
    """Find the fastest (or cheapest) plan for a model on a cluster, and prove how good it is.

    planner plan llama-2-13b '8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s' -o plan.json
    """
    overrides, wrong = read_overrides(
        set_,
        forbid=forbid,
        objective=objective,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        constraints=GivenConstraints(
            forbid_chip,
            forbid_node,
            pin,
            max_tensor_parallel,
            max_stages,
            plan_class,
            price,
            power,
            min_tokens_per_s,
        ),
    )
    check_writable(output)
    loaded = load_inputs(
        model, cluster, job, overrides, profile, calibration=calibration, found=wrong
    )
    from planner.plan_file import read_plan

    old = read_plan(hint) if hint is not None else None
    talk = not quiet and format_ is Format.text
    beside = output == STDOUT
    if talk:
        show(_understood(loaded), to_stderr=beside)
    with ExitStack() as stack:
        file = stack.enter_context(_log_file(log)) if log else None
        display = stack.enter_context(ProgressDisplay(quiet=quiet, log=file))
        interrupted = stack.enter_context(stop_on_interrupt())
        # Imported late: the solver takes longer to load than most mistakes take to find.
        from planner.solve import SolveParams, solve

        found = solve(
            loaded.model,
            loaded.cluster,
            loaded.job,
            profile=loaded.profile,
            params=SolveParams(
                gap=gap,
                seed=seed,
                time_limit_s=time_limit,
                exact_bound=exact_bound,
                processes=processes or min(2, cpus()),
            ),
            hint=old,
            progress=display.update,
            interrupted=interrupted,
        )
        display.log("done", plan_id=found.plan_id, step_time_s=found.estimate.step_time_s)
        took = display.elapsed_s
    if output is not None and not beside:
        write_text(output, found.to_json())
    failed = gates(found, max_step_time, min_mfu)
    if failed is not None and format_ is Format.json:
        raise failed
    if beside or format_ is Format.json:
        write_text(STDOUT, found.to_json())
    if talk:
        from planner.report.page import plan_page

        show(plan_page(found, details=details), to_stderr=beside)
        show(_last_word(found, output, took), to_stderr=True)
    if failed is not None:
        raise failed


def gates(found: Plan, max_step_time: float | None, min_mfu: float | None) -> GateFailed | None:
    """The gates that the plan misses, as one error."""
    missed = []
    if max_step_time is not None and found.estimate.step_time_s > max_step_time:
        missed.append(
            f"the step takes {duration(found.estimate.step_time_s)}, "
            f"more than --max-step-time {duration(max_step_time)}"
        )
    if min_mfu is not None and found.estimate.mfu < min_mfu:
        missed.append(
            f"the MFU is {percent(found.estimate.mfu)}, less than --min-mfu {percent(min_mfu)}"
        )
    if not missed:
        return None
    where = f"plan {found.plan_id[:12]}"
    remedies = ["planner explain PLAN --margins says what would help", "or move the gate"]
    return GateFailed("; ".join(missed), where=where, remedies=remedies)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the search to end with its best plan; the second one ends the program."""
    asked = False

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _understood(loaded: Loaded) -> RenderableType:
    from planner.commands.world import world_of
    from planner.report.understood import understood

    world = world_of(loaded)
    return understood(world.model, world.topology, world.job)


@contextmanager
def _log_file(name: str) -> Iterator[TextIO]:
    try:
        file = Path(name).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise InputError([Problem(f"--log {name}", message, "name another file")]) from None
    with file:
        yield file


def _last_word(found: Plan, output: str | None, took_s: float) -> Text:
    """Where the plan is now, and how long it took: a clock's word, so not part of the report."""
    text = Text(style="dim")
    if output is None:
        text.append("add -o plan.json to keep this plan")
    elif output != STDOUT:
        text.append(f"wrote {output}; planner show {output} draws it again")
    else:
        text.append(f"plan {found.plan_id[:12]}")
    text.append(f" · {duration(took_s)}")
    return text
