"""Orders of operations of 1F1B, GPipe and interleaved stages."""

from __future__ import annotations

import pytest

from costmodels import interleaved
from costmodels.schedules import stage_order
from planner.errors import InputError
from planner.plan import Pipeline
from planner.runtime.orders import classic_depths, pipeline_orders
from tests.chunked_plans import chunked_plan
from tests.runtime.run_plans import P, S, run_plan


def pipeline(sketch: P, layers: int = 8) -> Pipeline:
    return run_plan([sketch], [f"layer{k}" for k in range(layers)]).pipelines[0]


def text(order: tuple[object, ...]) -> str:
    """``F0.1`` is the forward of micro-batch 1 through chunk 0."""
    return " ".join(f"{op.kind}{op.chunk}.{op.micro_batch}" for op in order)  # type: ignore[attr-defined]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_orders_are_those_that_the_planner_prices(schedule: str) -> None:
    """The runtime and the recurrence must run the same operations in the same order."""
    pipe = pipeline(P([S((0, 3), in_flight=3), S((3, 8))], 5, schedule=schedule))
    for stage, order in zip(pipe.stages, pipeline_orders(pipe)):
        assert [(op.kind, op.micro_batch) for op in order] == list(
            stage_order(pipe.schedule, stage.in_flight, 5)
        )


def test_interleaved_takes_groups_through_all_chunks() -> None:
    """Two stages of two chunks, four micro-batches, on the last stage with depth 3."""
    stages = [
        S((0, 6), chunks=((0, 2), (4, 6)), in_flight=5),
        S((2, 8), chunks=((2, 4), (6, 8)), in_flight=3),
    ]
    orders = pipeline_orders(pipeline(P(stages, 4, schedule="interleaved")))
    assert text(orders[1]) == (
        "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3"
    )


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("micro_batches", [1, 2, 5, 7, 8, 9, 11])
def test_classic_depths_never_deadlock(stages: int, chunks: int, micro_batches: int) -> None:
    """Also where the micro-batches are no multiple of the stages."""
    depths = classic_depths(stages, chunks, micro_batches)
    sketches = []
    for s in range(stages):
        own = tuple((v * stages + s, v * stages + s + 1) for v in range(chunks))
        hull = (own[0][0], own[-1][1])
        sketches.append(S(hull, chunks=own if chunks > 1 else (), in_flight=depths[s]))
    schedule = "interleaved" if chunks > 1 else "1f1b"
    pipe = pipeline(P(sketches, micro_batches, schedule=schedule), stages * chunks)
    for order in pipeline_orders(pipe):
        assert len(order) == 2 * chunks * micro_batches


def test_refuses_depths_at_which_the_stages_wait_forever() -> None:
    """The first stage may hold one micro-batch, the second wants three before it gives one back."""
    pipe = pipeline(P([S((0, 3), in_flight=1), S((3, 8), in_flight=3)], 4))
    with pytest.raises(InputError, match="deadlocks at stage 0"):
        pipeline_orders(pipe)


def test_refuses_chunks_that_are_not_dealt_out_in_turn() -> None:
    """Both middle chunks on one stage would need another order."""
    stages = [
        S((0, 8), chunks=((0, 2), (6, 8)), in_flight=5),
        S((2, 6), chunks=((2, 4), (4, 6)), in_flight=3),
    ]
    with pytest.raises(InputError, match="does not follow"):
        pipeline_orders(pipeline(P(stages, 4, schedule="interleaved")))


def test_refuses_several_chunks_without_the_schedule_for_them() -> None:
    """1F1B has one chunk per stage."""
    stages = [S((0, 6), chunks=((0, 2), (4, 6))), S((2, 8), chunks=((2, 4), (6, 8)))]
    with pytest.raises(InputError, match="write schedule interleaved"):
        pipeline_orders(pipeline(P(stages, 4)))


def test_a_priced_plan_runs_in_the_order_that_it_was_priced_in() -> None:
    """Depths as the pricing chose them, chunks as it dealt them out."""
    for priced in chunked_plan().pipelines:
        depths = [stage.in_flight for stage in priced.stages]
        assert pipeline_orders(priced) == interleaved.orders(depths, 2, priced.micro_batches)
