"""Fits efficiencies to measured rows and says what that changed.

A user's own runs move the sustained shares and the attention of the chips that they ran on; the
constants of the formulas and everything about other chips stay as shipped. A refit moves all of it
and is how the shipped figures were made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from costmodels.calibration import Fit, constant_names, fit
from costmodels.catalog.efficiencies import SECTIONS, Efficiencies, Fitted, Key
from costmodels.constants import judged_constants
from costmodels.fitted import Calibration, shipped_calibration
from costmodels.footprint import run_footprint
from costmodels.step import price_step
from costmodels.units import GIB
from costmodels.unknowns import Measured
from planner.errors import InputError, Problem
from planner.validate.predict import Prediction, setting_of
from planner.validate.score import ErrorSummary, summarise
from planner.validate.table import Row

Item = TypeVar("Item")

FOLDS = 5

MOST_ROWS = 120
"""Rows of one family that a refit looks at: every n-th where there are more."""

OWN = ("sustained", "attention")
"""Kinds of factors that a user's own runs may move: those of the chips that they ran on."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fitted factor before and after; ``key`` is joined for people."""

    section: str
    key: str
    before: float
    after: Fitted


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors of rows that were predicted without all rows of their ``by``; log, in row order.

    ``software``: generations of software were told apart.
    """

    by: str
    software: bool
    summary: ErrorSummary
    errors: tuple[float, ...]

    @property
    def name(self) -> str:
        """As a report names it."""
        return self.by if self.software else f"{self.by}, software unknown"


@dataclass(frozen=True)
class Calibrated:
    """A fit, the error of its rows before and after, and on rows that it had not seen.

    ``memory`` are logs of measured over predicted peaks, of a refit.

    ``held_out`` predicts rows from the others, leaving out all of one kind at a time, whatever the
    fit may move being fitted anew; empty where there are too few.
    """

    fit: Fit
    rows: tuple[Measured, ...]
    before: ErrorSummary
    after: ErrorSummary
    held_out: tuple[HeldOut, ...]
    changes: tuple[Change, ...]
    memory: tuple[float, ...] = ()


def measured_rows(predictions: Sequence[Prediction]) -> tuple[tuple[Measured, str], ...]:
    """The rows that can teach something, with the name of their model."""
    found = []
    for p in predictions:
        if p.case is not None and p.target is not None and p.target.step_s is not None:
            row = Measured(p.case.run, setting_of(p.case), p.target.step_s, origin(p.row))
            found.append((row, p.row["model"]))
    return tuple(found)


def origin(row: Row) -> str:
    """Who measured a row: what is left out together, and weighed as one.

    The family, else the source; what this project measured on one card is one family, whatever
    runtime ran.
    """
    if row["source"].startswith(OWN_SOURCE):
        return "one-card"
    return row["family"] or row["source"] or "rows"


OWN_SOURCE = "planner, "
"""How the source of rows begins that this project measured."""


def calibrate_rows(
    predictions: Sequence[Prediction],
    source: str,
    *,
    refit: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> Calibrated:
    """Fit to predicted rows. Raises InputError where no row has a measured time and a layout."""
    named = measured_rows(predictions)
    if refit:
        named = thinned_rows(named, lambda row: row.family)
    if not named:
        message = "no row has both a measured time and a layout that can be priced"
        remedy = "planner validate says row by row what is missing"
        raise InputError([Problem(source, message, remedy)])
    rows = tuple(row for row, _ in named)
    start = Calibration(judged_constants()) if refit else _start(rows)
    names = constant_names() if refit else ()
    found = fit(
        rows,
        start,
        constants=names,
        software=refit,
        sections=SECTIONS if refit else OWN,
        progress=progress,
    )
    before = shipped_calibration()
    models = [f"{row.family} {model}" if refit else model for row, model in named]
    folds = {"model" if len(set(models)) > 1 else "fifths of the rows": _folds(models)}
    if refit:
        folds["family"] = _folds([row.family for row in rows])
    return Calibrated(
        fit=found,
        rows=rows,
        before=_summary(_errors(rows, before)),
        after=_summary(_errors(rows, found.calibration)),
        held_out=tuple(
            _held_out(found, rows, by, parts, software=software)
            for by, parts in folds.items()
            if parts
            for software in ((True, False) if refit else (False,))
        ),
        changes=tuple(_changes(before.efficiencies, found.calibration.efficiencies)),
        memory=unknown_runtime_memory(predictions) if refit else (),
    )


def unknown_runtime_memory(predictions: Sequence[Prediction]) -> tuple[float, ...]:
    """Log of measured over predicted peak, the runtime's own workspace not being known.

    Rows of runtimes that hold copies beside weights, gradients and optimizer are left out: a plan
    states what is held.
    """
    found = []
    for p in predictions:
        if p.case is None or p.memory_error is None or p.target is None or p.case.stack.held_bytes:
            continue
        run = p.case.run
        peak = run_footprint(run, price_step(run, exact=False).stages).worst.peak
        found.append(math.log((p.target.peak_gib or 0.0) * GIB / peak))
    return tuple(found)


def _start(rows: Sequence[Measured]) -> Calibration:
    """The shipped figures; the pace of a generation is left to the share of the user's chips."""
    shipped = shipped_calibration()
    own = {row.run.chip.silicon for row in rows}
    pace = {k: f for k, f in shipped.efficiencies.pace.items() if k[0] not in own}
    return Calibration(shipped.constants, replace(shipped.efficiencies, pace=pace))


