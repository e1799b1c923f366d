"""Along which topological order a graph is cut where several are possible, and what that loses.

The search plans chains: it cuts a layer graph along one order, so of all ideals it sees only the
prefixes of that order. Times and memory of a set of layers do not depend on the order; which sets
can be stages does, and so does what crosses the cuts. With work g of a stage and traffic h over a
cut, both in seconds, an order is judged by the formula time of its best splits,

    sum of g + 2 · sum of h + (m − 1) · takt,   takt = max over stages of max(g, h before, h after)

with m = 4 micro-batches per stage, on 2 … MAX_STAGES equal chips and at the given rates: the least
mean ratio to the best candidate wins. Candidates are the order of the file, the one that moves
least over all its cuts (a shortest path over all ideals), and such orders through the cuts of the
splits of the graph that have the least takt.

What the order loses is proved for the takt:

    loss = max over stages and rates of  least takt along the order / least takt of the graph − 1

by the same dynamic program over the prefixes for the first and over all ideals for the second.
Where the ideals are too many, they are sampled, and work spread evenly stands for the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.partition.heuristic import sampled_ideals
from planner.partition.lattice import all_ideals, neighbour_masks
from planner.partition.problem import Kind, Node, PartitionProblem, Tensor

MAX_STAGES = 8
"""Orders are judged for up to so many stages."""

MAX_IDEALS = 2_000
"""Above this, ideals are sampled down to this number: about half a second on one core."""

Floats = NDArray[np.float64]


MICRO_BATCHES_PER_STAGE = 4
"""Of a pipeline that is a fifth fill, as usual."""

STEPS = (1.0, 1.005, 1.01, 1.02, 1.04, 1.07, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0)
"""Times the least takt: which takts are tried for a shorter fill."""


@dataclass(frozen=True, slots=True)
class OrderChoice:
    """An order of the nodes, by number, and how much takt it loses at most.

    ``file_loss`` is that of the order that was given. ``exact`` is False where the ideals were
    sampled and the losses are upper bounds. ``cuts`` is how many ideals were compared.
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
    traffic: Sequence[Sequence[float]],
    *,
    stages: int = MAX_STAGES,
) -> OrderChoice | None:
    """The best candidate; None if the graph, whose numbering is topological, has only one order.

    ``work`` is that of every node; ``traffic`` that of every node's output tensor, once for each
    rate at which it may move, in the same unit, such as seconds. A node has one output tensor,
    which all edges that leave it carry. Orders are judged for 2 … ``stages`` stages.
    """
    problem = _problem(work, edges)
    if _is_chain(problem):
        return None
    ideals = all_ideals(problem, MAX_IDEALS)
    exact = ideals is not None
    if ideals is None:
        ideals = sampled_ideals(_weighted(problem, traffic[0]), max(1, MAX_IDEALS // len(work)))
    most = min(stages, len(work))
    views = [_View(problem, work, at_rate, ideals, most) for at_rate in traffic]
    given = tuple(range(len(work)))
    orders = dict.fromkeys([given, *(order for view in views for order in _candidates(view))])
    chains = {order: [view.along(order) for view in views] for order in orders}
    times = np.array([[chain.formula_times() for chain in chains[order]] for order in orders])
    score = (times / times.min(axis=0)).mean(axis=(1, 2))
    order = list(orders)[int(np.argmin(np.round(score, 9)))]  # ties: the file's order is first
    best = [view.takts() if exact else view.even_takts() for view in views]

    def loss(chosen: tuple[int, ...]) -> float:
        return max(_loss(chain.takts(), b) for chain, b in zip(chains[chosen], best))

    return OrderChoice(order, loss(order), loss(given), exact, len(ideals), most)


def _loss(along: Floats, best: Floats) -> float:
    """Largest ratio over the numbers of stages from two on, minus one."""
    known = best > 0
    return max(0.0, float((along[known] / best[known])[1:].max(initial=1.0)) - 1.0)


def _problem(work: Sequence[float], edges: Sequence[tuple[int, int]]) -> PartitionProblem:
    """Only the shape of the graph; times and costs stay outside, as they are no integers."""
    readers: dict[int, list[int]] = {}
    for u, v in edges:
        readers.setdefault(u, [u]).append(v)
    return PartitionProblem(
        name="order",
        kinds=(Kind("chip", 1),),
        nodes=tuple(Node(str(v), (0,)) for v in range(len(work))),
        tensors=tuple(Tensor(tuple(pins), (0,)) for _, pins in sorted(readers.items())),
        order=tuple(sorted(set(edges))),
    )


def _weighted(problem: PartitionProblem, traffic: Sequence[float]) -> PartitionProblem:
    """The same with traffic as integers, relative to the widest tensor."""
    widest = max(traffic) or 1.0
    tensors = tuple(
        Tensor(t.pins, (round(traffic[t.pins[0]] / widest * 10**9),)) for t in problem.tensors
    )
    return PartitionProblem(problem.name, problem.kinds, problem.nodes, tensors, problem.order)


def _is_chain(problem: PartitionProblem) -> bool:
    """Whether every node follows the one before it, which leaves a single order."""
    direct = set(problem.order)
    return all((v, v + 1) in direct for v in range(len(problem.nodes) - 1))


def _prefixes(order: Sequence[int]) -> list[int]:
    found = [0]
    for v in order:
        found.append(found[-1] | 1 << v)
    return found


def _members(ideals: Sequence[int], count: int) -> Floats:
    """A row of zeros and ones per ideal."""
    width = -(-count // 8)
    raw = np.frombuffer(b"".join(i.to_bytes(width, "little") for i in ideals), np.uint8)
    rows = np.unpackbits(raw.reshape(len(ideals), width), axis=1, bitorder="little", count=count)
    return rows.astype(np.float64)


def _cut_traffic(
    problem: PartitionProblem, ideals: Sequence[int], traffic: Sequence[float]
) -> Floats:
    """What every ideal cuts, each tensor once."""
    count = len(problem.nodes)
    pin = np.zeros((count, len(problem.tensors)))
    for e, tensor in enumerate(problem.tensors):
        pin[list(tensor.pins), e] = 1.0
    held = _members(ideals, count) @ pin
    sizes = np.array([traffic[t.pins[0]] for t in problem.tensors])
    crossing: Floats = ((held > 0) & (held < pin.sum(axis=0))) @ sizes
    return crossing


class _View:
    """Some ideals, smaller ones first, with work done and traffic cut at one rate."""

    def __init__(
        self,
        problem: PartitionProblem,
        work: Sequence[float],
        traffic: Sequence[float],
        ideals: Sequence[int],
        most: int,
    ) -> None:
        self.problem, self.ideals, self.most = problem, ideals, most
        self._work, self._traffic = work, traffic
        self._member = _members(ideals, len(problem.nodes))
        self._size = self._member.sum(axis=1)
        self._done = self._member @ np.array(work)
        self.cut = _cut_traffic(problem, ideals, traffic)
        self._best: Floats | None = None

    def along(self, order: Sequence[int]) -> _View:
        """The same graph with the prefixes of an order only."""
        return _View(self.problem, self._work, self._traffic, _prefixes(order), self.most)

    def even_takts(self) -> Floats:
        """A bound on the takts of any split: work spread evenly, or the slowest node."""
        counts = np.arange(1, self.most + 1)
        return np.maximum(sum(self._work) / counts, max(self._work))

    def takts(self) -> Floats:
        """Least takt over these ideals with exactly 1 … ``most`` stages."""
        takts: Floats = self._table()[1:, -1]
        return takts

    def _stages(self, j: int) -> tuple[NDArray[np.int64], Floats]:
        """Ideals above one, and the takt of the stage between."""
        above = np.flatnonzero(self._size > self._size[j])
        above = above[self._member[above] @ self._member[j] == self._size[j]]
        work = self._done[above] - self._done[j]
        return above, np.maximum(work, np.maximum(self.cut[above], self.cut[j]))

    def _table(self) -> Floats:
        """Least takt by number of stages and ideal."""
        if self._best is None:
            best = np.full((self.most + 1, len(self.ideals)), np.inf)
            best[0, 0] = 0.0
            for j in range(len(self.ideals) - 1):
                above, stage = self._stages(j)
                reached = np.maximum(best[:-1, j, None], stage)
                best[1:, above] = np.minimum(best[1:, above], reached)
            self._best = best
        return self._best

    def formula_times(self) -> Floats:
        """Least formula time with 2 … ``most`` stages, over the takts of STEPS."""
        counts = np.arange(2, self.most + 1)
        caps = np.multiply.outer(self.takts()[1:], np.array(STEPS))  # stages x steps
        # least traffic over the cuts: by target, steps, stages so far, ideal
        best = np.full((*caps.shape, self.most + 1, len(self.ideals)), np.inf)
        best[:, :, 0, 0] = 0.0
        for j in range(len(self.ideals) - 1):
            above, stage = self._stages(j)
            moved = best[:, :, :-1, j, None] + self.cut[above]
            moved[np.broadcast_to((stage > caps[..., None])[:, :, None, :], moved.shape)] = np.inf
            best[:, :, 1:, above] = np.minimum(best[:, :, 1:, above], moved)
        rows = np.arange(len(counts))
        fill = best[rows, :, counts, -1]  # targets x steps
        steady = (MICRO_BATCHES_PER_STAGE * counts - 1)[:, None] * caps
        times: Floats = sum(self._work) + (2 * fill + steady).min(axis=1)
        return times

    def splits(self) -> list[list[int]]:
        """The cuts of a split with the least takt for every number of stages from two on."""
        best = self._table()
        found = []
        for n in range(2, self.most + 1):
            cuts: list[int] = []
            i, takt = len(self.ideals) - 1, best[n, -1]
            for left in range(n - 1, 0, -1):
                i = next(
                    j
                    for j in np.argsort(self.cut, kind="stable")
                    if best[left, j] <= takt and self._fits(int(j), i, takt)
                )
                cuts.append(self.ideals[i])
            found.append(cuts)
        return found

    def _fits(self, j: int, i: int, takt: float) -> bool:
        """Whether the stage between two ideals is one, and within a takt."""
        if self.ideals[j] == self.ideals[i] or self.ideals[j] & ~self.ideals[i]:
            return False
        return bool(max(self._done[i] - self._done[j], self.cut[i], self.cut[j]) <= takt)


def _candidates(view: _View) -> list[tuple[int, ...]]:
    """The order that moves least; such orders through the cuts of every split, and of more."""
    found = [_least_moved(view, ())]
    splits = view.splits() if view.most > 1 else []
    for first in splits:
        found.append(_least_moved(view, first))
        joined = list(first)
        for cut in (c for other in splits for c in other):
            if all(_nested(cut, known) for known in joined):
                joined.append(cut)
        found.append(_least_moved(view, joined))
    return found


def _nested(one: int, other: int) -> bool:
    return not one & ~other or not other & ~one


def _least_moved(view: _View, through: Sequence[int]) -> tuple[int, ...]:
    """The order through given ideals with the least traffic over all cuts: a shortest path.

    Ties go to the node with the least number.
    """
    cut = dict(zip(view.ideals, view.cut.tolist()))
    allowed = {ideal for ideal in cut if all(_nested(ideal, c) for c in through)}
    before, _ = neighbour_masks(view.problem)
    count = len(before)
    best: dict[int, tuple[float, int]] = {0: (0.0, -1)}
    for ideal in cut:  # smaller ones first
        if ideal not in best:
            continue
        for v in range(count):
            larger = ideal | 1 << v
            if larger == ideal or larger not in allowed or before[v] & ~ideal:
                continue
            length = best[ideal][0] + cut[larger]
            if larger not in best or length < best[larger][0]:
                best[larger] = (length, v)
    order: list[int] = []
    ideal = (1 << count) - 1
    while ideal:
        v = best[ideal][1]
        order.append(v)
        ideal &= ~(1 << v)
    return tuple(reversed(order))
