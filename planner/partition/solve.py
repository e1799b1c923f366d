"""From a problem to a partition with its certificate.

1. `reduce`: what belongs together becomes one node; the optimum stays.
2. Contiguous stages: `heuristic` finds good partitions along some orders, then `lattice` proves
   the best one where the ideals are few (an exact dynamic program), else `prefix_model` (CP-SAT).
3. Interleaved stages start from the best contiguous ones: `anneal` improves them,
   `interleaved_model` (CP-SAT) proves, `pigeonhole` helps it with many alike nodes.
4. The answer in terms of the nodes that were given, loads added up anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from planner.errors import InfeasibleError, InputError, NoPlanFound, Problem
from planner.partition.anneal import annealed
from planner.partition.bounds import fluid_bound_ps
from planner.partition.certificate import Certificate, Solution, Status
from planner.partition.heuristic import first_partition
from planner.partition.lattice import all_ideals, lattice_partition
from planner.partition.problem import (
    Objective,
    Partition,
    PartitionProblem,
    Stage,
    check_problem,
    load_ps,
)
from planner.partition.reduce import Reduced, reduce_problem, restore

Work = tuple[tuple[str, float], ...]

MOVES_PER_NODE = 2_000
"""Annealing moves that a small graph needs at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard to try; all deterministic, so the same input gives the same answer.

    ``ideals``, ``entries`` of its table and ``pairs`` of ideals: up to how many of them the dynamic
    program is used. ``cells``: up to how many nodes and tensors times devices CP-SAT is used.
    ``nodes``: up to how many are left after the reduction anything is tried. ``work``:
    deterministic time of CP-SAT, about seconds. ``absorb``: whether nodes are absorbed before.
    ``moves``: of each of three annealing runs.
    """

    ideals: int = 20_000
    entries: int = 5_000_000
    cells: int = 20_000
    nodes: int = 2_000
    pairs: int = 60_000_000
    work: float = 60.0
    absorb: bool = True
    moves: int = 60_000
    seed: int = 0


def partition(problem: PartitionProblem, limits: Limits | None = None) -> Solution:
    """The best partition that is found within the limits, and how good it is at most.

    Raises InputError for a meaningless problem, InfeasibleError where it is proved that nothing
    fits, NoPlanFound where a limit was reached before a first partition. A graph that is too
    large even for the heuristics is an InputError.
    """
    limits = limits or Limits()
    check_problem(problem)
    contiguous = replace(problem, interleaved=False)
    reduced = reduce_problem(contiguous, absorb=limits.absorb)
    steps = [f"{len(problem.nodes)} nodes reduced to {len(reduced.problem.nodes)}"]
    if len(reduced.problem.nodes) > limits.nodes:
        message = (
            f"{len(reduced.problem.nodes)} nodes after joining, at most {limits.nodes} are tried"
        )
        remedy = "join operators into layers, or say which nodes go with which"
        raise InputError([Problem(problem.name, message, remedy)])
    found = _contiguous(reduced.problem, limits, steps)
    if problem.interleaved:
        start = None if found.partition is None else restore(contiguous, reduced, found.partition)
        reduced = reduce_problem(problem, absorb=limits.absorb)
        steps.append(f"without order: {len(reduced.problem.nodes)} nodes")
        again = _interleaved(reduced, start, limits, steps)
        found = replace(again, work=(*found.work, *again.work))
    return _finished(problem, reduced, found, steps)


@dataclass(frozen=True)
class _Found:
    """Best partition of the reduced problem, the bound on it, and whether that is the last word."""

    partition: Partition | None
    bound_ps: int
    proven: bool
    work: Work


def _contiguous(problem: PartitionProblem, limits: Limits, steps: list[str]) -> _Found:
    first, pairs = first_partition(problem)
    upper = None if first is None else first.objective_ps(problem.objective)
    steps.append("sampled ideals: " + _seconds(upper))
    states = prod(min(kind.count, len(problem.nodes)) + 1 for kind in problem.kinds)
    ideals = all_ideals(problem, min(limits.ideals, limits.entries // states))
    if ideals is not None:
        exact = lattice_partition(problem, ideals, upper_ps=upper, max_pairs=limits.pairs)
        pairs += exact.pairs
        if exact.complete:
            best = exact.partition
            value = None if best is None else best.objective_ps(problem.objective)
            steps.append(f"dynamic program over all {len(ideals)} ideals: {_seconds(value)}")
            return _Found(best, value or 0, True, (("ideal pairs", float(pairs)),))
    if _cells(problem) > limits.cells:
        bound = fluid_bound_ps(problem)
        steps.append(f"too large for CP-SAT; work spread evenly: bound {_seconds(bound)}")
        return _Found(first, bound, False, (("ideal pairs", float(pairs)),))
    from planner.partition.prefix_model import solve_prefix_model  # late: it loads the solver

    best, answer = solve_prefix_model(problem, hint=first, work_limit=limits.work, seed=limits.seed)
    value = None if best is None else best.objective_ps(problem.objective)
    bound = max(answer.bound_ps, fluid_bound_ps(problem))
    steps.append(f"CP-SAT over prefixes: {_seconds(value)}, bound {_seconds(bound)}")
    work = (("ideal pairs", float(pairs)), ("CP-SAT", answer.work))
    return _Found(best, bound, answer.proven or answer.infeasible, work)


def _interleaved(
    reduced: Reduced, start: Partition | None, limits: Limits, steps: list[str]
) -> _Found:
    """Improve a contiguous partition of the given nodes, and prove."""
    from planner.partition.interleaved_model import solve_interleaved_model  # late: the solver
    from planner.partition.pigeonhole import pigeonhole_bound_ps

    problem = reduced.problem
    best = None if start is None else _in_reduced(reduced, start)
    if best is not None:
        moves = min(limits.moves, MOVES_PER_NODE * len(problem.nodes))
        runs = [annealed(problem, best, seed=limits.seed + i, moves=moves) for i in range(3)]
        best = min(runs, key=lambda p: p.objective_ps(problem.objective))
        steps.append("annealing: " + _seconds(best.objective_ps(problem.objective)))
    lower, spent = fluid_bound_ps(problem), 0.0
    if problem.objective is Objective.max_load:
        pigeonhole, spent = pigeonhole_bound_ps(problem, limits.seed)
        if pigeonhole > lower:
            lower = pigeonhole
            steps.append(f"pigeonhole bound: {_seconds(lower)}")
    if _cells(problem) > limits.cells:
        steps.append(f"too large for CP-SAT; bound {_seconds(lower)}")
        return _Found(best, lower, False, (("CP-SAT", spent),))
    best, answer = solve_interleaved_model(
        problem, hint=best, lower_ps=lower, work_limit=limits.work, seed=limits.seed
    )
    value = None if best is None else best.objective_ps(problem.objective)
    bound = max(answer.bound_ps, lower)
    steps.append(f"CP-SAT over devices: {_seconds(value)}, bound {_seconds(bound)}")
    work = (("CP-SAT", spent + answer.work),)
    return _Found(best, bound, answer.proven or answer.infeasible, work)


def _cells(problem: PartitionProblem) -> int:
    """Size of both CP-SAT programs: nodes and tensors times devices."""
    devices = min(problem.devices, len(problem.nodes))
    return (len(problem.nodes) + len(problem.tensors)) * devices


def _in_reduced(reduced: Reduced, start: Partition) -> Partition | None:
    """The partition in reduced nodes, each where its first member is; None where that overflows."""
    problem = reduced.problem
    where = {v: s for s, stage in enumerate(start.stages) for v in stage.nodes}
    held: list[list[int]] = [[] for _ in start.stages]
    for v, members in enumerate(reduced.members):
        held[where[members[0]]].append(v)
    stages = []
    for stage, nodes in zip(start.stages, held):
        room = problem.kinds[stage.kind].memory_bytes
        load = load_ps(problem, stage.kind, tuple(nodes))
        used = sum(problem.nodes[v].memory_bytes for v in nodes)
        if load is None or (room is not None and used > room):
            return None
        if nodes:
            stages.append(Stage(stage.kind, tuple(nodes), load))
    return Partition(tuple(stages))


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
    return "nothing fits" if time_ps is None else f"{time_ps / 1e9:.7g} ms"
