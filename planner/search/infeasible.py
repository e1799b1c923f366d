"""Proof that nothing fits, whatever the time: chips that a pipeline needs against chips there are.

A setting with at least R pipelines is infeasible if prices y >= 0 of the packing rows exist with

    R * min over pipelines of  sum_k y_k usage_k   >   sum_k y_k capacity_k

where the minimum runs over pipelines whose stages fit with one micro-batch in flight: a shortest
path. The prices come from a small linear program over the pipelines met so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ortools.linear_solver.python import model_builder

from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting
from planner.search.regions import Region
from planner.search.space import Floats, Stage, build_space

ROUNDS = 25
MARGIN = 1e-7


def nothing_fits(
    problem: Problem,
    regions: Sequence[Region],
    classes: Sequence[int] | None,
    interrupted: Callable[[], bool],
) -> bool:
    """Whether every region is proven infeasible; one that resists is split down to settings."""
    # what has several chunks per stage needs as much as what lies side by side
    waiting = [r for r in regions if r.chunks in (None, 1)]
    while waiting:
        region = waiting.pop()
        if interrupted():
            return False
        if _refuted(problem, region.setting(problem, classes)):
            continue
        if region.same_cuts and region.replicas[0] == region.replicas[1]:
            return False
        middles = [0.5 * (low + high) for low, high in region.cuts]
        low, high = region.replicas
        waiting += region.parts(0.5 * (low + high), middles)
    return True


def _refuted(problem: Problem, setting: Setting) -> bool:
    # fewer rows per micro-batch never need more memory, so the fewest decide, unless some meshes
    # divide rows and are not there for fewer
    divided = any(t.option.mesh.dp > 1 for t in problem.tables.tables)
    rows = problem.micro_batch_rows if divided else problem.micro_batch_rows[:1]
    spaces = [build_space(problem, setting, size, optimistic=True) for size in rows]
    pricers = [Pricer(space, problem.max_stages) for space in spaces]
    takts = [points[-1:] for points in (pricer.breakpoints() for pricer in pricers)]
    capacity = np.array([c for _, _, c in problem.packing_rows], dtype=np.float64)
    needed = setting.replicas[0]
    prices: Floats = np.ones(len(capacity)) / capacity.sum()
    met: list[Floats] = []
    for _ in range(ROUNDS):
        answers = [
            (pricer.solve(space.option_prices(prices), takt, np.zeros(1), 1), space)
            for pricer, space, takt in zip(pricers, spaces, takts)
            if len(takt)
        ]
        if all(answer.cost[0] == np.inf for answer, _ in answers):
            return True
        answer, space = min(answers, key=lambda found: float(found[0].cost[0]))
        if needed * float(answer.cost[0]) > float(prices @ capacity) * (1 + MARGIN):
            return True
        pipeline = answer.pipelines[0]
        if pipeline is None:
            return False
        usage = _usage(space.packing, pipeline)
        if any(np.array_equal(usage, u) for u in met):
            return False
        met.append(usage)
        better = _prices(met, capacity, needed)
        if better is None:
            return False
        prices = better
    return False


def _usage(packing: Floats, pipeline: Sequence[Stage]) -> Floats:
    out: Floats = sum((packing[s.option] for s in pipeline), np.zeros(packing.shape[1]))
    return out


def _prices(met: Sequence[Floats], capacity: Floats, needed: int) -> Floats | None:
    """Prices under which the cheapest pipeline met costs most, the fleet costing one; or None."""
    model = model_builder.Model()  # type: ignore[no-untyped-call]
    ys = [model.new_num_var(0.0, 1.0, f"y{k}") for k in range(len(capacity))]
    least = model.new_num_var(0.0, 1e9, "least")
    model.add(model_builder.LinearExpr.weighted_sum(ys, capacity.tolist()) == 1.0)
    for usage in met:
        cost = model_builder.LinearExpr.weighted_sum(ys, usage.tolist())
        model.add(needed * cost - least >= 0.0)
    model.maximize(least)
    solver = model_builder.Solver("GLOP")
    if solver.solve(model) != model_builder.SolveStatus.OPTIMAL:
        return None
    if solver.objective_value <= 1 + MARGIN:
        return None
    prices: Floats = np.maximum(np.array([solver.value(y) for y in ys]), 0.0)
    return prices
