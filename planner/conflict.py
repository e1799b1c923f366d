"""The smallest set of a user's own rules that leaves no plan: a deletion filter.

Every rule of the job (a forbidden kind of chip, a pin, a limit, a technique left out) is dropped in
turn. Where what is left is still proven infeasible, the rule plays no part and stays dropped. What
remains is a set of which no rule can be spared: without any one of them the proof does not hold.
Only proofs count, never the fact that no plan was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.inputs.cluster import ClusterInput
from planner.inputs.job import JobInput, JobSpec
from planner.inputs.model import ModelInput
from planner.inputs.profile import ProfileInput
from planner.search.infeasible import nothing_fits
from planner.search.problem import Problem
from planner.search.regions import roots

if TYPE_CHECKING:
    from planner.solve import Context

Prepare = Callable[[ModelInput, ClusterInput, JobInput, ProfileInput | None], "Context"]

LIMITS = ("max_tensor_parallel", "max_pipeline_stages", "micro_batch_rows")
FORBIDDABLE = ("tensor_parallel", "recompute_selective", "recompute_full", "zero1")


@dataclass(frozen=True)
class Rule:
    """Something that the job asks for, in words, and the job without it."""

    text: str
    without: Callable[[JobSpec], JobSpec]


@dataclass(frozen=True)
class Conflict:
    """Rules that together leave no plan, and the problem without each of them in turn.

    No rules: nothing fits whatever the user asks for.
    """

    rules: tuple[Rule, ...]
    without: tuple[Context, ...]


def conflict_of(context: Context, prepare: Prepare) -> Conflict:
    """The conflict of a problem that is proven infeasible."""
    spec = context.job_input.spec
    kept = list(rules_of(spec, context))

    def less(dropped: Sequence[Rule]) -> Context:
        changed = spec
        for rule in dropped:
            changed = rule.without(changed)
        job = JobInput(context.job_input.name, context.job_input.source, changed)
        return prepare(context.model, context.cluster, job, context.profile_input)

    every, dropped = tuple(kept), list[Rule]()
    for rule in every:
        if impossible(less([*dropped, rule]).problem):
            dropped.append(rule)
            kept.remove(rule)
    return Conflict(tuple(kept), tuple(less([*dropped, rule]) for rule in kept))


def impossible(problem: Problem) -> bool:
    """Whether it is proven that nothing fits."""
    if not problem.tables.tables:
        return True
    return nothing_fits(problem, roots(problem), None, lambda: False)


def rules_of(spec: JobSpec, context: Context) -> Iterator[Rule]:
    """Everything in a job that rules plans out and that the user could take back."""
    constraints = context.job.constraints
    for n, name in enumerate(spec.forbidden_chips):
        yield Rule(f"forbidden_chips: {name}", _without_item("forbidden_chips", spec, n))
    for n, name in enumerate(spec.forbidden_nodes):
        yield Rule(f"forbidden_nodes: {name}", _without_item("forbidden_nodes", spec, n))
    for n, pin in enumerate(constraints.pinned_layers):
        text = f"pinned_layers[{n}]: {pin.describe()}"
        yield Rule(text, _without_item("pinned_layers", spec, n))
    for field in LIMITS:
        value = getattr(spec, field)
        if field in spec.model_fields_set and value is not None:
            shown = list(value) if isinstance(value, tuple) else value
            yield Rule(f"{field}: {shown}", _with(field, None))
    for name in FORBIDDABLE:
        if not getattr(spec.techniques, name):
            yield Rule(f"techniques.{name}: false", _allowing(name))


def _without_item(field: str, spec: JobSpec, at: int) -> Callable[[JobSpec], JobSpec]:
    item = getattr(spec, field)[at]
    return lambda job: _with(field, tuple(i for i in getattr(job, field) if i != item))(job)


def _with(field: str, value: object) -> Callable[[JobSpec], JobSpec]:
    return lambda job: JobSpec.model_validate({**job.model_dump(), field: value})


def _allowing(name: str) -> Callable[[JobSpec], JobSpec]:
    def change(job: JobSpec) -> JobSpec:
        data = job.model_dump()
        return JobSpec.model_validate({**data, "techniques": {**data["techniques"], name: True}})

    return change
