"""The master: how many pipelines of which template.

For a target time T every column p carries ``v_p(T)``, the rows that it finishes in time. The
program is

    maximise   Σ_p v_p(T) · z_p                                       (rows)
    subject to Σ_p usage_p[k] · z_p ≤ capacity[k]    for every packing row k
               replicas_lo ≤ Σ_p z_p ≤ replicas_hi
               Σ_p [v_p(T) ≥ ⌈B / replicas_hi⌉] · z_p ≥ 1   the busiest pipeline (relaxation)
               z_p ≥ 0 (integer in `solve_integer`)

and T is feasible when the optimum reaches the global batch. All data are integers, so CP-SAT
solves it without scaling; GLOP gives the prices of its relaxation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ortools.linear_solver import pywraplp  # type: ignore[attr-defined]
from ortools.sat.python import cp_model

from planner.search.columns import Column
from planner.search.problem import Problem, Setting, largest_share
from planner.search.space import Floats

NEXT_TO_NOTHING = 0.01
"""Part of what a chip would be worth alone that it costs where chips have no price."""
ELASTIC = 4.0
"""Rows, in batches per missing pipeline's share, that one pipeline below the interval costs."""
TARGET_TOLERANCE = 2e-5
STRETCHES = 12
"""How often the target is doubled in search of one that reaches the batch."""


@dataclass(frozen=True)
class Prices:
    """Optimum of the relaxation and its duals, sign-correct by construction.

    ``packing[k]`` ≥ 0 in rows per chip of packing row k; ``most`` ≥ 0 and ``least`` ≤ 0 belong to
    the limits on the number of pipelines, ``busiest`` ≤ 0 to pipelines with the largest share of
    the batch or more; ``pipelines`` is how many the optimum has.
    """

    rows: float
    packing: Floats
    most: float
    least: float
    pipelines: float
    busiest: float = 0.0

    def never_free(self, problem: Problem) -> Prices:
        """These prices, or with a little on every chip where no chip has any.

        Where only the number of pipelines counts, chips are plenty for what was met; at no price
        at all pipelines would be asked for that use more of them than there are.
        """
        if self.packing.any():
            return self
        least: dict[int, int] = {}
        for k, (c, _, _) in enumerate(problem.packing_rows):  # smallest groups first
            least.setdefault(c, k)
        chips = sum(problem.packing_rows[k][2] for k in least.values())
        packing = np.zeros(len(problem.packing_rows))
        packing[list(least.values())] = NEXT_TO_NOTHING * problem.global_batch / max(chips, 1)
        return replace(self, packing=packing)

    def value(self, problem: Problem, setting: Setting) -> float:
        """Dual objective: what the whole fleet is worth at these prices, in rows."""
        fleet = sum(
            float(y) * capacity
            for y, (_, _, capacity) in zip(self.packing, problem.packing_rows, strict=True)
        )
        limits = self.most * setting.replicas[1] + self.least * setting.replicas[0]
        return fleet + limits + self.busiest


