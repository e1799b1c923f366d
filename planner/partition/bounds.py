"""Bounds on the objective that need no search."""

from __future__ import annotations

from planner.partition.problem import Objective, PartitionProblem


def fluid_bound_ps(problem: PartitionProblem) -> int:
    """All nodes spread evenly over the devices, or the slowest node; for the total, their sum."""
    least = [node.least_ps for node in problem.nodes]
    if problem.objective is Objective.total_load:
        return sum(least)
    return max(-(-sum(least) // problem.devices), max(least))
