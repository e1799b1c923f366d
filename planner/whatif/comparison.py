"""The base and changed scenarios planned side by side, with their plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.plan import Plan
from planner.scenario.changes import Change
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates
from planner.whatif.evaluation import Effort, Planned, plan_inputs
from planner.whatif.money import Charge, Costs, costs_of
from planner.whatif.outcome import Outcome
from planner.whatif.scenario import BASE, Case, Scenario, make_cases, named_apart


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
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Comparison:
    """Plan the base and every scenario, one after the other, and keep the plans.

    ``always`` are changes that the base has too, such as prices. A scenario never gets a slower
    plan than the base's where the base's is still possible: it is given as a hint.
    """
    every = [Scenario(BASE), *scenarios]
    cases = make_cases(
        base,
        [Scenario(s.name, (*always, *s.changes)) for s in named_apart(every)],
        rates,
    )
    rows: list[Compared] = []
    known: dict[str, Planned] = {}
    for case in cases:
        key = case.inputs.digest
        if key not in known:
            progress(case.scenario.name)
            hint = rows[0].plan if rows else None
            known[key] = plan_inputs(case.inputs, effort, hint=hint, interrupted=interrupted)
        done = known[key]
        costs = costs_of(done.outcome, case.rates, charge)
        rows.append(Compared(case, done.outcome, costs, done.plan))
    return Comparison(tuple(rows))
