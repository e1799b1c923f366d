"""Edits of interleaved plans keep the chunks dealt out in turn, or say why they cannot be made."""

from __future__ import annotations

from itertools import pairwise

import pytest

from costmodels.interleaved import classic_depths
from planner.estimate import PlanLayout, estimate_sketch, sketch_of
from planner.estimate.sketch import Sketch
from planner.explain import edits
from planner.explain.adjacent import neighbours
from planner.explain.explanation import stage_loads
from planner.report.format import held_layers, intervals
from planner.terms import bottleneck
from tests.chunked_plans import chunked_context, chunked_plan, plain_plan

EDITS = {
    "narrower": edits.narrower,
    "wider": edits.wider,
    "deeper": edits.deeper,
    "full": edits.recomputing(2),
    "twice the rows": edits.with_micro_batch(2),
    "forth": edits.shifted(0, 0, 1),
    "back": edits.shifted(0, 1, -1),
    "in a row": edits.in_a_row,
}


def sketch() -> Sketch:
    plan = chunked_plan()
    return edits.free_depths(sketch_of(chunked_context(), PlanLayout("plan", "", plan)))


def dealt(found: Sketch) -> list[tuple[int, int]]:
    """The parts of the first pipeline in the order in which they are dealt out."""
    stages = found.pipelines[0].stages
    return [stage.parts[c] for c in range(len(stages[0].parts)) for stage in stages]


@pytest.mark.parametrize("name", EDITS)
def test_edits_cover_every_layer_once_and_are_priced(name: str) -> None:
    found = EDITS[name](sketch())
    assert isinstance(found, Sketch)
    for pipe in found.pipelines:
        assert len({len(stage.parts) for stage in pipe.stages}) == 1
        for stage in pipe.stages:
            assert len(stage.policies) == sum(end - first for first, end in stage.parts)
            assert (stage.first, stage.end) == (stage.parts[0][0], stage.parts[-1][1])
    parts = dealt(found)
    assert (parts[0][0], parts[-1][1]) == (0, 10)
    assert all(a[1] == b[0] and a[1] > a[0] for a, b in pairwise(parts))
    assert estimate_sketch(chunked_context(), found).plan.estimate.step_time_s > 0


def test_a_layer_leaves_the_largest_chunk_for_the_chunk_beside_it() -> None:
    forth = edits.shifted(0, 0, 1)(sketch())
    assert isinstance(forth, Sketch)
    assert dealt(forth) == [(0, 2), (2, 5), (5, 8), (8, 10)]
    back = edits.shifted(0, 1, -1)(sketch())
    assert isinstance(back, Sketch)
    assert dealt(back) == [(0, 4), (4, 5), (5, 8), (8, 10)]


def test_deeper_cuts_every_chunk_in_two() -> None:
    found = edits.deeper(sketch())
    assert isinstance(found, Sketch)
    assert dealt(found) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 7), (7, 8), (8, 9), (9, 10)]
    again = edits.shallower(found)
    assert isinstance(again, Sketch)
    assert dealt(again) == dealt(sketch())


def test_one_stage_cannot_take_turns() -> None:
    found = edits.shallower(sketch())
    assert isinstance(found, edits.Impossible)
    assert "nobody to take turns with" in found.reason


def test_in_a_row_and_in_two_chunks_are_one_anothers_inverse() -> None:
    row = edits.in_a_row(sketch())
    assert isinstance(row, Sketch)
    assert dealt(row) == [(0, 6), (6, 10)]
    assert row.pipelines[0].schedule == "1f1b"
    turns = edits.in_two_chunks(row)
    assert isinstance(turns, Sketch)
    assert dealt(turns) == [(0, 3), (3, 5), (5, 8), (8, 10)]
    assert turns.pipelines[0].schedule == "interleaved"


def test_neighbours_of_an_interleaved_plan() -> None:
    found = {n.change: n for n in neighbours(chunked_context(), chunked_plan())}
    plain = found["one chunk of layers per stage (1f1b)"]
    assert plain.verdict in ("slower", "faster", "equal")
    assert plain.plan is not None
    assert plain.plan.pipelines[0].schedule == "1f1b"
    twice = found["twice the stages, half the pipelines"].plan
    assert twice is not None
    depths = [stage.in_flight for stage in twice.pipelines[0].stages]
    assert depths == list(classic_depths(4, 2, 8))


def test_two_chunks_are_tried_where_the_job_interleaves() -> None:
    tried = {}
    for allowed in ("true", "false"):
        context = chunked_context(more=f"techniques.interleaved={allowed}")
        changes = {n.change: n for n in neighbours(context, plain_plan())}
        tried[allowed] = changes.get("two chunks of layers per stage, interleaved")
    assert tried["false"] is None
    assert tried["true"] is not None
    assert tried["true"].plan is not None
    assert tried["true"].plan.pipelines[0].stages[0].chunks == ((0, 3), (6, 8))


def test_an_interleaved_neighbour_is_against_a_job_that_does_not_interleave() -> None:
    context = chunked_context(more="techniques.interleaved=false")
    reasons = {n.reason for n in neighbours(context, chunked_plan()) if n.verdict == "impossible"}
    assert "the job forbids interleaved" in reasons


def test_loads_and_bottleneck_name_the_chunks() -> None:
    assert bottleneck(chunked_plan()).parts == ((0, 3), (5, 8))
    assert [load.parts for load in stage_loads(chunked_plan())] == [
        ((0, 3), (5, 8)),
        ((3, 5), (8, 10)),
    ]


def test_layers_of_chunks_in_words() -> None:
    assert intervals(((1, 7), (49, 55))) == "1–6, 49–54"
    assert intervals(((0, 1), (4, 6), (8, 12))) == "0 … 8–11"
    assert held_layers(((1, 7), (49, 55))) == "1–6, 49–54 (12)"
    assert held_layers(((0, 1), (4, 6), (8, 12))) == "0 … 8–11 (7)"
    assert held_layers(((0, 6),)) == "0–5 (6)"
