"""What the compiled passes read of a space, and what stages of inner layers that are alike take.

There a stage of n inner layers under option o and recomputation p takes c·n with c = c[p, o], so
that a few numbers per option stand for all stages.
"""

from __future__ import annotations

import numpy as np

from planner.costing import Ints
from planner.search.compiling import contiguous
from planner.search.passes import SLACK, Tables
from planner.search.space import UNBOUNDED_DEPTH, Floats, StageSpace

BLOCKS = 12
"""Parts of the model in each of which the room for synchronisation counts as equal."""


class Items:
    """Seconds per layer and length limits of every (policy, option) of a uniform space."""

    def __init__(self, space: StageSpace) -> None:
        middle, depth = space.time[0][:, :, :, 0], space.depth[0][:, :, :, 0]
        kept = _distinct(middle, depth)
        self.layers = space.layers
        self.seconds: Floats = middle[kept, 0] if middle.shape[1] else middle[kept].sum(axis=1)
        self.depth: Ints = depth[kept]
        """``[policy, n - 1, option]``: most micro-batches in flight of n inner layers."""
        self._most: dict[int, Ints] = {}

    def most(self, depth: int) -> Ints:
        """``[policy, option]``: most inner layers that fit with ``depth`` in flight."""
        if depth not in self._most:
            self._most[depth] = (self.depth >= depth).sum(axis=1)
        return self._most[depth]

    def within(self, takts: Floats) -> Ints:
        """``[policy, option, query]``: most inner layers within the takt."""
        with np.errstate(divide="ignore"):
            count = np.floor(takts * SLACK / self.seconds[:, :, None])
        out: Ints = np.minimum(count, self.layers).astype(np.int64)
        return out


def tables_of(space: StageSpace, items: Items | None, max_stages: int) -> Tables:
    """The space as the passes read it; ``items`` where its inner layers are alike."""
    leads = space.leads
    forward = np.diff(leads.before[np.isfinite(leads.before)][1:-1]).max(initial=0.0)
    # cuts and options that hop alike are one kind each
    _, cuts = np.unique(space.cut_kind, return_index=True)
    _, members = np.unique(space.hop_kind, return_index=True)
    late_head, late_tail = space.late
    to_first, from_last = space.slowest_back
    seconds = np.zeros((0, len(space.options))) if items is None else items.seconds
    most = np.zeros((1, 0, len(space.options)), dtype=np.int64)
    if items is not None:
        deepest = _deepest(space, items, max_stages)
        most = np.stack([items.most(depth) for depth in range(deepest + 1)])
    middle_s, middle_depth = _by_end(space) if items is None else _nowhere()
    found = Tables(
        chunks=space.chunks,
        uniform=items is not None,
        middle_s=middle_s,
        middle_depth=middle_depth,
        seconds=seconds,
        order=np.argsort(seconds, axis=0, kind="stable"),
        most=most,
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
        taken=np.maximum(seconds + leads.finish - forward, 0.0),
        steep=np.maximum(seconds + leads.steep - forward, 0.0),
        relief=leads.relief,
        late_head=late_head,
        late_tail=late_tail,
        blocks=_blocks(space.layers),
    )
    return contiguous(found)


def _nowhere() -> tuple[Floats, Ints]:
    return np.zeros((0, 0, 0, 0)), np.zeros((0, 0, 0, 0), dtype=np.int64)


def _by_end(space: StageSpace) -> tuple[Floats, Ints]:
    """Times and depths of inner stages ``[option, policy, end, n - 1]``; infinite where none is."""
    length = space.layers
    policies, longest, options = space.time[0].shape[:3]
    seconds = np.full((options, policies, length + 1, longest), np.inf)
    depth = np.zeros(seconds.shape, dtype=np.int64)
    for n in range(1, longest + 1):
        ends = np.arange(n + 1, length)
        at = np.zeros_like(ends) if space.uniform else ends - n
        seconds[:, :, ends, n - 1] = space.time[0][:, n - 1][:, :, at].transpose(1, 0, 2)
        depth[:, :, ends, n - 1] = space.depth[0][:, n - 1][:, :, at].transpose(1, 0, 2)
    return seconds, depth


def _deepest(space: StageSpace, items: Items, max_stages: int) -> int:
    """In-flight micro-batches beyond which no stage has room, or none is asked about.

    Stages are asked for at most twice their place (``slope``), or for the pairs of their chunks.
    """
    limited = items.depth[items.depth < UNBOUNDED_DEPTH]
    stages = max(space.layers, max_stages)
    return int(min(limited.max(initial=0) + 1, (space.chunks + 1) * (stages + 1)))


def _blocks(layers: int) -> Ints:
    """``[i]``: the last layer of the block that layer i lies in."""
    edges = np.unique(np.linspace(1, layers, BLOCKS + 1).astype(np.int64))
    inner = np.searchsorted(edges, np.arange(1, layers), side="right")
    out: Ints = np.concatenate([[layers], edges[inner] - 1, [layers]])
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
