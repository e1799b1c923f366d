"""Predicts rows: from a table to predictions, one per row, none dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from costmodels.catalog import Catalog
from costmodels.catalog.efficiencies import Setting
from costmodels.fitted import Calibration
from costmodels.uniform import price_uniform
from costmodels.units import GIB
from planner.validate.case import Case, build_case
from planner.validate.fields import Unstated
from planner.validate.stacks import UNKNOWN, workspace_of
from planner.validate.table import Row
from planner.validate.targets import Target, target_of


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row: what was predicted beside what was measured, or the reason why not.

    ``error`` is log(predicted / measured step time); None without a target.
    """

    row: Row
    reason: str = ""
    case: Case | None = None
    step_s: float | None = None
    tokens_per_s_per_chip: float | None = None
    peak_gib: float | None = None
    fits: bool | None = None
    target: Target | None = None

    @property
    def predictable(self) -> bool:
        """Whether the row could be expressed as a run."""
        return self.case is not None

    @property
    def error(self) -> float | None:
        """Log of predicted over measured step time."""
        if self.target is None or self.target.step_s is None or self.step_s is None:
            return None
        return math.log(self.step_s / self.target.step_s)

    @property
    def abs_pct_error(self) -> float | None:
        """Absolute error of the step time in per cent of the measured one."""
        return None if self.error is None else 100 * abs(math.exp(self.error) - 1)

    @property
    def memory_error(self) -> float | None:
        """Log of predicted over measured peak memory."""
        if self.target is None or not self.target.peak_gib or not self.peak_gib:
            return None
        return math.log(self.peak_gib / self.target.peak_gib)


def setting_of(case: Case) -> Setting:
    """The setting that a row's words stand for."""
    software = "" if case.stack is UNKNOWN else case.stack.name
    return Setting(case.recipe, case.stack.attention, software)


def predict_rows(
    rows: Iterable[Row],
    catalog: Catalog,
    calibration: Calibration,
    *,
    software: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Prediction, ...]:
    """Predictions of rows in their order.

    ``software`` False prices every chip by its own mean, whatever generation the row names.
    """
    found = []
    for n, row in enumerate(rows, start=1):
        found.append(predict_row(row, catalog, calibration, software=software))
        progress(n)
    return tuple(found)


def predict_row(
    row: Row, catalog: Catalog, calibration: Calibration, *, software: bool = True
) -> Prediction:
    """The prediction of one row, or the reason why it cannot be expressed."""
    try:
        case = build_case(row, catalog)
        target = target_of(row, case.run.tokens, case.run.chips)
        run = calibration.run(case.run, setting_of(case), pace=software)
        price = price_uniform(run, calibration.constants, workspace_of(case.stack))
    except Unstated as reason:
        return Prediction(row, reason=str(reason))
    except (ValueError, LookupError) as error:
        return Prediction(row, reason=str(error.args[0] if error.args else error))
    seconds = price.step_s
    return Prediction(
        row=row,
        case=case,
        step_s=seconds,
        tokens_per_s_per_chip=case.run.tokens / seconds / case.run.chips,
        peak_gib=price.footprint.worst.peak / GIB,
        fits=price.footprint.fits,
        target=target,
    )


HEADER = (
    "id",
    "predictable",
    "reason",
    "predicted_step_time_s",
    "measured_step_time_s",
    "predicted_tokens_per_s_per_chip",
    "measured_tokens_per_s_per_chip",
    "abs_pct_error",
    "predicted_peak_memory_gib",
    "measured_peak_memory_gib",
    "target",
    "software",
    "assumed",
)
"""Columns of the predictions; the first ten are the contract."""


def csv_row(p: Prediction) -> Sequence[str]:
    """One line of the predictions."""
    target = p.target
    return (
        p.row.id,
        "yes" if p.predictable else "no",
        p.reason,
        _cell(p.step_s),
        _cell(target.step_s if target else None),
        _cell(p.tokens_per_s_per_chip),
        _cell(target.rate if target else None),
        _cell(p.abs_pct_error),
        _cell(p.peak_gib),
        _cell(target.peak_gib if target else None),
        target.basis if target else "",
        p.case.stack.name if p.case else "",
        "; ".join(p.case.notes) if p.case else "",
    )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
