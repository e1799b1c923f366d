"""Steps from one single setting to the next: numbers of pipelines, and cuts between vendors."""

from __future__ import annotations

from dataclasses import replace

from planner.search.folded import folded_layers
from planner.search.problem import Problem
from planner.search.regions import Region, most_replicas

FEW = 8
"""Below so many pipelines every number is looked at."""
STRIDE = 1.6
"""Ratio of the numbers that are looked at where pipelines are many."""
EVEN_WITHIN = 0.25
"""How far from the wanted number of pipelines one that divides the batch is preferred."""


def with_count(problem: Problem, region: Region, wanted: float) -> Region:
    """The region with one number of pipelines, near the wanted one."""
    low, high = 1, most_replicas(problem)
    count = _even(problem.global_batch, min(max(wanted, low), high), (low, high))
    return replace(region, replicas=(count, count))


def more(problem: Problem, at: Region) -> Region:
    """The next larger number of pipelines; where they are many, in strides."""
    count = at.replicas[0]
    return with_count(problem, at, count + 1 if count < FEW else count * STRIDE)


def fewer(problem: Problem, at: Region) -> Region:
    """The next smaller number of pipelines."""
    count = at.replicas[0]
    return with_count(problem, at, count - 1 if count <= FEW else count / STRIDE)


def times(factor: float, problem: Problem, at: Region) -> Region:
    """So many times as many pipelines."""
    return with_count(problem, at, at.replicas[0] * factor)


def moved(cut: int, by: int, problem: Problem, at: Region) -> Region:
    """One cut between vendors elsewhere, unless another one is there."""
    cuts = [low for low, _ in at.cuts]
    cuts[cut] += by
    edges = [0, *cuts, folded_layers(problem.tables.layers, at.chunks or 1)]
    if not edges[cut] < edges[cut + 1] < edges[cut + 2]:
        return at
    return replace(at, cuts=tuple((c, c) for c in cuts))


def _even(batch: int, wanted: float, within: tuple[int, int]) -> int:
    """A number of pipelines near the wanted one; where they are many, one that divides the batch.

    With few rows per pipeline, uneven shares leave most pipelines waiting for a row.
    """
    near = range(round(wanted * (1 - EVEN_WITHIN)), round(wanted * (1 + EVEN_WITHIN)) + 1)
    even = [n for n in near if n > 0 and batch % n == 0 and within[0] <= n <= within[1]]
    if wanted < FEW or not even:
        return min(max(round(wanted), within[0]), within[1])
    return min(even, key=lambda n: (abs(n - wanted), n))
