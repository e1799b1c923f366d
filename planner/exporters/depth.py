"""What it costs that a stock 1F1B keeps fewer micro-batches in flight than the plan."""

from __future__ import annotations

from collections.abc import Iterator

from costmodels import interleaved
from costmodels.interleaved import classic_depths
from costmodels.schedules import exact_time
from costmodels.units import PS_PER_S
from planner.exporters.capability import Capability
from planner.exporters.view import View
from planner.plan import Pipeline


def depth_difference(capability: Capability, view: View) -> Iterator[str]:
    """One sentence with the step time at the target's own depth, where that depth differs."""
    if capability.keeps_depth:
        return
    changed = [p for p in view.plan.pipelines if p.schedule != "gpipe" and deeper(p)]
    if not changed:
        return
    first = changed[0]
    planned = ", ".join(str(s.in_flight) for s in first.stages)
    own = ", ".join(str(d) for d in own_depths(first))
    slower = max(exact_s(p, own_depths(p)) - exact_s(p, planned_depths(p)) for p in changed)
    now = view.plan.estimate.step_time_s
    time = "the step time stays the same"
    if slower > 0:
        time = f"the step takes about {now + slower:.4g} s instead of {now:.4g} s"
    pairs = "pairs of a chunk and a micro-batch" if first.stages[0].chunks else "micro-batches"
    yield (
        f"the target's 1F1B holds {own} {pairs} in flight by stage, the plan {planned}: "
        f"less memory, and {time}"
    )


def deeper(pipeline: Pipeline) -> bool:
    """Whether the plan keeps more in flight than a stock runtime."""
    return planned_depths(pipeline) != own_depths(pipeline)


def own_depths(pipeline: Pipeline) -> tuple[int, ...]:
    """What a stock 1F1B keeps in flight: stages - stage, or the pairs of interleaved 1F1B."""
    stages, m = len(pipeline.stages), pipeline.micro_batches
    chunks = len(pipeline.stages[0].parts)
    return tuple(min(depth, m * chunks) for depth in classic_depths(stages, chunks, m))


def planned_depths(pipeline: Pipeline) -> tuple[int, ...]:
    """What the plan keeps in flight, at most all micro-batches, or all their pairs."""
    m = pipeline.micro_batches
    return tuple(min(s.in_flight, m * len(s.parts)) for s in pipeline.stages)


def exact_s(pipeline: Pipeline, depths: tuple[int, ...]) -> float:
    """Seconds of the pipeline's schedule at these depths, by its exact recurrence."""
    m = pipeline.micro_batches
    hops = [round((s.hop_to_next_s or 0.0) * PS_PER_S) for s in pipeline.stages]
    if pipeline.schedule == "interleaved":
        each = [stage.replicas[0].chunk_time_s for stage in pipeline.stages]
        ahead = [[round(there * PS_PER_S) for there, _ in own] for own in each]
        back = [[round(again * PS_PER_S) for _, again in own] for own in each]
        return interleaved.exact_time(ahead, back, hops, depths, m).total / PS_PER_S
    times = [stage.replicas[0].time_s for stage in pipeline.stages]
    forward = [round(t.forward_total * PS_PER_S) for t in times]
    backward = [round(t.backward_total * PS_PER_S) for t in times]
    return exact_time("1f1b", forward, backward, hops[:-1], depths, m).total / PS_PER_S
