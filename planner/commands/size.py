"""``planner size`` and ``planner whatif replace``: how many chips."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from planner.commands.loading import job_overrides
from planner.commands.options import (
    FormatOption,
    GlobalBatchOption,
    JobArgument,
    ModelArgument,
    PrecisionOption,
    SeqLenOption,
    SetOption,
)
from planner.commands.output import Format, show, show_json
from planner.commands.rates import PowerOption, PriceOption, rates_for
from planner.commands.searching import GapOption, TimeLimitOption
from planner.commands.whatif_options import (
    CacheOption,
    NoCacheOption,
    PlotOption,
    check_outputs,
    draw,
    evaluating,
    is_quiet,
    run_options,
)
from planner.errors import InputError, Problem
from planner.inputs.job import load_job
from planner.inputs.model import load_model

if TYPE_CHECKING:
    from planner.inputs.job import JobInput
    from planner.inputs.model import ModelInput

_SCALES = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}

NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        metavar="RATE[:KIND]",
        help="Network of one node, one way, such as 3200Gb/s:ib; by default that of a machine in "
        "the catalogue.",
    ),
]
ChipsPerNodeOption = Annotated[
    int | None,
    typer.Option(
        "--chips-per-node", min=1, metavar="N", help="Chips of one node; by default as sold."
    ),
]


def size(
    model: ModelArgument,
    job: JobArgument = None,
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="N", help="Tokens to train: 300B, 1T, 1.4e12.")
    ] = "1T",
    days: Annotated[
        float, typer.Option("--days", min=0.0, metavar="DAYS", help="In at most so many days.")
    ] = 30.0,
    chip: Annotated[
        str, typer.Option("--chip", metavar="CHIP", help="The chip to count, such as h800.")
    ] = "",
    goodput: Annotated[
        float,
        typer.Option(
            "--goodput",
            min=0.01,
            max=1.0,
            metavar="FRACTION",
            help="Share of the time in which steps count; the rest is failures and restarts.",
        ),
    ] = 1.0,
    network: NetworkOption = None,
    chips_per_node: ChipsPerNodeOption = None,
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    price: PriceOption = None,
    power: PowerOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """How many chips train so many tokens in so many days, with what is proven about fewer.

    planner size --tokens 1T --days 30 --chip h800 llama-3-8b
    """
    from planner.report import plots_sizing
    from planner.report.sizing import size_object, size_page
    from planner.scenario.inputs import PlanInputs
    from planner.whatif import Effort, Target, fleet_of, node_type
    from planner.whatif import size as sized

    if not chip:
        raise InputError([Problem("--chip", "is missing", "name the chip to count: --chip h800")])
    check_outputs(plot=plot)
    target = Target(token_count(tokens), days * 86_400, goodput)
    if target.seconds <= 0:
        raise InputError([Problem("--days", "there is no time", "give more than 0 days")])
    node = node_type(chip, chips=chips_per_node, network=network)
    loaded, wanted = _model_and_job(
        model, job, set_, global_batch=global_batch, seq_len=seq_len, precision=precision
    )
    rates = rates_for(PlanInputs(loaded, fleet_of(node, 1), wanted), price, power)
    options = run_options(Effort(gap=gap, time_limit_s=time_limit), cache=cache, no_cache=no_cache)
    with evaluating(options, quiet=is_quiet(format_)) as evaluator:
        found = sized(loaded, wanted, node, target, evaluator)
    draw(
        plot,
        lambda: plots_sizing.size_figure(found),
        f"{loaded.name}: {tokens} tokens in {days:g} days",
        lambda: plots_sizing.size_table(found),
    )
    if format_ is Format.json:
        show_json(size_object(found, target, rates))
    else:
        show(size_page(found, target, rates))


def _model_and_job(
    model: str,
    job: str | None,
    sets: list[str] | None,
    *,
    global_batch: int | None,
    seq_len: int | None,
    precision: str | None,
) -> tuple[ModelInput, JobInput]:
    overrides = job_overrides(sets, global_batch=global_batch, seq_len=seq_len, precision=precision)
    problems: list[Problem] = []
    loaded: ModelInput | None = None
    wanted: JobInput | None = None
    try:
        loaded = load_model(model, overrides)
    except InputError as error:
        problems += error.problems
    try:
        wanted = load_job(job, overrides)
    except InputError as error:
        problems += error.problems
    if loaded is None or wanted is None:
        raise InputError(problems)
    return loaded, wanted


def token_count(text: str) -> float:
    """``1T``, ``300B``, ``1.4e12``. Raises InputError."""
    match = re.fullmatch(r"([\d.]+(?:e\d+)?) ?([KMBGT]?)", text.strip(), re.IGNORECASE)
    value = float(match[1]) * _SCALES[match[2].upper()] if match else 0.0
    if value <= 0:
        remedy = "write 300B, 1T or 1.4e12"
        raise InputError([Problem(f"--tokens {text}", "is no number of tokens", remedy)])
    return value


def replace_(
    model: ModelArgument,
    job: JobArgument = None,
    from_: Annotated[
        str, typer.Option("--from", metavar="NxCHIP", help="The chips to replace: 1000xH100.")
    ] = "",
    to: Annotated[str, typer.Option("--to", metavar="CHIP", help="The chip to count.")] = "",
    claim: Annotated[
        int | None,
        typer.Option(
            "--claim",
            min=1,
            metavar="N",
            help="A number that somebody claims: under which assumptions would it hold?",
        ),
    ] = None,
    network: NetworkOption = None,
    from_network: Annotated[
        str | None,
        typer.Option(
            "--from-network", metavar="RATE[:KIND]", help="The same for the chips to replace."
        ),
    ] = None,
    chips_per_node: ChipsPerNodeOption = None,
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """How many of one chip do in the same time what so many of another do.

    planner whatif replace --from 1000xH100 --to H800 gpt3-175b --global-batch 1536 --claim 3000

    The best plan of each fleet is compared. The answer names the term that makes the difference
    and, for a claim, the figures at which it would hold.
    """
    from planner.report import plots_sizing
    from planner.report.sizing import replacement_object, replacement_page
    from planner.whatif import Effort, equal_time, node_type
    from planner.whatif.fleet import parse_count

    missing = [
        Problem(flag, "is missing", remedy)
        for flag, v, remedy in (
            ("--from", from_, "the chips to replace: --from 64xH100"),
            ("--to", to, "the chip to count: --to H800"),
        )
        if not v
    ]
    if missing:
        raise InputError(missing)
    check_outputs(plot=plot)
    count, name = parse_count(from_)
    old = node_type(name, chips=chips_per_node, network=from_network or network, where="--from")
    new = node_type(to, chips=chips_per_node, network=network, where="--to")
    loaded, wanted = _model_and_job(
        model, job, set_, global_batch=global_batch, seq_len=seq_len, precision=precision
    )
    options = run_options(Effort(gap=gap, time_limit_s=time_limit), cache=cache, no_cache=no_cache)
    with evaluating(options, quiet=is_quiet(format_)) as evaluator:
        found = equal_time(loaded, wanted, old, count, new, evaluator, claim=claim)
    draw(
        plot,
        lambda: plots_sizing.size_figure(found.new),
        f"{loaded.name}: {to} in place of {from_}",
        lambda: plots_sizing.size_table(found.new),
    )
    if format_ is Format.json:
        show_json(replacement_object(found))
    else:
        show(replacement_page(found))
