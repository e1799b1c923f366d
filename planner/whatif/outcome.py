"""What planning a scenario came to: figures without the plan, small enough for a thousand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from planner.plan import Plan
from planner.terms import Shape, Terms, bottleneck, shape, tightest, used_chips

Status: TypeAlias = Literal["planned", "infeasible", "limit", "invalid", "failed"]
"""A plan; proven that there is none; none before a limit; inputs that contradict one another; a
bug, or a worker that was killed again and again."""

Counts: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of a plan, or the reason why there is none.

    ``lower_bound_s`` bounds the formula time of every plan of the declared space from below.
    ``used`` and ``fleet`` count chips by catalogue id; ``left_bytes`` is what the fullest device,
    one of ``tightest_chip``, keeps.
    """

    status: Status
    plan_id: str = ""
    step_time_s: float | None = None
    lower_bound_s: float | None = None
    objective_s: float | None = None
    tokens_per_step: int | None = None
    mfu: float | None = None
    terms: Terms | None = None
    shape: Shape | None = None
    used: Counts = ()
    fleet: Counts = ()
    tightest_chip: str = ""
    left_bytes: int | None = None
    reason: str = ""
    remedies: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens of the whole job per second."""
        if self.step_time_s is None or self.tokens_per_step is None:
            return None
        return self.tokens_per_step / self.step_time_s

    @property
    def most_tokens_per_s(self) -> float | None:
        """No plan of the declared space trains more tokens per second: proven."""
        if self.lower_bound_s is None or self.tokens_per_step is None or not self.lower_bound_s:
            return None
        return self.tokens_per_step / self.lower_bound_s

    @property
    def chips_used(self) -> int:
        """Chips that hold a stage."""
        return sum(n for _, n in self.used)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; :func:`outcome_from_json` reads it."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        value["terms"] = self.terms.as_json() if self.terms else None
        value["shape"] = self.shape.as_json() if self.shape else None
        value["used"], value["fleet"] = dict(self.used), dict(self.fleet)
        value["remedies"] = list(self.remedies)
        return value


def outcome_from_json(value: Mapping[str, Any]) -> Outcome:
    """The outcome of :meth:`Outcome.as_json`. TypeError, KeyError or ValueError if it is none."""
    data = dict(value)
    terms, form = data["terms"], data["shape"]
    data["terms"] = Terms(**terms) if terms else None
    if form:
        names = ("stages", "tensor_parallel", "rows", "recompute", "chunks")
        intervals = {k: tuple(form[k]) for k in names if k in form}
        data["shape"] = Shape(**{**form, **intervals})
    for name in ("used", "fleet"):
        data[name] = tuple((str(k), int(n)) for k, n in data[name].items())
    data["remedies"] = tuple(data["remedies"])
    return Outcome(**data)


def outcome_of(plan: Plan, fleet: Mapping[str, int]) -> Outcome:
    """The figures of a plan on a fleet of so many chips by kind."""
    tight = tightest(plan)
    certificate = plan.certificate
    return Outcome(
        status="planned",
        plan_id=plan.plan_id,
        step_time_s=plan.estimate.step_time_s,
        lower_bound_s=certificate.lower_bound_s if certificate else None,
        objective_s=certificate.objective_s if certificate else None,
        tokens_per_step=round(plan.estimate.tokens_per_s * plan.estimate.step_time_s),
        mfu=plan.estimate.mfu,
        terms=bottleneck(plan).terms,
        shape=shape(plan),
        used=tuple(used_chips(plan).items()),
        fleet=tuple(fleet.items()),
        tightest_chip=tight.chip,
        left_bytes=tight.left,
    )
