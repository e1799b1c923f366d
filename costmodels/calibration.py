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
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.catalog.efficiencies import SECTIONS, Efficiencies, Fitted, Key
from costmodels.constants import Constants
from costmodels.fitted import Calibration
from costmodels.unknowns import Floats, Measured, Tangent, Unknowns

LONGEST_STEP = 0.5
Z90 = 1.645


@dataclass(frozen=True)
class Fit:
    """A calibration and its residuals, log predicted - log measured, in the order of the rows.

    ``leverage`` tells for each constant which families determine it, the strongest first.
    ``tangent`` refits parts of the rows.
    """

    calibration: Calibration
    residuals: tuple[float, ...]
    constants: dict[str, Fitted]
    leverage: dict[str, tuple[str, ...]]
    tangent: Tangent


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
    problem = Unknowns(rows, start, tuple(constants), software, frozenset(sections))
    x = problem.start_point()
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
    return _result(problem, x, predicted, curvature, jacobian)


def _result(
    problem: Unknowns, x: Floats, predicted: Floats, curvature: Floats, jacobian: Floats
) -> Fit:
    """The fitted values with intervals and what they rest on."""
    covariance = np.linalg.inv(curvature)
    calibration = problem.calibration(x)
    tables: dict[str, dict[Key, Fitted]] = {
        kind: dict(getattr(calibration.efficiencies, kind)) for kind in SECTIONS
    }
    constants: dict[str, Fitted] = {}
    leverage: dict[str, tuple[str, ...]] = {}
    for n, factor in enumerate(problem.factors):
        wide = math.exp(Z90 * math.sqrt(max(0.0, covariance[n, n])))
        if factor.kind == "constant":
            name = factor.key[0]
            value = getattr(calibration.constants, name)
            families = _leverage(problem, jacobian[:, n])
            felt = int((np.abs(jacobian[:, n]) > 0.01).sum())
            constants[name] = Fitted(value, value / wide, value * wide, felt)
            leverage[name] = families
        else:
            value = tables[factor.kind][factor.key].value
            touched = len(problem.touched[n])
            tables[factor.kind][factor.key] = Fitted(value, value / wide, value * wide, touched)
    fitted = Calibration(calibration.constants, Efficiencies(**tables))
    residuals = tuple(float(r) for r in predicted - problem.measured)
    tangent = Tangent(problem, x, predicted, jacobian)
    return Fit(fitted, residuals, constants, leverage, tangent)


def _leverage(problem: Unknowns, column: Floats) -> tuple[str, ...]:
    """The families whose rows feel a constant most."""
    felt: dict[str, float] = defaultdict(float)
    for row, slope, weight in zip(problem.rows, column, problem.weight):
        felt[row.family] += float(slope**2 * weight)
    total = sum(felt.values())
    most = sorted(felt, key=lambda family: -felt[family])[:3]
    return tuple(family for family in most if felt[family] > 0.05 * total)


def constant_names() -> tuple[str, ...]:
    """The constants that a refit may move: those that some shipped row determines."""
    return tuple(n for n in Constants.__dataclass_fields__ if n not in _HELD)


_HELD = (
    "flash_forward",
    "expert_stream",
    "host_expert_s",
    "host_routing_s",
    "unfused_backward",
    "wave_fill",
    "tile_128",
    "tile_64",
    "tile_32",
    "jitter",
    "collective_launch_s",
)
"""Scales of another factor (attention), measured elsewhere (launch, experts on one card), or not
determined by runs."""
