"""Which layers a stage holds: one interval, or under the interleaved schedule several chunks."""

from __future__ import annotations

from planner.plan import Pipeline, Stage


def held(stage: Stage, layers: int) -> tuple[int, ...]:
    """Every layer of the stage in order of execution; those that the model has of so many."""
    spans = [range(max(0, first), min(layers, end)) for first, end in stage.parts]
    return tuple(layer for span in spans for layer in span)


def is_interleaved(pipeline: Pipeline) -> bool:
    """Whether its stages run several chunks each."""
    return pipeline.schedule == "interleaved"
