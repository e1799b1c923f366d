"""``planner whatif …``: scenarios, sweeps and inverse questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands.inverse import largest_, link_, price_, tornado_
from planner.commands.options import (
    FormatOption,
    GlobalBatchOption,
    JobArgument,
    PrecisionOption,
    ProfileOption,
    SeqLenOption,
    SetOption,
    complete_file,
)
from planner.commands.output import STDOUT, Format, show, show_json, write_text
from planner.commands.rates import PowerOption, PriceOption, rate_changes
from planner.commands.searching import GapOption, TimeLimitOption, searching, told
from planner.commands.size import replace_
from planner.commands.whatif_options import (
    AddressOption,
    BaseArgument,
    BaseClusterArgument,
    CacheOption,
    ChargedOption,
    ChargeOption,
    Engine,
    EngineOption,
    NoCacheOption,
    PlotOption,
    WorkersOption,
    check_outputs,
    draw,
    is_quiet,
    load_base,
    run_options,
    running,
)
from planner.errors import InputError, PlannerError, Problem

if TYPE_CHECKING:
    from planner.whatif import Front, Sweep
    from planner.whatif.pareto import Goal

whatif = typer.Typer(
    help="What if: scenarios side by side, sweeps, and questions for the input.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@whatif.command("compare")
def compare_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            metavar="CHANGES",
            help="'[NAME: ]CHANGE; CHANGE', such as 'replace v100 by a100-sxm-80gb', 'link "
            "network x2', 'nodes v100 -1', 'model = llama-2-70b', 'seq_len = 8192', 'forbid "
            "zero1', 'memory v100 x1.5', 'price v100 = 0.8'. Repeatable.",
        ),
    ] = None,
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    price: PriceOption = None,
    power: PowerOption = None,
    charge: ChargedOption = ChargeOption.used,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    workers: WorkersOption = None,
    plans: Annotated[
        Path | None,
        typer.Option(
            "--plans", metavar="FOLDER", help="Write the plan of every scenario into this folder."
        ),
    ] = None,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Plan the base and changed scenarios, side by side.

    planner whatif compare llama-2-13b s1-a100-v100 -s 'link network x4' -s 'nodes v100 = 0'
    """
    from planner.aside import cpus
    from planner.report import plots
    from planner.report.scenarios import comparison_object, comparison_page
    from planner.whatif import Effort, compare, parse_scenario

    scenarios = told(parse_scenario, scenario or ())
    if not scenarios:
        raise InputError([Problem("--scenario", "is missing", "-s 'link network x2'")])
    prices = rate_changes(price, power)
    check_outputs(plot=plot)
    if plans is not None and not plans.is_dir():
        raise InputError([Problem(f"--plans {plans}", "is no folder", "make it first")])
    base = load_base(
        model,
        cluster,
        job,
        set_,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        profile=profile,
    )
    with searching(quiet=is_quiet(format_)) as (say, stopped):
        found = compare(
            base.inputs,
            scenarios,
            Effort(gap=gap, time_limit_s=time_limit),
            charge=charge.value,
            always=prices,
            workers=workers or cpus(),
            progress=say,
            interrupted=stopped,
        )
    for number, row in enumerate(found.rows):
        if plans is not None and row.plan is not None:
            write_text(str(plans / f"scenario-{number}.json"), row.plan.to_json())
    draw(
        plot,
        lambda: plots.comparison_figure(found),
        f"{base.inputs.model.name}: scenarios",
        lambda: plots.comparison_table(found),
    )
    if format_ is Format.json:
        show_json(comparison_object(found))
    else:
        show(comparison_page(found))


@whatif.command("sweep")
def sweep_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            "-a",
            metavar="CHANGE",
            help="A change with several values: 'nodes v100 = 0..4', 'link network = "
            "25Gb/s,50Gb/s,100Gb/s', 'seq_len = 2048..32768*2'. One or two.",
        ),
    ] = None,
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    price: PriceOption = None,
    power: PowerOption = None,
    charge: ChargedOption = ChargeOption.used,
    goals: Annotated[
        str,
        typer.Option(
            "--pareto",
            metavar="GOALS",
            help="Mark the points that nobody beats in these: time, cost, energy; none for none.",
        ),
    ] = "time,cost",
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    engine: EngineOption = Engine.processes,
    address: AddressOption = None,
    workers: WorkersOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write every point as a line; - is standard output.",
            autocompletion=complete_file,
        ),
    ] = None,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Plan every combination of the values of one or two axes.

    planner whatif sweep llama-2-13b s1-a100-v100 -a 'nodes v100 = 0..4' --plot nodes.html

    Finished scenarios are kept by their inputs: the same command after an interruption goes on
    where it was.
    """
    from planner.report import plots
    from planner.report.sweeps import sweep_csv, sweep_object, sweep_page
    from planner.whatif import Effort, parse_axis, sweep

    axes = told(parse_axis, axis or ())
    wanted = _goals(goals)
    prices = rate_changes(price, power)
    check_outputs(csv, plot=plot)
    options = run_options(
        Effort(gap=gap, time_limit_s=time_limit),
        cache=cache,
        no_cache=no_cache,
        workers=workers,
        engine=engine,
        address=address,
    )
    base = load_base(
        model,
        cluster,
        job,
        set_,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        profile=profile,
    )
    with running(quiet=is_quiet(format_)) as (report, stopped):
        found = sweep(
            base.inputs,
            axes,
            options,
            charge=charge.value,
            always=prices,
            progress=report,
            interrupted=stopped,
        )
    front = _front(found, wanted)
    if csv is not None:
        write_text(csv, sweep_csv(found))
    title = f"{base.inputs.model.name}: {' and '.join(a.name for a in axes)}"
    draw(
        plot,
        lambda: plots.sweep_figure(found, front),
        title,
        lambda: plots.sweep_table(found),
    )
    if format_ is Format.json:
        show_json(sweep_object(found, front))
    elif csv != STDOUT:
        show(sweep_page(found, front))
    _end(found)


def _goals(text: str) -> tuple[Goal, ...]:
    """The goals of ``--pareto``. Raises InputError for what is none."""
    from planner.whatif.pareto import GOALS

    names = [g.strip() for g in text.split(",") if g.strip() and g.strip() != "none"]
    unknown = [n for n in names if n not in GOALS]
    if unknown:
        remedy = f"some of {', '.join(GOALS)}, or none"
        raise InputError([Problem(f"--pareto {text}", f"no goal is called {unknown[0]}", remedy)])
    return tuple(goal for goal in GOALS if goal in names)


def _front(found: Sweep, goals: Sequence[Goal]) -> Front | None:
    from planner.whatif import pareto_front

    if len(goals) < 2:
        return None
    return pareto_front([(p.outcome, p.costs) for p in found.points], goals)


def _end(found: Sweep) -> None:
    """A sweep that was cut short, or met a bug, does not end as if nothing were."""
    if not found.complete:
        raise KeyboardInterrupt
    failed = [p.outcome.reason for p in found.points if p.outcome and p.outcome.status == "failed"]
    if failed:
        first = failed[0]
        raise PlannerError(f"{len(failed)} scenarios failed; the first: {first}")


for name, question in (
    ("replace", replace_),
    ("largest", largest_),
    ("link", link_),
    ("price", price_),
    ("tornado", tornado_),
):
    whatif.command(name)(question)