def _folds(models: Sequence[str]) -> dict[str, list[int]]:
    """Rows to leave out together: those of one model, or every fifth row of a single one."""
    groups: dict[str, list[int]] = {}
    for i, model in enumerate(models):
        groups.setdefault(model, []).append(i)
    if len(groups) > 1:
        return groups
    count = min(FOLDS, len(models))
    return {str(k): list(range(k, len(models), count)) for k in range(count)} if count > 2 else {}


def _held_out(
    found: Fit,
    rows: Sequence[Measured],
    by: str,
    folds: Mapping[str, Sequence[int]],
    *,
    software: bool,
) -> HeldOut:
    """Predict every fold from the rows outside of it."""
    errors = [0.0] * len(rows)
    for left in folds.values():
        calibration = found.tangent.without(frozenset(left), software=software)
        told = _errors([rows[i] for i in left], calibration, software=software)
        for i, error in zip(left, told, strict=True):
            errors[i] = error
    return HeldOut(by, software, _summary(errors), tuple(errors))


def thinned_rows(
    named: Sequence[tuple[Item, str]], family: Callable[[Item], str]
) -> tuple[tuple[Item, str], ...]:
    """Every n-th row of families that have more than :data:`MOST_ROWS`."""
    counts = Counter(family(row) for row, _ in named)
    seen: Counter[str] = Counter()
    kept = []
    for row, model in named:
        own = family(row)
        every = -(-counts[own] // MOST_ROWS)
        if seen[own] % every == 0 or counts[own] <= 2 * MOST_ROWS:
            kept.append((row, model))
        seen[own] += 1
    return tuple(kept)


def _errors(
    rows: Sequence[Measured], calibration: Calibration, *, software: bool = True
) -> list[float]:
    found = []
    for row in rows:
        run = calibration.run(row.run, row.setting, pace=software)
        found.append(math.log(price_step(run, calibration.constants).step_s / row.seconds))
    return found


def _summary(errors: Sequence[float]) -> ErrorSummary:
    found = summarise(errors)
    if found is None:
        raise ValueError("no errors to summarise")
    return found


def _changes(before: Efficiencies, after: Efficiencies) -> list[Change]:
    """Factors that moved by more than a rounding, in the order of the sections."""
    found = []
    for section in ("vendor", "architecture", "sustained", "attention"):
        old: Mapping[Key, Fitted] = getattr(before, section)
        new: Mapping[Key, Fitted] = getattr(after, section)
        for key, fitted in sorted(new.items()):
            value = old[key].value if key in old else 1.0
            if abs(fitted.value / value - 1) > 1e-3:
                found.append(Change(section, " ".join(key), value, fitted))
    return found


def chip_records(calibrated: Calibrated) -> list[dict[str, Any]]:
    """Catalogue records of the chips that the rows ran on, with what they now sustain."""
    efficiencies = calibrated.fit.calibration.efficiencies
    chips = {row.run.chip.id: row.run.chip for row in calibrated.rows}
    records = []
    for name in sorted(chips):
        chip = efficiencies.current(chips[name])
        records.append(
            {
                "id": name,
                "inherit": name,
                "sustained": {p: round(share, 4) for p, share in chip.sustained_shares},
                "attention": round(chip.attention, 4),
            }
        )
    return records
