"""What each kind of chip is worth at the margin: planned again with one more and one less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.errors import InputError
from planner.plan import Plan
from planner.scenario.apply import apply_change
from planner.scenario.changes import AddChips, AddNodes
from planner.scenario.inputs import PlanInputs
from planner.whatif.evaluation import Effort, Planned
from planner.whatif.together import plan_together


@dataclass(frozen=True)
class Step:
    """The fleet changed by ``count`` (1 or -1) and planned again, or the reason why not."""

    count: int
    change: str
    planned: Planned | None
    reason: str = ""


@dataclass(frozen=True)
class Margin:
    """What a node (or a chip) of one kind is worth.

    ``unit`` is "node" or "chip"; ``chips`` is how many chips of the kind the unit has. ``dual_s``
    is the quick estimate of the seconds that one more unit saves; None where there is none.
    """

    chip: str
    unit: str
    chips: int
    more: Step
    less: Step
    dual_s: float | None = None

    def saved_s(self, own_s: float) -> float | None:
        """Seconds per step that one more unit saves; None where it has no plan."""
        planned = self.more.planned
        step = planned.outcome.step_time_s if planned else None
        return None if step is None else own_s - step

    def lost_s(self, own_s: float) -> float | None:
        """Seconds per step that one unit less costs; None where nothing fits without it."""
        planned = self.less.planned
        step = planned.outcome.step_time_s if planned else None
        return None if step is None else step - own_s


def margins(
    inputs: PlanInputs,
    plan: Plan,
    effort: Effort,
    *,
    chips: Sequence[str] | None = None,
    duals: dict[str, float] | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Margin, ...]:
    """Every kind of chip (or those named), with one more and one less.

    Whole nodes where the cluster has a network that further nodes can join, single chips of a
    node otherwise. ``duals`` are shares of the batch (:func:`planner.explain.prices.dual_prices`).
    The plan is the hint: more chips never make it slower. ``workers`` searches run at a time;
    what an interruption left undone is left out.
    """
    kinds = [(chip, *_unit(inputs, chip)) for chip in (inputs.chips if chips is None else chips)]
    asked = [_asked(inputs, chip, unit, n) for chip, unit, _ in kinds for n in (1, -1)]
    planned = iter(
        plan_together(
            [(one.name, one.inputs) for one in asked if one.inputs is not None],
            effort,
            hint=plan,
            workers=workers,
            progress=progress,
            interrupted=interrupted,
        )
    )
    steps = [_step(one, next(planned) if one.inputs is not None else None) for one in asked]
    found = []
    for n, (chip, unit, size) in enumerate(kinds):
        more, less = steps[2 * n : 2 * n + 2]
        if more is None or less is None:
            continue
        share = duals.get(chip) if duals else None
        saved = None if share is None else _saved(plan, share * size)
        found.append(Margin(chip, unit, size, more, less, saved))
    return tuple(found)


def _saved(plan: Plan, share: float) -> float:
    """Seconds that are saved where something more carries so large a share of the batch."""
    own = plan.estimate.step_time_s
    return own - own / (1 + share)


def _unit(inputs: PlanInputs, chip: str) -> tuple[Literal["node", "chip"], int]:
    """What to add and take away: a node, if it can be joined, else a chip; and its chips."""
    nodes = [n for n in inputs.cluster.spec.nodes if any(g.chip == chip for g in n.devices)]
    node = nodes[-1]
    if node.nics and inputs.cluster.spec.hosts > 1:
        return "node", sum(g.count for g in node.devices if g.chip == chip)
    return "chip", 1


@dataclass(frozen=True)
class _Asked:
    """A changed fleet, or the reason why it is not possible."""

    name: str
    count: int
    change: str
    inputs: PlanInputs | None
    reason: str = ""


def _asked(inputs: PlanInputs, chip: str, unit: Literal["node", "chip"], count: int) -> _Asked:
    change = AddNodes(chip, count) if unit == "node" else AddChips(chip, count)
    name = f"{inputs.cluster.catalog.alias(chip)} {count:+d} {unit}"
    try:
        return _Asked(name, count, change.text, apply_change(inputs, change))
    except InputError as error:
        reason = "; ".join(p.message for p in error.problems)
        return _Asked(name, count, change.text, None, reason)


def _step(asked: _Asked, planned: Planned | None) -> Step | None:
    """What became of a fleet; None where it was not planned any more."""
    if asked.inputs is not None and planned is None:
        return None
    return Step(asked.count, asked.change, planned, asked.reason)
