"""Scenarios over the values of one or two axes, and all of them planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from planner.errors import InputError, Problem
from planner.scenario.changes import Change
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates
from planner.whatif.axis import Axis, Value
from planner.whatif.money import Charge, Costs, costs_of
from planner.whatif.outcome import Outcome
from planner.whatif.runner import RunOptions, RunProgress, run
from planner.whatif.scenario import Case, Scenario, make_cases

MAX_AXES = 2


@dataclass(frozen=True)
class Point:
    """One point of a sweep. ``outcome`` is None where an interruption left it undone."""

    values: tuple[Value, ...]
    case: Case
    outcome: Outcome | None
    costs: Costs


@dataclass(frozen=True)
class Sweep:
    """All points, the last axis fastest; ``base`` is the scenario that nothing is changed in."""

    axes: tuple[Axis, ...]
    points: tuple[Point, ...]

    @property
    def complete(self) -> bool:
        """Whether every point was planned."""
        return all(p.outcome is not None for p in self.points)


def sweep(
    base: PlanInputs,
    axes: Sequence[Axis],
    options: RunOptions | None = None,
    *,
    rates: Rates | None = None,
    charge: Charge = "used",
    always: Sequence[Change] = (),
    progress: Callable[[RunProgress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Sweep:
    """Plan every combination of the axes' values, after the changes in ``always``.

    Raises InputError for more than two axes and for changes that cannot be made.
    """
    if not 1 <= len(axes) <= MAX_AXES:
        remedy = "give one or two; more than a picture shows is a program's work (planner.whatif)"
        raise InputError([Problem("--axis", f"{len(axes)} axes", remedy)])
    grid = list(product(*(axis.values for axis in axes)))
    scenarios = [Scenario(_name(axes, vs), (*always, *(v.change for v in vs))) for vs in grid]
    cases = make_cases(base, scenarios, rates)
    outcomes = run([c.inputs for c in cases], options, progress=progress, interrupted=interrupted)
    points = tuple(
        Point(values, case, outcome, costs_of(outcome or _UNDONE, case.rates, charge))
        for values, case, outcome in zip(grid, cases, outcomes, strict=True)
    )
    return Sweep(tuple(axes), points)


_UNDONE = Outcome(status="limit", reason="interrupted")


def _name(axes: Sequence[Axis], values: Sequence[Value]) -> str:
    return ", ".join(f"{axis.name} {value.text}" for axis, value in zip(axes, values, strict=True))
