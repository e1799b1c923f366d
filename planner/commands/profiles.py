"""``planner profiles import FOLDER``: what other planners' tools measured, as our profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.text import Text

from planner.commands.options import OutputOption, complete_file
from planner.commands.output import STDOUT, check_writable, show, write_text
from planner.errors import InputError, Problem
from planner.inputs.foreign_profiles import Layout, Wanted, import_profile
from planner.inputs.job_spec import Precision
from planner.inputs.profile_spec import ProfileSpec
from planner.report.format import plural

profiles = typer.Typer(
    help="Measured layer times and links: bring them from other planners' files.",
    no_args_is_help=True,
)

PRECISIONS = ("bf16", "fp16", "fp32", "fp8")


@profiles.callback()
def _group() -> None:
    """Measured layer times and links: bring them from other planners' files."""


@profiles.command("import")
def import_(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="A tree of profiles/MODEL/GPU/profile.json with llm_info.json (Sailor), or "
            "DeviceType.GPU_tpT_bsB.json files (Metis).",
            autocompletion=complete_file,
        ),
    ],
    output: OutputOption = STDOUT,
    layout: Annotated[
        str | None,
        typer.Option(metavar="sailor|metis", help="Whose layout it is; recognised if left out."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which model, where there are several.")
    ] = None,
    chip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="THEIRS=OURS",
            help="Name a chip as in the catalogue or your cluster file, such as "
            "V100-16=V100-SXM2-16GB. Repeatable.",
        ),
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, metavar="TOKENS", help="Tokens per row, if not stated.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="bf16, fp16 or fp32, if not stated."),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which network, where there are several.")
    ] = None,
) -> None:
    """Write the profile that a folder of another planner holds.

    planner profiles import sailor/ --chip V100-16=V100-SXM2-16GB -o profile.json
    """
    check_writable(output)
    wanted = Wanted(
        model=model,
        chips=_names(chip or ()),
        seq_len=seq_len,
        precision=_precision(precision),
        zone=zone,
    )
    found = import_profile(Path(folder), wanted, _layout(layout))
    target = output or STDOUT
    write_text(target, profile_text(found.spec))
    text = Text(style="dim")
    for note in found.notes:
        text.append(f"assumed: {note}\n")
    rows = sum(len(c.rows) for c in found.spec.chips)
    where = "standard output" if target == STDOUT else target
    text.append(f"wrote {where}: {plural(rows, 'row')} of {plural(len(found.spec.chips), 'chip')}")
    text.append(f", {plural(len(found.spec.links), 'link')}")
    show(text, to_stderr=True)


def profile_text(spec: ProfileSpec) -> str:
    """The file's text: one line per row and per link, so that differences can be read."""
    import json

    body = spec.model_dump(mode="json", exclude_defaults=True)
    chips, links = body.pop("chips"), body.pop("links", [])
    head = {"profile_version": 1, **body}
    lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    parts = []
    for entry in chips:
        rows = ",\n   ".join(json.dumps(row) for row in entry["rows"])
        parts.append(f'  {{"chip": {json.dumps(entry["chip"])}, "rows": [\n   {rows}\n  ]}}')
    text = "{\n" + "\n".join(lines) + '\n "chips": [\n' + ",\n".join(parts) + "\n ]"
    if links:
        text += ',\n "links": [\n  ' + ",\n  ".join(json.dumps(link) for link in links) + "\n ]"
    return text + "\n}\n"


def _names(pairs: list[str] | tuple[str, ...]) -> dict[str, str]:
    out: dict[str, str] = {}
    problems = []
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            problems.append(Problem(f"--chip {pair}", "is not THEIRS=OURS", "V100-16=my-v100"))
        out[theirs] = ours
    if problems:
        raise InputError(problems)
    return out


def _precision(name: str | None) -> Precision | None:
    if name is None or name in PRECISIONS:
        return cast("Precision | None", name)
    known = ", ".join(PRECISIONS)
    raise InputError([Problem(f"--precision {name}", "no precision has this name", known)])


def _layout(name: str | None) -> Layout | None:
    if name is None or name in ("sailor", "metis"):
        return cast('Literal["sailor", "metis"] | None', name)
    raise InputError([Problem(f"--layout {name}", "no layout has this name", "sailor or metis")])
