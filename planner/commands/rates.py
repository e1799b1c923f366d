"""``--price`` and ``--power``: what chips cost and draw, over what the catalogue knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from planner.commands.options import repeatable
from planner.errors import InputError, Problem
from planner.scenario.apply import apply_all
from planner.scenario.changes import RateChange, SetPower, SetPrice
from planner.scenario.grammar import parse_change
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates, known_rates, with_rates

PriceOption = Annotated[
    list[str] | None,
    repeatable("--price", "CHIP=USD", "USD per chip and hour, over the catalogue's figure."),
]
PowerOption = Annotated[
    list[str] | None,
    repeatable(
        "--power", "CHIP=W", "Watts that a chip draws while training; by default its rated power."
    ),
]


def rate_changes(
    prices: Sequence[str] | None, powers: Sequence[str] | None
) -> tuple[RateChange, ...]:
    """The options as changes. Raises InputError with everything that is not CHIP=FIGURE."""
    found: list[RateChange] = []
    problems: list[Problem] = []
    for flag, texts in (("price", prices), ("power", powers)):
        for text in texts or ():
            try:
                change = parse_change(f"{flag} {text}")
            except InputError as error:
                where = f"--{flag} {text}"
                unreadable = Problem(where, "is not CHIP=FIGURE", f"--{flag} v100=0.8")
                told = [Problem(where, p.message, p.remedy) for p in error.problems]
                problems += told if "never 0" in str(error) else [unreadable]
                continue
            if isinstance(change, SetPrice | SetPower):
                found.append(change)
    if problems:
        raise InputError(problems)
    return tuple(found)


def rates_for(
    inputs: PlanInputs, prices: Sequence[str] | None, powers: Sequence[str] | None
) -> Rates:
    """The catalogue's figures for the cluster's chips, with the user's in their place."""
    changes = rate_changes(prices, powers)
    apply_all(inputs, changes)  # names of chips that are not there
    return with_rates(known_rates(inputs.cluster), inputs.cluster, changes)
