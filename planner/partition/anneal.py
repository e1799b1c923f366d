"""Interleaved partitions by simulated annealing: single nodes move between devices.

The energy is the largest load plus a little of the mean, so that moves which only relieve other
devices count too. Deterministic: own random numbers from a seed, a fixed number of moves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from planner.partition.problem import Objective, Partition, PartitionProblem, Stage, load_ps

MEAN_WEIGHT = 0.05
"""Share of the mean load in the energy."""

START_TEMPERATURE = 0.03
"""Of the first energy."""


def annealed(problem: PartitionProblem, start: Partition, *, seed: int, moves: int) -> Partition:
    """The best partition met on the way from ``start``; never a worse one."""
    state = _State(problem, start)
    rng = random.Random(seed)
    neighbours = [
        sorted({u for e in state.touching[v] for u in state.pins[e]} - {v})
        for v in range(len(problem.nodes))
    ]
    energy = state.energy(state.loads)
    best_value, best = state.value(state.loads), list(state.where)
    hot = START_TEMPERATURE * energy
    for move in range(moves):
        v = rng.randrange(len(problem.nodes))
        near = neighbours[v]
        if near and rng.random() < 0.8:
            target = state.where[near[rng.randrange(len(near))]]
        else:
            target = rng.randrange(len(state.devices))
        if target == state.where[v] or not state.allowed(v, target):
            continue
        loads = state.loads_after(v, target)
        changed = state.energy(loads)
        cold = hot * (1 - move / moves) ** 2 + 1e-9
        if changed <= energy or rng.random() < math.exp((energy - changed) / cold):
            state.apply(v, target, loads)
            energy = changed
            if (value := state.value(loads)) < best_value:
                best_value, best = value, list(state.where)
    return _partition(problem, state.devices, best)


class _State:
    """Who is where, pins of every tensor per device, and the loads."""

    def __init__(self, problem: PartitionProblem, start: Partition) -> None:
        self._problem = problem
        most = len(problem.nodes)
        self.devices = [c for c, k in enumerate(problem.kinds) for _ in range(min(k.count, most))]
        free = list(range(len(self.devices)))
        self.where = [0] * len(problem.nodes)
        for stage in start.stages:
            d = next(d for d in free if self.devices[d] == stage.kind)
            free.remove(d)
            for v in stage.nodes:
                self.where[v] = d
        self.pins = [tensor.pins for tensor in problem.tensors]
        self.touching: list[list[int]] = [[] for _ in problem.nodes]
        self._held = [[0] * len(self.devices) for _ in self.pins]
        for e, pins in enumerate(self.pins):
            for v in pins:
                self.touching[v].append(e)
                self._held[e][self.where[v]] += 1
        self._memory = [0] * len(self.devices)
        for v, node in enumerate(problem.nodes):
            self._memory[self.where[v]] += node.memory_bytes
        self.loads = [
            load_ps(problem, c, tuple(v for v in range(len(self.where)) if self.where[v] == d)) or 0
            for d, c in enumerate(self.devices)
        ]

    def value(self, loads: Sequence[int]) -> int:
        return max(loads) if self._problem.objective is Objective.max_load else sum(loads)

    def energy(self, loads: Sequence[int]) -> float:
        return self.value(loads) + MEAN_WEIGHT * sum(loads) / len(loads)

    def allowed(self, v: int, target: int) -> bool:
        node, kind = self._problem.nodes[v], self._problem.kinds[self.devices[target]]
        if node.time_ps[self.devices[target]] is None:
            return False
        room = kind.memory_bytes
        return room is None or self._memory[target] + node.memory_bytes <= room

    def loads_after(self, v: int, target: int) -> list[int]:
        loads = list(self.loads)
        a, b = self.where[v], target
        ca, cb = self.devices[a], self.devices[b]
        times = self._problem.nodes[v].time_ps
        loads[a] -= times[ca] or 0
        loads[b] += times[cb] or 0
        for e in self.touching[v]:
            held, size, cost = self._held[e], len(self.pins[e]), self._problem.tensors[e].cost_ps
            if held[a] == size:  # whole on a: both devices begin to pay, unless v is all of it
                if size > 1:
                    loads[a] += cost[ca]
                    loads[b] += cost[cb]
                continue
            if held[a] == 1:
                loads[a] -= cost[ca]
            if held[b] + 1 == size:
                loads[b] -= cost[cb]
            elif held[b] == 0:
                loads[b] += cost[cb]
        return loads

    def apply(self, v: int, target: int, loads: list[int]) -> None:
        source = self.where[v]
        for e in self.touching[v]:
            self._held[e][source] -= 1
            self._held[e][target] += 1
        memory = self._problem.nodes[v].memory_bytes
        self._memory[source] -= memory
        self._memory[target] += memory
        self.where[v] = target
        self.loads = loads


def _partition(
    problem: PartitionProblem, devices: Sequence[int], where: Sequence[int]
) -> Partition:
    stages = []
    for d, c in enumerate(devices):
        nodes = tuple(v for v in range(len(where)) if where[v] == d)
        load = load_ps(problem, c, nodes)
        if nodes and load is not None:
            stages.append(Stage(c, nodes, load))
    return Partition(tuple(stages))
