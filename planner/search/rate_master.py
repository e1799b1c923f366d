"""The least rate of chips in use that delivers the batch by a time: linear, and in whole numbers.

A *rate* is what a chip costs per second while it is used: a price in USD/s, or a power in W. For a
target T every column p carries v_p(T), the rows that it finishes in time, and its rate r_p:

    minimise   Σ_p r_p · z_p                                        P(T), a rate
    subject to Σ_p v_p(T) · z_p ≥ batch                             price θ ≥ 0 of a row
               Σ_p usage_p[k] · z_p ≤ capacity[k]                   price y_k ≥ 0 of a packing row
               replicas_lo ≤ Σ_p z_p ≤ replicas_hi                  prices l ≥ 0, u ≥ 0
               z_p ≥ 0 (integer in `least_rate`)

By duality θ, y, u, l ≥ 0 with θ · v_p(T) ≤ r_p + Σ_k y_k usage_p[k] + u − l for *every* pipeline
prove P(T) ≥ θ · batch − Σ_k y_k capacity_k − u · replicas_hi + l · replicas_lo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ortools.linear_solver import pywraplp  # type: ignore[attr-defined]
from ortools.sat.python import cp_model

from planner.search.columns import Column
from planner.search.master import Prices
from planner.search.problem import Problem, Setting
from planner.search.space import Floats

DEAR = 100.0
"""What a missing row costs, in rates of the whole fleet per row of the batch: never worth it."""

SCARCE = 1e-6
"""A difference of prices below this part of them is rounding."""


def row_rates(problem: Problem, rates: Sequence[float]) -> Floats:
    """Rate per chip of every packing row: that of its class on the row that counts all chips."""
    out = np.zeros(len(problem.packing_rows))
    seen: set[int] = set()
    for k, (class_index, _, _) in enumerate(problem.packing_rows):
        if class_index not in seen:  # rows go up by group: the first counts every group
            seen.add(class_index)
            out[k] = rates[class_index]
    return out


@dataclass(frozen=True)
class Duals:
    """Prices of a target: ``row`` θ, ``packing`` y, ``most`` u, ``least`` l, all ≥ 0.

    ``pipelines`` is how many the optimum has, ``chips`` what it uses of every packing row.
    """

    row: float
    packing: Floats
    most: float
    least: float
    pipelines: float
    chips: Floats

    def scarcity(self, problem: Problem, setting: Setting) -> float:
        """What the limits of the fleet are worth: Σ y·capacity + u·most − l·least."""
        fleet = sum(
            float(y) * capacity
            for y, (_, _, capacity) in zip(self.packing, problem.packing_rows, strict=True)
        )
        low, high = setting.replicas
        return fleet + self.most * high - self.least * low

    def value(self, problem: Problem, setting: Setting) -> float:
        """The rate that these prices prove where every pipeline obeys them."""
        return self.row * problem.global_batch - self.scarcity(problem, setting)

    def worth(self, problem: Problem, setting: Setting, rate: float) -> Duals:
        """The same limits with rows so cheap that exactly this rate (> 0) is proven.

        Where the least number of pipelines alone is worth more than the rate, its price goes.
        """
        scarcity = self.scarcity(problem, setting)
        if rate + scarcity <= SCARCE * abs(scarcity):
            return replace(self, least=0.0).worth(problem, setting, rate)
        return replace(self, row=(rate + scarcity) / problem.global_batch)

    def as_prices(self, rates: Floats) -> Prices:
        """In rows per chip: a pipeline obeys if its rows are not worth more than its price."""
        return Prices(
            0.0,
            (rates + self.packing) / self.row,
            self.most / self.row,
            -self.least / self.row,
            self.pipelines,
        )


class RateMaster:
    """The linear program over a growing set of columns, at any target."""

    def __init__(
        self, problem: Problem, setting: Setting, rates: Floats, *, divisible: bool
    ) -> None:
        """``rates`` per packing row. ``divisible``: micro-batches may be cut (for bounds)."""
        self._problem, self._rates, self._divisible = problem, rates, divisible
        solver = self._solver = pywraplp.Solver.CreateSolver("GLOP")
        low, high = setting.replicas
        infinity = solver.infinity()
        self._rows = solver.Constraint(float(problem.global_batch), infinity)
        self._packing = [
            solver.Constraint(-infinity, float(chips)) for _, _, chips in problem.packing_rows
        ]
        self._most = solver.Constraint(-infinity, float(high))
        # one pipeline there is anyway: a price on it would only blur the others
        low = low if low > 1 else 0
        self._least = solver.Constraint(float(low), infinity)
        fleet = sum(r * n for r, (_, _, n) in zip(rates, problem.packing_rows, strict=True))
        self.dear = DEAR * float(fleet) / problem.global_batch
        self._objective = solver.Objective()
        self._objective.SetMinimization()
        absent = solver.NumVar(0.0, infinity, "missing rows")
        self._rows.SetCoefficient(absent, 1.0)
        self._objective.SetCoefficient(absent, self.dear)
        fewer = solver.NumVar(0.0, float(low), "missing pipelines")
        self._least.SetCoefficient(fewer, 1.0)
        self._objective.SetCoefficient(fewer, self.dear * problem.global_batch / max(low, 1))
        self._absent = absent
        self.columns: list[Column] = []
        self._variables: list[pywraplp.Variable] = []

    def add(self, column: Column) -> None:
        """One more template."""
        z = self._solver.NumVar(0.0, self._solver.infinity(), "")
        for row, used in zip(self._packing, column.usage, strict=True):
            if used:
                row.SetCoefficient(z, float(used))
        self._most.SetCoefficient(z, 1.0)
        self._least.SetCoefficient(z, 1.0)
        self._objective.SetCoefficient(z, float(np.dot(self._rates, column.usage)))
        self.columns.append(column)
        self._variables.append(z)

    def solve(self, target_ps: int) -> Duals | None:
        """Optimum and duals at a target, sign-correct; None if the solver gives up."""
        for z, column in zip(self._variables, self.columns, strict=True):
            count = (
                column.divisible_micro_batches(target_ps)
                if self._divisible
                else column.micro_batches(target_ps)
            )
            self._rows.SetCoefficient(z, float(column.rows * count))
            z.SetUb(self._solver.infinity() if count else 0.0)
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        amounts = [z.SolutionValue() for z in self._variables]
        usage = np.array([c.usage for c in self.columns], dtype=np.float64)
        rows = len(self._packing)
        return Duals(
            max(0.0, self._rows.DualValue()),
            np.array([max(0.0, -row.DualValue()) for row in self._packing]),
            max(0.0, -self._most.DualValue()),
            max(0.0, self._least.DualValue()),
            sum(amounts),
            np.array(amounts) @ usage if amounts else np.zeros(rows),
        )

    @property
    def complete(self) -> bool:
        """Whether the last optimum does the whole batch."""
        return bool(self._absent.SolutionValue() < 1e-6 * self._problem.global_batch)


def least_rate(
    problem: Problem,
    setting: Setting,
    columns: Sequence[Column],
    rates: Sequence[int],
    target_ps: int,
    *,
    work_limit: float,
    seed: int,
) -> tuple[int, ...] | None:
    """Counts per column of least total rate that reach the batch by the target; or None.

    ``rates`` are whole numbers per column. None means: no such counts were found within the
    deterministic ``work_limit``.
    """
    values = [c.rows * c.micro_batches(target_ps) for c in columns]
    model = cp_model.CpModel()
    zs = []
    for column, value in zip(columns, values, strict=True):
        most = min(
            (cap // u for (_, _, cap), u in zip(problem.packing_rows, column.usage) if u),
            default=0,
        )
        zs.append(model.new_int_var(0, min(most, setting.replicas[1]) if value > 0 else 0, ""))
    for k, (_, _, capacity) in enumerate(problem.packing_rows):
        usage = cp_model.LinearExpr.weighted_sum(zs, [c.usage[k] for c in columns])
        model.add(usage <= capacity)
    total = cp_model.LinearExpr.sum(zs)
    model.add(total >= setting.replicas[0])
    model.add(total <= setting.replicas[1])
    model.add(cp_model.LinearExpr.weighted_sum(zs, values) >= problem.global_batch)
    rate = cp_model.LinearExpr.weighted_sum(zs, list(rates))
    model.minimize(rate)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = work_limit
    # the solver must not take Ctrl-C away from the program
    solver.parameters.catch_sigint_signal = False
    # both can cut off optima in presolve (google/or-tools issue 5293)
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return tuple(solver.value(z) for z in zs)
