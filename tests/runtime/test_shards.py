"""Cuts of weights and their common refinement."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.runtime.shards import (
    Cut,
    Holder,
    Span,
    buckets,
    equal,
    fused,
    grouped,
    local_pieces,
    whole,
)


def holders(*degrees: int, axis: int = 0, shape: tuple[int, int] = (12, 2)) -> list[Holder]:
    """Replicas of these degrees on consecutive ranks."""
    found: list[Holder] = []
    for degree in degrees:
        for shard in range(degree):
            cut = whole(shape) if degree == 1 else equal(shape, axis, degree, shard)
            found.append(Holder(len(found), cut, cut.axis is not None or shard == 0))
    return found


def test_two_and_three_shards_meet_in_four_spans() -> None:
    """12 rows cut at 6, and at 4 and 8."""
    found = buckets({"w": holders(2, 3)}, {"w": False})
    spans = {(b.ranks, s.first, s.end) for b in found for s in b.spans}
    assert spans == {((0, 2), 0, 4), ((0, 3), 4, 6), ((1, 3), 6, 8), ((1, 4), 8, 12)}


def test_a_whole_copy_follows_the_axis_of_the_others() -> None:
    """One replica holds all, the other halves of the columns."""
    (left, right) = buckets({"w": holders(1, 2, axis=1, shape=(4, 6))}, {"w": True})
    assert (left.ranks, left.spans) == ((0, 1), (Span("w", 1, 0, 3, 12),))
    assert (right.ranks, right.spans) == ((0, 2), (Span("w", 1, 3, 6, 12),))
    assert left.zero
    assert left.decay


def test_an_equal_gradient_counts_once_per_group() -> None:
    """A vector on a group of two and on one device: ranks 0 and 2 count."""
    cut = whole((5,))
    held = [Holder(0, cut, True), Holder(1, cut, False), Holder(2, cut, True)]
    (bucket,) = buckets({"norm": held}, {"norm": False})
    assert bucket.ranks == (0, 1, 2)
    assert bucket.counts == (frozenset({0, 2}),)
    assert not bucket.decay


def test_a_key_head_on_two_shards_is_added_over_both() -> None:
    """Two key heads of size 3 on four shards."""
    cuts = [grouped((6, 4), 0, 2, 4, shard) for shard in range(4)]
    assert [cut.pieces for cut in cuts] == [((0, 3),), ((0, 3),), ((3, 6),), ((3, 6),)]
    found = buckets({"k": [Holder(r, c, True) for r, c in enumerate(cuts)]}, {"k": False})
    assert [(b.ranks, b.counts) for b in found] == [
        ((0, 1), (frozenset({0, 1}),)),
        ((2, 3), (frozenset({2, 3}),)),
    ]


def test_fused_matrices_are_cut_one_by_one() -> None:
    """Query, key and value of width 4 side by side, on two shards."""
    cut = fused((3, 12), 1, 3, 2, 1)
    assert cut.pieces == ((2, 4), (6, 8), (10, 12))
    assert cut.local_shape == (3, 6)
    assert local_pieces(cut, Span("qkv", 1, 7, 8, 3)) == (3, 1)


def test_raises_when_a_rank_does_not_hold_the_span() -> None:
    """A span that crosses the pieces of a cut is a mistake."""
    with pytest.raises(LookupError, match="no piece of w"):
        local_pieces(Cut((8,), 0, ((0, 2), (4, 6))), Span("w", 0, 1, 5, 4))


def test_raises_when_a_weight_is_cut_along_two_axes() -> None:
    """No interval of rows is an interval of columns."""
    mixed = [*holders(2), Holder(2, equal((12, 2), 1, 2, 0), True)]
    with pytest.raises(ValueError, match="along axes"):
        buckets({"w": mixed}, {"w": False})


def test_large_spans_are_cut_further() -> None:
    """12 rows of 2, at most 8 elements together."""
    (bucket,) = buckets({"w": holders(1, 1)}, {"w": False}, limit=8)
    assert [(s.first, s.end, s.numel) for s in bucket.spans] == [(0, 4, 8), (4, 8, 8), (8, 12, 8)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_every_element_is_reduced_once_over_all_replicas(degrees: list[int]) -> None:
    """Spans cover the weight without overlap, each with one rank of every replica."""
    found = buckets({"w": holders(*degrees)}, {"w": False})
    spans = sorted((s.first, s.end, b.ranks) for b in found for s in b.spans)
    assert spans[0][0] == 0
    assert spans[-1][1] == 12
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    firsts = [sum(degrees[:k]) for k in range(len(degrees) + 1)]
    for _, _, ranks in spans:
        for first, end in pairwise(firsts):
            assert len([r for r in ranks if first <= r < end]) == 1
