"""From a problem to a partition with its certificate.

1. `reduce`: what belongs together becomes one node; the optimum stays.
2. `heuristic`: good partitions along some orders.
3. Contiguous stages: `lattice` where the ideals are few (an exact dynamic program), else
   `prefix_model` (CP-SAT). Interleaved stages: `interleaved`.
4. The answer in terms of the nodes that were given, loads added up anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import InfeasibleError, NoPlanFound
from planner.partition.certificate import Certificate, Solution, Status
from planner.partition.heuristic import first_partition
from planner.partition.lattice import all_ideals, lattice_partition
from planner.partition.problem import Objective, Partition, PartitionProblem, check_problem
from planner.partition.reduce import Reduced, reduce_problem, restore


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard to try; all deterministic, so the same input gives the same answer.

    ``ideals`` and ``pairs``: up to how many the dynamic program is used. ``work``: deterministic
    time of CP-SAT, about seconds. ``absorb``: whether nodes may be absorbed before.
    """

    ideals: int = 20_000
    pairs: int = 60_000_000
    work: float = 60.0
    absorb: bool = True
    seed: int = 0


def partition(problem: PartitionProblem, limits: Limits | None = None) -> Solution:
    """The best partition that is found within the limits, and how good it is at most.

    Raises InputError for a meaningless problem, InfeasibleError where it is proved that nothing
    fits, NoPlanFound where a limit was reached before a first partition.
    """
    limits = limits or Limits()
    check_problem(problem)
    reduced = reduce_problem(problem, absorb=limits.absorb)
    steps = [f"{len(problem.nodes)} nodes reduced to {len(reduced.problem.nodes)}"]
    found = _contiguous(reduced.problem, limits, steps)
    return _finished(problem, reduced, found, steps)


@dataclass(frozen=True)
class _Found:
    """Best partition of the reduced problem and the bound on it."""

    partition: Partition | None
    bound_ps: int
    proven: bool
    work: tuple[tuple[str, float], ...]


def _contiguous(problem: PartitionProblem, limits: Limits, steps: list[str]) -> _Found:
    first, pairs = first_partition(problem)
    upper = None if first is None else first.objective_ps(problem.objective)
    steps.append("sampled ideals: " + _seconds(upper))
    ideals = all_ideals(problem, limits.ideals)
    if ideals is not None:
        exact = lattice_partition(problem, ideals, upper_ps=upper, max_pairs=limits.pairs)
        pairs += exact.pairs
        if exact.complete:
            best = exact.partition
            value = None if best is None else best.objective_ps(problem.objective)
            steps.append(f"dynamic program over all {len(ideals)} ideals: " + _seconds(value))
            return _Found(best, value or 0, True, (("ideal pairs", pairs),))
    from planner.partition.prefix_model import solve_prefix_model  # late: it loads the solver

    best, answer = solve_prefix_model(problem, hint=first, work_limit=limits.work, seed=limits.seed)
    value = None if best is None else best.objective_ps(problem.objective)
    bound = max(answer.bound_ps, fluid_bound_ps(problem))
    steps.append(f"CP-SAT over prefixes: {_seconds(value)}, bound {_seconds(bound)}")
    work = (("ideal pairs", float(pairs)), ("CP-SAT", answer.work))
    return _Found(best, bound, answer.proven or answer.infeasible, work)


def fluid_bound_ps(problem: PartitionProblem) -> int:
    """Least time of all nodes spread evenly over the devices, or of the slowest node."""
    least = [node.least_ps for node in problem.nodes]
    if problem.objective is Objective.total_load:
        return sum(least)
    return max(-(-sum(least) // problem.devices), max(least))


def _finished(
    problem: PartitionProblem, reduced: Reduced, found: _Found, steps: list[str]
) -> Solution:
    """The partition in the given nodes; or why there is none."""
    if found.partition is None:
        if found.proven:
            message = "no partition fits: memory, or kinds of device that cannot run a node"
            raise InfeasibleError(message, where=problem.name)
        raise NoPlanFound("the limit was reached before a first partition", where=problem.name)
    whole = restore(problem, reduced, found.partition)
    value = whole.objective_ps(problem.objective)
    status = Status.optimal if value - found.bound_ps <= 1e-6 * value else Status.feasible
    certificate = Certificate(status, value, min(value, found.bound_ps), tuple(steps), found.work)
    return Solution(whole, certificate)


def _seconds(time_ps: int | None) -> str:
    return "nothing fits" if time_ps is None else f"{time_ps / 1e12:.6g} s"
