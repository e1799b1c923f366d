"""A plan's layout priced on changed inputs, without a search: what it costs as it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.errors import InputError
from planner.estimate import PlanLayout, estimate_sketch, sketch_of
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs
from planner.solve import prepare
from planner.terms import Terms, bottleneck


@dataclass(frozen=True, slots=True)
class Kept:
    """A plan kept on other inputs. ``fits`` is False where a chip is too small for it there."""

    step_time_s: float
    fits: bool
    terms: Terms
    tokens_per_s: float


def kept(plan: Plan, inputs: PlanInputs, *, free_depths: bool = True) -> Kept | None:
    """The price of the plan's layout; None where the inputs do not allow it.

    ``free_depths`` lets stages hold as many micro-batches in flight as the depth rule asks for
    now, within memory: hops change with links.
    """
    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    try:
        sketch = sketch_of(context, PlanLayout(plan.plan_id[:12], "", plan))
        if free_depths:
            pipelines = tuple(
                replace(p, stages=tuple(replace(s, in_flight=None) for s in p.stages))
                for p in sketch.pipelines
            )
            sketch = replace(sketch, pipelines=pipelines)
        found = estimate_sketch(context, sketch)
    except InputError:
        return None
    return Kept(
        found.plan.estimate.step_time_s,
        found.fits,
        bottleneck(found.plan).terms,
        found.plan.estimate.tokens_per_s,
    )
