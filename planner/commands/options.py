"""Arguments and options that several commands share, and how a shell completes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, cast

import typer
from typer.models import OptionInfo

from planner.commands.output import Format
from planner.inputs.resources import FixtureKind, fixture_names


def complete_model(incomplete: str) -> list[str]:
    """Names of shipped models, and files."""
    return _shipped("models", incomplete)


def complete_cluster(incomplete: str) -> list[str]:
    """Names of shipped clusters, and files."""
    return _shipped("clusters", incomplete)


def complete_job(incomplete: str) -> list[str]:
    """Names of shipped jobs, and files."""
    return _shipped("jobs", incomplete)


def complete_profile(incomplete: str) -> list[str]:
    """Names of shipped profiles, and files."""
    return _shipped("profiles", incomplete)


def complete_chip(incomplete: str) -> list[str]:
    """Names of chips in the catalogue."""
    from costmodels.catalog import load_catalog

    catalog = load_catalog()
    names = (catalog.alias(chip_id) for chip_id in catalog.ids)
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def complete_technique(incomplete: str) -> list[str]:
    """Names that ``--forbid`` accepts."""
    from planner.inputs.job import TECHNIQUES

    return [name for name in TECHNIQUES if name.startswith(incomplete)]


def complete_schema(incomplete: str) -> list[str]:
    """Names of schemas."""
    from planner.schema import SCHEMAS

    return [name for name in SCHEMAS if name.startswith(incomplete)]


def complete_file(incomplete: str) -> list[str]:
    """Files and folders; Typer offers none by itself where names are completed."""
    path = Path(incomplete)
    folder = path if incomplete.endswith("/") else path.parent
    if not folder.is_dir():
        return []
    found = (p for p in sorted(folder.iterdir()) if not p.name.startswith("."))
    names = (f"{p}/" if p.is_dir() else str(p) for p in found)
    return [name for name in names if name.startswith(incomplete)]


def repeatable(
    flag: str,
    metavar: str,
    what: str,
    *,
    autocompletion: Callable[[str], list[str]] | None = None,
) -> OptionInfo:
    """An option that may be given several times, and says so."""
    option = typer.Option(
        flag, metavar=metavar, help=f"{what} Repeatable.", autocompletion=autocompletion
    )
    return cast(OptionInfo, option)


def _shipped(kind: FixtureKind, incomplete: str) -> list[str]:
    names = [name for name in fixture_names(kind) if name.startswith(incomplete)]
    return names + complete_file(incomplete)


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face config.json (or its folder), a layer-graph file, or a shipped name "
        "such as llama-2-13b.",
        autocompletion=complete_model,
    ),
]
ClusterArgument = Annotated[
    str,
    typer.Argument(
        metavar="CLUSTER",
        help="A topology file, a shipped name, or shorthand: "
        "'8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s'.",
        autocompletion=complete_cluster,
    ),
]
JobArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB", help="A job file or a shipped name.", autocompletion=complete_job
    ),
]
PlanArgument = Annotated[
    str,
    typer.Argument(
        metavar="PLAN",
        help="A file that planner plan, or estimate, wrote with -o.",
        autocompletion=complete_file,
    ),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format", metavar="text|json", help="How to answer: for people or for programs."
    ),
]
SetOption = Annotated[
    list[str] | None,
    repeatable(
        "--set",
        "PATH=VALUE",
        "Change one input field by its path, such as job.seq_len=4096, "
        "cluster.cross_vendor_collectives=cpu-staged or model.num_hidden_layers=48.",
    ),
]
ForbidOption = Annotated[
    list[str] | None,
    repeatable(
        "--forbid",
        "TECHNIQUE",
        "Leave a technique out of the search, such as zero1 or recompute_full.",
        autocompletion=complete_technique,
    ),
]
GlobalBatchOption = Annotated[
    int | None,
    typer.Option(metavar="ROWS", help="Rows (sequences) per optimizer step."),
]
SeqLenOption = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", help="Tokens per row."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="bf16, fp16, fp32 or, where the chips have it, fp8; one for the job."
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to minimise: step_time, cost or energy (per token, under a floor).",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Measured layer times, memory and links, in place of the formulas.",
        autocompletion=complete_profile,
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the result here; - is standard output.",
        autocompletion=complete_file,
    ),
]
DetailsOption = Annotated[
    bool,
    typer.Option(
        "--details", "-v", help="Add itemised memory and time per stage and the searched space."
    ),
]
