"""Fits the cost model to measured runs: robust, shrunk, reproducible.

Minimised over the logarithms x of all factors:

    sum over rows of w · huber(log predicted - log measured)  +  sum of (x - mean)² / (2 σ²)

by Gauss-Newton steps with numeric derivatives. The second sum shrinks a factor to its parent: a
chip's share to its vendor's mean, a software generation to its chip, a constant to its judged
value; factors with many rows leave it, factors with few stay near. Rows of one family count with
the square root of their number, so that a table of hundreds does not speak for everything. The
curvature at the minimum gives the intervals. The same rows in the same order give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.catalog.efficiencies import (
    SECTIONS,
    Efficiencies,
    Fitted,
    Key,
    Setting,
    precision_class,
)
from costmodels.constants import Constants
from costmodels.fitted import Calibration
from costmodels.step import Run, price_step

Floats = NDArray[np.float64]

DELTA = 0.08
"""Residual (in log) beyond which a row counts linearly: the spread of replicates and rounding."""

MOST_WEIGHT = 1.0
FAMILY_WEIGHT = 3.0
"""A family of n rows counts as 3·√n rows, none more than one."""

SPREAD = {
    "constant": 0.5,
    "vendor": 0.2,
    "architecture": 0.15,
    "sustained": 0.12,
    "attention": 0.3,
    "pace": 0.12,
}
"""Standard deviation of each kind of factor around its parent, in log."""

CERTAIN = {
    "stream": 0.08,
    "launch_s": 0.25,
    "flash_backward": 0.2,
    "flash_head_half": 0.3,
    "k_half": 0.4,
    "accumulate": 0.3,
    "cast_passes": 0.3,
}
"""Constants whose judged value is better known than most: their own spread."""

STEP = 0.02
LONGEST_STEP = 0.5
Z90 = 1.645


@dataclass(frozen=True, slots=True)
class Measured:
    """One run and its measured seconds per step. ``family`` is where the row comes from."""

    run: Run
    setting: Setting
    seconds: float
    family: str


@dataclass(frozen=True, slots=True)
class Factor:
    """One unknown: ``kind`` is ``constant`` or a section of the calibration."""

    kind: str
    key: Key


@dataclass(frozen=True)
class Fit:
    """A calibration and its residuals, log predicted - log measured, in the order of the rows.

    ``leverage`` tells for each constant which families determine it, the strongest first.
    """

    calibration: Calibration
    residuals: tuple[float, ...]
    constants: dict[str, Fitted]
    leverage: dict[str, tuple[str, ...]]


def fit(
    rows: Sequence[Measured],
    start: Calibration,
    *,
    constants: Sequence[str] = (),
    software: bool = True,
    sections: Sequence[str] = SECTIONS,
    steps: int = 8,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Fit to rows, starting from (and shrinking to) ``start``.

    ``constants`` names the global constants that may move; none for a user's own runs.
    ``software`` False leaves software generations out; ``sections`` are the kinds of factors that
    may move. ValueError without rows.
    """
    if not rows:
        raise ValueError("nothing to fit: no row has a measured time and a layout")
    problem = _Problem(rows, start, tuple(constants), software, frozenset(sections))
    x = np.zeros(len(problem.factors))
    predicted = problem.predict(x)
    best = problem.objective(x, predicted)
    damping = 1e-3
    curvature: Floats = np.diag(1.0 / problem.spread**2)
    jacobian: Floats = np.zeros((len(rows), len(x)))
    for number in range(steps):
        jacobian = problem.jacobian(x, predicted)
        curvature, gradient = problem.normal_equations(x, predicted, jacobian)
        accepted = False
        while not accepted and damping < 1e3:
            scale = np.diag(np.diag(curvature))
            move = np.linalg.solve(curvature + damping * scale, gradient)
            move = np.clip(move, -LONGEST_STEP, LONGEST_STEP)
            tried = problem.predict(x + move)
            value = problem.objective(x + move, tried)
            accepted = value < best
            damping = damping / 5 if accepted else max(10 * damping, 1e-2)
        if not accepted:
            break
        gain, best = best - value, value
        x, predicted = x + move, tried
        if progress is not None:
            progress(number + 1, best)
        if gain < 1e-3 * best:
            break
    return problem.result(x, predicted, curvature, jacobian)


