"""Smaller problems with the same optimum: what belongs together becomes one node.

*Contraction* (exact): colocated nodes are one node; with an order, so are all nodes of a cycle
that this closes, because stages along a cycle can only be equal. A tensor with all pins in one
node vanishes, tensors with the same pins become one, and of the order only the edges that no
longer path implies are kept.

*Absorption* (keeps an optimum): let v and u be nodes, pair the cost of the tensors whose pins are
just v and u, away that of the tensors of v that u does not touch. If for every kind of device

    t[v] + away <= pair        and v runs wherever u does,

then moving v from its device to that of u never raises a load. The device of u paid ``pair``,
which it saves, and pays at most t[v] and ``away`` instead; the device of v paid t[v] and ``pair``,
which it saves, and pays at most ``away`` instead; tensors that both touch were cut and stay cut or
are saved; no other device notices. The order allows the move if u is the only direct predecessor
or the only direct successor of v, or if v is ordered with nobody. Memory allows it if v needs
none, or if everything fits on one device of every kind.

Absorptions of disjoint pairs do not disturb one another: contracting another pair turns no tensor
of ``pair`` into something else, adds none to ``away``, and leaves u the only neighbour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.partition.problem import Node, Partition, PartitionProblem, Stage, Tensor, load_ps


@dataclass(frozen=True, slots=True)
class Reduced:
    """A smaller problem; ``members[v]`` are the original nodes of its node v, ascending."""

    problem: PartitionProblem
    members: tuple[tuple[int, ...], ...]


def reduce_problem(problem: PartitionProblem, *, absorb: bool = True) -> Reduced:
    """Contract, then absorb until nothing changes. Node order is a topological order."""
    reduced = _contracted(problem, problem.colocated)
    while absorb:
        pairs = _absorbable(reduced.problem)
        if not pairs:
            break
        smaller = _contracted(reduced.problem, pairs)
        reduced = Reduced(
            smaller.problem,
            tuple(_flat(reduced.members, group) for group in smaller.members),
        )
    return reduced


def restore(problem: PartitionProblem, reduced: Reduced, small: Partition) -> Partition:
    """A partition of the original problem from one of the reduced problem, loads recomputed."""
    stages: list[Stage] = []
    for stage in small.stages:
        nodes = _flat(reduced.members, stage.nodes)
        load = load_ps(problem, stage.kind, nodes)
        if load is None:
            raise ValueError(f"{problem.name}: a node of stage {len(stages)} cannot run there")
        stages.append(Stage(stage.kind, nodes, load))
    return Partition(tuple(stages))


def _flat(members: Sequence[tuple[int, ...]], group: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(v for g in group for v in members[g]))


def _contracted(problem: PartitionProblem, groups: Sequence[Sequence[int]]) -> Reduced:
    """One node per group and cycle, in a topological order whose ties follow the old order."""
    count = len(problem.nodes)
    parent = list(range(count))

    def root(v: int) -> int:
        while parent[v] != v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    for group in groups:
        for v in group[1:]:
            a, b = sorted((root(group[0]), root(v)))
            parent[b] = a
    ordered = [] if problem.interleaved else problem.order
    edges = {(root(u), root(v)) for u, v in ordered if root(u) != root(v)}
    cycles = _components({root(v) for v in range(count)}, edges)
    for cycle in cycles:
        for v in cycle:
            parent[v] = cycle[0]
    edges = {(root(u), root(v)) for u, v in edges if root(u) != root(v)}
    sequence = topological_order(sorted({root(v) for v in range(count)}), edges)
    place = {v: i for i, v in enumerate(sequence)}
    members: list[list[int]] = [[] for _ in sequence]
    for v in range(count):
        members[place[root(v)]].append(v)
    small = replace(
        problem,
        nodes=tuple(_joined(problem, group) for group in members),
        tensors=_tensors(problem, [place[root(v)] for v in range(count)]),
        order=without_implied(len(sequence), {(place[u], place[v]) for u, v in edges}),
        colocated=(),
    )
    return Reduced(small, tuple(tuple(group) for group in members))


def _joined(problem: PartitionProblem, group: Sequence[int]) -> Node:
    nodes = [problem.nodes[v] for v in group]
    times: list[int | None] = []
    for kind in range(len(problem.kinds)):
        parts = [node.time_ps[kind] for node in nodes]
        known = [t for t in parts if t is not None]
        times.append(sum(known) if len(known) == len(parts) else None)
    return Node(nodes[0].name, tuple(times), sum(node.memory_bytes for node in nodes))


def _tensors(problem: PartitionProblem, place: Sequence[int]) -> tuple[Tensor, ...]:
    """Tensors between the new nodes, those with equal pins added up."""
    costs: dict[tuple[int, ...], tuple[int, ...]] = {}
    for tensor in problem.tensors:
        pins = tuple(sorted({place[v] for v in tensor.pins}))
        if len(pins) > 1 and any(tensor.cost_ps):
            known = costs.get(pins, (0,) * len(problem.kinds))
            costs[pins] = tuple(a + b for a, b in zip(known, tensor.cost_ps))
    return tuple(Tensor(pins, costs[pins]) for pins in sorted(costs))


def _components(nodes: set[int], edges: set[tuple[int, int]]) -> Iterator[list[int]]:
    """Strongly connected components of more than one node, each ascending (Tarjan 1972)."""
    after: dict[int, list[int]] = defaultdict(list)
    for u, v in sorted(edges):
        after[u].append(v)
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    for start in sorted(nodes):
        work = [(start, 0)] if start not in number else []
        while work:
            v, i = work.pop()
            if i == 0:
                number[v] = low[v] = len(number)
                path.append(v)
                on_path.add(v)
            elif after[v][i - 1] in on_path:
                low[v] = min(low[v], low[after[v][i - 1]])
            if i < len(after[v]):
                work.append((v, i + 1))
                if after[v][i] not in number:
                    work.append((after[v][i], 0))
                continue
            if low[v] == number[v]:
                found = path[path.index(v) :]
                del path[path.index(v) :]
                on_path -= set(found)
                if len(found) > 1:
                    yield sorted(found)


def topological_order(nodes: Sequence[int], edges: set[tuple[int, int]]) -> list[int]:
    """Nodes so that every edge goes forward; among the free ones the least number first."""
    import heapq

    waiting = dict.fromkeys(nodes, 0)
    after: dict[int, list[int]] = defaultdict(list)
    for u, v in edges:
        waiting[v] += 1
        after[u].append(v)
    free = [v for v in nodes if not waiting[v]]
    heapq.heapify(free)
    found = []
    while free:
        v = heapq.heappop(free)
        found.append(v)
        for w in after[v]:
            waiting[w] -= 1
            if not waiting[w]:
                heapq.heappush(free, w)
    return found


def without_implied(count: int, edges: set[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Edges of a graph in topological numbering that no longer path implies, sorted."""
    after: list[list[int]] = [[] for _ in range(count)]
    for u, v in sorted(edges):
        after[u].append(v)
    reach = [0] * count
    kept = []
    for u in reversed(range(count)):
        for v in after[u]:  # ascending: what implies (u, v) starts with a smaller number
            if not reach[u] >> v & 1:
                kept.append((u, v))
                reach[u] |= reach[v] | 1 << v
    return tuple(sorted(kept))


