"""Re-derives a plan from the plan alone: coverage, legality, memory, times, figures.

Imports neither the search nor the planner's own tables and pricing, so that their errors cannot
hide here. What cannot be verified from a plan is whether the lower bound was proved; only that
bound, objective, gap and status are consistent.
"""

from __future__ import annotations

from planner.callable_module import make_callable
from planner.errors import InputError, Problem
from planner.plan import InputRecord, Plan, digest
from planner.restore import restore
from planner.verify.costs import check_costs
from planner.verify.figures import check_figures
from planner.verify.layout import check_layout
from planner.verify.prices import Prices
from planner.verify.sync import check_sync

__all__ = ["verify"]


def verify(plan: Plan) -> list[Problem]:
    """Everything that is wrong with a plan; an empty list for a good one.

    Costs are re-derived only where the layout is possible at all.
    """
    problems = _hashes(plan)
    try:
        world = restore(plan)
    except InputError as exc:
        return [*problems, *exc.problems]
    layout = check_layout(plan, world)
    if layout:
        return [*problems, *layout]
    prices = Prices(world)
    costs = check_costs(plan, world, prices)
    return [
        *problems,
        *costs.problems,
        *check_sync(plan, world, prices),
        *check_figures(plan, world, costs),
    ]


def _hashes(plan: Plan) -> list[Problem]:
    problems = []
    if plan.plan_id != plan.content_hash():
        remedy = "the file was changed after it was written; plan again"
        problems.append(Problem("plan_id", "does not match the plan's content", remedy))
    inputs = plan.inputs
    named: list[tuple[str, InputRecord | None]] = [
        ("model", inputs.model),
        ("cluster", inputs.cluster),
        ("job", inputs.job),
        ("profile", inputs.profile),
        ("catalogue", inputs.catalogue),
    ]
    for name, record in named:
        if record is not None and record.digest != digest(record.resolved):
            problems.append(Problem(f"inputs.{name}.digest", "does not match what was resolved"))
    return problems


make_callable(__name__, verify)
