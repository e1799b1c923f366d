"""Tiny partition problems for hypothesis, and the brute force that knows their optima."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import strategies as st

from planner.partition.problem import Kind, Node, Objective, PartitionProblem, Tensor
from tests.strategies import reproducible

EXACT = reproducible(80)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_nodes: int = 6,
    interleaved: bool = False,
    colocated: bool = True,
    memory: bool = True,
    objective: Objective = Objective.max_load,
) -> PartitionProblem:
    """Graphs of a few nodes on up to four devices of up to two kinds."""
    count = draw(st.integers(1, max_nodes))
    kinds = draw(st.integers(1, 2))
    most = {1: 4, 2: 2}[kinds]
    amount = st.integers(0, 6)
    pairs = [(u, v) for u in range(count) for v in range(u + 1, count)]
    order = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8)) if pairs else []
    pins = st.lists(st.integers(0, count - 1), min_size=1, max_size=4)
    times = st.tuples(*[st.one_of(amount, st.none()) if c else amount for c in range(kinds)])
    return PartitionProblem(
        name="tiny",
        kinds=tuple(
            Kind(
                f"k{c}",
                draw(st.integers(1 if c == 0 else 0, most)),
                draw(st.one_of(st.none(), st.integers(0, 12))) if memory else None,
            )
            for c in range(kinds)
        ),
        nodes=tuple(
            Node(f"n{v}", draw(times), draw(st.integers(0, 4)) if memory else 0)
            for v in range(count)
        ),
        tensors=tuple(
            Tensor(tuple(p), draw(st.tuples(*[amount] * kinds)))
            for p in draw(st.lists(pins, max_size=6))
        ),
        order=tuple(order),
        colocated=tuple(draw(st.lists(st.lists(st.integers(0, count - 1), max_size=3), max_size=1)))
        if colocated
        else (),
        interleaved=interleaved,
        objective=objective,
    )


def brute_force(problem: PartitionProblem) -> int | None:
    """The optimum by trying every way to put nodes on devices; None if nothing fits.

    Devices have names here and no order: contiguous means that the graph of devices is acyclic.
    """
    devices = [c for c, kind in enumerate(problem.kinds) for _ in range(kind.count)]
    best: int | None = None
    for where in product(range(len(devices)), repeat=len(problem.nodes)):
        if any(where[v] != where[group[0]] for group in problem.colocated for v in group):
            continue
        if not problem.interleaved and has_cycle({(where[u], where[v]) for u, v in problem.order}):
            continue
        loads = device_loads(problem, devices, where)
        if loads is None:
            continue
        value = max(loads) if problem.objective is Objective.max_load else sum(loads)
        best = value if best is None else min(best, value)
    return best


def device_loads(
    problem: PartitionProblem, devices: list[int], where: tuple[int, ...]
) -> list[int] | None:
    """Load of every device; None where one is too small or cannot run its nodes."""
    loads = [0] * len(devices)
    room = [problem.kinds[c].memory_bytes for c in devices]
    for v, node in enumerate(problem.nodes):
        time = node.time_ps[devices[where[v]]]
        if time is None:
            return None
        loads[where[v]] += time
        left = room[where[v]]
        if left is not None:
            if node.memory_bytes > left:
                return None
            room[where[v]] = left - node.memory_bytes
    for tensor in problem.tensors:
        held = {where[v] for v in tensor.pins}
        for d in held if len(held) > 1 else ():
            loads[d] += tensor.cost_ps[devices[d]]
    return loads


def has_cycle(edges: set[tuple[int, int]]) -> bool:
    """Whether a directed graph has a cycle other than single nodes."""
    left = {(a, b) for a, b in edges if a != b}
    while left:
        targets = {b for _, b in left}
        kept = {(a, b) for a, b in left if a in targets}
        if kept == left:
            return True
        left = kept
    return False


def with_more_devices(problem: PartitionProblem) -> PartitionProblem:
    """The same with one more device of the first kind."""
    first = problem.kinds[0]
    return replace(problem, kinds=(replace(first, count=first.count + 1), *problem.kinds[1:]))
