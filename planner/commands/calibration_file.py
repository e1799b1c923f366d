"""The file that ``planner calibrate`` writes, where other commands read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.commands.options import complete_file
from planner.errors import InputError, Problem

if TYPE_CHECKING:
    from costmodels.fitted import Calibration

FORMAT = "planner-calibration"
VERSION = 1

CalibrationOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Efficiencies that planner calibrate fitted to your own runs.",
        autocompletion=complete_file,
    ),
]


def read_calibration_file(path: str) -> Mapping[str, Any]:
    """The content of a calibration file. Raises InputError for anything else."""
    remedy = "give a file that planner calibrate wrote"
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise InputError([Problem(path, message, remedy)]) from None
    except ValueError as error:
        raise InputError([Problem(path, f"is not JSON: {error}", remedy)]) from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError([Problem(path, "is no calibration", remedy)])
    if value.get("version") != VERSION:
        message = f"is of version {value.get('version')}; this planner reads version {VERSION}"
        raise InputError([Problem(path, message, "calibrate again")])
    return value


def load_calibration(path: str | None) -> Calibration:
    """The shipped calibration, or that of a file. Raises InputError."""
    from costmodels.catalog.efficiencies import from_json
    from costmodels.constants import shipped_constants
    from costmodels.fitted import Calibration, shipped_calibration

    if path is None:
        return shipped_calibration()
    value = read_calibration_file(path)
    try:
        efficiencies = from_json(value["efficiencies"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = Problem(path, f"is damaged: {error}", "calibrate again")
        raise InputError([problem]) from None
    return Calibration(shipped_constants(), efficiencies)


def calibrated_chips(path: str) -> list[dict[str, Any]]:
    """Chip records of a calibration file, for the catalogue of a cluster. Raises InputError."""
    chips = read_calibration_file(path).get("chips")
    if not isinstance(chips, list) or not all(isinstance(c, dict) for c in chips):
        raise InputError([Problem(path, "names no chips", "calibrate again")])
    return chips