class _Problem:
    """Rows, unknowns, and how predictions follow from the unknowns."""

    def __init__(
        self,
        rows: Sequence[Measured],
        start: Calibration,
        constants: tuple[str, ...],
        software: bool,
        sections: frozenset[str],
    ) -> None:
        self.rows, self.start, self.software = tuple(rows), start, software
        self.sections = sections
        self.measured = np.log([r.seconds for r in rows])
        families = Counter(r.family for r in rows)
        weights = [FAMILY_WEIGHT / math.sqrt(families[r.family]) for r in rows]
        self.weight = np.minimum(weights, MOST_WEIGHT)
        found: dict[Factor, list[int]] = {Factor("constant", (c,)): [] for c in constants}
        for i, row in enumerate(rows):
            for factor in self.factors_of(row):
                found.setdefault(factor, []).append(i)
        self.factors = tuple(found)
        self.touched = tuple(
            tuple(range(len(rows))) if f.kind == "constant" else tuple(at)
            for f, at in found.items()
        )
        self.place = {f: n for n, f in enumerate(self.factors)}
        self.spread = np.array([CERTAIN.get(f.key[0], SPREAD[f.kind]) for f in self.factors])

    def factors_of(self, row: Measured) -> list[Factor]:
        """The unknowns that one row depends on, constants aside."""
        chip, setting = row.run.chip, row.setting
        kind = precision_class(setting.recipe)
        found = [
            Factor("vendor", (chip.vendor, kind)),
            Factor("architecture", (chip.architecture, kind)),
            Factor("sustained", (chip.silicon, setting.recipe)),
            Factor("attention", (chip.architecture, setting.attention)),
        ]
        if kind != "16":  # attention and head stay in 16 bits
            found += [
                Factor("vendor", (chip.vendor, "16")),
                Factor("architecture", (chip.architecture, "16")),
                Factor("sustained", (chip.silicon, "16")),
            ]
        if self.software and setting.software:
            found.append(Factor("pace", (chip.silicon, setting.recipe, setting.software)))
        return [f for f in found if f.kind in self.sections]

    def calibration(self, x: Floats) -> Calibration:
        """The calibration that a vector of unknowns stands for."""
        tables: dict[str, dict[Key, Fitted]] = {
            kind: dict(getattr(self.start.efficiencies, kind)) for kind in SECTIONS
        }
        moved: dict[str, float] = {}
        for n, factor in enumerate(self.factors):
            change = math.exp(x[n])
            if factor.kind == "constant":
                name = factor.key[0]
                moved[name] = getattr(self.start.constants, name) * change
            else:
                before = tables[factor.kind].get(factor.key)
                value = (before.value if before else 1.0) * change
                tables[factor.kind][factor.key] = Fitted(value, value, value, 0)
        return Calibration(replace(self.start.constants, **moved), Efficiencies(**tables))

    def predict(self, x: Floats, only: Sequence[int] | None = None) -> Floats:
        """Logarithms of the predicted seconds of all rows, or of some."""
        calibration = self.calibration(x)
        at = range(len(self.rows)) if only is None else only
        return np.array([self._log_seconds(self.rows[i], calibration) for i in at])

    def _log_seconds(self, row: Measured, calibration: Calibration) -> float:
        run = calibration.run(row.run, row.setting, pace=self.software)
        return math.log(price_step(run, calibration.constants, exact=False).step_s)

    def objective(self, x: Floats, predicted: Floats) -> float:
        """What is minimised."""
        r = np.abs(predicted - self.measured)
        loss = np.where(r < DELTA, r * r / 2, DELTA * (r - DELTA / 2)) / DELTA**2
        return float((self.weight * loss).sum() + (x**2 / self.spread**2).sum() / 2)

    def jacobian(self, x: Floats, predicted: Floats) -> Floats:
        """Derivatives of the predictions by the unknowns."""
        out = np.zeros((len(self.rows), len(x)))
        for n, factor in enumerate(self.factors):
            rows = list(self.touched[n])
            if factor.kind == "pace":
                out[rows, n] = 1.0
                continue
            nudged = x.copy()
            nudged[n] += STEP
            out[rows, n] = (self.predict(nudged, rows) - predicted[rows]) / STEP
        return out

    def normal_equations(
        self, x: Floats, predicted: Floats, jacobian: Floats
    ) -> tuple[Floats, Floats]:
        """Curvature and gradient of the objective, outliers counting less."""
        residual = self.measured - predicted
        robust = np.minimum(1.0, DELTA / np.maximum(np.abs(residual), 1e-12))
        weight = self.weight * robust / DELTA**2
        curvature = jacobian.T @ (jacobian * weight[:, None]) + np.diag(1 / self.spread**2)
        return curvature, jacobian.T @ (weight * residual) - x / self.spread**2

    def result(self, x: Floats, predicted: Floats, curvature: Floats, jacobian: Floats) -> Fit:
        """The fitted values with intervals and what they rest on."""
        covariance = np.linalg.inv(curvature)
        calibration = self.calibration(x)
        tables: dict[str, dict[Key, Fitted]] = {
            kind: dict(getattr(calibration.efficiencies, kind)) for kind in SECTIONS
        }
        constants: dict[str, Fitted] = {}
        leverage: dict[str, tuple[str, ...]] = {}
        for n, factor in enumerate(self.factors):
            wide = math.exp(Z90 * math.sqrt(max(0.0, covariance[n, n])))
            if factor.kind == "constant":
                name = factor.key[0]
                value = getattr(calibration.constants, name)
                families = self._leverage(jacobian[:, n])
                felt = int((np.abs(jacobian[:, n]) > 0.01).sum())
                constants[name] = Fitted(value, value / wide, value * wide, felt)
                leverage[name] = families
            else:
                value = tables[factor.kind][factor.key].value
                touched = len(self.touched[n])
                tables[factor.kind][factor.key] = Fitted(value, value / wide, value * wide, touched)
        fitted = Calibration(calibration.constants, Efficiencies(**tables))
        residuals = tuple(float(r) for r in predicted - self.measured)
        return Fit(fitted, residuals, constants, leverage)

    def _leverage(self, column: Floats) -> tuple[str, ...]:
        """The families whose rows feel a constant most."""
        felt: dict[str, float] = defaultdict(float)
        for row, slope, weight in zip(self.rows, column, self.weight):
            felt[row.family] += float(slope**2 * weight)
        total = sum(felt.values())
        most = sorted(felt, key=lambda family: -felt[family])[:3]
        return tuple(family for family in most if felt[family] > 0.05 * total)


def constant_names() -> tuple[str, ...]:
    """The constants that a refit may move: those that some shipped row determines."""
    return tuple(n for n in Constants.__dataclass_fields__ if n not in _HELD)


_HELD = (
    "flash_forward",
    "unfused_backward",
    "wave_fill",
    "tile_128",
    "tile_64",
    "tile_32",
    "jitter",
    "collective_launch_s",
)
"""Scales of another factor (attention), measured elsewhere (launch), or not determined by runs."""
