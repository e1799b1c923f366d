"""``planner validate ROWS.csv``: predict measured runs, and say how wrong that is."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from planner.commands.calibration_file import CalibrationOption, load_calibration
from planner.commands.options import FormatOption, complete_file
from planner.commands.output import (
    STDOUT,
    Format,
    check_writable,
    show,
    show_json,
    write_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.validate.predict import Prediction


def validate(
    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS.csv",
            help="Measured runs, in the columns of the published table or any part of them.",
            autocompletion=complete_file,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write one prediction per row here; - is standard output."
        ),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the report as a Markdown page as well."),
    ] = None,
    software: Annotated[
        bool,
        typer.Option(
            "--software/--no-software",
            help="Use what was fitted to the software generation that a row names; without, every "
            "chip is priced by its own mean.",
        ),
    ] = True,
    calibration: CalibrationOption = None,
    format_: FormatOption = Format.text,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report, only files.")] = False,
) -> None:
    """Predict published or measured runs and print the error by chip, family and precision.

    planner validate runs.csv --out predictions.csv

    Rows are priced as planner estimate prices a layout. What a row leaves open is filled in by
    declared rules, listed per row in the predictions, never by what was measured. Rows that cannot
    be expressed say why; none is dropped.
    """
    for target in (out, page):
        check_writable(target)
    from planner.validate import predict_table, validation_of
    from planner.validate.table import read_table

    table = read_table(rows)
    fitted = load_calibration(calibration)
    predictions = predict_table(table, fitted, software=software)
    found = validation_of(table, predictions)
    if out is not None:
        write_text(out, predictions_csv(predictions))
    if page is not None:
        from planner.report.validation_page import markdown_page

        write_text(page, markdown_page([found]))
    beside = STDOUT in (out, page)
    if format_ is Format.json and not beside:
        show_json(found.as_json())
    elif not quiet:
        from planner.report.validation import validation_page

        show(validation_page(found), to_stderr=beside)
        for name in (out, page):
            if name not in (None, STDOUT):
                show(Text(f"wrote {name}", "dim"), to_stderr=True)


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """The predictions as CSV, one line per row."""
    from planner.validate.predict import HEADER, csv_row

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(csv_row(p) for p in predictions)
    return text.getvalue()
