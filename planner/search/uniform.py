"""Spaces in which all inner layers and cuts are alike: what their compiled passes read.

There a stage of n inner layers under option o and recomputation p takes c·n with c = c[p, o], so
that a few numbers per option stand for all stages.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from planner.costing import Ints
from planner.search.passes import SLACK, Tables
from planner.search.space import UNBOUNDED_DEPTH, Floats, StageSpace

BLOCKS = 12
"""Parts of the model in each of which the room for synchronisation counts as equal."""


class Items:
    """Seconds per layer and length limits of every (policy, option) of a uniform space."""

    def __init__(self, space: StageSpace, max_stages: int) -> None:
        middle, depth = space.time[0][:, :, :, 0], space.depth[0][:, :, :, 0]
        kept = _distinct(middle, depth)
        self.space, self.max_stages = space, max_stages
        self.layers = space.layers
        self.seconds: Floats = middle[kept, 0] if middle.shape[1] else middle[kept].sum(axis=1)
        self._depth = depth[kept]
        self._most: dict[int, Ints] = {}

    def most(self, depth: int) -> Ints:
        """``[policy, option]``: most inner layers that fit with ``depth`` in flight."""
        if depth not in self._most:
            self._most[depth] = (self._depth >= depth).sum(axis=1)
        return self._most[depth]

    def within(self, takts: Floats) -> Ints:
        """``[policy, option, query]``: most inner layers within the takt."""
        with np.errstate(divide="ignore"):
            count = np.floor(takts * SLACK / self.seconds[:, :, None])
        out: Ints = np.minimum(count, self.layers).astype(np.int64)
        return out

    @cached_property
    def tables(self) -> Tables:
        """The space as the passes read it."""
        space, leads = self.space, self.space.leads
        forward = np.diff(leads.before[np.isfinite(leads.before)][1:-1]).max(initial=0.0)
        # cuts and options that hop alike are one kind each
        _, cuts = np.unique(space.cut_kind, return_index=True)
        _, members = np.unique(space.hop_kind, return_index=True)
        late_head, late_tail = space.late
        to_first, from_last = space.slowest_back
        arrays = Tables(
            chunks=space.chunks,
            seconds=self.seconds,
            order=np.argsort(self.seconds, axis=0, kind="stable"),
            most=np.stack([self.most(depth) for depth in range(self._deepest + 1)]),
            head_s=space.time[2],
            head_depth=space.depth[2],
            tail_s=space.time[1],
            tail_depth=space.depth[1],
            hop=space.hop[np.ix_(members, members, cuts)].transpose(2, 0, 1),
            cut_kind=space.cut_kind,
            hop_kind=space.hop_kind,
            finish=space.finish,
            starts=space.starts,
            ends=space.ends,
            to_first=to_first,
            from_last=from_last,
            lead_before=leads.before,
            lead_after=leads.after,
            # what a layer of a stage takes of the room beyond the forward pass that counts anyway
            taken=np.maximum(self.seconds + leads.finish - forward, 0.0),
            steep=np.maximum(self.seconds + leads.steep - forward, 0.0),
            relief=leads.relief,
            late_head=late_head,
            late_tail=late_tail,
            blocks=self._blocks(),
        )
        whole: list[Any] = [np.ascontiguousarray(array) for array in arrays[1:]]
        return Tables(arrays.chunks, *whole)

    @property
    def _deepest(self) -> int:
        """More than any stage is asked to have in flight, or has room for: the same as this."""
        limited = self._depth[self._depth < UNBOUNDED_DEPTH]
        chunks, stages = self.space.chunks, max(self.layers, self.max_stages)
        return int(min(limited.max(initial=0) + 1, (chunks + 1) * (stages + 1)))

    def _blocks(self) -> Ints:
        """``[i]``: the last layer of the block that layer i lies in."""
        edges = np.unique(np.linspace(1, self.layers, BLOCKS + 1).astype(np.int64))
        inner = np.searchsorted(edges, np.arange(1, self.layers), side="right")
        out: Ints = np.concatenate([[self.layers], edges[inner] - 1, [self.layers]])
        return out


def _distinct(middle: Floats, depth: Ints) -> list[int]:
    """Policies that differ from every earlier one in time or memory."""
    kept: list[int] = []
    for p in range(len(middle)):
        if not any(
            np.array_equal(middle[p], middle[q]) and np.array_equal(depth[p], depth[q])
            for q in kept
        ):
            kept.append(p)
    return kept
