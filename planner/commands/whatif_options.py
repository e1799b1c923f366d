"""What the commands of ``planner whatif`` share: inputs, effort, cache, pictures, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from planner.commands.loading import job_overrides
from planner.commands.options import complete_cluster, complete_file, complete_model
from planner.commands.output import Format, check_writable, console, write_bytes
from planner.commands.plan import stop_on_interrupt
from planner.errors import InputError, Problem
from planner.plan import Plan
from planner.plan_file import read_plan
from planner.report.format import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from planner.scenario.inputs import PlanInputs
    from planner.whatif.evaluation import Effort
    from planner.whatif.evaluator import Evaluator
    from planner.whatif.runner import RunOptions, RunProgress


class Engine(StrEnum):
    """Where scenarios are planned."""

    processes = "processes"
    ray = "ray"


class ChargeOption(StrEnum):
    """Which chips are paid for."""

    used = "used"
    fleet = "fleet"


BaseArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model as for planner plan; or a plan, whose inputs are then the base.",
        autocompletion=complete_model,
    ),
]
BaseClusterArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CLUSTER",
        help="A cluster as for planner plan; left out after a plan.",
        autocompletion=complete_cluster,
    ),
]
ChargedOption = Annotated[
    ChargeOption,
    typer.Option(
        "--charge", metavar="used|fleet", help="Pay for the chips that work, or for all of them."
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="FOLDER",
        help="Keep finished scenarios here; by default ~/.cache/planner/whatif.",
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Read and keep no finished scenarios.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", "-j", min=1, metavar="N", help="Processes; by default one per CPU."),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine", metavar="processes|ray", help="Plan on this machine or on a Ray cluster."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="The Ray cluster (auto, HOST:6379, ray://HOST:10001); without it a local one.",
    ),
]
PlotOption = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Draw the answer: .png, .svg, or .html (one page that needs nothing else).",
        autocompletion=complete_file,
    ),
]


@dataclass(frozen=True)
class Base:
    """What scenarios start from; ``plan`` is set where a plan was given."""

    inputs: PlanInputs
    plan: Plan | None


def load_base(
    model: str,
    cluster: str | None,
    job: str | None,
    sets: Sequence[str] | None,
    *,
    global_batch: int | None = None,
    seq_len: int | None = None,
    precision: str | None = None,
    profile: str | None = None,
) -> Base:
    """A plan's own inputs, or a model, a cluster and a job. Raises InputError."""
    from planner.scenario.inputs import inputs_of, load_plan_inputs

    overrides = job_overrides(sets, global_batch=global_batch, seq_len=seq_len, precision=precision)
    if cluster is None:
        if not model.endswith(".json") or overrides or profile:
            message = "needs a cluster"
            remedy = "write MODEL CLUSTER, or give a plan alone (and changes as changes)"
            raise InputError([Problem(model, message, remedy)])
        plan = read_plan(model)
        return Base(inputs_of(plan), plan)
    return Base(load_plan_inputs(model, cluster, job, overrides, profile), None)


def run_options(
    effort: Effort,
    *,
    cache: Path | None,
    no_cache: bool,
    workers: int | None = None,
    engine: Engine = Engine.processes,
    address: str | None = None,
) -> RunOptions:
    """The options of a run. Raises InputError for an address without Ray."""
    from planner.whatif.cache import default_folder
    from planner.whatif.runner import RunOptions

    if address is not None and engine is not Engine.ray:
        remedy = "add --engine ray"
        raise InputError([Problem("--address", "is for a Ray cluster", remedy)])
    return RunOptions(
        effort=effort,
        engine=engine.value,
        workers=workers,
        address=address,
        cache=None if no_cache else cache or default_folder(),
    )


@contextmanager
def evaluating(options: RunOptions, *, quiet: bool) -> Iterator[Evaluator]:
    """An evaluator that says what it plans; Ctrl-C ends the question."""
    from planner.commands.searching import searching
    from planner.whatif.evaluator import Evaluator, Interrupted

    with searching(quiet=quiet) as (say, stopped):
        try:
            yield Evaluator(options, say=say, interrupted=stopped)
        except Interrupted:
            raise KeyboardInterrupt from None


@contextmanager
def running(*, quiet: bool) -> Iterator[tuple[Callable[[RunProgress], None], Callable[[], bool]]]:
    """How many scenarios are done, and how long the rest takes, on standard error."""
    shown = console(sys.stderr)
    bar = Progress(
        TextColumn("scenarios"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        console=shown,
        transient=True,
    )
    task = bar.add_task("scenarios", total=None, words="")
    last = -10.0

    def report(progress: RunProgress) -> None:
        nonlocal last
        if quiet:
            return
        words = progress_words(progress)
        if shown.is_terminal:
            bar.update(task, completed=progress.done, total=progress.total, words=words)
            return
        now = time.monotonic()
        if now - last >= 2.0 or progress.done == progress.total:
            last = now
            line = f"{progress.done} of {progress.total} scenarios"
            sys.stderr.write(f"{line}, {words}\n" if words else f"{line}\n")
            sys.stderr.flush()

    with stop_on_interrupt() as interrupted:
        if shown.is_terminal and not quiet:
            with bar:
                yield report, interrupted
        else:
            yield report, interrupted


def progress_words(progress: RunProgress) -> str:
    """``12 known already, 1 failed, 3 min left``."""
    parts = []
    if progress.known:
        parts.append(f"{progress.known} known already")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.eta_s is not None and progress.done < progress.total:
        parts.append(f"{_rough(progress.eta_s)} left")
    return ", ".join(parts)


def _rough(seconds: float) -> str:
    """``40 s``, ``12 min``, then as any duration."""
    if seconds >= 3_600:
        return duration(seconds)
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(1.0, seconds):.0f} s"


def draw(
    target: str | None,
    figure: Callable[[], Figure],
    title: str,
    table: Callable[[], list[list[str]]],
) -> None:
    """Write the picture, if one was asked for, whole or not at all."""
    if target is None:
        return
    from planner.report.plots import picture

    write_bytes(target, picture(figure(), target, title=title, table=table()))


def check_outputs(*targets: str | None, plot: str | None = None) -> None:
    """Find out before the work that its result has no place. Raises InputError."""
    from planner.report.plots import check_plot

    for target in (*targets, plot):
        check_writable(target)
    check_plot(plot)


def is_quiet(format_: Format) -> bool:
    """Whether progress would only disturb: programs read the answer, and nobody looks."""
    return format_ is Format.json and not sys.stderr.isatty()
