"""The master: how many pipelines of which template.

For a target time T every column p carries ``v_p(T)``, the rows that it finishes in time. The
program is

    maximise   Σ_p v_p(T) · z_p                                       (rows)
    subject to Σ_p usage_p[k] · z_p ≤ capacity[k]    for every packing row k
               replicas_lo ≤ Σ_p z_p ≤ replicas_hi
               z_p ≥ 0 (integer in `solve_integer`)

and T is feasible when the optimum reaches the global batch. All data are integers, so CP-SAT
solves it without scaling; GLOP gives the prices of its relaxation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ortools.linear_solver.python import model_builder
from ortools.sat.python import cp_model

from planner.search.columns import Column
from planner.search.problem import Problem, Setting
from planner.search.space import Floats

ELASTIC = 4.0
"""Rows, in batches per missing pipeline's share, that one pipeline below the interval costs."""


@dataclass(frozen=True)
class Prices:
    """Optimum of the relaxation and its duals, sign-correct by construction.

    ``packing[k]`` ≥ 0 in rows per chip of packing row k; ``most`` ≥ 0 and ``least`` ≤ 0 belong to
    the limits on the number of pipelines; ``pipelines`` is how many the optimum has.
    """

    rows: float
    packing: Floats
    most: float
    least: float
    pipelines: float

    def value(self, problem: Problem, setting: Setting) -> float:
        """Dual objective: what the whole fleet is worth at these prices, in rows."""
        fleet = sum(
            float(y) * capacity
            for y, (_, _, capacity) in zip(self.packing, problem.packing_rows, strict=True)
        )
        return fleet + self.most * setting.replicas[1] + self.least * setting.replicas[0]


def solve_relaxation(
    problem: Problem, setting: Setting, columns: Sequence[Column], target_ps: int
) -> Prices | None:
    """The linear relaxation at a target; None when the replica interval cannot be met."""
    values = [c.rows * c.micro_batches(target_ps) for c in columns]
    model = model_builder.Model()  # type: ignore[no-untyped-call]
    used = [p for p, v in enumerate(values) if v > 0]
    zs = {p: model.new_num_var(0.0, float(setting.replicas[1]), f"z{p}") for p in used}
    rows = []
    for k, (_, _, capacity) in enumerate(problem.packing_rows):
        terms = [(zs[p], columns[p].usage[k]) for p in used if columns[p].usage[k]]
        expr = model_builder.LinearExpr.weighted_sum([z for z, _ in terms], [u for _, u in terms])
        rows.append(model.add(expr <= float(capacity)) if terms else None)
    total = model_builder.LinearExpr.sum([zs[p] for p in used]) if used else None
    if total is None:
        return None
    most = model.add(total <= float(setting.replicas[1]))
    # Elastic: columns too large to stand often enough still give prices, and a lower optimum.
    missing = model.new_num_var(0.0, float(setting.replicas[0]), "missing")
    least = model.add(total + missing >= float(setting.replicas[0]))
    penalty = ELASTIC * problem.global_batch / setting.replicas[0]
    model.maximize(
        model_builder.LinearExpr.weighted_sum(
            [*(zs[p] for p in used), missing], [*(values[p] for p in used), -penalty]
        )
    )
    solver = model_builder.Solver("GLOP")
    if solver.solve(model) != model_builder.SolveStatus.OPTIMAL:
        return None
    packing = np.array([max(0.0, solver.dual_value(r)) if r is not None else 0.0 for r in rows])
    return Prices(
        solver.objective_value,
        packing,
        max(0.0, solver.dual_value(most)),
        min(0.0, solver.dual_value(least)),
        sum(solver.value(z) for z in zs.values()),
    )


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
    """Counts per column that reach ``goal`` rows by the target, with the fewest chips; or None.

    None means: not found within the deterministic ``work_limit`` or proven impossible over these
    columns. ``use_all`` asks that no chip stays idle.
    """
    values = [c.rows * c.micro_batches(target_ps) for c in columns]
    model = cp_model.CpModel()
    zs = []
    for column, value in zip(columns, values):
        most = min(
            (cap // u for (_, _, cap), u in zip(problem.packing_rows, column.usage) if u),
            default=0,
        )
        most = min(most, setting.replicas[1]) if value > 0 else 0
        zs.append(model.new_int_var(0, most, ""))
    for k, (class_index, tp, capacity) in enumerate(problem.packing_rows):
        usage = cp_model.LinearExpr.weighted_sum(zs, [c.usage[k] for c in columns])
        if use_all and tp == 1:
            model.add(usage == problem.topology.classes[class_index].chips)
        else:
            model.add(usage <= capacity)
    total = cp_model.LinearExpr.sum(zs)
    model.add(total >= setting.replicas[0])
    model.add(total <= setting.replicas[1])
    rows = cp_model.LinearExpr.weighted_sum(zs, values)
    model.add(rows >= goal)
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
    return tuple(solver.value(z) for z in zs)


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
