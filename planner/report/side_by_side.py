"""Several plans beside one another, as a value that a notebook shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.errors import InputError, Problem
from planner.plan import Plan
from planner.report.tables import Row, to_pandas
from planner.terms import used_chips


@dataclass(frozen=True)
class SideBySide:
    """Plans by the name that they are shown under; the first one is what others are held to."""

    plans: Mapping[str, Plan]

    def rows(self) -> list[Row]:
        """One row per plan: its figures, and its step time over that of the first."""
        first = next(iter(self.plans.values())).estimate.step_time_s
        return [_row(name, plan, first) for name, plan in self.plans.items()]

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas ships no types
        """:meth:`rows` as a data frame. Raises InputError where pandas is not installed."""
        return to_pandas(self.rows())

    def _repr_html_(self) -> str:
        from planner.report.notebook import side_by_side_html

        return side_by_side_html(self)


def side_by_side(*plans: Plan, **named: Plan) -> SideBySide:
    """Plans to compare, named by keyword or else by the first letters of their ids.

    Raises InputError where none is given.
    """
    found = {plan.plan_id[:12]: plan for plan in plans} | named
    if not found:
        raise InputError([Problem("side_by_side", "no plan is given", "give at least one")])
    return SideBySide(found)


def _row(name: str, plan: Plan, first: float) -> Row:
    estimate = plan.estimate
    memories = [r.memory_bytes for p in plan.pipelines for s in p.stages for r in s.replicas]
    return {
        "name": name,
        "plan_class": plan.plan_class,
        "pipelines": len(plan.pipelines),
        "chips": sum(used_chips(plan).values()),
        "step_time_s": estimate.step_time_s,
        "ratio": estimate.step_time_s / first,
        "tokens_per_s": estimate.tokens_per_s,
        "mfu": estimate.mfu,
        "least_memory_left_bytes": min(m.usable - m.peak for m in memories),
        "gap": plan.certificate.gap if plan.certificate is not None else None,
    }
