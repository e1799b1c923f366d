"""One scenario planned: the same call on changed inputs, every way it can end kept as a value."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.errors import InfeasibleError, InputError, NoPlanFound, PlannerError
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs, inputs_from_json
from planner.whatif.outcome import Outcome, Status, outcome_of

if TYPE_CHECKING:
    from planner.solve import SolveParams
    from planner.whatif.deciding import Decision

DEFAULT_GAP = 0.05
"""Scenarios are compared, not run: the search ends earlier than for a plan."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard every scenario is searched; as ``SolveParams``, without what stands beside a plan.

    With ``time_limit_s`` results depend on the machine and are compared with that in mind.
    """

    gap: float = DEFAULT_GAP
    seed: int = 0
    time_limit_s: float | None = None

    def params(self) -> SolveParams:
        """What :func:`planner.solve` is called with."""
        from planner.solve import SolveParams

        return SolveParams(
            gap=self.gap,
            seed=self.seed,
            time_limit_s=self.time_limit_s,
            baselines=False,
            simulate=False,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; ``Effort(**value)`` reads it."""
        return asdict(self)


@dataclass(frozen=True)
class Planned:
    """An outcome with its plan; ``plan`` is None unless the status is "planned"."""

    outcome: Outcome
    plan: Plan | None


def plan_inputs(
    inputs: PlanInputs,
    effort: Effort | None = None,
    *,
    hint: Plan | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Planned:
    """Plan inputs; what has no plan is an outcome, not an exception.

    Bugs of the planner are not caught.
    """
    from planner.solve import solve

    fleet = tuple(inputs.chip_counts.items())
    try:
        plan = solve(
            inputs.model,
            inputs.cluster,
            inputs.job,
            profile=inputs.profile,
            params=(effort or Effort()).params(),
            hint=hint,
            interrupted=interrupted,
        )
    except PlannerError as error:
        status = _status(error)
        if status is None:
            raise
        reason = str(error.message).strip()
        return Planned(
            Outcome(status=status, fleet=fleet, reason=reason, remedies=error.remedies), None
        )
    return Planned(outcome_of(plan, dict(fleet)), plan)


def decide_inputs(
    inputs: PlanInputs,
    tokens_per_s: float | None,
    effort: Effort | None = None,
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> Planned:
    """Whether inputs train so many tokens per second, by no more than that takes.

    The outcome's plan is the best that was met, its bound what was proven on the way. Without a
    rate: the fastest plan by the same means. See :func:`planner.whatif.deciding.decide`.
    """
    from planner.whatif.deciding import decide

    def found(tokens: int) -> Decision:
        target = None if tokens_per_s is None else tokens / tokens_per_s
        return decide(inputs, target, effort or Effort(), interrupted=interrupted)

    return _decided(inputs, found, "no plan was found that is as fast")


def glance_inputs(inputs: PlanInputs, effort: Effort | None = None) -> Planned:
    """A rectangular plan and a simple bound; see :func:`planner.whatif.deciding.glance`."""
    from planner.whatif.deciding import glance

    reason = "no rectangular layout fits; only a search can tell more"
    return _decided(inputs, lambda _: glance(inputs, effort or Effort()), reason)


def _decided(inputs: PlanInputs, make: Callable[[int], Decision], reason: str) -> Planned:
    """A decision as an outcome. ``make`` is given the tokens of a step."""
    from planner.resolve import resolve_inputs

    fleet = tuple(inputs.chip_counts.items())
    try:
        job = resolve_inputs(inputs.model, inputs.cluster, inputs.job, inputs.profile).job
        tokens = job.global_batch * job.seq_len
        found = make(tokens)
    except InputError as error:
        why = str(error.message).strip()
        return Planned(
            Outcome(status="invalid", fleet=fleet, reason=why, remedies=error.remedies), None
        )
    if found.plan is not None:
        outcome = outcome_of(found.plan, dict(fleet))
        return Planned(replace(outcome, lower_bound_s=found.bound_s), found.plan)
    if found.infeasible:
        return Planned(Outcome(status="infeasible", fleet=fleet, reason="does not fit"), None)
    bounded = Outcome(
        status="limit",
        fleet=fleet,
        reason=reason,
        lower_bound_s=found.bound_s,
        tokens_per_step=tokens,
    )
    return Planned(bounded, None)


def _status(error: PlannerError) -> Status | None:
    match error:
        case InputError():
            return "invalid"
        case InfeasibleError():
            return "infeasible"
        case NoPlanFound():
            return "limit"
    return None


def evaluate(inputs: PlanInputs, effort: Effort | None = None) -> Outcome:
    """The outcome of planning these inputs."""
    return plan_inputs(inputs, effort).outcome


def evaluate_json(task: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a worker: plain JSON in and out; a bug becomes an outcome that names it."""
    try:
        inputs = inputs_from_json(task["inputs"])
        return evaluate(inputs, Effort(**task["effort"])).as_json()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        reason = f"internal error in {where}: {type(error).__name__}: {error}"
        return Outcome(status="failed", reason=reason).as_json()
