"""Whether stages, or their chunks, hold every layer once, and run in an order that ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, zip_longest

from planner.errors import Problem
from planner.plan import Pipeline, Stage
from planner.restore import Restored
from planner.verify.parts import is_interleaved
from planner.verify.schedule import stuck_stage


def coverage_problems(pipeline: Pipeline, layers: int, where: str) -> Iterator[Problem]:
    """Whether the stages, or their chunks dealt out in turn, hold every layer once."""
    done = 0
    rounds = zip_longest(*(stage.parts for stage in pipeline.stages))
    dealt = [(s, c, part) for c, own in enumerate(rounds) for s, part in enumerate(own) if part]
    for s, c, (first, end) in dealt:
        at = f"{where}.stages[{s}].layers"
        if pipeline.stages[s].chunks:
            at = f"{where}.stages[{s}].chunks[{c}]"
        if first >= end:
            yield Problem(at, f"[{first}, {end}) holds no layer")
        if first > done:
            yield Problem(at, f"layers {done} to {first - 1} are on no stage")
        elif first < done:
            yield Problem(at, f"begins at layer {first}, but the stages before it end at {done}")
        done = end
    if done != layers:
        yield Problem(f"{where}.stages", f"end at layer {done}, but the model has {layers} layers")


def chunk_problems(pipeline: Pipeline, where: str) -> Iterator[Problem]:
    """Whether stages have chunks where the schedule runs them, all of them as many."""
    counts = {len(stage.chunks) for stage in pipeline.stages} or {0}
    if is_interleaved(pipeline):
        if len(pipeline.stages) < 2:
            yield Problem(f"{where}.stages", "one stage alone has nothing to interleave with")
        if len(counts) > 1:
            message = f"hold {' and '.join(map(str, sorted(counts)))} chunks, not all as many"
            yield Problem(f"{where}.stages", message)
        elif max(counts) < 2:
            message = "is interleaved, but no stage holds more than one chunk"
            yield Problem(f"{where}.schedule", message, "write 1f1b")
    elif counts != {0}:
        message = f"{pipeline.schedule} runs one interval of layers per stage, not chunks"
        yield Problem(f"{where}.schedule", message, "write interleaved")
    for s, stage in enumerate(pipeline.stages):
        at = f"{where}.stages[{s}]"
        reach = (stage.parts[0][0], stage.parts[-1][1])
        if stage.layers != reach:
            message = f"{list(stage.layers)} is not where the stage's chunks begin and end"
            yield Problem(f"{at}.layers", message)
        for r, replica in enumerate(stage.replicas):
            if len(replica.chunk_time_s) != len(stage.chunks):
                message = f"{len(replica.chunk_time_s)} times for {len(stage.chunks)} chunks"
                yield Problem(f"{at}.replicas[{r}].chunk_time_s", message)


def depth_problems(pipeline: Pipeline, where: str) -> Iterator[Problem]:
    """Whether every stage gets what it waits for, and knows where it sends to."""
    m = pipeline.micro_batches
    if m < 1:
        yield Problem(f"{where}.micro_batches", f"{m} micro-batches: at least 1 is needed")
        return
    for s, stage in enumerate(pipeline.stages):
        at = f"{where}.stages[{s}].in_flight"
        depth = stage.in_flight
        if depth < 1:
            yield Problem(at, f"in_flight is {depth}: at least 1 is needed")
        if pipeline.schedule == "gpipe" and depth < m:
            yield Problem(at, f"GPipe holds all {m} micro-batches, in_flight says {depth}")
    yield from _deadlock(pipeline, where)
    for s, stage in enumerate(pipeline.stages):
        last = s == len(pipeline.stages) - 1 and not is_interleaved(pipeline)
        at = f"{where}.stages[{s}].hop_to_next_s"
        if (stage.hop_to_next_s is None) != last:
            what = "the last stage has no next stage" if last else "is missing"
            yield Problem(at, what)


def _deadlock(pipeline: Pipeline, where: str) -> Iterator[Problem]:
    """Whether the stages wait for one another forever."""
    m = pipeline.micro_batches
    depths = [stage.in_flight for stage in pipeline.stages]
    if not is_interleaved(pipeline):
        for s, (before, depth) in enumerate(pairwise(depths), start=1):
            if min(depth, m) > min(before, m):
                message = f"waits for {depth} micro-batches where stage {s - 1} holds {before}"
                at = f"{where}.stages[{s}].in_flight"
                yield Problem(at, f"{message}: the schedule deadlocks")
        return
    chunks = {len(stage.chunks) for stage in pipeline.stages}
    if len(chunks) != 1 or min(depths) < 1:
        return  # said elsewhere
    stuck = stuck_stage(pipeline)
    if stuck is not None:
        message = f"the schedule deadlocks with depths {', '.join(map(str, depths))}"
        yield Problem(f"{where}.stages[{stuck}].in_flight", message)


def recompute_problems(stage: Stage, world: Restored, at: str) -> Iterator[Problem]:
    """Whether every layer of a stage has one policy, which the job allows."""
    job = world.job
    allowed = {"none": True, "selective": job.recompute_selective, "full": job.recompute_full}
    allowed["offload"] = job.recompute_selective and job.activation_offload
    allowed["full_offload"] = job.recompute_full and job.activation_offload
    unsaid = list(stage.parts)
    for part in stage.recompute:
        done, end = unsaid[0] if unsaid else (stage.layers[1], stage.layers[1])
        if part.layers[0] != done or part.layers[1] <= part.layers[0]:
            yield Problem(f"{at}.recompute", f"does not cover layers from {done} on once")
            return
        if not allowed[part.policy]:
            what = "recomputation is" if part.policy in ("selective", "full") else "is"
            yield Problem(f"{at}.recompute", f"{part.policy} {what} not allowed here")
        unsaid[:1] = [] if part.layers[1] == end else [(part.layers[1], end)]
    if unsaid and unsaid[0][0] != unsaid[0][1]:
        done, end = unsaid[0]
        yield Problem(f"{at}.recompute", f"ends at layer {done}, the stage at {end}")
