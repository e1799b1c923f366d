"""What the schedule makes of the stages' times: formula, recurrence, and what is held at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from costmodels import interleaved, schedules
from costmodels.price import LayerPrice
from planner.plan import Pipeline, Stage
from planner.verify.parts import is_interleaved

Times = Sequence[Sequence[int]]
"""Picoseconds by stage and chunk."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A pipeline's times in picoseconds; ``ends`` are those of every stage's last backward."""

    formula: int
    fill: int
    ends: tuple[int, ...]


def scheduled(
    pipeline: Pipeline, forward: Times, backward: Times, hops: Sequence[int]
) -> Scheduled:
    """The times of a pipeline whose depths do not deadlock."""
    depths = tuple(stage.in_flight for stage in pipeline.stages)
    m = pipeline.micro_batches
    each = [sum(own) for own in forward], [sum(own) for own in backward]
    if is_interleaved(pipeline):
        chunks = len(forward[0])
        return Scheduled(
            interleaved.formula_time(*each, hops, m, chunks),
            interleaved.fill_time(*each, hops, chunks),
            interleaved.exact_time(forward, backward, hops, depths, m).stage_last_backward_end,
        )
    return Scheduled(
        schedules.formula_time(*each, hops, m, depths, pipeline.schedule),
        schedules.fill(*each, hops),
        schedules.exact_time(pipeline.schedule, *each, hops, depths, m).stage_last_backward_end,
    )


def stuck_stage(pipeline: Pipeline) -> int | None:
    """The first stage of an interleaved pipeline that waits forever at these depths, if any."""
    depths = tuple(stage.in_flight for stage in pipeline.stages)
    return _stuck(depths, len(pipeline.stages[0].parts), pipeline.micro_batches)


@lru_cache(maxsize=1024)
def _stuck(depths: tuple[int, ...], chunks: int, micro_batches: int) -> int | None:
    return interleaved.stuck_stage(depths, chunks, micro_batches)


def in_flight(
    pipeline: Pipeline, stage: Stage, layers: Sequence[LayerPrice], policies: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Micro-batches that each layer holds when the stage's device, and its host, hold the most."""
    if not is_interleaved(pipeline):
        return [stage.in_flight] * len(layers), [stage.in_flight] * len(layers)
    lengths = [end - first for first, end in stage.parts]
    pairs = interleaved.sequences(pipeline.micro_batches, len(pipeline.stages), len(lengths))
    order = interleaved.alternate(*pairs, min(stage.in_flight, len(pairs[0])))
    found = []
    for bytes_ in (LayerPrice.kept, LayerPrice.on_host):
        each = iter([bytes_(layer, way) for layer, way in zip(layers, policies, strict=True)])
        most = interleaved.most_held(order, [sum(islice(each, n)) for n in lengths])
        found.append([count for count, n in zip(most, lengths, strict=True) for _ in range(n)])
    return found[0], found[1]
