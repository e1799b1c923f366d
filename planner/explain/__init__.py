"""Why a plan is as it is, and why it is not otherwise.

``explain(plan)`` names the bottleneck, the binding memory, what every neighbouring decision would
cost and, on request, what each kind of chip is worth at the margin. ``why_not`` answers a wish:
illegal (which rule, what is legal), does not fit (how much is missing where), or slower (by how
much, through which term).
"""

from __future__ import annotations

from planner.explain.explanation import Ask, Explanation, StageLoad, explain
from planner.explain.margins import Margin, margins
from planner.explain.neighbours import Neighbour, neighbours
from planner.explain.why_not import WhyNot, why_not
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
