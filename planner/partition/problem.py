"""What is partitioned: nodes with times, tensors between them, devices, and who comes first.

    nodes V, time t[v,c] on a device of kind c, memory m[v]
    tensors E, each a set of pins: the node that makes it and the nodes that read it
    cost w[e,c] of moving tensor e in or out of a device of kind c
    kinds of device c, N[c] of them with memory M[c] each

    load of a device that holds nodes S:
        sum of t[v,c] over v in S + sum of w[e,c] over tensors with some pins in S and some not

A tensor is paid once per device that it leaves or enters, however many readers it has there.
Maker and readers are paid alike, so a tensor is just its set of pins; direction matters only to
``order``: (u, v) in order means that v is in the same stage as u or in a later one. Stages are
then intervals of the graph: no path leaves a device and comes back (*contiguous*). A node that
follows another one wherever it goes (a backward pass its forward pass) is ``colocated`` with it
and needs no order of its own. *Interleaved* problems ignore the order: any nodes may share a
device, which then works on several pieces of the graph in turn.

The program is that of Tarnawski et al., "Efficient Algorithms for Device Placement of DNN Graph
Operators", NeurIPS 2020 (arXiv 2006.16423), with unlike devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from planner.errors import InputError, Problem

PS_PER_S = 10**12
"""Picoseconds in a second."""

MAX_TOTAL_PS = 2**53 - 1
"""Sums of times stay exact in double precision below this (two and a half hours)."""


class Objective(StrEnum):
    """What is least: the load of the fullest device (the takt of a pipeline), or all loads."""

    max_load = "max-load"
    total_load = "total-load"


@dataclass(frozen=True, slots=True)
class Kind:
    """``count`` interchangeable devices with ``memory_bytes`` each; None is unlimited."""

    name: str
    count: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator or layer. ``time_ps`` per kind of device; None: it cannot run there."""

    name: str
    time_ps: tuple[int | None, ...]
    memory_bytes: int = 0

    @property
    def least_ps(self) -> int:
        """Time on the kind that is fastest; 0 where it runs nowhere."""
        return min((t for t in self.time_ps if t is not None), default=0)


@dataclass(frozen=True, slots=True)
class Tensor:
    """The nodes that make and read one tensor, and what moving it costs per kind of device."""

    pins: tuple[int, ...]
    cost_ps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartitionProblem:
    """See the module. ``order`` and ``colocated`` hold indices of ``nodes``."""

    name: str
    kinds: tuple[Kind, ...]
    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...] = ()
    order: tuple[tuple[int, int], ...] = ()
    colocated: tuple[tuple[int, ...], ...] = ()
    interleaved: bool = False
    objective: Objective = Objective.max_load

    @property
    def devices(self) -> int:
        """Devices of all kinds."""
        return sum(kind.count for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Stage:
    """The nodes of one device, in ascending order, and its load."""

    kind: int
    nodes: tuple[int, ...]
    load_ps: int


@dataclass(frozen=True, slots=True)
class Partition:
    """Stages in order; devices without nodes are left out."""

    stages: tuple[Stage, ...]

    def objective_ps(self, objective: Objective) -> int:
        """The value that is minimised, in picoseconds."""
        loads = [stage.load_ps for stage in self.stages]
        return max(loads) if objective is Objective.max_load else sum(loads)


def check_problem(problem: PartitionProblem) -> None:
    """Raises InputError with everything that makes the problem meaningless."""
    problems = [*_shape_problems(problem)]
    if not problems:
        problems = [*_value_problems(problem)]
    if problems:
        raise InputError(problems)


def _shape_problems(problem: PartitionProblem) -> Iterator[Problem]:
    """Tuples of the wrong length and indices out of range."""
    nodes, kinds = len(problem.nodes), len(problem.kinds)
    if not nodes:
        yield Problem(problem.name, "has no nodes", "give at least one node")
    if not problem.devices:
        yield Problem(problem.name, "has no devices", "give a kind of device and how many")
    for v, node in enumerate(problem.nodes):
        if len(node.time_ps) != kinds:
            message = f"{len(node.time_ps)} times for {kinds} kinds of device"
            yield Problem(f"nodes[{v}] {node.name}", message, "give one time per kind, or None")
    for e, tensor in enumerate(problem.tensors):
        if len(tensor.cost_ps) != kinds:
            message = f"{len(tensor.cost_ps)} costs for {kinds} kinds of device"
            yield Problem(f"tensors[{e}]", message, "give one cost per kind")
    groups = [("tensors", [t.pins for t in problem.tensors]), ("order", problem.order)]
    for name, members in [*groups, ("colocated", problem.colocated)]:
        for i, indices in enumerate(members):
            if any(not 0 <= v < nodes for v in indices):
                yield Problem(f"{name}[{i}]", f"names a node that is not there: {indices}")


def _value_problems(problem: PartitionProblem) -> Iterator[Problem]:
    """Negative figures, and sums beyond what is exact."""
    total = 0
    for v, node in enumerate(problem.nodes):
        times = [t for t in node.time_ps if t is not None]
        if not times:
            remedy = "give its time on at least one kind"
            yield Problem(f"nodes[{v}] {node.name}", "runs on no kind of device", remedy)
        if min([*times, node.memory_bytes]) < 0:
            yield Problem(f"nodes[{v}] {node.name}", "a negative time or memory")
        total += max(times, default=0)
    for e, tensor in enumerate(problem.tensors):
        if min(tensor.cost_ps) < 0:
            yield Problem(f"tensors[{e}]", f"a negative cost: {tensor.cost_ps}")
        total += max(tensor.cost_ps) * len(set(tensor.pins))
    for kind in problem.kinds:
        if kind.count < 0 or (kind.memory_bytes is not None and kind.memory_bytes < 0):
            yield Problem(f"kind {kind.name}", "a negative count or memory")
    if total > MAX_TOTAL_PS:
        message = (
            f"all times together are {total / 1e12:.3g} s, more than {MAX_TOTAL_PS / 1e12:.3g}"
        )
        yield Problem(problem.name, message, "give the times of one micro-batch")


def load_ps(problem: PartitionProblem, kind: int, nodes: tuple[int, ...]) -> int | None:
    """Load of a device of a kind with these nodes; None where one of them cannot run there."""
    inside = set(nodes)
    total = 0
    for v in nodes:
        time = problem.nodes[v].time_ps[kind]
        if time is None:
            return None
        total += time
    for tensor in problem.tensors:
        held = sum(1 for v in set(tensor.pins) if v in inside)
        if 0 < held < len(set(tensor.pins)):
            total += tensor.cost_ps[kind]
    return total


def highest_ps(problem: PartitionProblem) -> int:
    """No load and no sum of loads is above this."""
    times = sum(max((t for t in n.time_ps if t is not None), default=0) for n in problem.nodes)
    return times + sum(max(t.cost_ps) * len(set(t.pins)) for t in problem.tensors)
