"""What each kind of chip is worth at the margin: planned again with one more and one less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.errors import InputError
from planner.plan import Plan
from planner.scenario.apply import apply_change
from planner.scenario.changes import AddChips, AddNodes
from planner.scenario.inputs import PlanInputs
from planner.whatif.evaluation import Effort, Planned, plan_inputs


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
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Margin, ...]:
    """Every kind of chip (or those named), with one more and one less.

    Whole nodes where the cluster has a network that further nodes can join, single chips of a
    node otherwise. The plan is the hint for more chips: they never make it slower.
    """
    found = []
    for chip in chips if chips is not None else inputs.chips:
        unit, size = _unit(inputs, chip)
        steps = []
        for count in (1, -1):
            if interrupted():
                break
            change = AddNodes(chip, count) if unit == "node" else AddChips(chip, count)
            progress(f"{inputs.cluster.catalog.alias(chip)} {count:+d} {unit}")
            steps.append(_step(inputs, plan, change, count, effort, interrupted))
        if len(steps) < 2:
            break
        dual = duals.get(chip) if duals else None
        found.append(
            Margin(chip, unit, size, steps[0], steps[1], None if dual is None else dual * size)
        )
    return tuple(found)


def _unit(inputs: PlanInputs, chip: str) -> tuple[str, int]:
    """What to add and take away: a node, if it can be joined, else a chip; and its chips."""
    nodes = [n for n in inputs.cluster.spec.nodes if any(g.chip == chip for g in n.devices)]
    node = nodes[-1]
    if node.nics and inputs.cluster.spec.hosts > 1:
        return "node", sum(g.count for g in node.devices if g.chip == chip)
    return "chip", 1


def _step(
    inputs: PlanInputs,
    plan: Plan,
    change: AddNodes | AddChips,
    count: int,
    effort: Effort,
    interrupted: Callable[[], bool],
) -> Step:
    try:
        changed = apply_change(inputs, change)
    except InputError as error:
        return Step(count, change.text, None, "; ".join(p.message for p in error.problems))
    hint = plan if count > 0 else None
    return Step(
        count, change.text, plan_inputs(changed, effort, hint=hint, interrupted=interrupted)
    )
