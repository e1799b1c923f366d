"""Predictions of measured runs, and how good they are.

    table = read_table("runs.csv")
    predictions = predict_table(table)
    print(validation_of(table, predictions).overall)

A row goes the way of ``planner estimate``: a model, chips on a network, a layout, a price. What it
leaves open is filled in by declared rules; what cannot be expressed says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from costmodels.fitted import Calibration, shipped_calibration
from costmodels.measured import measured_catalog
from planner.validate.predict import Prediction, predict_rows
from planner.validate.summary import Validation, validation
from planner.validate.table import Row, Table, read_table

__all__ = [
    "Prediction",
    "Row",
    "Table",
    "Validation",
    "predict_table",
    "read_table",
    "validation_of",
]


def predict_table(
    table: Table,
    calibration: Calibration | None = None,
    *,
    software: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Prediction, ...]:
    """One prediction per row; ``calibration`` None is the shipped one."""
    return predict_rows(
        table.rows,
        measured_catalog(),
        calibration or shipped_calibration(),
        software=software,
        progress=progress,
    )


def validation_of(table: Table, predictions: Sequence[Prediction]) -> Validation:
    """The scores of the predictions of a table."""
    return validation(table.source, predictions, table.notes)
