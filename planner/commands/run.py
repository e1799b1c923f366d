"""``planner run plan.json``: execute a plan with the PyTorch runtime."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.commands.config_file import is_function, raw_config
from planner.commands.loading import load_inputs
from planner.commands.options import FormatOption, PlanArgument, SetOption, complete_file
from planner.commands.output import Format, show, show_json
from planner.commands.world import digests_of
from planner.errors import InputError, PlannerError, Problem, RunFailed
from planner.inputs.hf_config import FORMAT
from planner.inputs.model import load_model
from planner.inputs.overrides import Override, parse_overrides
from planner.plan import Plan
from planner.plan_file import read_plan, require_same_inputs
from planner.runtime import require_torch
from planner.runtime.launch import run_local
from planner.runtime.request import RunRecord, RunRequest
from planner.runtime.saved import latest
from planner.runtime.seats import Seating, seating
from planner.runtime.support import check_supported


class Precision(StrEnum):
    """Types that a run may compute in."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    fp64 = "fp64"


def run(
    plan: PlanArgument,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL CLUSTER [JOB]]",
            help="With --against: the inputs that the plan must have been made for.",
            autocompletion=complete_file,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A Hugging Face config.json, a shipped name, or package.module:function that "
            "returns a model or a list of blocks. Default: the plan's own model. Weights are "
            "fresh, nothing is downloaded.",
            autocompletion=complete_file,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            metavar="synthetic|FILE",
            help="Random tokens, or a file of tokens: .npy, or .bin of uint16 (uint32 above "
            "65,536 words).",
            autocompletion=complete_file,
        ),
    ] = "synthetic",
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Training steps.")] = 10,
    local: Annotated[
        bool,
        typer.Option("--local", help="Start all processes on this machine, one per device."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run on these instead of the plan's chips: cpu tries any plan anywhere.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(metavar="NAME", help="bf16, fp16, fp32 or fp64.")
    ] = None,
    learning_rate: Annotated[float, typer.Option("--lr", min=0.0, metavar="RATE")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0, metavar="RATE")] = 0.01,
    clip_norm: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="NORM", help="Clip the norm of the whole gradient."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of fresh weights and synthetic data.")
    ] = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Save below this folder at the end; any plan of the same model can go on from it.",
            autocompletion=complete_file,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=0, metavar="N", help="Save after every N steps as well.")
    ] = 0,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Go on from a checkpoint, or the newest in a folder.",
            autocompletion=complete_file,
        ),
    ] = None,
    warmup: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="First steps that the measured time leaves out."),
    ] = 1,
    timeout: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="Longest wait for another process."),
    ] = 600.0,
    repeat_work: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHIP=N",
            help="Chips of this kind do everything N times: unlike chips on one machine. "
            "Repeatable.",
        ),
    ] = None,
    against: Annotated[
        bool,
        typer.Option(
            "--against",
            help="Compare the plan with the MODEL CLUSTER [JOB] behind it: exit 5 if it was made "
            "for others.",
        ),
    ] = False,
    set_: SetOption = None,
    format_: FormatOption = Format.text,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no report, only errors.")
    ] = False,
) -> None:
    """Train with a plan: any class of plan, on PyTorch; measured time and memory beside planned.

    planner run plan.json --local --device cpu --steps 20

    Under torchrun every process is one device of the plan; --local starts the processes itself.
    """
    overrides = parse_overrides(set_ or ())
    found = read_plan(plan)
    given = _given(found, inputs or [], overrides, against=against)
    check_supported(found)
    config, function = _model(found, model or given, overrides)
    require_torch(transformers=config is not None)
    _check_files(data, resume, checkpoint)
    request = RunRequest(
        plan=plan,
        config=config,
        function=function,
        data=data,
        steps=steps,
        warmup=warmup,
        device=device,
        dtype=None if precision is None else precision.value,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        timeout_s=timeout,
        repeat_work=repeated_work(repeat_work or ()),
        quiet=quiet,
    )
    record = _execute(request, seating(found), local=local)
    if record is not None:
        _answer(found, record, format_, quiet=quiet)


def repeated_work(texts: Sequence[str]) -> dict[str, int]:
    """``slow=3`` as a mapping. Raises InputError for anything else."""
    found = {}
    for text in texts:
        chip, _, times = text.partition("=")
        if not chip or not times.isdigit() or int(times) < 1:
            remedy = "write CHIP=N, such as cpu-slow=3"
            raise InputError([Problem(f"--repeat-work {text}", "is no chip and number", remedy)])
        found[chip] = int(times)
    return found


