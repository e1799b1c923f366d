"""Gradients are added up over all ranks that hold a weight; updated weights are handed around.

Dense buckets end with the full sum in every holder's gradient. Sharded ones (ZeRO level 1) end
with the sum in one holder per part, which updates its part and hands it to the others.

Everything goes through flat pieces of at most ``LIMIT`` elements, so that no second copy of all
gradients ever exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from planner.runtime.comm import (
    Group,
    Groups,
    all_reduce,
    broadcast,
    gather_flat,
    reduce_scatter_flat,
)
from planner.runtime.shards import Bucket, Span
from planner.runtime.weights import Weights

LIMIT = 2**24
"""Elements that travel together."""


@dataclass(frozen=True)
class Piece:
    """Some spans of a bucket that travel together, as one rank sees them.

    ``counts`` tells, by span, whether this rank's gradient is added. ``share`` is the length of
    the part that each member owns in a sharded piece; the last parts are padded.
    """

    bucket: Bucket
    spans: tuple[Span, ...]
    counts: tuple[bool, ...]
    group: Group
    member: int

    @property
    def numel(self) -> int:
        """Elements of the spans, without padding."""
        return sum(span.numel for span in self.spans)

    @property
    def share(self) -> int:
        """Elements that each member owns."""
        return -(-self.numel // self.group.size)

    @property
    def owned(self) -> slice:
        """This member's part of the flat piece, padding included."""
        return slice(self.member * self.share, (self.member + 1) * self.share)


def pieces_of(buckets: Sequence[Bucket], groups: Groups) -> tuple[Piece, ...]:
    """The pieces of all buckets that this rank belongs to, in the order that all ranks keep."""
    found = []
    for bucket in buckets:
        group = groups.make(bucket.ranks)
        if group is None:
            continue
        member = bucket.ranks.index(groups.rank)
        for indices in _chunks(bucket):
            counts = tuple(groups.rank in bucket.counts[k] for k in indices)
            spans = tuple(bucket.spans[k] for k in indices)
            found.append(Piece(bucket, spans, counts, group, member))
    return tuple(found)


def flatten(piece: Piece, weights: Weights, *, gradient: bool) -> Tensor:
    """The piece's weights or gradients of this rank, end to end; zeros where they do not count."""
    parts = []
    for span, counts in zip(piece.spans, piece.counts):
        view = weights.views(span, gradient=gradient).reshape(-1)
        parts.append(view if counts or not gradient else torch.zeros_like(view))
    return torch.cat(parts)


def padded(piece: Piece, flat: Tensor) -> Tensor:
    """The same with zeros at the end, so that members own equal parts."""
    missing = piece.share * piece.group.size - flat.numel()
    return torch.nn.functional.pad(flat, (0, missing)) if missing else flat


def unflatten(piece: Piece, flat: Tensor, weights: Weights, *, gradient: bool) -> None:
    """Write a flat piece back into this rank's weights or gradients."""
    at = 0
    for span in piece.spans:
        view = weights.views(span, gradient=gradient)
        view.copy_(flat[at : at + span.numel].view_as(view))
        at += span.numel


def sum_dense(piece: Piece, weights: Weights) -> None:
    """Add up a dense piece; every member ends with the sum."""
    if piece.group.size == 1:
        return
    flat = flatten(piece, weights, gradient=True)
    all_reduce(flat, piece.group)
    unflatten(piece, flat, weights, gradient=True)


def sum_owned(piece: Piece, weights: Weights) -> Tensor:
    """Add up a sharded piece; this member gets the sum of the part it owns."""
    flat = padded(piece, flatten(piece, weights, gradient=True))
    return reduce_scatter_flat(flat, piece.group)


def hand_around(piece: Piece, part: Tensor, weights: Weights) -> None:
    """Every member's updated part of a sharded piece into all members' weights."""
    unflatten(piece, gather_flat(part, piece.group)[: piece.numel], weights, gradient=False)


def agree(pieces: Sequence[Piece], weights: Weights) -> None:
    """Give all holders the weights of the first one."""
    for piece in pieces:
        if piece.group.size > 1:
            flat = flatten(piece, weights, gradient=False)
            broadcast(flat, piece.group)
            unflatten(piece, flat, weights, gradient=False)


def _chunks(bucket: Bucket) -> Iterator[list[int]]:
    chunk: list[int] = []
    size = 0
    for index, span in enumerate(bucket.spans):
        if chunk and size + span.numel > LIMIT:
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += span.numel
    yield chunk
