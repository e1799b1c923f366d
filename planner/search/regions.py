"""Regions of the space: what the outer branch and bound splits, down to single settings.

A region fixes an interval of replica counts and, where vendors share no collective, the order of
the vendors along the pipelines with an interval for every cut between them: through the layers, or
through every round of chunks, of which all pipelines then have as many per stage. Inside a region
that is not a single setting both ends of every interval are relaxed at once: replicas shard the
optimizer as if they were most, a vendor may hold every layer that some cut would give it. Regions
only ever split, so a bound of a region holds for all its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from ortools.linear_solver import pywraplp  # type: ignore[attr-defined]

from planner.search.folded import folded_layers, unfold
from planner.search.problem import Problem, Setting

STAGED = "cpu-staged"
"""Collectives between vendors that go through the processors."""
NARROW = 1.12
WIDER_PER_REPLICA = 1 / 250
WIDEST = 2.0
"""Replica counts within this ratio are alike; of many replicas the shards are small anyway."""


def most_alike(replicas: int) -> int:
    """The most replicas that share a setting with this number: ZeRO's shards differ by little."""
    return int(replicas * min(NARROW + replicas * WIDER_PER_REPLICA, WIDEST))


def _fewest_alike(replicas: int) -> int:
    """The fewest replicas that still share a setting with this number."""
    fewest = max(1, int(replicas / WIDEST))
    while most_alike(fewest) < replicas:
        fewest += 1
    return fewest


BALANCED = 4
"""Times that all cuts are moved in turn."""


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """``vendors`` in order along the pipelines, ``cuts`` between them; none: any chip anywhere.

    ``chunks``: how many every stage has, if that is fixed; cuts then are those of one round.
    """

    vendors: tuple[str, ...]
    cuts: tuple[tuple[int, int], ...]
    replicas: tuple[int, int]
    chunks: int | None = None

    @property
    def same_cuts(self) -> bool:
        """Whether all pipelines change vendor at known layers."""
        return all(low == high for low, high in self.cuts)

    @property
    def single(self) -> bool:
        """Whether nothing is left to split."""
        return self.same_cuts and self.replicas[1] <= most_alike(self.replicas[0])

    @property
    def splits_on(self) -> bool:
        """Whether a single setting can still be cut into narrower ones, for the proof alone."""
        return self.replicas[1] > self.replicas[0] * NARROW

    def setting(self, problem: Problem, classes: Sequence[int] | None = None) -> Setting:
        """The relaxed setting of the region; classes outside ``classes`` stay idle."""
        chunks = self.chunks or 1
        length = folded_layers(problem.tables.layers, chunks)
        windows, ranks = [], []
        for c in problem.topology.classes:
            window, rank = (0, length), 0
            if self.vendors:
                window = (0, 0)
                if c.chip.vendor in self.vendors:
                    rank = self.vendors.index(c.chip.vendor)
                    first = self.cuts[rank - 1][0] if rank else 0
                    end = self.cuts[rank][1] if rank < len(self.cuts) else length
                    window = (first, end)
            if classes is not None and c.index not in classes:
                window = (0, 0)
            first, end = (unfold(cut, length, chunks) for cut in window)
            windows.append((first, end))
            ranks.append(rank)
        order = tuple(ranks) if len(set(ranks)) > 1 else ()
        return Setting(self.replicas, tuple(windows), order, self.chunks)

    def parts(self, pipelines: float, cuts: Sequence[float]) -> tuple[Region, ...]:
        """Two halves, around the replicas and cuts that the relaxation's optimum has."""
        widest = max(range(len(self.cuts)), key=lambda k: _width(self.cuts[k]), default=None)
        low, high = self.replicas
        if widest is not None and _width(self.cuts[widest]) > 0:
            # cuts first: pipelines that change vendor at different layers promise the most
            a, b = self.cuts[widest]
            middle = min(max(round(cuts[widest]), a), b - 1)
            return tuple(
                replace(self, cuts=(*self.cuts[:widest], part, *self.cuts[widest + 1 :]))
                for part in ((a, middle), (middle + 1, b))
            )
        middle = int(pipelines + 1e-6)
        if self.single:
            middle = int((low * high) ** 0.5)
        elif pipelines <= most_alike(low):
            # at an end of the interval what misleads are the shards: set a single setting apart
            middle = most_alike(low)
        elif pipelines >= high - 1e-6:
            middle = _fewest_alike(high) - 1
        middle = min(max(middle, low), high - 1)
        return (replace(self, replicas=(low, middle)), replace(self, replicas=(middle + 1, high)))


