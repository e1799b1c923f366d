"""The outer settings: replica intervals and, where vendors share no collective, vendor cuts.

Together the settings cover the declared space; each is searched, or refuted at a target.
"""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.problem import Problem, Setting
from planner.search.space import Floats

Windows = tuple[tuple[int, int], ...]


def replica_intervals(problem: Problem) -> list[tuple[int, int]]:
    """Doubling intervals that cover every possible number of pipelines."""
    chips = sum(capacity for _, tp, capacity in problem.packing_rows if tp == 1)
    most = min(chips, problem.global_batch)
    intervals = []
    low = 1
    while low <= most:
        high = min(most, 2 * low - 1)
        intervals.append((low, high))
        low = high + 1
    return intervals


def vendor_windows(problem: Problem) -> list[Windows]:
    """Which layers each class may hold: one entry where any collective may span the fleet.

    Without cross-vendor collectives no layer has replicas on two vendors, so all pipelines change
    vendor at the same cuts. Each vendor holds one run of consecutive layers (declared); vendors
    may be left out.
    """
    length = problem.tables.layers
    classes = problem.topology.classes
    everything = (0, length)
    vendors = sorted({c.chip.vendor for c in classes})
    if problem.topology.cross_vendor_collectives != "none" or len(vendors) == 1:
        return [tuple(everything for _ in classes)]
    found = []
    for count in range(1, len(vendors) + 1):
        for order in permutations(vendors, count):
            for cuts in combinations(range(1, length), count - 1):
                edges = (0, *cuts, length)
                window = {v: (edges[k], edges[k + 1]) for k, v in enumerate(order)}
                found.append(tuple(window.get(c.chip.vendor, (0, 0)) for c in classes))
    return found


def chip_seconds(problem: Problem) -> Floats:
    """``[class, layer]``: least chip-seconds per row of a layer on a class; inf if not runnable."""
    out = np.full((len(problem.topology.classes), problem.tables.layers), np.inf)
    for table in problem.tables.tables:
        o = table.option
        backward = table.backward_ps[list(problem.policies)].min(axis=0)
        each = (table.forward_ps + backward) * (o.tp / o.rows / PS_PER_S)
        out[o.class_index] = np.minimum(out[o.class_index], each)
    return out


def fluid_bound_s(problem: Problem, work: Floats, windows: Windows) -> float:
    """Work over capacity: a weak but immediate lower bound on the step time under windows.

    The classes that share a window must do its layers for the whole batch; they are merged by
    their speed on the layer where each is relatively best, which can only be optimistic.
    Different windows belong to different vendors and do not overlap.
    """
    classes = problem.topology.classes
    worst = 0.0
    for window in sorted({w for w in windows if w[0] < w[1]}):
        members = [
            c for c in classes if windows[c.index] == window and np.isfinite(work[c.index]).any()
        ]
        if not members:
            continue
        first, end = windows[members[0].index]
        # a class finishes its best-suited layers at rate chips/work; take the whole window at
        # the highest rate relative to a reference class, layer by layer
        reference = work[members[0].index, first:end]
        capacity = 0.0
        for c in members:
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = reference / work[c.index, first:end]
            ratio = ratio[np.isfinite(ratio)]
            if len(ratio):
                capacity += c.chips * float(ratio.max())
        total = float(reference.sum()) * problem.global_batch
        if not np.isfinite(total):
            continue
        worst = max(worst, total / capacity if capacity else np.inf)
    return worst


def settings_of(
    problem: Problem, windows: Windows, intervals: list[tuple[int, int]]
) -> list[Setting]:
    """Settings of one choice of windows."""
    return [Setting(i, windows) for i in intervals]
