"""Checks a partition from scratch; shares no code with what made it.

Loads are added up tensor by tensor from the problem as given, before any reduction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from planner.partition.certificate import Solution
from planner.partition.problem import Objective, Partition, PartitionProblem


def check_partition(problem: PartitionProblem, partition: Partition) -> list[str]:
    """Everything that is wrong with a partition, in words; empty if it is right."""
    found = [*_coverage(problem, partition)]
    if found:
        return found  # the rest would only repeat it
    return [
        *_devices(problem, partition),
        *_colocation(problem, partition),
        *_contiguity(problem, partition),
        *_loads(problem, partition),
    ]


def check_solution(problem: PartitionProblem, solution: Solution) -> list[str]:
    """The same for a solution: its certificate has to be that of the partition."""
    found = check_partition(problem, solution.partition)
    certificate = solution.certificate
    loads = [stage.load_ps for stage in solution.partition.stages]
    largest = max(loads) if problem.objective is Objective.max_load else sum(loads)
    if certificate.objective_ps != largest:
        found.append(f"the objective is {largest} ps, not {certificate.objective_ps} ps")
    if certificate.lower_bound_ps > certificate.objective_ps:
        found.append("the lower bound is above the objective")
    if certificate.status == "optimal" and certificate.gap > 1e-6:
        found.append(f"called optimal with a gap of {certificate.gap:.3g}")
    return found


def _coverage(problem: PartitionProblem, partition: Partition) -> Iterator[str]:
    held = Counter(v for stage in partition.stages for v in stage.nodes)
    for v, node in enumerate(problem.nodes):
        if held[v] != 1:
            yield f"node {node.name} is in {held[v]} stages"
    for v in sorted(held.keys() - set(range(len(problem.nodes)))):
        yield f"there is no node {v}"
    for s, stage in enumerate(partition.stages):
        if not 0 <= stage.kind < len(problem.kinds):
            yield f"stage {s}: there is no kind of device {stage.kind}"
        if not stage.nodes:
            yield f"stage {s} is empty"


def _devices(problem: PartitionProblem, partition: Partition) -> Iterator[str]:
    used = Counter(stage.kind for stage in partition.stages)
    for c, kind in enumerate(problem.kinds):
        if used[c] > kind.count:
            yield f"{used[c]} devices of kind {kind.name} used, {kind.count} there"
    for s, stage in enumerate(partition.stages):
        kind = problem.kinds[stage.kind]
        need = sum(problem.nodes[v].memory_bytes for v in stage.nodes)
        if kind.memory_bytes is not None and need > kind.memory_bytes:
            yield f"stage {s} needs {need} bytes, a {kind.name} has {kind.memory_bytes}"
        for v in stage.nodes:
            if problem.nodes[v].time_ps[stage.kind] is None:
                yield f"stage {s}: {problem.nodes[v].name} cannot run on a {kind.name}"


def _colocation(problem: PartitionProblem, partition: Partition) -> Iterator[str]:
    where = {v: s for s, stage in enumerate(partition.stages) for v in stage.nodes}
    for group in problem.colocated:
        stages = sorted({where[v] for v in group})
        if len(stages) > 1:
            names = ", ".join(problem.nodes[v].name for v in group[:4])
            yield f"colocated nodes ({names}) are in stages {stages}"


def _contiguity(problem: PartitionProblem, partition: Partition) -> Iterator[str]:
    if problem.interleaved:
        return
    where = {v: s for s, stage in enumerate(partition.stages) for v in stage.nodes}
    for u, v in problem.order:
        if where[u] > where[v]:
            first, second = problem.nodes[u].name, problem.nodes[v].name
            yield f"{second} (stage {where[v]}) comes before {first} (stage {where[u]})"


def _loads(problem: PartitionProblem, partition: Partition) -> Iterator[str]:
    where = {v: s for s, stage in enumerate(partition.stages) for v in stage.nodes}
    loads = [
        sum(problem.nodes[v].time_ps[stage.kind] or 0 for v in stage.nodes)
        for stage in partition.stages
    ]
    for tensor in problem.tensors:
        held = {where[v] for v in tensor.pins}
        if len(held) > 1:
            for s in held:
                loads[s] += tensor.cost_ps[partition.stages[s].kind]
    for s, (stage, load) in enumerate(zip(partition.stages, loads)):
        if stage.load_ps != load:
            yield f"stage {s} has a load of {load} ps, not {stage.load_ps} ps"
