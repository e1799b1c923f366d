"""``planner calibrate ROWS.csv``: fit the cost model to runs that were measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from planner.commands.calibration_file import FORMAT, VERSION
from planner.commands.options import FormatOption, complete_file
from planner.commands.output import (
    STDOUT,
    Format,
    check_writable,
    show,
    show_json,
    write_text,
)
from planner.errors import InputError, Problem

if TYPE_CHECKING:
    from planner.validate.calibrate import Calibrated


def calibrate(
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="ROWS.csv...",
            help="Measured runs, in the columns that planner validate reads.",
            autocompletion=complete_file,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the calibration here, for --calibration; with --refit a folder.",
            autocompletion=complete_file,
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Fit everything anew, constants of the formulas included: how the shipped figures "
            "were made. Takes minutes.",
        ),
    ] = False,
    format_: FormatOption = Format.text,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report, only files.")] = False,
) -> None:
    """Fit what chips sustain to your own measured runs, and show the error before and after.

    planner calibrate runs.csv -o mine.json

    Shares shrink to the chip's and the vendor's mean where rows are few, and outliers count less.
    plan, estimate and validate take the file with --calibration.
    """
    if refit:
        _check_folder(output)
    else:
        check_writable(output)
    found = _fit(rows, refit=refit)
    if refit and output is not None:
        _write_refit(found, Path(output))
    elif output is not None:
        write_text(output, json.dumps(_document(found, rows), indent=1, sort_keys=True) + "\n")
    beside = output == STDOUT
    if format_ is Format.json and not beside:
        show_json(_document(found, rows))
    elif not quiet:
        from planner.report.calibration import calibration_page

        show(calibration_page(found, ", ".join(rows)), to_stderr=beside)
        if output not in (None, STDOUT):
            show(Text(f"wrote {output}", "dim"), to_stderr=True)


def _fit(paths: list[str], *, refit: bool) -> Calibrated:
    from planner.validate import predict_table
    from planner.validate.calibrate import calibrate_rows
    from planner.validate.table import read_table

    problems: list[Problem] = []
    tables = []
    for path in paths:
        try:
            tables.append(read_table(path))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    predictions = [p for table in tables for p in predict_table(table)]

    def progress(step: int, value: float) -> None:
        show(Text(f"step {step}: objective {value:.2f}", "dim"), to_stderr=True)

    return calibrate_rows(
        predictions, ", ".join(paths), refit=refit, progress=progress if refit else None
    )


def _document(found: Calibrated, paths: list[str]) -> dict[str, Any]:
    """The calibration as a file: chips for the catalogue, factors for validate, provenance."""
    from costmodels.catalog.efficiencies import to_json
    from planner.validate.calibrate import chip_records

    return {
        "format": FORMAT,
        "version": VERSION,
        "rows": {"files": [Path(p).name for p in paths], "used": len(found.rows)},
        "abs_pct_error": {
            "before": asdict(found.before),
            "after": asdict(found.after),
            "held_out": {h.name: asdict(h.summary) for h in found.held_out},
        },
        "chips": chip_records(found),
        "efficiencies": to_json(found.fit.calibration.efficiencies),
    }


def _check_folder(output: str | None) -> None:
    if output is not None and not Path(output).is_dir():
        problem = Problem(output, "is no folder", "name the folder for the three files")
        raise InputError([problem])


def _write_refit(found: Calibrated, folder: Path) -> None:
    from costmodels.confidence import Seen, confidence_document
    from costmodels.constants import judged_constants
    from costmodels.provenance import constants_document, efficiencies_document

    unseen = next((h.errors for h in found.held_out if h.by == "family" and not h.software), ())
    runs = [
        Seen(
            chip=row.run.chip,
            recipe=row.setting.recipe,
            family=row.family,
            experts=any(shape.is_moe for shape in row.run.layers),
            error=error,
        )
        for row, error in zip(found.rows, unseen, strict=True)
    ]
    documents = {
        "confidence.json": confidence_document(runs, found.memory),
        "constants.json": constants_document(found.fit, judged_constants()),
        "efficiencies.json": efficiencies_document(found.fit),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_text(str(folder / name), text)
