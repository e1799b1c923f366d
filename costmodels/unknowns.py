"""The unknowns of a fit to measured runs, and how the predictions follow from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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
    "flash_query": 0.3,
    "k_half": 0.4,
    "accumulate": 0.3,
    "cast_passes": 0.3,
}
"""Constants whose judged value is better known than most: their own spread."""

FLOORS = ("host_forward_s", "host_backward_s", "host_collective_s", "host_cast_s")
"""Constants of a least time: no row feels one that lies below all work, so that a fit which starts
there stays. It starts from twice their judged values instead."""

STEP = 0.02
ROUNDS, SETTLED = 50, 1e-4


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


class Unknowns:
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
        self.weight = self.weights(range(len(self.rows)))
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

    def start_point(self) -> Floats:
        """Where a fit begins: at what is judged, but above it for what is felt from above alone."""
        above = [f.kind == "constant" and f.key[0] in FLOORS for f in self.factors]
        return np.where(above, math.log(2.0), 0.0)

    def weights(self, kept: Iterable[int]) -> Floats:
        """Weight of every row where only some are kept: a family counts by its square root."""
        weight = np.zeros(len(self.rows))
        at = list(kept)
        families = Counter(self.rows[i].family for i in at)
        for i in at:
            own = FAMILY_WEIGHT / math.sqrt(families[self.rows[i].family])
            weight[i] = min(own, MOST_WEIGHT)
        return weight

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

    def calibration(self, x: Floats, known: Collection[int] | None = None) -> Calibration:
        """The calibration that a vector of unknowns stands for, or the ``known`` of them."""
        tables: dict[str, dict[Key, Fitted]] = {
            kind: dict(getattr(self.start.efficiencies, kind)) for kind in SECTIONS
        }
        moved: dict[str, float] = {}
        for n, factor in enumerate(self.factors):
            if known is not None and n not in known:
                continue
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


@dataclass(frozen=True)
class Tangent:
    """The predictions as linear functions of the unknowns at the minimum of a fit.

    Logarithms of times are nearly linear in logarithms of factors, so that the fit to a part of
    the rows follows without pricing any of them again; what it predicts is priced in full.
    """

    problem: Unknowns
    at: Floats
    predicted: Floats
    jacobian: Floats

    def without(self, left: Collection[int], *, software: bool = True) -> Calibration:
        """The calibration from all rows but ``left``, shrunk as the whole fit.

        What only those rows told (a chip, a generation) is not in it. ``software`` False: no
        generation is told apart.
        """
        problem = self.problem
        kept = [i for i in range(len(problem.rows)) if i not in left]
        weight = problem.weights(kept)
        known = [
            n
            for n, factor in enumerate(problem.factors)
            if (software or factor.kind != "pace")
            and any(i not in left for i in problem.touched[n])
        ]
        jacobian = self.jacobian[:, known]
        fixed = self.predicted - self.jacobian @ self.at
        x = np.zeros(len(known))
        prior = np.diag(1 / problem.spread[known] ** 2)
        for _ in range(ROUNDS):
            residual = problem.measured - fixed - jacobian @ x
            robust = np.minimum(1.0, DELTA / np.maximum(np.abs(residual), 1e-12))
            w = weight * robust / DELTA**2
            curvature = jacobian.T @ (jacobian * w[:, None]) + prior
            move = np.linalg.solve(curvature, jacobian.T @ (w * residual) - prior @ x)
            x = x + move
            if float(np.abs(move).max(initial=0.0)) < SETTLED:
                break
        whole = np.zeros(len(problem.factors))
        whole[known] = x
        return problem.calibration(whole, known=frozenset(known))
