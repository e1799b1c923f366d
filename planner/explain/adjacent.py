"""What the neighbours of a plan would cost: every decision changed by itself and priced.

Nothing is searched: each neighbour keeps the plan's chips, and what is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from costmodels.price import POLICIES, WAYS, hosted
from planner.errors import InputError
from planner.estimate import Estimated, PlanLayout, Shortfall, estimate_sketch, sketch_of
from planner.estimate.sketch import Sketch
from planner.explain import edits
from planner.inputs.job import ResolvedJob
from planner.meshes import mesh_problem
from planner.options import tensor_parallel_problem, way_allowed
from planner.plan import Plan
from planner.solve import Context
from planner.terms import Terms, bottleneck

Dimension = Literal["tensor_parallel", "pipeline", "recompute", "micro_batch_rows", "zero", "split"]
Verdict = Literal["slower", "faster", "equal", "does not fit", "impossible"]

EQUAL = 5e-4
"""Relative differences below this are called equal."""


@dataclass(frozen=True)
class Neighbour:
    """One decision changed, priced also where it does not fit; "impossible" has no plan."""

    dimension: Dimension
    change: str
    verdict: Verdict
    step_time_s: float | None = None
    terms: Terms | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    reason: str = ""
    plan: Plan | None = None


def neighbours(context: Context, plan: Plan) -> tuple[Neighbour, ...]:
    """All neighbours of a plan, decision by decision."""
    sketch = edits.free_depths(sketch_of(context, PlanLayout(plan.plan_id[:12], "", plan)))
    return tuple(
        _priced(context, plan, sketch, dimension, change, edit)
        for dimension, change, edit in _edits(plan, context.job)
    )


Edit = Callable[[Sketch], Sketch | edits.Impossible]


def _edits(plan: Plan, job: ResolvedJob) -> Iterator[tuple[Dimension, str, Edit]]:
    """The decisions to change, in the order of a report."""
    yield "tensor_parallel", "half the tensor parallelism, twice the pipelines", edits.narrower
    yield "tensor_parallel", "twice the tensor parallelism, half the pipelines", edits.wider
    yield "pipeline", "half the stages, twice the pipelines", edits.shallower
    yield "pipeline", "twice the stages, half the pipelines", edits.deeper
    if any(p.schedule == "interleaved" for p in plan.pipelines):
        yield "pipeline", "one chunk of layers per stage (1f1b)", edits.in_a_row
    elif job.interleaved and max(len(p.stages) for p in plan.pipelines) > 1:
        yield "pipeline", "two chunks of layers per stage, interleaved", edits.in_two_chunks
    yield "micro_batch_rows", "micro-batches of half the rows", edits.with_micro_batch(0.5)
    yield "micro_batch_rows", "micro-batches of twice the rows", edits.with_micro_batch(2)
    for policy, name in enumerate(WAYS if job.activation_offload else POLICIES):
        yield "recompute", f"recompute {name} everywhere", edits.recomputing(policy)
    for level in (0, 1):
        yield "zero", f"ZeRO level {level}", edits.with_zero(level)
    slow = bottleneck(plan)
    for step, side in ((-1, "the stage before"), (1, "the next stage")):
        text = f"one layer from the bottleneck to {side}"
        yield "split", text, edits.shifted(slow.pipeline, slow.stage, step)


def _priced(
    context: Context, plan: Plan, sketch: Sketch, dimension: Dimension, change: str, edit: Edit
) -> Neighbour:
    changed = edit(sketch)
    if isinstance(changed, edits.Impossible):
        return Neighbour(dimension, change, "impossible", reason=changed.reason)
    against = against_the_job(context, changed)
    if against is not None:
        return Neighbour(dimension, change, "impossible", reason=against)
    found = price(context, changed)
    if isinstance(found, str):
        return Neighbour(dimension, change, "impossible", reason=found)
    unpinned = off_its_pins(context, found.plan)
    if unpinned is not None:
        return Neighbour(dimension, change, "impossible", reason=unpinned)
    own, other = plan.estimate.step_time_s, found.plan.estimate.step_time_s
    verdict: Verdict = "does not fit"
    if found.fits:
        verdict = compared(own, other)
    return Neighbour(
        dimension,
        change,
        verdict,
        step_time_s=other,
        terms=bottleneck(found.plan).terms,
        shortfalls=found.shortfalls,
        plan=found.plan,
    )


def compared(own_s: float, other_s: float) -> Literal["slower", "faster", "equal"]:
    """How another step time stands to one's own."""
    if abs(other_s / own_s - 1) <= EQUAL:
        return "equal"
    return "slower" if other_s > own_s else "faster"


def against_the_job(context: Context, sketch: Sketch) -> str | None:
    """What of a sketch the job rules out; None where it could have been searched."""
    job = context.job
    stages = [s for p in sketch.pipelines for s in p.stages]
    policies = {policy for s in stages for policy in s.policies}
    allowed = (*job.micro_batch_rows, *job.cross_node_rows)
    rows = sorted({p.rows for p in sketch.pipelines} - set(allowed))
    deepest = max(len(p.stages) for p in sketch.pipelines)
    broken = (
        (bool(rows), f"the job allows {_listed(allowed)} rows per micro-batch"),
        (not job.recompute_selective and 1 in policies, "the job forbids recompute_selective"),
        (not job.recompute_full and 2 in policies, "the job forbids recompute_full"),
        (
            any(hosted(p) and not way_allowed(WAYS[p], job) for p in policies),
            "the job forbids activation_offload, or the recomputation that goes with it",
        ),
        (
            any(p.schedule == "interleaved" for p in sketch.pipelines) and not job.interleaved,
            "the job forbids interleaved",
        ),
        (not job.zero1 and sketch.zero_level == 1, "the job forbids zero1"),
        (
            not job.tensor_parallel and any(s.degrees.tp > 1 for s in stages),
            "the job forbids tensor_parallel",
        ),
        (
            job.max_pipeline_stages is not None and deepest > job.max_pipeline_stages,
            f"the job allows {job.max_pipeline_stages} stages",
        ),
        (
            job.max_tensor_parallel is not None
            and any(s.degrees.tp > job.max_tensor_parallel for s in stages),
            f"the job allows tp up to {job.max_tensor_parallel}",
        ),
    )
    return next((reason for is_broken, reason in broken if is_broken), None)


def off_its_pins(context: Context, plan: Plan) -> str | None:
    """The pin of the job that a priced layout does not obey; None where there is none."""
    for pin in context.job.constraints.pinned_layers:
        for stage in (s for p in plan.pipelines for s in p.stages):
            held = any(first < pin.end and end > pin.first for first, end in stage.parts)
            if held and not all(pin.allows(r.chip) for r in stage.replicas):
                return f"the job wants {pin.describe()}"
    return None


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def price(context: Context, sketch: Sketch) -> Estimated | str:
    """The price of a sketch, or the rule that it breaks."""
    model, job = context.model.graph, context.job
    ways = {(s.degrees, p.rows) for p in sketch.pipelines for s in p.stages}
    for mesh, rows in sorted(ways):
        problem = tensor_parallel_problem(model, mesh.tp, job.seq_len, job.sequence_parallel)
        if problem is not None:
            return f"tp {mesh.tp}: {problem}"
        _, problem = mesh_problem(model, mesh, rows, job)
        if problem is not None:
            return f"{mesh.describe()}: {problem}"
    try:
        return estimate_sketch(context, sketch)
    except InputError as error:
        return "; ".join(p.message for p in error.problems)
