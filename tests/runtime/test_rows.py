"""Rows of micro-batches and what neighbours send one another."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.runtime.rows import (
    Box,
    Transfer,
    global_rows,
    micro_batch_rows,
    replica_rows,
    sequence_shares,
    transfers,
)
from tests.runtime.run_plans import P, S, run_plan

NAMES = ["layer0", "layer1"]


def test_pipelines_take_consecutive_rows_and_the_last_micro_batch_fewer() -> None:
    """3 + 3 + 2 rows, then 1 + 1."""
    plan = run_plan([P([S((0, 2), [(3, 1)])], 3, last_rows=2), P([S((0, 2))], 2)], NAMES)
    assert [micro_batch_rows(plan, 0, i) for i in range(3)] == [(0, 3), (3, 6), (6, 8)]
    assert [micro_batch_rows(plan, 1, i) for i in range(2)] == [(8, 9), (9, 10)]
    assert global_rows(plan) == 10


def test_a_smaller_last_micro_batch_is_shared_by_largest_remainder() -> None:
    """3:1 of 4 rows is 3 and 1; of 3 rows 2.25 and 0.75, so 2 and 1; of 1 row 1 and none."""
    stage = run_plan([P([S((0, 2), [(3, 1), (1, 1)])], 1)], NAMES).pipelines[0].stages[0]
    assert replica_rows(stage, 4) == ((0, 3), (3, 4))
    assert replica_rows(stage, 3) == ((0, 2), (2, 3))
    assert replica_rows(stage, 1) == ((0, 1), (1, 1))


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 45))
def test_shares_cover_all_rows_once(weights: list[int], rows: int) -> None:
    """Consecutive, none negative, and proportional up to one row."""
    total = sum(weights)
    rows = min(rows, total)
    plan = run_plan([P([S((0, 2), [(w, 1) for w in weights])], 1)], NAMES)
    found = replica_rows(plan.pipelines[0].stages[0], rows)
    assert found[0][0] == 0
    assert found[-1][1] == rows
    assert all(a[1] == b[0] for a, b in pairwise(found))
    for weight, (first, end) in zip(weights, found):
        assert abs((end - first) - rows * weight / total) < 1


def test_transfers_are_meetings_of_rows_and_sequence() -> None:
    """Rows 3:1 on one side, 2:2 on the other; the second receiver takes half of the sequence."""
    senders = [(0, Box(0, 3, 0, 8)), (1, Box(3, 4, 0, 8))]
    receivers = [(2, Box(0, 2, 0, 8)), (3, Box(2, 4, 4, 8))]
    assert transfers(senders, receivers) == (
        Transfer(0, 2, Box(0, 2, 0, 8)),
        Transfer(0, 3, Box(2, 3, 4, 8)),
        Transfer(1, 3, Box(3, 4, 4, 8)),
    )


def test_raises_when_a_sequence_does_not_divide() -> None:
    """Every member of a group needs an equal part."""
    assert sequence_shares(8, 4)[3] == (6, 8)
    with pytest.raises(ValueError, match="does not divide by 3"):
        sequence_shares(8, 3)
