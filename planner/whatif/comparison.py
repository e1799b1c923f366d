"""The base and changed scenarios planned side by side, with their plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.plan import Plan
from planner.scenario.changes import Change
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates
from planner.whatif.evaluation import Effort, plan_inputs
from planner.whatif.money import Charge, Costs, costs_of
from planner.whatif.outcome import Outcome
from planner.whatif.scenario import BASE, Case, Scenario, make_cases, named_apart
from planner.whatif.together import plan_together


@dataclass(frozen=True)
class Compared:
    """One scenario of a comparison. ``plan`` is None where there is none."""

    case: Case
    outcome: Outcome
    costs: Costs
    plan: Plan | None


@dataclass(frozen=True)
class Comparison:
    """The base first, then the scenarios in their order."""

    rows: tuple[Compared, ...]

    @property
    def base(self) -> Compared:
        """The scenario in which nothing is changed."""
        return self.rows[0]


def compare(
    base: PlanInputs,
    scenarios: Sequence[Scenario],
    effort: Effort | None = None,
    *,
    rates: Rates | None = None,
    charge: Charge = "used",
    always: Sequence[Change] = (),
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Comparison:
    """Plan the base, then every scenario, ``workers`` of them at a time, and keep the plans.

    ``always`` are changes that the base has too, such as prices. A scenario never gets a slower
    plan than the base's where the base's is still possible: it is given as a hint. Scenarios that
    an interruption left unplanned are left out.
    """
    every = [Scenario(BASE), *scenarios]
    cases = make_cases(
        base,
        [Scenario(s.name, (*always, *s.changes)) for s in named_apart(every)],
        rates,
    )
    progress(BASE)
    own = plan_inputs(cases[0].inputs, effort, interrupted=interrupted)
    same = cases[0].inputs.digest
    others = plan_together(
        [(c.scenario.name, c.inputs) for c in cases if c.inputs.digest != same],
        effort,
        hint=own.plan,
        workers=workers,
        progress=progress,
        interrupted=interrupted,
    )
    left = iter(others)
    found = [own if c.inputs.digest == same else next(left) for c in cases]
    return Comparison(
        tuple(
            Compared(case, done.outcome, costs_of(done.outcome, case.rates, charge), done.plan)
            for case, done in zip(cases, found, strict=True)
            if done is not None
        )
    )
