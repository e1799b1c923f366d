"""Why a plan is as it is, and why it is not otherwise.

``explain(plan)`` names the bottleneck, the binding memory, what every neighbouring decision would
cost and, on request, what each kind of chip is worth at the margin. ``why_not`` answers a wish:
illegal (which rule, what is legal), does not fit (how much is missing where), or slower (by how
much, through which term).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from planner.callable_module import make_callable

_PUBLIC = {
    "Ask": "planner.explain.explanation",
    "Explanation": "planner.explain.explanation",
    "Margin": "planner.explain.marginal",
    "Neighbour": "planner.explain.adjacent",
    "StageLoad": "planner.explain.explanation",
    "WhyNot": "planner.explain.answers",
    "Wish": "planner.explain.wish",
    "explain": "planner.explain.explanation",
    "margins": "planner.explain.marginal",
    "neighbours": "planner.explain.adjacent",
    "parse_wish": "planner.explain.wish",
    "why_not": "planner.explain.answers",
}

if TYPE_CHECKING:
    from planner.explain.adjacent import Neighbour, neighbours
    from planner.explain.answers import WhyNot, why_not
    from planner.explain.explanation import Ask, Explanation, StageLoad, explain
    from planner.explain.marginal import Margin, margins
    from planner.explain.wish import Wish, parse_wish

__all__ = [
    "Ask",
    "Explanation",
    "Margin",
    "Neighbour",
    "StageLoad",
    "WhyNot",
    "Wish",
    "explain",
    "margins",
    "neighbours",
    "parse_wish",
    "why_not",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'planner.explain' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _explain(*args: object, **kwargs: object) -> object:
    """Load and call the function: ``planner.explain(plan)``."""
    function = import_module("planner.explain.explanation").explain
    return function(*args, **kwargs)


make_callable(__name__, _explain)
