"""Along which topological order a graph is cut where several are possible, and what that loses.

The search plans chains: it cuts a layer graph along one order, so of all ideals it sees only the
prefixes of that order. Times and memory of a set of layers do not depend on the order, but which
sets can be stages does, and so does what crosses the cuts. Judged is an order by

    loss = max over 2 … MAX_STAGES stages of
           best split along the order / best split of the graph − 1

for equal chips, the load of a stage being its work plus the traffic over its two cuts. Both splits
come from `lattice`, the first over the prefixes, the second over all ideals, so the loss is exact;
where the ideals are too many, the fluid bound stands for the second: the loss is an upper bound.

Candidates are the order of the file, the order that moves least over all its cuts, and for every
number of stages the best split of the graph, in its stages again the order that moves least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.partition.bounds import fluid_bound_ps
from planner.partition.heuristic import sampled_ideals
from planner.partition.lattice import all_ideals, neighbour_masks, partitions_by_devices
from planner.partition.problem import Kind, Node, Partition, PartitionProblem, Tensor

MAX_STAGES = 8
"""Orders are judged for up to so many stages."""

MAX_IDEALS = 1_200
"""Above this, ideals are sampled down to this number: about half a second on one core."""

UNITS = 10**12
"""All work of a graph in the integers that the dynamic program adds up."""


@dataclass(frozen=True, slots=True)
class OrderChoice:
    """An order of the nodes, by number, and how much its best splits may lose.

    ``file_loss`` is the loss of the order that was given. ``exact`` is False where the losses are
    upper bounds. ``cuts`` is how many ideals were compared.
    """

    order: tuple[int, ...]
    loss: float
    file_loss: float
    exact: bool
    cuts: int
    stages: int

    @property
    def changed(self) -> bool:
        """Whether it is another order than the given one."""
        return self.order != tuple(range(len(self.order)))


def choose_order(
    work: Sequence[float],
    edges: Sequence[tuple[int, int]],
    traffic: Sequence[float],
    *,
    stages: int = MAX_STAGES,
) -> OrderChoice | None:
    """The best of some orders of a graph whose numbering is topological; None if it has only one.

    ``work`` of every node and ``traffic`` of every node's output tensor are in one unit, such as
    seconds. A node has one output tensor, which all edges that leave it carry. Orders are judged
    for up to ``stages`` stages.
    """
    problem = _problem(work, edges, traffic, stages)
    if _is_chain(problem):
        return None
    ideals = all_ideals(problem, MAX_IDEALS)
    exact = ideals is not None
    if ideals is None:
        ideals = sampled_ideals(problem, max(1, MAX_IDEALS // len(work)))
    splits = partitions_by_devices(problem, ideals)
    best = _values(problem, splits) if exact else _fluid(problem)
    given = tuple(range(len(work)))
    candidates = dict.fromkeys([given, *_candidates(problem, ideals, splits)])
    judged = [(_loss(problem, order, best), _moved(problem, order), order) for order in candidates]
    loss, _, order = min(judged, key=lambda j: (round(j[0], 9), j[1]))
    return OrderChoice(order, loss, judged[0][0], exact, len(ideals), problem.devices)


def _values(problem: PartitionProblem, splits: Sequence[Partition | None]) -> list[int | None]:
    return [None if s is None else s.objective_ps(problem.objective) for s in splits]


def _problem(
    work: Sequence[float],
    edges: Sequence[tuple[int, int]],
    traffic: Sequence[float],
    stages: int,
) -> PartitionProblem:
    scale = UNITS / (sum(work) + sum(traffic) or 1.0)
    readers: dict[int, list[int]] = {}
    for u, v in edges:
        readers.setdefault(u, [u]).append(v)
    return PartitionProblem(
        name="order",
        kinds=(Kind("chip", min(stages, len(work))),),
        nodes=tuple(Node(str(v), (round(w * scale),)) for v, w in enumerate(work)),
        tensors=tuple(
            Tensor(tuple(pins), (round(traffic[u] * scale),)) for u, pins in sorted(readers.items())
        ),
        order=tuple(sorted(set(edges))),
    )


def _is_chain(problem: PartitionProblem) -> bool:
    """Whether every node follows the one before it, which leaves a single order."""
    direct = set(problem.order)
    return all((v, v + 1) in direct for v in range(len(problem.nodes) - 1))


def _fluid(problem: PartitionProblem) -> list[int | None]:
    """A bound on the best split for every number of stages."""
    kind = problem.kinds[0]
    return [
        fluid_bound_ps(replace(problem, kinds=(replace(kind, count=n),)))
        for n in range(1, kind.count + 1)
    ]


def _loss(problem: PartitionProblem, order: tuple[int, ...], best: Sequence[int | None]) -> float:
    """Largest ratio, over the numbers of stages, of the best split along the order; minus one."""
    along = _values(problem, partitions_by_devices(problem, _prefixes(order)))
    ratios = [a / b for a, b in zip(along, best) if a is not None and b]
    return max(ratios, default=1.0) - 1.0


def _prefixes(order: Sequence[int]) -> list[int]:
    found = [0]
    for v in order:
        found.append(found[-1] | 1 << v)
    return found


def _moved(problem: PartitionProblem, order: Sequence[int]) -> int:
    """Traffic over all cuts of an order."""
    return sum(_crossing(problem, ideal) for ideal in _prefixes(order))


def _crossing(problem: PartitionProblem, ideal: int) -> int:
    total = 0
    for tensor in problem.tensors:
        held = sum(ideal >> v & 1 for v in tensor.pins)
        if 0 < held < len(tensor.pins):
            total += tensor.cost_ps[0]
    return total


def _candidates(
    problem: PartitionProblem, ideals: Sequence[int], splits: Sequence[Partition | None]
) -> list[tuple[int, ...]]:
    """The order that moves least; such orders through the cuts of every split, and of more."""
    crossing = {ideal: _crossing(problem, ideal) for ideal in ideals}
    found = [_least_moved(problem, crossing, ())]
    cuts = [_cuts(split) for split in splits if split is not None]
    for first in cuts:
        found.append(_least_moved(problem, crossing, first))
        joined = list(first)
        for cut in (c for other in cuts for c in other):
            if all(_nested(cut, known) for known in joined):
                joined.append(cut)
        found.append(_least_moved(problem, crossing, joined))
    return found


def _cuts(split: Partition) -> list[int]:
    """What lies before every stage but the first, as ideals."""
    found: list[int] = []
    before = 0
    for stage in split.stages[:-1]:
        before |= sum(1 << v for v in stage.nodes)
        found.append(before)
    return found


def _nested(one: int, other: int) -> bool:
    return not one & ~other or not other & ~one


def _least_moved(
    problem: PartitionProblem, crossing: dict[int, int], through: Sequence[int]
) -> tuple[int, ...]:
    """The order through given ideals with the least traffic over all cuts: a shortest path."""
    before, _ = neighbour_masks(problem)
    full = (1 << len(problem.nodes)) - 1
    best: dict[int, tuple[int, int]] = {0: (0, -1)}
    for ideal in crossing:  # smaller ones first
        if ideal not in best:
            continue
        for v in range(len(problem.nodes)):
            if ideal >> v & 1 or before[v] & ~ideal:
                continue
            larger = ideal | 1 << v
            if larger not in crossing or not all(_nested(larger, c) for c in through):
                continue
            cost = best[ideal][0] + crossing[larger]
            if larger not in best or cost < best[larger][0]:
                best[larger] = (cost, v)
    order: list[int] = []
    ideal = full
    while ideal:
        v = best[ideal][1]
        order.append(v)
        ideal &= ~(1 << v)
    return tuple(reversed(order))
