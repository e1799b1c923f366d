"""Interleaved 1F1B: cases worked by hand, the plain schedule as one of its cases, its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from costmodels import schedules
from costmodels.interleaved import (
    Deadlock,
    Operation,
    classic_depths,
    exact_time,
    formula_time,
    lower_bound_time,
    most_held,
    orders,
)


@dataclass(frozen=True)
class Case:
    """Stages of several chunks, in picoseconds."""

    forward: Sequence[Sequence[int]]
    backward: Sequence[Sequence[int]]
    hops: Sequence[int]
    depths: Sequence[int]
    micro_batches: int

    @property
    def exact(self) -> schedules.ExactTimes:
        return exact_time(self.forward, self.backward, self.hops, self.depths, self.micro_batches)


@st.composite
def cases(
    draw: st.DrawFn, *, most_chunks: int = 4, most_stages: int = 5, most_time: int = 100
) -> Case:
    """Unequal stages and hops at the usual depths or deeper ones.

    Stages of several chunks are deeper by as much everywhere: where the first ones alone are, they
    take up chunks of the next group that the last one does not come to.
    """
    stages = draw(st.integers(1, most_stages))
    chunks = draw(st.integers(1, most_chunks))
    m = draw(st.integers(1, 12))
    times = st.lists(
        st.lists(st.integers(1, most_time), min_size=chunks, max_size=chunks),
        min_size=stages,
        max_size=stages,
    )
    hops = draw(st.lists(st.integers(0, most_time), min_size=stages, max_size=stages))
    more = draw(st.lists(st.integers(0, 6), min_size=stages, max_size=stages))
    usual = classic_depths(stages, chunks, m)
    depths = [d + (sum(more[s:]) if chunks == 1 else more[0]) for s, d in enumerate(usual)]
    return Case(draw(times), draw(times), hops, depths, m)


def alike(stages: int, chunks: int, f: int, b: int, hop: int, m: int) -> Case:
    """Equal stages of equal chunks at the usual depths."""
    return Case(
        [[f] * chunks] * stages,
        [[b] * chunks] * stages,
        [hop] * stages,
        classic_depths(stages, chunks, m),
        m,
    )


def short(order: Sequence[Operation]) -> str:
    return " ".join(f"{op.kind}{op.chunk}{op.micro_batch}" for op in order)


# -- by hand ----------------------------------------------------------------------------------


def test_two_stages_of_two_chunks_run_the_orders_of_the_paper() -> None:
    first, second = orders((5, 3), 2, 2)
    assert short(first) == "F00 F01 F10 F11 B10 B11 B00 B01"
    assert short(second) == "F00 F01 F10 B10 F11 B11 B00 B01"


def test_the_next_group_of_micro_batches_follows_the_first_through_all_chunks() -> None:
    _, second = orders((5, 3), 2, 4)
    assert short(second) == "F00 F01 F10 B10 F11 B11 F02 B00 F03 B01 F12 B12 F13 B13 B02 B03"


def test_a_step_of_two_micro_batches_without_hops_by_hand() -> None:
    """Stage 0: F 0-4, B10 6-8, B11 9-11, B00 11-13, B01 13-15. Stage 1: F00 1-2, F01 2-3, F10 3-4,
    B10 4-6, F11 6-7, B11 7-9, B00 9-11, B01 11-13."""
    case = alike(2, 2, f=1, b=2, hop=0, m=2)
    assert case.depths == (5, 3)
    assert case.exact.stage_last_backward_end == (15, 13)
    # m·g + (S - 1)·g/v with g = 6
    assert formula_time([2, 2], [4, 4], [0, 0], 2, 2) == 2 * 6 + 6 // 2 == 15


def test_a_step_of_two_micro_batches_with_hops_by_hand() -> None:
    """A hop of 1 each way, back to the first stage too. Stage 0: F00 0-1, F01 1-2, F10 4-5,
    F11 5-6, B10 10-12, B11 13-15, B00 16-18, B01 19-21. Stage 1: F00 2-3, F01 3-4, F10 6-7,
    B10 7-9, F11 9-10, B11 10-12, B00 13-15, B01 16-18."""
    assert alike(2, 2, f=1, b=2, hop=1, m=2).exact.stage_last_backward_end == (21, 18)


def test_hops_of_a_ring_are_each_their_own() -> None:
    """One micro-batch runs f, hop 0, f, hop 1, f, hop 0, f and all of it back: no stage waits."""
    case = Case([[1, 1], [1, 1]], [[2, 2], [2, 2]], [10, 100], [2, 2], 1)
    assert case.exact.stage_last_backward_end == (4 + 8 + 2 * (10 + 100 + 10), 4 + 6 + 240 - 10)


def test_four_micro_batches_take_the_takt_twice_more() -> None:
    assert alike(2, 2, f=1, b=2, hop=0, m=4).exact.total == 4 * 6 + 3


# -- what holds of all of them ------------------------------------------------------------------


@settings(max_examples=300)
@given(cases(most_chunks=1, most_stages=6))
def test_stages_of_one_chunk_are_plain_1f1b(case: Case) -> None:
    plain = schedules.exact_time(
        "1f1b",
        [own[0] for own in case.forward],
        [own[0] for own in case.backward],
        case.hops[:-1],
        case.depths,
        case.micro_batches,
    )
    assert case.exact == plain


@settings(max_examples=500)
@given(cases())
def test_no_step_is_faster_than_the_lower_bound(case: Case) -> None:
    bound = lower_bound_time(case.forward, case.backward, case.hops, case.micro_batches)
    assert bound <= case.exact.total


@settings(max_examples=300)
@given(cases(), st.data())
def test_nor_at_any_other_depths_that_come_to_an_end(case: Case, data: st.DataObject) -> None:
    pairs = case.micro_batches * len(case.forward[0])
    depths = [data.draw(st.integers(1, pairs)) for _ in case.forward]
    try:
        exact = exact_time(case.forward, case.backward, case.hops, depths, case.micro_batches)
    except Deadlock:
        assume(False)
    bound = lower_bound_time(case.forward, case.backward, case.hops, case.micro_batches)
    assert bound <= exact.total


@settings(max_examples=200)
@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)
)
def test_equal_stages_without_hops_take_their_formula_to_the_picosecond(
    stages: int, chunks: int, groups: int, f: int, b: int
) -> None:
    m, g = groups * stages, chunks * (f + b)
    case = alike(stages, chunks, f, b, 0, m)
    whole = [chunks * f] * stages, [chunks * b] * stages
    formula = formula_time(*whole, [0] * stages, m, chunks)
    assert case.exact.total == formula == m * g + (stages - 1) * g // chunks


@settings(max_examples=300)
@given(
    st.integers(1, 6), st.integers(2, 5), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9)
)
def test_interleaving_equal_stages_without_hops_never_takes_longer_than_1f1b(
    stages: int, chunks: int, m: int, f: int, b: int
) -> None:
    plain = schedules.exact_time(
        "1f1b",
        [chunks * f] * stages,
        [chunks * b] * stages,
        [0] * (stages - 1),
        [stages - s for s in range(stages)],
        m,
    )
    assert alike(stages, chunks, f, b, 0, m).exact.total <= plain.total


@settings(max_examples=200)
@given(cases(), st.integers(0, 50))
def test_slower_hops_never_make_a_step_faster(case: Case, more: int) -> None:
    slower = Case(
        case.forward, case.backward, [h + more for h in case.hops], case.depths, case.micro_batches
    )
    assert slower.exact.total >= case.exact.total


@settings(max_examples=200)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 30))
def test_the_usual_depths_come_to_an_end_and_so_do_deeper_ones_and_all_forwards_first(
    stages: int, chunks: int, m: int
) -> None:
    times = [[1] * chunks] * stages
    usual = classic_depths(stages, chunks, m)
    for depths in (usual, [d + 3 for d in usual], [m * chunks] * stages):
        ends = exact_time(times, times, [0] * stages, depths, m).stage_last_backward_end
        assert min(ends) >= 2 * m * chunks


@settings(max_examples=200)
@given(cases())
def test_every_stage_runs_every_pair_once_and_holds_no_more_than_its_depth(case: Case) -> None:
    chunks = len(case.forward[0])
    pairs = {(c, i) for c in range(chunks) for i in range(case.micro_batches)}
    for depth, order in zip(case.depths, orders(case.depths, chunks, case.micro_batches)):
        for kind in ("F", "B"):
            run = [(op.chunk, op.micro_batch) for op in order if op.kind == kind]
            assert len(run) == len(pairs)
            assert set(run) == pairs
        held = 0
        for op in order:
            held += 1 if op.kind == "F" else -1
            assert 0 <= held <= depth


# -- depths that do not come to an end -----------------------------------------------------------


def test_first_stages_far_ahead_of_the_others_wait_forever() -> None:
    """Stage 0 takes up chunk 1 of micro-batch 4, of the second group, before the backwards of the
    first one; the last stage comes to its chunk 0 only after them."""
    times = [[1, 1]] * 3
    assert classic_depths(3, 2, 9) == (8, 6, 4)
    exact_time(times, times, [0] * 3, (11, 9, 7), 9)
    with pytest.raises(Deadlock):
        exact_time(times, times, [0] * 3, (11, 9, 4), 9)


@pytest.mark.parametrize("depths", [(2, 2), (5, 2), (2, 3), (1, 1)])
def test_too_shallow_stages_wait_for_one_another(depths: tuple[int, int]) -> None:
    times = [[1, 1], [1, 1]]
    with pytest.raises(Deadlock) as caught:
        exact_time(times, times, [0, 0], depths, 2)
    assert caught.value.stage in (0, 1)


@pytest.mark.parametrize(
    ("forward", "hops", "depths", "says"),
    [
        ([[1, 1], [1]], [0, 0], [4, 3], "not a pipeline"),
        ([[1, 1], [1, 1]], [0], [4, 3], "hops"),
        ([[1, 1], [1, 1]], [0, 0], [4], "depths"),
        ([[1, 1], [1, 1]], [0, 0], [4, 0], "not a pipeline"),
    ],
)
def test_vectors_of_different_pipelines_are_refused(
    forward: list[list[int]], hops: list[int], depths: list[int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        exact_time(forward, forward, hops, depths, 2)


# -- what is held ---------------------------------------------------------------------------------


@settings(max_examples=300)
@given(cases(), st.data())
def test_most_held_is_the_greatest_of_all_moments(case: Case, data: st.DataObject) -> None:
    chunks = len(case.forward[0])
    sizes = [data.draw(st.integers(0, 9)) for _ in range(chunks)]
    for order in orders(case.depths, chunks, case.micro_batches):
        moments = [
            tuple(
                sum((1 if op.kind == "F" else -1) for op in order[:k] if op.chunk == c)
                for c in range(chunks)
            )
            for k in range(1, len(order) + 1)
        ]
        weighed = [sum(n * size for n, size in zip(held, sizes)) for held in moments]
        most = most_held(order, sizes)
        assert most in moments
        assert sum(n * size for n, size in zip(most, sizes)) == max(weighed)


def test_most_held_by_hand() -> None:
    """F00 F01 F10 B10 F11 B11 B00 B01: at F10 two of chunk 0 and one of chunk 1."""
    (_, order) = orders((5, 3), 2, 2)
    assert most_held(order, [1, 1]) == (2, 1)
    assert most_held(order, [1, 9]) == (2, 1)
    # of stage 0 all four, whichever is the larger
    assert most_held(orders((5, 3), 2, 2)[0], [1, 9]) == (2, 2)
