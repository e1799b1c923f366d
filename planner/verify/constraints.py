"""Whether a plan obeys what its job rules out: chips, nodes, pinned layers, degrees, its class."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from planner.errors import Problem
from planner.plan import Plan, Replica, Stage
from planner.restore import Restored
from planner.verify.parts import is_interleaved

CLASSES = ("rectangular", "staged", "asymmetric")
"""Plan classes, each with those before it."""


def constraint_problems(plan: Plan, world: Restored) -> Iterator[Problem]:
    """Every limit and pin of the job that the plan breaks.

    A layout that was given and only priced may be deeper or more general than its job asks for;
    a plan that claims to be the answer to the job may not.
    """
    job = world.job
    if plan.certificate is not None:
        yield from _claims(plan, world)
    for p, pipeline in enumerate(plan.pipelines):
        for s, stage in enumerate(pipeline.stages):
            for r, replica in enumerate(stage.replicas):
                at = f"pipelines[{p}].stages[{s}].replicas[{r}]"
                yield from _replica(stage, replica, world, at)
                tp, limit = replica.mesh.tensor_parallel, job.max_tensor_parallel
                if limit is not None and tp > limit:
                    yield Problem(f"{at}.mesh", f"tp {tp}, but the job allows {limit} at most")


def _claims(plan: Plan, world: Restored) -> Iterator[Problem]:
    limit = world.job.max_pipeline_stages
    for p, pipeline in enumerate(plan.pipelines):
        count = len(pipeline.stages)
        if limit is not None and count > limit:
            message = f"has {count} stages, but the job allows {limit}"
            yield Problem(f"pipelines[{p}].stages", message)
        if is_interleaved(pipeline) and not world.job.interleaved:
            remedy = "plan with --set job.techniques.interleaved=true"
            message = "stages of several chunks are not allowed by the job"
            yield Problem(f"pipelines[{p}].schedule", message, remedy)
    wanted = world.job.plan_class
    if wanted == "asymmetric" and not world.job.unequal_pipelines:
        wanted = "staged"
    if wanted in CLASSES and CLASSES.index(plan.plan_class) > CLASSES.index(wanted):
        yield Problem("plan_class", f"is {plan.plan_class}, but the job asks for {wanted}")


def _replica(stage: Stage, replica: Replica, world: Restored, at: str) -> Iterator[Problem]:
    for device in replica.devices:
        if device in world.forbidden:
            field = world.forbidden[device]
            yield Problem(f"{at}.devices", f"{device} is ruled out by the job ({field})")
            break
    for pin, (first, end) in product(world.job.constraints.pinned_layers, stage.parts):
        overlap = max(first, pin.first), min(end, pin.end)
        legal = replica.chip in pin.only_on if pin.only_on else replica.chip not in pin.never_on
        if overlap[0] < overlap[1] and not legal:
            message = f"layers {overlap[0]} to {overlap[1] - 1} lie on {replica.chip}, but the job"
            yield Problem(f"{at}.chip", f"{message} wants {pin.describe()}")
