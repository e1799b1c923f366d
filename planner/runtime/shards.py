"""How ranks hold the weights of a layer, and who must add up which part of whose gradients.

A *weight* is a logical tensor of the whole model, known by its name. Every rank that holds its
layer has a *cut* of it: the whole, or some intervals along one axis. Pipelines may cut one weight
differently, so gradients are reduced over the common refinement of all cuts: a *span* is an
interval along the axis that no cut divides, with the ranks that hold it. Spans with the same ranks
travel together, in one *bucket*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.plan import Interval


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank's part of a weight.

    ``shape`` is that of the whole weight. ``axis`` None means that the rank holds all of it,
    otherwise it holds ``pieces`` (intervals along the axis) one after the other.

    ``partial``: the members of a tensor-parallel group hold the whole, but each sees only a part
    of the gradient (a norm per head; anything under sequence parallelism), so that theirs are
    added. Otherwise they all see the same, complete gradient and it counts once.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    pieces: tuple[Interval, ...] = ()
    partial: bool = False

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of what the rank holds."""
        if self.axis is None:
            return self.shape
        size = sum(end - first for first, end in self.pieces)
        return (*self.shape[: self.axis], size, *self.shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Holder:
    """A rank and its cut; ``counts`` is whether its gradient is added or only receives the sum."""

    rank: int
    cut: Cut
    counts: bool


@dataclass(frozen=True, slots=True)
class Span:
    """``[first, end)`` along ``axis`` of a weight; all of a weight without axes of its own."""

    weight: str
    axis: int
    first: int
    end: int
    numel: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Spans that the same ranks hold, reduced together.

    ``counts[k]`` are the ranks whose gradient of ``spans[k]`` is added. ``decay`` tells whether
    weight decay applies (matrices and tables, not vectors). ``zero`` shards the optimizer's state
    over the ranks.
    """

    ranks: tuple[int, ...]
    spans: tuple[Span, ...]
    counts: tuple[frozenset[int], ...]
    decay: bool
    zero: bool

    @property
    def numel(self) -> int:
        """Elements of all spans."""
        return sum(span.numel for span in self.spans)


def whole(shape: Sequence[int], *, partial: bool = False) -> Cut:
    """Every member of the group holds all of it."""
    return Cut(tuple(shape), partial=partial)


def equal(shape: Sequence[int], axis: int, shards: int, shard: int) -> Cut:
    """Equal parts along an axis; where it does not divide, parts differ by one."""
    size = shape[axis]
    part = (size * shard // shards, size * (shard + 1) // shards)
    return Cut(tuple(shape), axis, (part,))


def fused(shape: Sequence[int], axis: int, parts: int, shards: int, shard: int) -> Cut:
    """A matrix that stores ``parts`` equal matrices side by side: an equal part of each."""
    size = shape[axis] // parts
    pieces = tuple(
        (k * size + size * shard // shards, k * size + size * (shard + 1) // shards)
        for k in range(parts)
    )
    return Cut(tuple(shape), axis, pieces)


def grouped(shape: Sequence[int], axis: int, groups: int, shards: int, shard: int) -> Cut:
    """Key/value heads: equal shares, or where there are more shards than heads, one head each.

    A head that several shards hold is reduced over all of them: each sees the gradient of its own
    query heads alone.
    """
    if groups % shards == 0:
        return equal(shape, axis, shards, shard)
    size = shape[axis] // groups
    head = shard * groups // shards
    return Cut(tuple(shape), axis, ((head * size, (head + 1) * size),))


def buckets(
    holders: Mapping[str, Sequence[Holder]], zero: Mapping[str, bool], *, limit: int = 2**24
) -> tuple[Bucket, ...]:
    """The common refinement of all cuts, spans with the same ranks together, in a fixed order.

    ``holders`` lists, by weight, every rank that holds some of it. Weights that one rank alone
    holds are in buckets too: those with a single rank. Spans of more than ``limit`` elements are
    cut further where that is possible.
    Raises ``ValueError`` where one weight is cut along different axes.
    """
    found: dict[tuple[tuple[int, ...], bool, bool], list[tuple[Span, frozenset[int]]]] = {}
    for weight in holders:
        shape = holders[weight][0].cut.shape
        for span, ranks, counted in _spans(weight, holders[weight]):
            key = (ranks, len(shape) > 1, zero[weight])
            found.setdefault(key, []).extend((part, counted) for part in _parts(span, limit))
    return tuple(
        Bucket(
            ranks,
            tuple(span for span, _ in entries),
            tuple(counted for _, counted in entries),
            decay,
            sharded,
        )
        for (ranks, decay, sharded), entries in sorted(found.items(), key=lambda item: item[0])
    )


def local_pieces(cut: Cut, span: Span) -> tuple[int, int]:
    """Where a span lies in what the rank holds: begin and length along the span's axis.

    Raises ``LookupError`` if the rank does not hold all of it.
    """
    if cut.axis is None:
        return span.first, span.end - span.first
    offset = 0
    for first, end in cut.pieces:
        if first <= span.first and span.end <= end:
            return offset + span.first - first, span.end - span.first
        offset += end - first
    raise LookupError(f"no piece of {span.weight} holds [{span.first}, {span.end})")


def _spans(
    weight: str, holders: Sequence[Holder]
) -> Iterable[tuple[Span, tuple[int, ...], frozenset[int]]]:
    axes = {h.cut.axis for h in holders} - {None}
    if len(axes) > 1:
        raise ValueError(f"{weight} is cut along axes {sorted(map(str, axes))}")
    axis = next(iter(axes), None) or 0
    shape = holders[0].cut.shape
    length = shape[axis] if shape else 1
    row = math.prod(shape) // length if length else 0
    cut_at = {edge for h in holders for piece in h.cut.pieces for edge in piece}
    for first, end in pairwise(sorted({0, length, *cut_at})):
        here = [h for h in holders if _holds(h.cut, first, end)]
        if not here:
            raise ValueError(f"nobody holds [{first}, {end}) of {weight}")
        ranks = tuple(sorted({h.rank for h in here}))
        counted = frozenset(h.rank for h in here if h.counts)
        yield Span(weight, axis, first, end, (end - first) * row), ranks, counted


def _parts(span: Span, limit: int) -> Iterable[Span]:
    row = span.numel // (span.end - span.first)
    step = max(1, limit // row) if row else span.end - span.first
    for first in range(span.first, span.end, step):
        end = min(first + step, span.end)
        yield Span(span.weight, span.axis, first, end, (end - first) * row)


def _holds(cut: Cut, first: int, end: int) -> bool:
    return cut.axis is None or any(a <= first and end <= b for a, b in cut.pieces)
