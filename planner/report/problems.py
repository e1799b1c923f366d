"""What went wrong, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from planner.errors import ExportError, InputError, PlannerError, Problem

TITLES = {
    "invalid_input": "invalid input",
    "infeasible": "proven infeasible",
    "limit_reached": "no plan found",
    "stale_plan": "stale plan",
    "gate_failed": "gate failed",
    "export_refused": "export refused",
    "run_failed": "run failed",
}


def failure(error: PlannerError) -> RenderableType:
    """The error as text: what, where, and what to try."""
    if isinstance(error, InputError):
        return problem_list(error.problems)
    parts: list[RenderableType] = [_title(TITLES.get(error.code, "error"), error.where)]
    if isinstance(error, ExportError) and error.problems:
        return Group(*parts, problem_list(error.problems))
    parts.append(Padding(Text(error.message), (0, 0, 0, 2)))
    parts += [_remedy(remedy) for remedy in error.remedies]
    return Group(*parts)


def problem_list(problems: Sequence[Problem]) -> RenderableType:
    """Every problem with its place and its remedy, then how many there are."""
    parts: list[RenderableType] = []
    for problem in problems:
        parts.append(
            Text.assemble(
                ("error: ", "bold red"),
                (f"{problem.where}: " if problem.where else "", "bold"),
                problem.message,
            )
        )
        if problem.remedy:
            parts.append(_remedy(problem.remedy))
    if len(problems) > 1:
        parts.append(Text(f"{len(problems)} problems", style="dim"))
    return Group(*parts)


def error_object(error: PlannerError) -> dict[str, object]:
    """The same as a JSON value; invalid input lists its ``problems`` beside the four fields."""
    body: dict[str, object] = {
        "code": error.code,
        "message": error.message,
        "where": error.where,
        "remedies": list(error.remedies),
    }
    if isinstance(error, InputError):
        body["message"] = "; ".join(p.message for p in error.problems)
    if isinstance(error, InputError | ExportError) and error.problems:
        body["problems"] = [problem_object(p) for p in error.problems]
    return {"error": body}


def problem_object(problem: Problem) -> dict[str, str]:
    """One problem as a JSON value."""
    return {"where": problem.where, "message": problem.message, "remedy": problem.remedy}


def _title(title: str, where: str) -> Text:
    text = Text(title, style="bold red")
    if where:
        text.append(f" {where}", style="bold")
    return text


def _remedy(remedy: str) -> RenderableType:
    return Padding(Text.assemble(("try: ", "cyan"), remedy), (0, 0, 0, 4))
