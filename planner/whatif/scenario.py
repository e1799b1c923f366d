"""A scenario: a name, the changes that it makes, and what they make of the base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.errors import InputError, Problem
from planner.scenario.apply import apply_all
from planner.scenario.changes import Change
from planner.scenario.grammar import parse_changes
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates, known_rates, with_rates

BASE = "as it is"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Changes under one name; none of them is the base."""

    name: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Case:
    """A scenario on a base: its inputs, and what its chips cost."""

    scenario: Scenario
    inputs: PlanInputs
    rates: Rates


def parse_scenario(text: str) -> Scenario:
    """``replace v100 by a100-sxm-80gb; link network x2``, with ``NAME: `` before it if wanted.

    Raises InputError with every change that is not understood.
    """
    head, colon, rest = text.partition(": ")
    named = bool(colon) and "=" not in head and ";" not in head
    changes = parse_changes(rest if named else text)
    if not changes:
        raise InputError([Problem(f"scenario {text!r}", "changes nothing", "write a change")])
    name = head.strip() if named else "; ".join(change.text for change in changes)
    return Scenario(name, changes)


def make_cases(
    base: PlanInputs, scenarios: Iterable[Scenario], rates: Rates | None = None
) -> tuple[Case, ...]:
    """Every scenario applied to the base.

    Rates that are not given are the catalogue's. Raises InputError with the problems of all
    scenarios.
    """
    problems: list[Problem] = []
    cases: list[Case] = []
    for scenario in scenarios:
        try:
            inputs = apply_all(base, scenario.changes)
            own = with_rates(known_rates(inputs.cluster, rates), inputs.cluster, scenario.changes)
        except InputError as error:
            problems += error.problems
            continue
        cases.append(Case(scenario, inputs, own))
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return tuple(cases)


def named_apart(scenarios: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """The same scenarios; a name given twice is an error. Raises InputError."""
    seen: set[str] = set()
    problems = []
    for scenario in scenarios:
        if scenario.name in seen:
            message = "is given twice"
            problems.append(Problem(f"scenario {scenario.name!r}", message, "name them apart"))
        seen.add(scenario.name)
    if problems:
        raise InputError(problems)
    return tuple(scenarios)
