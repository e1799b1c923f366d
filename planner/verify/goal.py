"""Cost or energy of a plan, its floor and the arithmetic of its proof, from the plan alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from costmodels.units import PS_PER_S, S_PER_HOUR
from planner.errors import Problem
from planner.inputs.goal import Goal
from planner.plan import ObjectiveProof, Plan
from planner.restore import Restored

RELATIVE = 1e-9
"""How far two evaluations of one floating-point formula may differ."""

UNITS = {
    "cost": ("usd_per_million_tokens", "usd_per_hour"),
    "energy": ("joules_per_token", "watt"),
}


def goal_problems(plan: Plan, world: Restored, objective_ps: int) -> Iterator[Problem]:
    """Whether the objective that the plan states is its job's, and what it says of it is so."""
    if plan.certificate is None:  # a layout that was only priced claims nothing
        return
    stated, goal = plan.certificate.objective, world.job.goal
    where = "certificate.objective"
    if (stated is None) != (goal is None):
        yield Problem(where, "is not the objective of the job")
    if stated is None or goal is None:
        return
    if stated.name != goal.kind or (stated.unit, stated.rate_unit) != UNITS[goal.kind]:
        yield Problem(f"{where}.name", f"says {stated.name}, the job asks for {goal.kind}")
        return
    if objective_ps > goal.latest_ps:
        message = f"a step takes {objective_ps / PS_PER_S!r} s, the floor allows"
        yield Problem("certificate.objective_s", f"{message} {goal.latest_ps / PS_PER_S!r} s")
    try:
        derived = _derived(plan, world, goal, objective_ps)
    except LookupError as error:
        yield Problem("inputs.job", f"{error.args[0]}, but the plan uses it")
        return
    for name, value in derived.items():
        said = getattr(stated, name)
        if not math.isclose(said, value, rel_tol=RELATIVE):
            yield Problem(f"{where}.{name}", f"says {said!r}, re-derived {value!r}")
    yield from _proof(stated, where)


def _derived(plan: Plan, world: Restored, goal: Goal, objective_ps: int) -> dict[str, float]:
    """What the chips in use cost per second, and a token by either time."""
    chips = Counter(
        world.topology.classes[world.island_of[device].class_index].chip.id
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        for device in replica.devices
    )
    figures = {rate.chip: rate.figure for rate in goal.rates}
    missing = [chip for chip in sorted(chips) if chip not in figures]
    if missing:
        raise LookupError(f"the job has no rate of {missing[0]}")
    total = math.fsum(figures[chip] * n for chip, n in chips.items())
    tokens = world.job.global_batch * world.job.seq_len
    per_token = total / S_PER_HOUR * 1e6 / tokens if goal.kind == "cost" else total / tokens
    return {
        "rate": total,
        "value": per_token * plan.estimate.step_time_s,
        "formula_value": per_token * objective_ps / PS_PER_S,
        "max_step_time_s": goal.latest_ps / PS_PER_S,
    }


def _proof(stated: ObjectiveProof, where: str) -> Iterator[Problem]:
    if not 0 <= stated.lower_bound <= stated.formula_value:
        message = f"{stated.lower_bound!r} is not between 0 and the plan's {stated.formula_value!r}"
        yield Problem(f"{where}.lower_bound", message)
    gap = (stated.formula_value - stated.lower_bound) / stated.formula_value
    if not math.isclose(stated.gap, gap, rel_tol=RELATIVE, abs_tol=1e-12):
        yield Problem(f"{where}.gap", f"says {stated.gap!r}, re-derived {gap!r}")
