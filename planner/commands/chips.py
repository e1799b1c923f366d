"""``planner chips list / show / check``: the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from costmodels.catalog import (
    AmbiguousChip,
    Catalog,
    CatalogError,
    Chip,
    UnknownChip,
    load_catalog,
)
from planner.commands.options import FormatOption, complete_chip, complete_file
from planner.commands.output import Format, show, show_json
from planner.errors import InputError, Problem

chips = typer.Typer(
    help="The catalogue of chips: dense rates, memory, links, each figure with its source.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--chips",
        metavar="FILE",
        help="A JSON file with your own chips, added to the catalogue. Repeatable.",
        autocompletion=complete_file,
    ),
]


@chips.command("list")
def list_(
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="Only chips whose name or vendor contains this."),
    ] = None,
    own: FileOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """List the chips that a cluster can be made of.

    planner chips list a100
    """
    from planner.report.chips import chip_table

    catalog = own_catalog(own)
    found = [catalog.chips[i] for i in catalog.ids]
    if text is not None:
        found = [c for c in found if _matches(c, catalog, text)]
        if not found:
            near = ", ".join(catalog.nearest(text))
            remedy = f"near: {near}" if near else "planner chips list shows all"
            raise InputError([Problem("", f"no chip matches {text!r}", remedy)])
    if format_ is Format.json:
        show_json([_summary(c, catalog) for c in found])
    else:
        show(chip_table(found))


@chips.command("show")
def show_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="An id or an unambiguous alias.", autocompletion=complete_chip
        ),
    ],
    own: FileOption = None,
    format_: FormatOption = Format.text,
) -> None:
    """Show one chip: what is used, what is assumed, and the source of every figure.

    planner chips show 910B3-64GB
    """
    from planner.report.chips import chip_page

    catalog = own_catalog(own)
    try:
        chip = catalog.get(name)
    except AmbiguousChip as error:
        remedy = f"write one of {', '.join(error.candidates)}"
        raise InputError([Problem(name, "fits several chips", remedy)]) from None
    except UnknownChip as error:
        near = ", ".join(error.candidates)
        remedy = f"did you mean {near}?" if near else "planner chips list shows all"
        raise InputError([Problem(name, "no chip has this name", remedy)]) from None
    if format_ is Format.json:
        show_json({**_summary(chip, catalog), "record": dict(catalog.record(name))})
    else:
        show(chip_page(chip, catalog.record(name)))


@chips.command("check")
def check_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="JSON files with chips.", autocompletion=complete_file
        ),
    ],
    format_: FormatOption = Format.text,
) -> None:
    """Check files with your own chips: fields, ranges, sparse rates taken for dense ones.

    planner chips check my-chips.json
    """
    from planner.report.chips import chip_table

    catalog = own_catalog(files)
    shipped = load_catalog()
    new = [i for i in catalog.ids if catalog.records[i] is not shipped.records.get(i)]
    found = [catalog.chips[i] for i in new]
    if format_ is Format.json:
        show_json([_summary(c, catalog) for c in found])
    else:
        show(chip_table(found))


def own_catalog(files: list[Path] | None) -> Catalog:
    """The catalogue with the user's chips. Raises InputError with every problem of every file."""
    problems = []
    for file in files or ():
        try:
            load_catalog(file)
        except CatalogError as error:
            for problem in error.problems:
                where = problem.where
                place = where if where.startswith(str(file)) else f"{file}: {where}"
                problems.append(Problem(place, problem.message, problem.remedy))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "is not UTF-8 text"
            problems.append(Problem(str(file), f"cannot be read: {why}", "check the path"))
    if problems:
        raise InputError(problems)
    return load_catalog(*(files or ()))


def _matches(chip: Chip, catalog: Catalog, text: str) -> bool:
    words = (chip.id, chip.name, chip.vendor, catalog.alias(chip.id))
    return any(text.lower() in word.lower() for word in words)


def _summary(chip: Chip, catalog: Catalog) -> dict[str, object]:
    fabric = chip.fabric
    return {
        "id": chip.id,
        "alias": catalog.alias(chip.id),
        "name": chip.name,
        "vendor": chip.vendor,
        "dense_peak_flops": dict(chip.peak_flops),
        "memory_bytes": chip.memory_bytes,
        "usable_memory_bytes": chip.usable_memory_bytes,
        "memory_bandwidth_bytes_per_s": chip.memory_bandwidth,
        "fabric": None if fabric is None else fabric.kind,
        "fabric_bytes_per_s_one_way": None if fabric is None else fabric.total_bandwidth,
        "fabric_domain": chip.fabric_domain,
        "confidence": chip.confidence,
        "assumed": list(chip.assumed),
    }
