"""Over how many islands a layer lies at least, in any plan that ends by a given time.

An island of g chips has g·T chip-seconds until T. A layer takes B rows times its least chip-seconds
per row, wherever its replicas are. So an island does a known part of a layer's batch at most, which
says how many islands share the layer, and it holds *all* replicas of few layers only: all others
of its layers are summed over the network, however its stages are laid out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.search.problem import Problem

Floats = NDArray[np.float64]
MARGIN = 1e-9


@dataclass(frozen=True)
class Spread:
    """What plans that end by one time (seconds; None: any) have in common.

    ``islands[layer]``: on so many it lies at least. ``share[class, layer]``: how much of a layer's
    batch one island can do at most (above 1: it could do several such layers).
    """

    horizon_s: float | None
    islands: Floats
    share: Floats

    def saved(self, class_index: int, first: int, savings: Floats, part: float) -> Floats:
        """``[n]``: most that a stage ``[first, first + n)`` saves by layers its island has alone.

        ``savings[k]``: what it saves for layer ``first + k``. Whole layers count, as many as the
        island can do by then (the last one in part: a relaxation). ``part``: how much of the
        island is the stage itself. It does no more of its layers than it has time for, and what
        it leaves of those that are here alone must find time on the rest of the island.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            each = 1.0 / self.share[class_index, first:]
            worth = np.where(each <= 1.0, np.maximum(savings, 0.0), 0.0)
            work = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(each), each, 0.0))])
            own = np.minimum(part / np.maximum(work, 1.0), 1.0)
            room = np.where(own < 1.0, np.minimum((1.0 - part) / (1.0 - own), 1.0), 1.0)
            each = np.where(worth > 0, each, 0.0)
            order = np.argsort(-np.nan_to_num(worth / each, nan=0.0), kind="stable")
        member = order[None, :] < np.arange(len(worth) + 1)[:, None]
        taken = np.where(member, each[order], 0.0)
        left = room[:, None] * (1 + MARGIN) - (np.cumsum(taken, axis=1) - taken)
        counted = np.where(taken > 0, np.clip(left / np.maximum(taken, 1e-300), 0.0, 1.0), 1.0)
        out: Floats = np.where(member, worth[order] * counted, 0.0).sum(axis=1)
        return out


def spread_by(problem: Problem, horizon_s: float | None) -> Spread:
    """What every plan has in common that ends by the horizon; None: any plan at all."""
    seconds = problem.chip_seconds
    if horizon_s is None:
        return Spread(None, np.ones(seconds.shape[1]), np.full(seconds.shape, np.inf))
    size = np.array([c.size for c in problem.topology.classes], dtype=np.float64)
    with np.errstate(divide="ignore"):
        share = size[:, None] * horizon_s * (1 + MARGIN) / (problem.global_batch * seconds)
        islands = np.ceil(1.0 / share.max(axis=0) - MARGIN)
    return Spread(horizon_s, np.maximum(islands, 1.0), share)