def _absorbable(problem: PartitionProblem) -> list[tuple[int, int]]:
    """Disjoint pairs (u, v): v may be absorbed by u."""
    touching: list[list[Tensor]] = [[] for _ in problem.nodes]
    for tensor in problem.tensors:
        for v in tensor.pins:
            touching[v].append(tensor)
    before: list[list[int]] = [[] for _ in problem.nodes]
    after: list[list[int]] = [[] for _ in problem.nodes]
    for u, v in problem.order:
        after[u].append(v)
        before[v].append(u)
    roomy = _roomy(problem)
    taken: set[int] = set()
    pairs = []
    for v, node in enumerate(problem.nodes):
        if v in taken or (node.memory_bytes and not roomy):
            continue
        for u in _hosts(problem, v, before[v], after[v], touching[v]):
            if u not in taken and _harmless(problem, v, u, touching[v]):
                pairs.append((u, v))
                taken |= {u, v}
                break
    return pairs


def _roomy(problem: PartitionProblem) -> bool:
    """Whether everything fits on one device of every kind, so that memory never matters."""
    total = sum(node.memory_bytes for node in problem.nodes)
    return all(k.memory_bytes is None or total <= k.memory_bytes for k in problem.kinds if k.count)


def _hosts(
    problem: PartitionProblem, v: int, before: list[int], after: list[int], touching: list[Tensor]
) -> Iterator[int]:
    """Nodes to whose stage v may always move."""
    if not before and not after:
        yield from sorted({u for tensor in touching for u in tensor.pins if u != v})
        if not touching:
            yield from (u for u in (v - 1, v + 1) if 0 <= u < len(problem.nodes))
    if len(before) == 1:
        yield before[0]
    if len(after) == 1:
        yield after[0]


def _harmless(problem: PartitionProblem, v: int, u: int, touching: list[Tensor]) -> bool:
    """Whether no device of any kind gets fuller when v moves from its device to that of u."""
    for kind, device in enumerate(problem.kinds):
        time = problem.nodes[v].time_ps[kind]
        away = sum(t.cost_ps[kind] for t in touching if u not in t.pins)
        pair = sum(t.cost_ps[kind] for t in touching if len(t.pins) == 2 and u in t.pins)
        if device.count == 0:
            continue
        if time is not None and away > time + pair:
            return False  # the device that v leaves
        if problem.nodes[u].time_ps[kind] is not None and (time is None or time + away > pair):
            return False  # the device that v comes to
    return True
