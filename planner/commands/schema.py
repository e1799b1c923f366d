"""``planner schema NAME``: what a file may say, for editors and programs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from planner.commands.options import FormatOption, complete_schema
from planner.commands.output import Format, show, show_json
from planner.errors import InputError, Problem
from planner.inputs.problems import nearest
from planner.schema import SCHEMAS, json_schema


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Which schema; none lists them.", autocompletion=complete_schema
        ),
    ] = None,
    format_: FormatOption = Format.text,
) -> None:
    """Print the JSON Schema of a kind of file, or list the kinds.

    planner schema cluster > cluster.schema.json
    """
    if name is not None:
        if name not in SCHEMAS:
            close = nearest(name, SCHEMAS)
            remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(SCHEMAS)}"
            raise InputError([Problem(f"schema {name}", "no schema has this name", remedy)])
        show_json(json_schema(name))
    elif format_ is Format.json:
        show_json({known: entry.about for known, entry in SCHEMAS.items()})
    else:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan")
        table.add_column()
        for known, entry in SCHEMAS.items():
            table.add_row(known, entry.about)
        show(table)
