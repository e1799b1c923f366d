"""What people read of a plan whose stages hold several chunks; other plans read as before."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from planner.chunks import even_chunks
from planner.diff import diff
from planner.explain import WhyNot
from planner.plan import Plan
from planner.report.differences import diff_object, diff_page
from planner.report.explanation import why_not_text
from planner.report.groups import pipeline_groups
from planner.report.html.pipelines import pipelines
from planner.report.html.view import recompute_words, view_of
from planner.report.layout import layout
from planner.report.scenarios import shape_text
from planner.report.tables import operation_rows, stage_rows
from planner.simulate import simulate
from planner.terms import bottleneck, shape
from planner.whatif.outcome import outcome_from_json, outcome_of
from tests.chunked_plans import chunked_context, chunked_pipeline, chunked_plan, plain_plan, plan_of


def text_of(page: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=110, color_system=None).print(page)
    return out.getvalue()


def three_chunks() -> Plan:
    context = chunked_context(batch=4)
    dealt = (((0, 2), (4, 6), (8, 9)), ((2, 4), (6, 8), (9, 10)))
    devices = [("node0/0",), ("node0/1",)]
    return plan_of(context, [chunked_pipeline(context, devices, dealt, 4, policy=2)])


def test_the_layout_names_chunks_and_pairs() -> None:
    text = text_of(layout(chunked_plan(), details=True))
    assert "interleaved, 2 chunks per stage" in text
    assert "pairs" in text
    assert "0–2, 5–7 (6)" in text
    assert "3–4, 8–9 (4)" in text
    assert "2 × A100 · 6 layers" in text


def test_more_than_two_chunks_are_shortened() -> None:
    text = text_of(layout(three_chunks()))
    assert "0–1 … 8 (5)" in text
    assert "2–3 … 9 (5)" in text
    assert recompute_words(three_chunks().pipelines[0].stages[0]) == "full"


def test_plans_without_chunks_say_nothing_of_them() -> None:
    text = text_of(layout(plain_plan()))
    assert "chunk" not in text
    assert "pairs" not in text
    assert "chunk" not in str(pipelines(view_of(plain_plan())))
    assert all("chunks" not in row for row in stage_rows(plain_plan()))
    assert all("chunk" not in row for row in operation_rows(simulate(plain_plan())))
    assert "chunks" not in shape(plain_plan()).as_json()


def test_pipelines_of_other_chunks_are_another_group() -> None:
    context = chunked_context()
    dealt = [(((0, 3), (5, 8)), ((3, 5), (8, 10))), (((0, 3), (6, 8)), ((3, 6), (8, 10)))]
    devices = [[(f"node{k}/0",), (f"node{k}/1",)] for k in range(2)]
    plan = plan_of(
        context, [chunked_pipeline(context, d, c, 4) for d, c in zip(devices, dealt, strict=True)]
    )
    assert len(pipeline_groups(plan)) == 2
    assert plan.plan_class == "asymmetric"


def test_the_page_names_chunks() -> None:
    page = str(pipelines(view_of(chunked_plan())))
    assert "interleaved, 2 chunks per stage" in page
    assert "pairs in flight" in page
    assert "layers 0–2, 5–7" in page


def test_tables_count_layers_and_chunks() -> None:
    rows = stage_rows(chunked_plan())
    assert [(r["first_layer"], r["end_layer"], r["layers"], r["chunks"]) for r in rows[:2]] == [
        (0, 8, 6, 2),
        (3, 10, 4, 2),
    ]


def test_layers_move_with_their_chunks() -> None:
    """Layers 3 to 7 change their stage; 0 to 2 and 8, 9 do not."""
    found = diff(plain_plan(), chunked_plan())
    assert [move.layers for move in found.moves] == [(3, 5), (5, 8)]
    assert "chunks per stage" in text_of(diff_page(found, None))
    after = diff_object(found, None)["after"]
    assert after["shape"]["chunks"] == (2, 2)
    assert "at layer 3, 8" in found.reshard.weights[0]


def test_shapes_of_chunks_are_told_and_read_back() -> None:
    outcome = outcome_of(chunked_plan(), {"nvidia-a100-sxm-80gb": 8})
    assert outcome_from_json(outcome.as_json()) == outcome
    assert shape_text(outcome.shape) == "2 × 2 stages of 2 chunks, tp 2"


@pytest.mark.parametrize("plan", [plain_plan, chunked_plan])
def test_both_are_read_back_as_they_were_written(plan) -> None:
    assert Plan.model_validate_json(plan().to_json()) == plan()


def even_plan() -> Plan:
    """Two inner layers in every chunk."""
    context = chunked_context()
    devices = [("node0/0", "node0/1"), ("node0/2", "node0/3")]
    dealt = (((0, 3), (5, 7)), ((3, 5), (7, 10)))
    return plan_of(context, [chunked_pipeline(context, devices, dealt, 8)])


def test_a_faster_plan_whose_chunks_differ_in_length_is_not_searched() -> None:
    """Of the stage that holds the embedding, one chunk has two blocks and the other three."""
    plan, other = plain_plan(), chunked_plan()
    assert not even_chunks(other.pipelines[0])
    assert all(map(even_chunks, (*even_plan().pipelines, *plan.pipelines)))
    terms = bottleneck(plan).terms
    found = WhyNot("interleaved", "faster", "searched", plan=other, own_terms=terms, terms=terms)
    text = text_of(why_not_text(found, plan))
    assert "its chunks differ in length, which is not searched" in " ".join(text.split())
    assert "missed" not in text


def test_a_faster_plan_of_another_job_was_not_missed_by_the_search() -> None:
    plan, other = plain_plan(), even_plan()
    terms = bottleneck(plan).terms
    found = WhyNot("interleaved", "faster", "searched", plan=other, own_terms=terms, terms=terms)
    assert "the search missed it" in text_of(why_not_text(found, plan))
    text = text_of(why_not_text(replace(found, beyond="techniques.interleaved = true"), plan))
    assert "the plan's job is without techniques.interleaved = true; -o writes it" in text
    assert "missed" not in text
