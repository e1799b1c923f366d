"""``planner profile MODEL``: measure the chips and links at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from planner.commands.config_file import is_function, raw_config
from planner.commands.options import FormatOption, SetOption, complete_file, complete_model
from planner.commands.output import Format, check_writable, show, show_json, write_text
from planner.commands.run import Precision
from planner.errors import InputError, PlannerError, Problem, RunFailed
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.inputs.reading import read_document
from planner.runtime import require_torch
from planner.runtime.launch import profile_local
from planner.runtime.profile_file import chip_records, problems_with, profile_object
from planner.runtime.profile_request import ProcessSpec, ProfileFound, ProfileRequest


def profile(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face config.json, a shipped name, or package.module:function that "
            "returns a list of blocks.",
            autocompletion=complete_model,
        ),
    ],
    process: Annotated[
        list[str] | None,
        typer.Option(
            "--process",
            "-p",
            metavar="CHIP[=N]",
            help="Start a process here that stands for this chip, with all work done N times. "
            "Repeatable; all measure at the same time.",
        ),
    ] = None,
    chip: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Under torchrun: what the chip of this node is called."),
    ] = None,
    apart: Annotated[
        bool,
        typer.Option("--apart", help="Take every process for a node of its own."),
    ] = False,
    rows: Annotated[
        str, typer.Option(metavar="LIST", help="Rows per micro-batch, such as 1,2,4.")
    ] = "1,2,4",
    tensor_parallel: Annotated[
        str, typer.Option("--tp", metavar="LIST", help="Tensor-parallel degrees, such as 1,2.")
    ] = "1",
    seq_len: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Tokens per row.")] = 1024,
    precision: Annotated[
        Precision, typer.Option(metavar="NAME", help="bf16, fp16 or fp32.")
    ] = Precision.fp32,
    sequence_parallel: Annotated[
        bool,
        typer.Option(
            "--sequence-parallel/--no-sequence-parallel", help="How degrees above 1 are measured."
        ),
    ] = True,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, cuda, ...; default: what is there.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="How long each way is measured.")
    ] = 1.0,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the profile.",
            autocompletion=complete_file,
        ),
    ] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the chips as catalogue records.",
            autocompletion=complete_file,
        ),
    ] = None,
    add: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Keep the chips and links of this profile that are not measured now.",
            autocompletion=complete_file,
        ),
    ] = None,
    set_: SetOption = None,
    format_: FormatOption = Format.text,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Measure the chips and links here: layer times and memory, matrix products, messages.

    planner profile llama-3-8b --rows 1,2 -o profile.json --catalogue chip.json

    The profile serves planner plan --profile. Without --process or torchrun, one process measures
    one device.
    """
    for target in (output, catalogue):
        check_writable(target)
    overrides = parse_overrides(set_ or ())
    config, function = None, None
    if is_function(model):
        function = model
    else:
        load_model(model, overrides)
        config = raw_config(model, overrides)
        if "model_type" not in config:
            remedy = "give a Hugging Face config.json or package.module:function"
            raise InputError([Problem(model, "is a layer graph, which nothing can run", remedy)])
    if precision is Precision.fp64:
        raise InputError([Problem("--precision", "fp64 is not profiled", "use fp32")])
    request = ProfileRequest.model_validate(
        {
            "config": config,
            "function": function,
            "model": model,
            "processes": _processes(process or (), chip),
            "degrees": _numbers("--tp", tensor_parallel),
            "rows": _numbers("--rows", rows),
            "seq_len": seq_len,
            "precision": precision.value,
            "sequence_parallel": sequence_parallel,
            "device": device,
            "apart": apart,
            "seconds": seconds,
            "quiet": quiet,
        }
    )
    earlier = _earlier(add, request)
    require_torch(transformers=config is not None)
    found = _measure(request, local=bool(process))
    if found is None:
        return
    result = profile_object(request, found, earlier)
    if output is not None:
        write_text(output, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if catalogue is not None:
        text = json.dumps(chip_records(found), indent=1, ensure_ascii=False) + "\n"
        write_text(catalogue, text)
    if format_ is Format.json:
        show_json(found.model_dump(mode="json"))
    elif not quiet:
        from planner.report.profile import profile_page

        show(profile_page(found))
        for target in (output, catalogue):
            if target is not None:
                show(Text(f"wrote {target}", style="dim"), to_stderr=True)


def _measure(request: ProfileRequest, *, local: bool) -> ProfileFound | None:
    if local:
        return profile_local(request)
    from planner.runtime.profile_session import profile_rank
    from planner.runtime.worker import failure_of, show_stage

    try:
        return profile_rank(request, None if request.quiet else show_stage)
    except PlannerError:
        raise
    except Exception as error:
        rank = int(os.environ.get("RANK", "0"))
        raise RunFailed(f"rank {rank}: {failure_of(rank, error).message}") from error


def _processes(given: Sequence[str], chip: str | None) -> tuple[ProcessSpec, ...]:
    """What every process stands for. Raises InputError for what cannot be read."""
    if not given:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return (ProcessSpec(chip=chip or "this-chip"),) * count
    if chip is not None:
        raise InputError([Problem("--chip", "goes with torchrun", "name it with --process")])
    found = []
    for text in given:
        name, _, times = text.partition("=")
        if not name or (times and (not times.isdigit() or int(times) < 1)):
            message = "is no chip and number"
            remedy = "write CHIP or CHIP=N, such as cpu-slow=3"
            raise InputError([Problem(f"--process {text}", message, remedy)])
        found.append(ProcessSpec(chip=name, repeat=int(times or 1)))
    return tuple(found)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError([Problem(f"{option} {text}", "is no list of numbers", "write 1,2,4")])
    return tuple(sorted({int(part) for part in parts}))


def _earlier(path: str | None, request: ProfileRequest) -> dict[str, Any] | None:
    if path is None:
        return None
    data = read_document(Path(path)).data
    if not isinstance(data, dict) or "chips" not in data:
        raise InputError([Problem(path, "is no profile", "give a file of planner profile -o")])
    problems = problems_with(data, request)
    if problems:
        raise InputError([Problem(path, p, "measure alike, or leave --add out") for p in problems])
    return dict(data)
