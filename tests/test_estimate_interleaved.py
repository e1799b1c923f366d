"""Plans whose stages hold several chunks are priced as the search prices them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from costmodels.units import PS_PER_S
from planner.errors import InputError
from planner.estimate import PlanLayout, estimate_sketch, sketch_of
from planner.estimate.remarks import _with_rows
from planner.plan import Plan
from planner.solve import hint_placement
from tests.chunked_plans import chunked_context, chunked_pipeline, chunked_plan, plan_of


def priced(plan: Plan, **context: Any) -> Any:
    ready = chunked_context(**context)
    return estimate_sketch(ready, sketch_of(ready, PlanLayout("plan", "plan.json", plan)))


def test_an_interleaved_plan_costs_what_it_says() -> None:
    plan = chunked_plan()
    found = priced(plan)
    assert found.fits
    assert found.plan.pipelines == plan.pipelines
    assert found.plan.sync_groups == plan.sync_groups
    assert found.plan.estimate.model_dump() == plan.estimate.model_dump()


def test_figures_of_the_file_are_not_read() -> None:
    def cheaper(body: Any) -> None:
        for pipeline in body["pipelines"]:
            for stage in pipeline["stages"]:
                stage["replicas"][0]["chunk_time_s"] = [[0.0, 0.0], [0.0, 0.0]]
                stage["hop_to_next_s"] = 0.0

    plan = chunked_plan()
    assert priced(changed(plan, cheaper)).plan.pipelines == plan.pipelines


def test_the_chunks_of_a_stage_take_turns_over_three_stages() -> None:
    context = chunked_context(batch=6)
    devices = [("node0/0",), ("node0/1",), ("node1/0",)]
    dealt = [((0, 2), (6, 7)), ((2, 4), (7, 8)), ((4, 6), (8, 10))]
    plan = plan_of(context, [chunked_pipeline(context, devices, dealt, 6, policy=1)])
    found = priced(plan, batch=6)
    assert found.plan.pipelines == plan.pipelines
    # groups of 3 micro-batches: 2 * (3 - s - 1) + 3 + 1 pairs
    assert [s.in_flight for s in found.plan.pipelines[0].stages] == [8, 6, 4]


def changed(plan: Plan, edit: Callable[[Any], None]) -> Plan:
    body = json.loads(plan.to_json())
    edit(body)
    return Plan.model_validate(body)


def _as_1f1b(body: Any) -> None:
    body["pipelines"][0]["schedule"] = "1f1b"


def _one_stage(body: Any) -> None:
    body["pipelines"][0]["stages"] = body["pipelines"][0]["stages"][:1]


def _fewer_chunks(body: Any) -> None:
    body["pipelines"][0]["stages"][1]["chunks"] = []


def _no_chunks(body: Any) -> None:
    for stage in body["pipelines"][0]["stages"]:
        stage["chunks"] = []


def _in_a_row(body: Any) -> None:
    first, second = body["pipelines"][0]["stages"]
    first["chunks"], second["chunks"] = [[0, 3], [3, 5]], [[5, 8], [8, 10]]


def _empty_chunk(body: Any) -> None:
    body["pipelines"][0]["stages"][1]["chunks"][0] = [3, 3]


def _too_short(body: Any) -> None:
    stage = body["pipelines"][0]["stages"][1]
    stage["chunks"][1], stage["layers"] = [8, 9], [3, 9]
    stage["recompute"][1]["layers"] = [8, 9]


def _other_reach(body: Any) -> None:
    body["pipelines"][0]["stages"][0]["layers"] = [0, 5]


def _too_shallow(body: Any) -> None:
    body["pipelines"][0]["stages"][1]["in_flight"] = 1


def _no_depth(body: Any) -> None:
    body["pipelines"][0]["stages"][1]["in_flight"] = 0


def _across_chunks(body: Any) -> None:
    ranges = [{"layers": [0, 4], "policy": "none"}, {"layers": [6, 8], "policy": "none"}]
    body["pipelines"][0]["stages"][0]["recompute"] = ranges


@pytest.mark.parametrize(
    ("edit", "where", "says"),
    [
        (_as_1f1b, "pipelines[0].schedule", "1f1b runs one chunk per stage"),
        (_one_stage, "pipelines[0].schedule", "nobody to take turns with"),
        (_fewer_chunks, "pipelines[0].stages", "the stages hold 2, 1 chunks"),
        (_no_chunks, "pipelines[0].schedule", "every stage holds one chunk"),
        (_in_a_row, "stages[1].chunks[0]", "[5, 8) does not follow layer 2"),
        (_empty_chunk, "stages[1].chunks[0]", "[3, 3) does not follow layer 2"),
        (_too_short, "pipelines[0].stages", "end at layer 9"),
        (_other_reach, "stages[0].layers", "[0, 5), but the chunks reach from 0 to 8"),
        (
            _too_shallow,
            "pipelines[0].stages",
            "the schedule would deadlock",
        ),
        (_no_depth, "stages[1].in_flight", "0 pairs in flight"),
        (_across_chunks, "stages[0].recompute", "in none of the stage's chunks"),
    ],
)
def test_chunks_that_cannot_take_turns_are_refused(
    edit: Callable[[Any], None], where: str, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        priced(changed(chunked_plan(), edit))
    assert any(where in str(p.where) and says in p.message for p in caught.value.problems), [
        str(p) for p in caught.value.problems
    ]


def test_micro_batches_of_fewer_rows_keep_an_interleaved_plan_running() -> None:
    """Of more micro-batches a group may be larger, for which the plan's depths are too few."""
    context = chunked_context(batch=3)
    devices = [("node0/0",), ("node0/1",), ("node0/2",)]
    dealt = [((0, 2), (6, 7)), ((2, 4), (7, 8)), ((4, 6), (8, 10))]
    pipe = chunked_pipeline(context, devices, dealt, 3)
    (priced_pipe,) = context.pricer.price([pipe], 1).pipelines
    fixed = [s.in_flight for s in priced_pipe.stages]
    assert fixed == [8, 6, 4]
    deep = replace(
        pipe,
        rows=2,
        last_rows=1,
        stages=tuple(replace(s, in_flight=d) for s, d in zip(pipe.stages, fixed, strict=True)),
    )
    (smaller,) = context.pricer.price([_with_rows(deep, 1)], 1).pipelines
    assert smaller.pipeline.micro_batches == 5
    assert [s.in_flight for s in smaller.stages] == [10, 8, 6]


def test_a_job_that_does_not_interleave_is_told() -> None:
    found = priced(chunked_plan(), more="techniques.interleaved=false")
    said = [w for w in found.plan.warnings if "interleaves chunks of layers" in w]
    assert "--set job.techniques.interleaved=true" in said[0]
    assert not any("interleaves" in w for w in priced(chunked_plan()).plan.warnings)


def test_a_hint_is_reused_where_the_job_interleaves() -> None:
    found = {}
    for allowed in ("true", "false"):
        ready = chunked_context(more=f"techniques.interleaved={allowed}")
        found[allowed] = hint_placement(ready, chunked_plan())
    assert found["false"] is None
    assert found["true"] is not None
    assert found["true"].priced.exact_ps == round(chunked_plan().estimate.step_time_s * PS_PER_S)
    stuck = changed(chunked_plan(), _too_shallow)
    assert hint_placement(chunked_context(), stuck) is None