def _execute(request: RunRequest, places: Seating, *, local: bool) -> RunRecord | None:
    """All processes here, or this one among those that a launcher started."""
    count = len(places.seats)
    if local:
        return run_local(request, places.seats)
    if "RANK" not in os.environ and count > 1:
        hosts = places.hosts()
        each = " / ".join(str(len(seats)) for seats in hosts.values())
        message = f"the plan uses {count} devices, this is one process"
        remedy = (
            "add --local, or on each node torchrun "
            f"--nnodes {len(hosts)} --nproc-per-node {each} -m planner run ..."
        )
        raise InputError([Problem("run", message, remedy)])
    from planner.runtime.session import run_rank
    from planner.runtime.worker import failure_of, show_step

    rank = int(os.environ.get("RANK", "0"))
    try:
        return run_rank(request, None if request.quiet else show_step)
    except PlannerError:
        raise
    except Exception as error:
        failure = failure_of(rank, error)
        seat = places.seats[rank] if rank < count else f"rank {rank}"
        if os.environ.get("PLANNER_TRACEBACK"):
            sys.stderr.write(failure.trace)
        lost = "the launcher names the process that failed"
        remedy = lost if failure.consequence else "set PLANNER_TRACEBACK=1 to see the trace"
        raise RunFailed(f"{seat}: {failure.message}", remedies=[remedy]) from error


def _given(
    found: Plan, inputs: Sequence[str], overrides: Sequence[Override], *, against: bool
) -> str | None:
    """The MODEL of ``--against`` after its digests were compared; None without."""
    if not against:
        if inputs:
            message = f"{inputs[0]!r} has no meaning here"
            raise InputError([Problem("run", message, "add --against, or write --model")])
        return None
    if len(inputs) not in (2, 3):
        message = "needs MODEL CLUSTER [JOB]"
        remedy = "planner run plan.json MODEL CLUSTER JOB --against"
        raise InputError([Problem("--against", message, remedy)])
    job = inputs[2] if len(inputs) == 3 else None
    require_same_inputs(found, digests_of(load_inputs(inputs[0], inputs[1], job, overrides)))
    return inputs[0]


def _model(
    found: Plan, given: str | None, overrides: Sequence[Override]
) -> tuple[dict[str, Any] | None, str | None]:
    """A Hugging Face configuration, or the function that makes the model."""
    record = found.inputs.model
    own = record.resolved
    if given is None:
        if own.get("format") == FORMAT:
            return dict(own["config"]), None
        message = f"the plan's model {record.name!r} is a layer graph, which nothing can execute"
        remedy = "give --model package.module:function that returns its blocks"
        raise InputError([Problem("--model", message, remedy)])
    if is_function(given):
        return None, given
    model = load_model(given, overrides)
    config = raw_config(given, overrides)
    if "model_type" not in config:
        message = "is a layer graph, which nothing can execute"
        raise InputError([Problem(given, message, "give a Hugging Face config.json")])
    if own.get("format") == FORMAT and model.resolved["config"] != own["config"]:
        mine: Any = model.resolved["config"]
        keys = sorted(k for k in {*mine, *own["config"]} if mine.get(k) != own["config"].get(k))
        message = f"is not the plan's model: {', '.join(keys[:4])} differ"
        remedy = f"give {record.name}, with the same --set model... as for the plan"
        raise InputError([Problem(given, message, remedy)])
    return config, None


def _check_files(data: str, resume: str | None, checkpoint: str | None) -> None:
    """Before processes are started."""
    problems = []
    if data != "synthetic" and not Path(data).is_file():
        problems.append(Problem("--data", f"there is no file {data}", "or write synthetic"))
    if resume is not None:
        try:
            latest(resume)
        except InputError as error:
            problems += error.problems
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        parent = Path(checkpoint).absolute().parent
        problems.append(Problem("--checkpoint", f"there is no folder {parent}", "make it first"))
    if problems:
        raise InputError(problems)


def _answer(found: Plan, record: RunRecord, format_: Format, *, quiet: bool) -> None:
    from planner.report.run import run_object, run_page

    if format_ is Format.json:
        show_json(run_object(found, record))
    elif not quiet:
        show(run_page(found, record))
    sys.stdout.flush()
