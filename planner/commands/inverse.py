"""Questions of ``planner whatif`` that ask for an input, and which input matters."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.commands.options import (
    FormatOption,
    GlobalBatchOption,
    JobArgument,
    PrecisionOption,
    ProfileOption,
    SeqLenOption,
    SetOption,
)
from planner.commands.output import Format, show, show_json
from planner.commands.rates import PriceOption, rates_for
from planner.commands.searching import GapOption, TimeLimitOption, searching
from planner.commands.whatif_options import (
    BaseArgument,
    BaseClusterArgument,
    CacheOption,
    NoCacheOption,
    PlotOption,
    WorkersOption,
    check_outputs,
    draw,
    evaluating,
    is_quiet,
    load_base,
    run_options,
)
from planner.errors import InputError, Problem


def largest_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            metavar="WHAT",
            help="model (grown in depth and width like MODEL), seq_len or micro_batch_rows.",
        ),
    ] = "model",
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    gap: GapOption = 0.5,
    time_limit: TimeLimitOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    format_: FormatOption = Format.text,
) -> None:
    """The largest model, sequence or micro-batch that still has a plan.

    planner whatif largest llama-2-7b 8xA100-SXM-40GB --what seq_len
    """
    from planner.report.inverse import largest_object, largest_page
    from planner.whatif import Effort, largest
    from planner.whatif.limits import WHATS

    if what not in WHATS:
        remedy = f"one of {', '.join(WHATS)}"
        raise InputError([Problem(f"--what {what}", "is none of them", remedy)])
    chosen = next(w for w in WHATS if w == what)
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
    options = run_options(Effort(gap=gap, time_limit_s=time_limit), cache=cache, no_cache=no_cache)
    with evaluating(options, quiet=is_quiet(format_)) as evaluator:
        found = largest(base.inputs, chosen, evaluator)
    if format_ is Format.json:
        show_json(largest_object(found))
    else:
        show(largest_page(found))


def link_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="LINK",
            help="network, network:NAME, fabric:CHIP or host:CHIP.",
        ),
    ] = "network",
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    workers: WorkersOption = None,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """The break-even bandwidth of a link: below it another plan is faster than the best one now.

    planner whatif link plan.json --link network --plot link.html
    """
    from planner.aside import cpus
    from planner.report import plots
    from planner.report.inverse import link_object, link_page
    from planner.whatif import Effort, break_even_link

    check_outputs(plot=plot)
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
        found = break_even_link(
            base.inputs,
            link,
            Effort(gap=gap, time_limit_s=time_limit),
            chosen=base.plan,
            workers=workers or cpus(),
            progress=say,
            interrupted=stopped,
        )
    title = f"{base.inputs.model.name}: {link}"
    draw(plot, lambda: plots.link_figure(found), title, lambda: plots.link_table(found))
    if format_ is Format.json:
        show_json(link_object(found))
    else:
        show(link_page(found))


def price_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    chip: Annotated[
        str, typer.Option("--chip", metavar="CHIP", help="The chip whose price is asked for.")
    ] = "",
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    price: PriceOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    workers: WorkersOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """The price per hour at which a kind of chip becomes worth using beside the others.

    planner whatif price llama-2-13b s1-a100-v100 --chip v100
    """
    from planner.aside import cpus
    from planner.report.inverse import worth_object, worth_page
    from planner.whatif import Effort, worth_price

    if not chip:
        raise InputError([Problem("--chip", "is missing", "name the chip: --chip v100")])
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
    rates = rates_for(base.inputs, price, None)
    with searching(quiet=is_quiet(format_)) as (say, stopped):
        found = worth_price(
            base.inputs,
            chip,
            rates,
            Effort(gap=gap, time_limit_s=time_limit),
            workers=workers or cpus(),
            progress=say,
            interrupted=stopped,
        )
    if format_ is Format.json:
        show_json(worth_object(found))
    else:
        show(worth_page(found, rates))


def tornado_(
    model: BaseArgument,
    cluster: BaseClusterArgument = None,
    job: JobArgument = None,
    spread: Annotated[
        float,
        typer.Option(
            "--spread",
            min=1.0001,
            max=100.0,
            metavar="FACTOR",
            help="Divide and multiply every input by this.",
        ),
    ] = 1.25,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TEXT", help="Inputs whose name contains this. Repeatable."),
    ] = None,
    set_: SetOption = None,
    global_batch: GlobalBatchOption = None,
    seq_len: SeqLenOption = None,
    precision: PrecisionOption = None,
    profile: ProfileOption = None,
    price: PriceOption = None,
    gap: GapOption = 0.05,
    time_limit: TimeLimitOption = None,
    workers: WorkersOption = None,
    plot: PlotOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Which input matters: links, speed, efficiency and memory varied one by one, and prices.

    planner whatif tornado plan.json --spread 1.5 --plot tornado.png

    For every input it also says where the chosen plan stops being the best of those found.
    """
    from planner.aside import cpus
    from planner.report import plots
    from planner.report.tornado import tornado_object, tornado_page
    from planner.whatif import Effort, tornado

    check_outputs(plot=plot)
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
    rates = rates_for(base.inputs, price, None)
    with searching(quiet=is_quiet(format_)) as (say, stopped):
        found = tornado(
            base.inputs,
            Effort(gap=gap, time_limit_s=time_limit),
            chosen=base.plan,
            spread=spread,
            only=only or (),
            rates=rates,
            workers=workers or cpus(),
            progress=say,
            interrupted=stopped,
        )
    title = f"{base.inputs.model.name}: which input matters"
    draw(plot, lambda: plots.tornado_figure(found), title, lambda: plots.tornado_table(found))
    if format_ is Format.json:
        show_json(tornado_object(found))
    else:
        show(tornado_page(found))
