"""What every stage does next, and whether the stages wait for one another forever.

A pipeline's chunks are its intervals of layers in the order of the layers. Stage s of S holds the
chunks s, S + s, 2S + s, ... (only the first without interleaving). An operation names the chunk by
its number on the stage.
"""

from __future__ import annotations

from costmodels.interleaved import Order, classic_depths, orders, stuck_stage
from planner.errors import InputError, Problem
from planner.plan import Pipeline, Stage


def pipeline_orders(pipeline: Pipeline, where: str = "pipeline") -> tuple[Order, ...]:
    """Operations of every stage.

    A stage starts as many forwards as its depth allows, then alternates one backward and one
    forward, then drains: 1F1B; with the depth of all forwards, GPipe. Interleaved stages take
    micro-batches in groups of at least S, each group through all of the stage's chunks before the
    next one (Narayanan et al. 2021, section 2.2; groups are as equal as they can be). There
    ``in_flight`` counts (chunk, micro-batch) pairs.

    Raises InputError for chunks that are not dealt out in turn, and for depths at which the stages
    wait for one another.
    """
    problems = list(_problems(pipeline, where))
    if problems:
        raise InputError(problems)
    count, per_stage = len(pipeline.stages), len(pipeline.stages[0].parts)
    depths = [_depth(pipeline, stage) for stage in pipeline.stages]
    stuck = stuck_stage(depths, per_stage, pipeline.micro_batches)
    if stuck is not None:
        given = ", ".join(str(stage.in_flight) for stage in pipeline.stages)
        message = f"the schedule deadlocks at stage {stuck} with depths {given}"
        enough = classic_depths(count, per_stage, pipeline.micro_batches)
        remedy = f"{', '.join(map(str, enough))} are enough"
        raise InputError([Problem(f"{where}.stages[{stuck}].in_flight", message, remedy)])
    return orders(depths, per_stage, pipeline.micro_batches)


def _problems(pipeline: Pipeline, where: str) -> list[Problem]:
    found = []
    chunks = [stage.parts for stage in pipeline.stages]
    counts = {len(c) for c in chunks}
    interleaved = pipeline.schedule == "interleaved"
    if not interleaved and counts != {1}:
        message = f"{pipeline.schedule} runs one chunk per stage, the stages hold several"
        found.append(Problem(f"{where}.schedule", message, "write schedule interleaved"))
    if len(counts) > 1:
        message = f"the stages hold {' and '.join(map(str, sorted(counts)))} chunks"
        found.append(Problem(f"{where}.stages", message, "give every stage as many"))
        return found
    dealt = [stage[v] for v in range(counts.pop()) for stage in chunks]
    done = 0
    for first, end in dealt:
        if first != done or end <= first:
            message = f"chunk [{first}, {end}) does not follow layer {done - 1}"
            remedy = "deal the chunks out in turn: one to every stage, then again from the first"
            found.append(Problem(f"{where}.stages", message, remedy))
            break
        done = end
    return found


def _depth(pipeline: Pipeline, stage: Stage) -> int:
    total = pipeline.micro_batches * len(stage.parts)
    return total if pipeline.schedule == "gpipe" else min(stage.in_flight, total)