class RelaxedMaster:
    """The linear relaxation over a growing set of columns, at any target."""

    def __init__(
        self,
        problem: Problem,
        setting: Setting,
        *,
        capacity: Sequence[int] | None = None,
        granted: Callable[[int], int] = lambda _: 0,
        divisible: bool = False,
    ) -> None:
        """``capacity`` of the packing rows, if not all of it is free; ``granted(T)``: rows that
        pipelines already chosen finish by T. ``divisible``: micro-batches may be cut, so that
        rows grow evenly with T: the prices of a bound that prices pipelines in the same way."""
        self._divisible = divisible
        self._goal = problem.global_batch * (1 - 1e-9)
        self._granted = granted
        free = [c for _, _, c in problem.packing_rows] if capacity is None else list(capacity)
        self._columns: list[Column] = []
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        low, high = setting.replicas
        self._packing = [
            self._solver.Constraint(-self._solver.infinity(), float(chips)) for chips in free
        ]
        self._most = self._solver.Constraint(-self._solver.infinity(), float(high))
        self._least = self._solver.Constraint(float(low), self._solver.infinity())
        # Elastic: columns too large to stand often enough still give prices, and a lower optimum.
        missing = self._solver.NumVar(0.0, float(low), "missing")
        self._least.SetCoefficient(missing, 1.0)
        self._share = largest_share(problem.global_batch, setting) if capacity is None else 0
        self._busiest = self._solver.Constraint(float(self._share > 0), self._solver.infinity())
        none = self._solver.NumVar(0.0, 1.0, "none")
        self._busiest.SetCoefficient(none, 1.0)
        self._objective = self._solver.Objective()
        self._objective.SetMaximization()
        self._objective.SetCoefficient(missing, -ELASTIC * problem.global_batch / max(low, 1))
        self._objective.SetCoefficient(none, -ELASTIC * problem.global_batch)
        self._variables: list[pywraplp.Variable] = []

    def add(self, column: Column) -> None:
        """One more template."""
        z = self._solver.NumVar(0.0, self._solver.infinity(), "")
        for row, used in zip(self._packing, column.usage, strict=True):
            if used:
                row.SetCoefficient(z, float(used))
        self._most.SetCoefficient(z, 1.0)
        self._least.SetCoefficient(z, 1.0)
        self._columns.append(column)
        self._variables.append(z)

    def solve(self, target_ps: int) -> Prices | None:
        """Optimum and duals at a target; None where no column finishes anything by it."""
        whole = [c.rows * c.micro_batches(target_ps) for c in self._columns]
        busy = [rows >= self._share for rows in whole]
        values = [float(rows) for rows in whole]
        if self._divisible:
            values = [
                c.rows * min(c.divisible_micro_batches(target_ps), np.inf if b else self._idle(c))
                for c, b in zip(self._columns, busy, strict=True)
            ]
        return self._optimum(values, busy)

    def worth(self, rows: Sequence[int]) -> Prices | None:
        """Optimum and duals where a pipeline of every column finishes so many rows."""
        return self._optimum([float(r) for r in rows], [r >= self._share for r in rows])

    def _optimum(self, values: Sequence[float], busy: Sequence[bool]) -> Prices | None:
        if not any(values):
            return None
        for z, value, b in zip(self._variables, values, busy, strict=True):
            self._objective.SetCoefficient(z, value)
            self._busiest.SetCoefficient(z, float(b))
            z.SetUb(self._solver.infinity() if value else 0.0)
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return Prices(
            self._objective.Value(),
            np.array([max(0.0, row.DualValue()) for row in self._packing]),
            max(0.0, self._most.DualValue()),
            min(0.0, self._least.DualValue()),
            sum(z.SolutionValue() for z in self._variables),
            min(0.0, self._busiest.DualValue()),
        )

    def _idle(self, column: Column) -> int:
        """Most micro-batches of a pipeline that is not the busiest."""
        return max(-(-self._share // column.rows) - 1, 0)

    def amounts(self) -> list[float]:
        """How much of every column the last optimum uses."""
        return [z.SolutionValue() for z in self._variables]

    def least_target(self, guess_ps: int, *, stretch: bool = True) -> int | None:
        """Least target (to a relative tolerance) at which the relaxation reaches the batch.

        None if the guess does not suffice and may not be stretched, or nothing ever does.
        """
        low, low_rows = 0, 0.0
        high, high_rows = 0, 0.0
        target = max(1, guess_ps)
        for _ in range(STRETCHES):
            rows = self._rows(target)
            if rows >= self._goal:
                high, high_rows = target, rows
                break
            if not stretch:
                return None
            low, low_rows, target = target, rows, target * 2
        else:
            return None
        target = int(high * 0.97)
        while high - low > TARGET_TOLERANCE * high:
            rows = self._rows(target)
            if rows >= self._goal:
                high, high_rows = target, rows
            else:
                low, low_rows = target, rows
            # between the ends as if rows grew evenly, but never too near either of them
            share = (self._goal - low_rows) / max(high_rows - low_rows, 1e-12)
            target = low + int((high - low) * min(max(share, 0.1), 0.9))
            if not low < target < high:
                break
        return high

    def _rows(self, target_ps: int) -> float:
        prices = self.solve(target_ps)
        own = 0.0 if prices is None else max(prices.rows, 0.0)
        return own + self._granted(target_ps)


def solve_integer(
    problem: Problem,
    setting: Setting,
    columns: Sequence[Column],
    target_ps: int,
    *,
    goal: int,
    work_limit: float,
    seed: int,
    use_all: bool = False,
) -> tuple[int, ...] | None:
    """Counts per column that reach ``goal`` rows by the target; or None.

    Of a column whose pipelines lie side by side, a multiple of their number. None means: not
    found within the deterministic ``work_limit`` or proven impossible over these columns.
    ``use_all`` asks that no chip stays idle.
    """
    each = [c.beside or 1 for c in columns]
    values = [c.rows * c.micro_batches(target_ps) * n for c, n in zip(columns, each)]
    model = cp_model.CpModel()
    zs = []
    for column, value, n in zip(columns, values, each):
        most = min(
            (cap // u for (_, _, cap), u in zip(problem.packing_rows, column.usage) if u),
            default=0,
        )
        most = min(most, setting.replicas[1]) if value > 0 else 0
        zs.append(model.new_int_var(0, most // n, ""))
    for k, (class_index, group, capacity) in enumerate(problem.packing_rows):
        usage = cp_model.LinearExpr.weighted_sum(
            zs, [c.usage[k] * n for c, n in zip(columns, each)]
        )
        if use_all and group == 1:
            model.add(usage == problem.topology.classes[class_index].chips)
        else:
            model.add(usage <= capacity)
    total = cp_model.LinearExpr.weighted_sum(zs, each)
    model.add(total >= setting.replicas[0])
    model.add(total <= setting.replicas[1])
    rows = cp_model.LinearExpr.weighted_sum(zs, values)
    model.add(rows >= goal)
    if use_all:  # and every pipeline has a micro-batch
        busy = [c.rows * n for c, n in zip(columns, each)]
        model.add(cp_model.LinearExpr.weighted_sum(zs, busy) <= goal)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = work_limit
    # the solver must not take Ctrl-C away from the program
    solver.parameters.catch_sigint_signal = False
    # both can cut off optima in presolve (google/or-tools issue 5293)
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return tuple(solver.value(z) * n for z, n in zip(zs, each))


def least_target(
    values_reach: Sequence[Column], counts: Sequence[int], goal: int, high_ps: int
) -> int:
    """The least target at which these counts reach ``goal`` rows (picoseconds, exact)."""
    used = [(c, z) for c, z in zip(values_reach, counts) if z]
    low = 0
    high = high_ps
    while low < high:
        middle = (low + high) // 2
        if sum(c.rows * c.micro_batches(middle) * z for c, z in used) >= goal:
            high = middle
        else:
            low = middle + 1
    return high
