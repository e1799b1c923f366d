"""Whether the stages of an interleaved pipeline hold chunks that can take turns.

With S stages, stage s holds the chunks s, S + s, 2S + s, ... of the layers, as many as every other
stage, one layer or more each.
"""

from __future__ import annotations

from collections.abc import Iterator

from costmodels.interleaved import classic_depths, stuck_stage
from planner.plan import Pipeline

Found = tuple[tuple[str | int, ...], str, str]
"""Where in the pipeline, what is wrong, what to do."""


def chunk_problems(pipe: Pipeline, layers: int, model: str) -> Iterator[Found]:
    """What keeps a pipeline from being interleaved; the first kind of problem alone.

    ``layers`` is how many the model has, which problems call ``model``.
    """
    problems = list(_counts(pipe)) or list(_dealing(pipe, layers, model)) or list(_depths(pipe))
    yield from problems


def even_chunks(pipe: Pipeline) -> bool:
    """Whether every stage holds as many inner layers in each of its chunks, as the search deals.

    The first and the last layer of the model lie beside others.
    """
    layers = max(end for stage in pipe.stages for _, end in stage.parts)
    inner = [
        {min(end, layers - 1) - max(first, 1) for first, end in stage.parts}
        for stage in pipe.stages
    ]
    return all(len(lengths) == 1 for lengths in inner)


def _counts(pipe: Pipeline) -> Iterator[Found]:
    """A schedule, stages and numbers of chunks that go together."""
    counts = [len(stage.parts) for stage in pipe.stages]
    if pipe.schedule != "interleaved":
        message = f"{pipe.schedule} runs one chunk per stage, but stages hold several"
        yield ("schedule",), message, "write interleaved, or give every stage its layers in a row"
    elif len(pipe.stages) < 2:
        message = "one stage has nobody to take turns with"
        yield ("schedule",), message, "write 1f1b, without chunks"
    elif len(set(counts)) > 1:
        listed = ", ".join(map(str, counts))
        message = f"the stages hold {listed} chunks"
        yield ("stages",), message, "give every stage as many chunks"
    elif counts[0] < 2:
        message = "every stage holds one chunk"
        yield ("schedule",), message, "write 1f1b, or give every stage two chunks or more"


def _dealing(pipe: Pipeline, layers: int, model: str) -> Iterator[Found]:
    """Every layer once, the chunks dealt out in turn, and ``layers`` from end to end."""
    done = 0
    for c in range(len(pipe.stages[0].chunks)):
        for s, stage in enumerate(pipe.stages):
            first, end = stage.chunks[c]
            if first != done or end <= first:
                message = f"[{first}, {end}) does not follow layer {done - 1}"
                if not done:
                    message = f"[{first}, {end}) does not start at layer 0"
                remedy = (
                    f"[{done}, {max(end, done + 1)}]: chunks are dealt out in turn, one to every "
                    "stage, then again from the first"
                )
                yield ("stages", s, "chunks", c), message, remedy
                return
            done = end
    if done != layers:
        message = f"end at layer {done}, but {model} has {layers}"
        yield ("stages",), message, "cover every layer once"
    for s, stage in enumerate(pipe.stages):
        reach = (stage.chunks[0][0], stage.chunks[-1][1])
        if stage.layers != reach:
            message = f"[{stage.layers[0]}, {stage.layers[1]}), but the chunks reach from "
            message += f"{reach[0]} to {reach[1]}"
            yield ("stages", s, "layers"), message, f"[{reach[0]}, {reach[1]}]"


def _depths(pipe: Pipeline) -> Iterator[Found]:
    """Depths at which no stage waits for another forever."""
    stages, chunks = len(pipe.stages), len(pipe.stages[0].chunks)
    if pipe.micro_batches < 1:  # told elsewhere
        return
    enough = ", ".join(map(str, classic_depths(stages, chunks, pipe.micro_batches)))
    depths = [stage.in_flight for stage in pipe.stages]
    remedy = f"by stage, {enough} pairs of a chunk and a micro-batch are enough"
    low = [s for s, depth in enumerate(depths) if depth < 1]
    for s in low:
        yield ("stages", s, "in_flight"), f"{depths[s]} pairs in flight", remedy
    if low:
        return
    if stuck_stage(depths, chunks, pipe.micro_batches) is not None:
        message = f"with {', '.join(map(str, depths))} pairs in flight the schedule would deadlock"
        yield ("stages",), message, remedy
