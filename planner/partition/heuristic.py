"""Good partitions without a proof: some of the ideals instead of all of them.

The dynamic program over *any* chain of ideals from the empty to the full set gives a partition.
One topological order is such a chain; a beam of the ideals that cut the least traffic holds many,
and leaves to the dynamic program how to combine them.
"""

from __future__ import annotations

from planner.partition.bounds import fluid_bound_ps
from planner.partition.lattice import grown_free, lattice_partition, neighbour_masks
from planner.partition.problem import Partition, PartitionProblem

BEAM_IDEALS = 2_500
"""Ideals that the beam keeps over all sizes; the dynamic program over them takes about a second."""

GUESS = 2
"""Times the fluid bound: up to there a first partition is looked for first, which is quicker."""


def first_partition(problem: PartitionProblem) -> tuple[Partition | None, int]:
    """The best contiguous partition along one order, then among sampled ideals; and pairs tried.

    None where neither holds one that fits into memory.
    """
    count = len(problem.nodes)
    prefixes = [(1 << i) - 1 for i in range(count + 1)]
    chain = lattice_partition(problem, prefixes, upper_ps=GUESS * fluid_bound_ps(problem))
    found, pairs = chain.partition, chain.pairs
    if found is None:
        chain = lattice_partition(problem, prefixes)
        found, pairs = chain.partition, pairs + chain.pairs
    for width in sorted({1, max(1, BEAM_IDEALS // count)}):
        upper = None if found is None else found.objective_ps(problem.objective)
        ideals = sampled_ideals(problem, width)
        beam = lattice_partition(problem, ideals, upper_ps=upper)
        pairs += beam.pairs
        found = beam.partition or found
    return found, pairs


def sampled_ideals(problem: PartitionProblem, width: int) -> list[int]:
    """For every size the ``width`` ideals that cut the least traffic, grown from one another."""
    before, after = neighbour_masks(problem)
    masks = [sum(1 << v for v in set(tensor.pins)) for tensor in problem.tensors]
    costs = [min(tensor.cost_ps) for tensor in problem.tensors]
    touching: list[list[int]] = [[] for _ in problem.nodes]
    for e, tensor in enumerate(problem.tensors):
        for v in set(tensor.pins):
            touching[v].append(e)
    level = {0: (0, sum(1 << v for v, mask in enumerate(before) if not mask))}
    found = [0]
    for _ in problem.nodes:
        grown: dict[int, tuple[int, int]] = {}
        for ideal, (traffic, free) in level.items():
            rest = free
            while rest:
                bit = rest & -rest
                rest ^= bit
                larger = ideal | bit
                if larger in grown:
                    continue
                v = bit.bit_length() - 1
                change = sum(_change(ideal, masks[e], costs[e]) for e in touching[v])
                grown[larger] = (traffic + change, grown_free(larger, free ^ bit, after[v], before))
        kept = sorted(grown.items(), key=lambda item: (item[1][0], item[0]))[:width]
        level = dict(kept)
        found += level
    return found


def _change(ideal: int, mask: int, cost: int) -> int:
    """What one more pin of a tensor changes in the traffic that an ideal cuts."""
    held = (ideal & mask).bit_count()
    full = mask.bit_count()
    return cost * ((held + 1 < full) - (held > 0))