def balanced(problem: Problem, region: Region, classes: Sequence[int] | None = None) -> Region:
    """The region with every cut where the vendors' work is in balance: a place to begin.

    One cut after the other moves to where work over capacity is least, until none moves.
    """

    def work(cuts: Sequence[int]) -> float:
        known = replace(region, cuts=tuple((c, c) for c in cuts))
        return fluid_bound_s(problem, known.setting(problem, classes))

    cuts = [(low + high) // 2 for low, high in region.cuts]
    for _ in range(BALANCED):
        before = list(cuts)
        for k, (low, high) in enumerate(region.cuts):
            first = max([low, *(c + 1 for c in cuts[:k])])
            end = min([high + 1, *cuts[k + 1 :]])
            each = [(work([*cuts[:k], c, *cuts[k + 1 :]]), c) for c in range(first, end)]
            cuts[k] = min(each)[1]
        if cuts == before:
            break
    return replace(region, cuts=tuple((c, c) for c in cuts))


def _width(interval: tuple[int, int]) -> int:
    return interval[1] - interval[0]


def roots(problem: Problem, classes: Sequence[int] | None = None) -> list[Region]:
    """Regions that together hold the declared space.

    Without cross-vendor collectives no layer has replicas on two vendors, so all pipelines change
    vendor at the same cuts. Each vendor holds one run of consecutive layers (declared); vendors
    may be left out. Where collectives between vendors go through the processors, interleaved
    pipelines are declared for vendors that share no layer only.
    """
    collectives, every = problem.topology.cross_vendor_collectives, (1, most_replicas(problem))
    kept_apart = apart(problem, classes) if collectives in ("none", STAGED) else []
    if kept_apart and collectives == "none":
        return kept_apart
    if kept_apart and problem.chunks:
        return [Region((), (), every, 1), *(r for r in kept_apart if r.chunks != 1)]
    return [Region((), (), every)]


def mixes_chunks(problem: Problem) -> bool:
    """Whether pipelines with one and with several chunks per stage may stand side by side."""
    return bool(problem.chunks) and any(r.chunks is None and not r.vendors for r in roots(problem))


def apart(problem: Problem, classes: Sequence[int] | None = None) -> list[Region]:
    """Regions in which no layer lies on two vendors; none where there is but one.

    Several vendors have as many chunks per stage in all pipelines, one alone has any.
    """
    every = (1, most_replicas(problem))
    members = [c for c in problem.topology.classes if classes is None or c.index in classes]
    vendors = sorted({c.chip.vendor for c in members})
    found: list[Region] = []
    if len(vendors) <= 1:
        return found
    found += [Region((vendor,), (), every) for vendor in vendors]
    for chunks in (1, *problem.chunks):
        length = folded_layers(problem.tables.layers, chunks)
        beside = int(chunks > 1)  # the first and the last layer lie beside an inner one
        for count in range(2, min(len(vendors), length - 2 * beside) + 1):
            for order in permutations(vendors, count):
                cuts = tuple((k + beside, length - count + k - beside) for k in range(1, count))
                found.append(Region(order, cuts, every, chunks))
    return found


def most_replicas(problem: Problem) -> int:
    """More pipelines than this would leave one without a stage or without a row."""
    return problem.most_pipelines


def fluid_bound_s(problem: Problem, setting: Setting) -> float:
    """Work over capacity: an immediate lower bound on the step time of a setting.

    The least time in which the fleet could do every layer of the whole batch if work divided
    perfectly: a transport problem, solved as a small linear program; the bound is evaluated from
    its dual prices of a chip-second, so that no tolerance of the solver weakens it. Infinite where
    no class of the setting may run some layer.
    """
    work = problem.chip_seconds.copy()
    for c, (first, end) in enumerate(setting.windows):
        work[c, :first] = work[c, end:] = np.inf
    classes = problem.topology.classes
    chips = np.array([problem.chips_of((c.index,)) for c in classes], dtype=np.float64)
    work[chips == 0] = np.inf
    if np.isinf(work.min(axis=0)).any():
        return float("inf")
    # in units of the longest work, so that the solver's tolerances mean something
    unit = float(work[np.isfinite(work)].max())
    if unit <= 0:
        return 0.0
    kinds, counts = np.unique(work / unit, axis=1, return_counts=True)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    prices = [solver.NumVar(0.0, solver.infinity(), "") for _ in chips]
    least = [solver.NumVar(0.0, solver.infinity(), "") for _ in counts]
    budget = solver.Constraint(-solver.infinity(), 1.0)
    for price, count in zip(prices, chips, strict=True):
        budget.SetCoefficient(price, float(count / chips.sum()))
    for k, column in enumerate(kinds.T):
        for member in np.flatnonzero(np.isfinite(column)):
            row = solver.Constraint(-solver.infinity(), 0.0)
            row.SetCoefficient(least[k], 1.0)
            row.SetCoefficient(prices[int(member)], -float(column[member]))
    objective = solver.Objective()
    for value, count in zip(least, counts, strict=True):
        objective.SetCoefficient(value, float(count))
    objective.SetMaximization()
    solver.Solve()
    found = np.maximum(np.array([p.SolutionValue() for p in prices]), 0.0)
    worth = float(found @ chips)
    if worth <= 0:
        return 0.0
    paid = np.where(
        np.isfinite(kinds), found[:, None] * np.where(np.isfinite(kinds), kinds, 0), np.inf
    )
    return float((paid.min(axis=0) * counts).sum()) * unit * problem.global_batch / worth
