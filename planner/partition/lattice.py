"""Exact contiguous partitions by dynamic programming over the ideals of the order.

An *ideal* is a set of nodes that holds all predecessors of its nodes. Stages 0 … s of a contiguous
partition together are an ideal, and every stage is the difference of two of them, so with
best[a, I] the least objective of any partition of ideal I onto a[c] devices of kind c

    best[a + 1_c, I] = min over ideals J in I of max(best[a, J], load_c(I minus J))

(the sum of both for the total load). Loads of all I above one J are computed at once: a tensor
is touched where I has more of its pins than J, and whole where it has all of them more.

Graphs of models are close to chains, and reduced ones closer: few ideals. Where there are too many,
some of them still give a partition, only no proof: see `heuristic.sampled_ideals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.partition.problem import Objective, Partition, PartitionProblem, Stage

Floats = NDArray[np.float64]
"""Picoseconds in double precision; exact, see `problem.MAX_TOTAL_PS`."""


def all_ideals(problem: PartitionProblem, limit: int) -> list[int] | None:
    """All ideals as bit sets, smaller ones first; None if there are more than ``limit``."""
    before, after = neighbour_masks(problem)
    level = {0: sum(1 << v for v, mask in enumerate(before) if not mask)}
    found: list[int] = []
    while level:
        found += level
        if len(found) > limit:
            return None
        grown: dict[int, int] = {}
        for ideal, free in level.items():
            rest = free
            while rest:
                bit = rest & -rest
                rest ^= bit
                larger = ideal | bit
                if larger not in grown:
                    grown[larger] = grown_free(
                        larger, free ^ bit, after[bit.bit_length() - 1], before
                    )
            if len(found) + len(grown) > limit:
                return None
        level = grown
    return found


def grown_free(ideal: int, free: int, after: int, before: Sequence[int]) -> int:
    """Nodes that may be added to an ideal that has just been given a node."""
    while after:
        bit = after & -after
        after ^= bit
        if not before[bit.bit_length() - 1] & ~ideal:
            free |= bit
    return free


def neighbour_masks(problem: PartitionProblem) -> tuple[list[int], list[int]]:
    """Direct predecessors and direct successors of every node as bit sets."""
    before, after = [0] * len(problem.nodes), [0] * len(problem.nodes)
    for u, v in problem.order:
        before[v] |= 1 << u
        after[u] |= 1 << v
    return before, after


@dataclass(frozen=True)
class Lattice:
    """Ideals as arrays, one row per ideal in the order given, smaller ones first."""

    bits: NDArray[np.uint64]
    size: NDArray[np.int64]
    time: Floats
    banned: NDArray[np.int64]
    memory: Floats
    pin: NDArray[np.bool_]
    pins: NDArray[np.int32]
    full_pins: NDArray[np.int32]
    cost: Floats
    least_time: Floats


def build_lattice(problem: PartitionProblem, ideals: Sequence[int]) -> Lattice:
    """Tabulate time, memory and pins of every ideal."""
    count = len(problem.nodes)
    width = -(-count // 8)
    raw = np.frombuffer(b"".join(i.to_bytes(width, "little") for i in ideals), np.uint8)
    packed = np.zeros((len(ideals), -(-width // 8) * 8), np.uint8)
    packed[:, :width] = raw.reshape(len(ideals), width)
    member = np.unpackbits(packed, axis=1, bitorder="little", count=count).astype(np.float64)
    times = [[node.time_ps[c] for node in problem.nodes] for c in range(len(problem.kinds))]
    known = np.array([[0 if t is None else t for t in row] for row in times], np.float64)
    absent = np.array([[t is None for t in row] for row in times], np.float64)
    pin = np.zeros((count, len(problem.tensors)))
    for e, tensor in enumerate(problem.tensors):
        pin[list(tensor.pins), e] = 1.0
    cost = np.array([t.cost_ps for t in problem.tensors], np.float64)
    return Lattice(
        bits=packed.view(np.uint64),
        size=member.sum(axis=1).astype(np.int64),
        time=member @ known.T,
        banned=np.rint(member @ absent.T).astype(np.int64),
        memory=member @ np.array([float(node.memory_bytes) for node in problem.nodes]),
        pin=pin > 0,
        pins=np.rint(member @ pin).astype(np.int32),
        full_pins=np.rint(pin.sum(axis=0)).astype(np.int32),
        cost=cost.reshape(len(problem.tensors), len(problem.kinds)),
        least_time=member @ np.array([node.least_ps for node in problem.nodes], np.float64),
    )


@dataclass(frozen=True, slots=True)
class LatticeResult:
    """The best partition over the ideals (None: none within the bound), and pairs looked at.

    ``complete`` is False where the limit on pairs stopped the work.
    """

    partition: Partition | None
    pairs: int
    complete: bool


def lattice_partition(
    problem: PartitionProblem,
    ideals: Sequence[int],
    *,
    upper_ps: int | None = None,
    max_pairs: int | None = None,
) -> LatticeResult:
    """The best contiguous partition whose prefixes are all among ``ideals``.

    ``ideals`` hold the empty and the full set, smaller ones first. With ``upper_ps`` only
    partitions up to that objective are looked for.
    """
    table = _Table(problem, build_lattice(problem, ideals), upper_ps)
    pairs = 0
    for j in range(len(ideals) - 1):
        pairs += table.extend(j)
        if max_pairs is not None and pairs > max_pairs:
            return LatticeResult(None, pairs, False)
    return LatticeResult(table.best_partition(ideals), pairs, True)


class _Table:
    """``best[state, ideal]``; a state says how many devices of every kind are used."""

    def __init__(self, problem: PartitionProblem, lattice: Lattice, upper_ps: int | None) -> None:
        self._problem = problem
        self._lattice = lattice
        self._upper = float("inf") if upper_ps is None else float(upper_ps)
        counts = [min(kind.count, len(problem.nodes)) for kind in problem.kinds]
        self._states = list(product(*(range(n + 1) for n in counts)))
        number = {state: i for i, state in enumerate(self._states)}
        self._next = [
            [number.get((*state[:c], state[c] + 1, *state[c + 1 :])) for c in range(len(counts))]
            for state in self._states
        ]
        self._left = np.array([sum(counts) - sum(state) for state in self._states])
        shape = (len(self._states), len(lattice.size))
        self._best = np.full(shape, np.inf)
        self._best[0, 0] = 0.0
        self._from = np.full(shape, -1, np.int32)
        self._kind = np.full(shape, -1, np.int16)

    def extend(self, j: int) -> int:
        """All stages that start at ideal ``j``; how many they are."""
        lattice, upper = self._lattice, self._upper
        reached = np.flatnonzero(self._best[:, j] <= upper)
        if self._problem.objective is Objective.max_load and upper < np.inf:
            rest = lattice.least_time[-1] - lattice.least_time[j]
            reached = reached[rest <= self._left[reached] * upper]
        if not len(reached):
            return 0
        above = np.flatnonzero(
            (lattice.least_time <= lattice.least_time[j] + upper) & (lattice.size > lattice.size[j])
        )
        for word in range(lattice.bits.shape[1]):
            own = lattice.bits[j, word]
            above = above[(lattice.bits[above, word] & own) == own]
        cut, touched = self._cut(j, above)
        for c, kind in enumerate(self._problem.kinds):
            load = lattice.time[above, c] - lattice.time[j, c] + cut @ lattice.cost[touched, c]
            load[lattice.banned[above, c] > lattice.banned[j, c]] = np.inf
            if kind.memory_bytes is not None:
                load[lattice.memory[above] - lattice.memory[j] > kind.memory_bytes] = np.inf
            fits = load <= upper
            for state in reached:
                self._relax(int(state), j, c, above[fits], load[fits])
        return len(above)

    def _cut(self, j: int, above: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        """For every ideal above, which tensors the stage between pays: 1 or 0; and the tensors.

        Only tensors of nodes that come after ideal ``j`` in one of them are looked at.
        """
        lattice = self._lattice
        after = np.bitwise_or.reduce(lattice.bits[above], axis=0) & ~lattice.bits[j]
        nodes = np.flatnonzero(np.unpackbits(after.view(np.uint8), bitorder="little"))
        touched = np.flatnonzero(lattice.pin[nodes].any(axis=0))
        more = lattice.pins[above[:, None], touched] - lattice.pins[j, touched]
        return ((more > 0) & (more < lattice.full_pins[touched])).astype(np.float64), touched

    def _relax(self, state: int, j: int, c: int, above: NDArray[np.int64], load: Floats) -> None:
        target = self._next[state][c]
        if target is None:
            return
        known = self._best[state, j]
        added = self._problem.objective is Objective.total_load
        value = known + load if added else np.maximum(known, load)
        better = value < self._best[target, above]
        where = above[better]
        self._best[target, where] = value[better]
        self._from[target, where] = j
        self._kind[target, where] = c

    def best_partition(self, ideals: Sequence[int]) -> Partition | None:
        """The best partition of the full ideal; ties go to fewer devices."""
        values = self._best[:, -1]
        least = values.min()
        if least == np.inf or least > self._upper:
            return None
        tied = [int(s) for s in np.flatnonzero(values == least)]
        return self._traced(min(tied, key=lambda s: sum(self._states[s])), ideals)

    def _traced(self, state: int, ideals: Sequence[int]) -> Partition:
        """The way by which a state of the full ideal was reached."""
        stages: list[Stage] = []
        ideal = len(ideals) - 1
        while ideal:
            c, j = int(self._kind[state, ideal]), int(self._from[state, ideal])
            held = ideals[ideal] & ~ideals[j]
            nodes = tuple(v for v in range(len(self._problem.nodes)) if held >> v & 1)
            stages.append(self._stage(c, nodes, j, ideal))
            before = list(self._states[state])
            before[c] -= 1
            state, ideal = self._states.index(tuple(before)), j
        return Partition(tuple(reversed(stages)))

    def _stage(self, c: int, nodes: tuple[int, ...], j: int, i: int) -> Stage:
        lattice = self._lattice
        more = lattice.pins[i] - lattice.pins[j]
        cut = (more > 0) & (more < lattice.full_pins)
        load = lattice.time[i, c] - lattice.time[j, c] + lattice.cost[cut, c].sum()
        return Stage(c, nodes, round(float(load)))
