"""The cheapest pipeline that could be through by a time, by what its schedule takes at least.

With m micro-batches by T, every stage j of a pipeline satisfies

    finish_0 + P_j + m·g_j ≤ T                                P_j = Σ_{s<j} (g_s + 2·h_s)      (1)
    finish_0 + φ + (m − 1)·g_j − (min(D_j, m) − 1)·f_j ≤ T    φ = Σ g + 2·Σ h                  (2)

(``schedules.lower_bound_time`` has the proof; D_j is as many as memory allows, at most). The least
price of such a pipeline is found by labels, from the first stage to the last: one per first layer
of the next stage, its chips, and finish_0 + P rounded down to buckets. Rounding down admits more
pipelines, so the answer is a lower bound; more buckets raise it. φ is known only at the end: a
query speaks about pipelines whose finish_0 + φ lies in an interval, and (2) takes its lower end.

Of the labels of one stage's layers only the price and P matter to what follows, so of all meshes
and recomputations on the same chips the fastest one that satisfies (2) stands for all. How many
micro-batches a stage must hold is known from below: a stage that ends at layer i has at least as
many stages behind it as cover the layers from i on in time. The same pass, backwards, says what
the layers from i on cost at least: labels that cannot beat the cutoff any more are dropped.

Folded pipelines (``folded``) are counted in pairs of a chunk and a micro-batch: there (1) is
``interleaved.lower_bound_time``, and (2) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.units import PS_PER_S
from planner.costing import Ints
from planner.search.compiling import contiguous
from planner.search.exact_pass import Asked, PathTables, least_path
from planner.search.space import Floats, Stage, StageSpace


@dataclass(frozen=True, slots=True)
class Query:
    """What a pass asks for: pipelines with ``count`` micro-batches (or pairs) by ``seconds``.

    ``fills``: the interval of finish_0 + φ in seconds. ``cutoff``: costs from there on are of no
    interest. ``finer``: so many times as many buckets, which reach so much further.
    """

    seconds: float
    count: int
    cutoff: float
    fills: tuple[float, float] = (0.0, np.inf)
    finer: int = 1


class ExactPaths:
    """Answers queries over one space at prices per option."""

    def __init__(self, space: StageSpace) -> None:
        self.space = space
        self.queries = 0
        chips = [(t.option.class_index, t.option.chips) for t in space.options]
        kinds = sorted(set(chips))
        kind: Ints = np.array([kinds.index(own) for own in chips], dtype=np.int64)
        _, leaders = np.unique(kind, return_index=True)
        self.leaders: Ints = leaders
        """An option of every kind: all of them have equal prices and hops."""
        self._tables = _tables(space, kind, leaders) if space.options else None

    def least(self, prices: Floats, query: Query) -> tuple[Stage, ...] | None:
        """A pipeline that may cost less than the cutoff; None proves that there is none.

        The pipeline is that of least relaxed cost: by itself it may cost more or take longer.
        """
        self.queries += 1
        if self._tables is None:
            return None
        low, high = map(float, query.fills)
        asked = Asked(query.seconds, query.count, query.cutoff, low, high, query.finer)
        places = np.arange(self.space.layers + 1)
        needs = self.space.held(places, places, query.count)
        found = least_path(self._tables, prices[self.leaders], needs, asked)
        return tuple(Stage(*stage) for stage in found[::-1].tolist()) or None


def _tables(space: StageSpace, kind: Ints, leaders: Ints) -> PathTables:
    every = np.stack([[t.forward_ps[p] for t in space.options] for p in space.policies])
    middle = np.where(space.depth[0] > 0, space.time[0], np.inf)
    shortest = middle.min(axis=(0, 2, 3)) if middle.size else np.zeros(0)
    found = PathTables(
        chunks=space.chunks,
        uniform=space.uniform,
        head_s=space.time[2],
        head_depth=space.depth[2],
        tail_s=space.time[1],
        tail_depth=space.depth[1],
        middle_s=space.time[0],
        middle_depth=space.depth[0],
        forward=np.cumsum(np.pad(every, ((0, 0), (0, 0), (1, 0))), axis=2) / PS_PER_S,
        finish=space.finish,
        own=space.leads.least(np.arange(space.layers)),
        before=space.leads.before,
        after=space.leads.after,
        passes=np.concatenate([[0.0], np.cumsum(space.layer_time.min(axis=0))]),
        shortest=np.minimum.accumulate(shortest[::-1])[::-1],
        starts=space.starts,
        ends=space.ends,
        kind=kind,
        hop=space.hop[leaders][:, leaders],
    )
    return contiguous(found)
