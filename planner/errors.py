"""Everything that can go wrong on purpose, and the exit code that it ends with.

    PlannerError
    ├── InputError        2  a file, a flag or a value is wrong (carries every Problem at once)
    ├── InfeasibleError   3  proven: no plan of the declared space fits (carries remedies)
    ├── NoPlanFound       4  a limit was reached before any plan was found
    ├── StalePlanError    5  a plan does not belong to these inputs
    ├── GateFailed        6  a plan exists but misses --max-step-time, --max-cost or --min-mfu
    ├── RunFailed         7  a process of a run died or was lost
    └── ExportError       2  a runtime cannot run this plan

Anything else that escapes is a bug of the planner and ends with exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it is, what the value was, and what to try."""

    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n    try: {self.remedy}" if self.remedy else text


class PlannerError(Exception):
    """Base of all errors that users can cause or meet."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, where: str = "", remedies: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedies = tuple(remedies)


class InputError(PlannerError):
    """Invalid input; holds all problems found, not only the first."""

    exit_code = 2
    code = "invalid_input"

    def __init__(self, problems: Sequence[Problem] | str, *, where: str = "") -> None:
        if isinstance(problems, str):
            problems = (Problem(where, problems),)
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(str(p) for p in self.problems),
            where=self.problems[0].where if self.problems else where,
            remedies=[p.remedy for p in self.problems if p.remedy],
        )


class InfeasibleError(PlannerError):
    """Proven: nothing in the declared space fits. ``remedies`` were each checked by solving."""

    exit_code = 3
    code = "infeasible"


class NoPlanFound(PlannerError):
    """A limit was reached before a first plan; says nothing about feasibility."""

    exit_code = 4
    code = "limit_reached"


class StalePlanError(PlannerError):
    """The plan was made for other inputs."""

    exit_code = 5
    code = "stale_plan"


class GateFailed(PlannerError):
    """The best plan misses a gate that the user set."""

    exit_code = 6
    code = "gate_failed"


class RunFailed(PlannerError):
    """A process of a training run died, or another one lost contact with it."""

    exit_code = 7
    code = "run_failed"


class ExportError(PlannerError):
    """A target runtime cannot run a feature of the plan; ``problems`` names every one."""

    exit_code = 2
    code = "export_refused"

    def __init__(
        self,
        message: str,
        *,
        where: str = "",
        remedies: Sequence[str] = (),
        problems: Sequence[Problem] = (),
    ) -> None:
        self.problems = tuple(problems)
        found = [p.remedy for p in self.problems if p.remedy]
        text = message or "; ".join(f"{p.where}: {p.message}" for p in self.problems)
        super().__init__(text, where=where, remedies=[*remedies, *dict.fromkeys(found)])
