"""Neighbours of a plan: every edit keeps the batch, the layers and the chips."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.estimate.sketch import PipelineSketch, Sketch, StageSketch, share_rows
from planner.explain import edits

EDITS = {
    "narrower": edits.narrower,
    "wider": edits.wider,
    "shallower": edits.shallower,
    "deeper": edits.deeper,
    "full": edits.recomputing(2),
    "half rows": edits.with_micro_batch(0.5),
    "twice the rows": edits.with_micro_batch(2),
    "forth": edits.shifted(0, 0, 1),
    "back": edits.shifted(0, 1, -1),
}


def sketch(tp: int = 2, pp: int = 2, dp: int = 2, batch: int = 8, rows: int = 1) -> Sketch:
    """A rectangular sketch of 4 layers per stage."""
    loads = share_rows(batch, dp, rows)
    pipelines = tuple(
        PipelineSketch(
            stages=tuple(
                StageSketch(
                    where="",
                    first=4 * s,
                    end=4 * s + 4,
                    policies=(0, 0, 1, 1),
                    devices=tuple(f"n{d}/{s * tp + k}" for k in range(tp)),
                    in_flight=pp - s,
                )
                for s in range(pp)
            ),
            rows=rows,
            micro_batches=loads[d][0],
            last_rows=loads[d][1],
            schedule="1f1b",
        )
        for d in range(dp)
    )
    return Sketch(pipelines, 1)


def rows_of(found: Sketch) -> int:
    return sum((p.micro_batches - 1) * p.rows + p.last_rows for p in found.pipelines)


def devices_of(found: Sketch) -> list[str]:
    return sorted(d for p in found.pipelines for s in p.stages for d in s.devices)


@settings(deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(EDITS)),
    st.sampled_from((1, 2, 4)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 3),
)
def test_every_edit_keeps_batch_layers_and_chips(
    name: str, tp: int, pp: int, dp: int, batch: int, rows: int
) -> None:
    before = sketch(tp, pp, dp, max(batch, dp), rows)
    after = EDITS[name](before)
    if isinstance(after, edits.Impossible):
        assert after.reason
        return
    assert rows_of(after) == rows_of(before)
    assert devices_of(after) == devices_of(before)
    for pipe in after.pipelines:
        cuts = [0, *(s.end for s in pipe.stages)]
        assert [s.first for s in pipe.stages] == cuts[:-1]
        assert cuts[-1] == 4 * pp
        assert all(len(s.policies) == s.end - s.first > 0 for s in pipe.stages)


def test_narrower_and_wider_undo_one_another() -> None:
    before = edits.free_depths(sketch())
    there = edits.narrower(before)
    assert isinstance(there, Sketch)
    assert {len(s.devices) for p in there.pipelines for s in p.stages} == {1}
    assert len(there.pipelines) == 4
    assert edits.wider(there) == before


def test_deeper_cuts_every_stage_in_two() -> None:
    after = edits.deeper(sketch())
    assert isinstance(after, Sketch)
    (pipe,) = after.pipelines
    assert [(s.first, s.end) for s in pipe.stages] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [s.devices for s in pipe.stages] == [
        ("n0/0", "n0/1"), ("n1/0", "n1/1"), ("n0/2", "n0/3"), ("n1/2", "n1/3"),
    ]  # fmt: skip
    assert pipe.micro_batches == 8


@pytest.mark.parametrize(
    ("edit", "before", "why"),
    [
        (edits.narrower, sketch(tp=1), "on one chip"),
        (edits.wider, sketch(dp=1), "one pipeline only"),
        (edits.wider, sketch(dp=3, batch=9), "do not pair up"),
        (edits.shallower, sketch(pp=3), "do not join in pairs"),
        (edits.with_micro_batch(0.5), sketch(rows=1), "is the least"),
        (edits.with_zero(1), sketch(), "is the plan's"),
        (edits.shifted(0, 1, 1), sketch(), "no stage on that side"),
    ],
)
def test_an_edit_that_cannot_be_made_says_why(edit, before: Sketch, why: str) -> None:
    after = edit(before)
    assert isinstance(after, edits.Impossible)
    assert why in after.reason
