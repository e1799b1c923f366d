"""The page that a person sees first: what was understood, the plan, what it is worth, and why."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from planner.plan import Plan
from planner.report.layout import layout
from planner.report.loading import loading
from planner.report.summary import baselines, bullets, figures, headline, leftovers, section


def plan_page(plan: Plan, *, details: bool = False) -> RenderableType:
    """Everything about a plan but what was understood of its inputs.

    ``details`` adds itemised memory and time per stage and the whole search space.
    """
    parts: list[RenderableType] = [
        headline(plan),
        Text(),
        layout(plan, details=details),
        Text(),
        Padding(figures(plan), (0, 0, 1, 2)),
    ]
    if plan.baselines:
        parts.append(section("Beside it", baselines(plan)))
    rest = leftovers(plan)
    if rest is not None:
        parts.append(rest)
    if plan.certificate is not None and details:
        space = plan.certificate.search_space
        parts.append(section("Searched", bullets(space.allowed)))
        if space.dropped:
            parts.append(section("Not searched", bullets(space.dropped)))
    if details:
        parts.append(section("Host memory while loading", bullets(loading(plan))))
    if plan.assumptions:
        parts.append(section("Assumed, not given", bullets(plan.assumptions, style="dim")))
    return Group(*parts)
