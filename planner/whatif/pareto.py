"""Which points nobody beats in everything: time, money, energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.whatif.money import Costs
from planner.whatif.outcome import Outcome

Goal = Literal["time", "cost", "energy"]

GOALS: dict[Goal, Callable[[Outcome, Costs], float | None]] = {
    "time": lambda outcome, _: 1 / outcome.tokens_per_s if outcome.tokens_per_s else None,
    "cost": lambda _, costs: costs.usd_per_million_tokens,
    "energy": lambda _, costs: costs.kwh_per_million_tokens,
}
"""What is minimised: seconds, USD and kWh for the same number of tokens."""


@dataclass(frozen=True, slots=True)
class Front:
    """Numbers of the points that are on the front, and of those that could not be judged."""

    goals: tuple[Goal, ...]
    best: tuple[int, ...]
    unknown: tuple[int, ...]


def pareto_front(
    points: Sequence[tuple[Outcome | None, Costs]], goals: Sequence[Goal] = ("time", "cost")
) -> Front:
    """The points that no other point beats in one goal without losing in another.

    A point without a plan, or with an unknown figure in one of the goals, is not judged. Points
    that are equal in all goals are all on the front.
    """
    figures: dict[int, tuple[float, ...]] = {}
    unknown = []
    for number, (outcome, costs) in enumerate(points):
        values = [GOALS[g](outcome, costs) if outcome is not None else None for g in goals]
        known = tuple(v for v in values if v is not None)
        if len(known) == len(goals):
            figures[number] = known
        else:
            unknown.append(number)
    best = [n for n, own in figures.items() if not any(_beats(o, own) for o in figures.values())]
    return Front(tuple(goals), tuple(sorted(best, key=lambda n: figures[n])), tuple(unknown))


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
