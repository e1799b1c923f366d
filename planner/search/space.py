"""What a stage may be under one setting: times, in-flight limits, prices' rows, hops.

A *setting* fixes what couples the pipelines: the interval of replica counts (ZeRO shards the
optimizer over the replicas), which layers each class may hold (vendors that share no collective),
and the rows of a micro-batch. Under a setting every stage is independent of the others.

Stages are addressed by ``(option, first layer i, number of layers n)``; arrays are
``[option, i, n]`` with n = 0 … L. Times in seconds as float64 here (bounds), exact picoseconds in
``columns``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.units import PS_PER_S
from planner.costing import (
    Ints,
    OptionTable,
    fabric_hop_ps,
    fair_share,
    route_hop_ps,
    sharded_optimizer_bytes,
)
from planner.graphs.topology import Topology
from planner.search.finish import least_finish_s
from planner.search.problem import Problem, Setting

Floats = NDArray[np.float64]
UNBOUNDED_DEPTH = 1 << 20


@dataclass(frozen=True)
class StageSpace:
    """Every stage under one setting and one micro-batch size.

    ``time[p]`` and ``depth[p]`` are ``[option, i, n]`` per policy p: seconds per micro-batch and
    the most micro-batches in flight that memory allows (0: never fits). ``layer_time[p]`` is
    ``[option, layer]`` in seconds.
    ``hop[a, b, cut]`` is the transfer time in seconds, one way, infinite without route: optimistic
    for bounds, expected for plans.
    ``finish[option, n]`` is the least synchronisation and update time of a first stage.
    """

    rows: int
    setting: Setting
    options: tuple[OptionTable, ...]
    policies: tuple[int, ...]
    time: Floats
    layer_time: Floats
    depth: Ints
    hop: Floats
    finish: Floats
    packing: NDArray[np.float64]

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.time.shape[2])

    def fastest(self, depth: int) -> Floats:
        """Seconds of the fastest policy that fits with ``depth`` in flight; inf where none does."""
        out: Floats = np.where(self.depth >= depth, self.time, np.inf).min(axis=0)
        return out

    def option_prices(self, duals: Floats) -> Floats:
        """Price of one group of each option from the packing rows' duals."""
        return self.packing @ duals


def build_space(problem: Problem, setting: Setting, rows: int, *, optimistic: bool) -> StageSpace:
    """Tabulate the stages of a setting.

    ``optimistic`` relaxes what depends on the replica count to its most favourable end (for
    bounds); otherwise to the least favourable (for plans).
    """
    chosen = tuple(t for t in problem.tables.tables if t.option.rows == rows)
    replicas = setting.replicas[1] if optimistic else setting.replicas[0]
    length = problem.tables.layers
    shape = (len(problem.policies), len(chosen), length, length + 1)
    time = np.full(shape, np.inf)
    depth = np.zeros(shape, dtype=np.int64)
    for k, table in enumerate(chosen):
        for p, policy in enumerate(problem.policies):
            time[p, k], depth[p, k] = _stages(problem, table, policy, replicas, setting)
    packing = np.zeros((len(chosen), len(problem.packing_rows)))
    for k, table in enumerate(chosen):
        for row in problem.rows_of(table.option.class_index, table.option.tp):
            packing[k, row] = table.option.tp
    return StageSpace(
        rows=rows,
        setting=setting,
        options=chosen,
        policies=problem.policies,
        time=time,
        layer_time=np.stack(
            [
                np.stack([(t.forward_ps + t.backward_ps[p]) / PS_PER_S for t in chosen])
                for p in problem.policies
            ]
        ),
        depth=depth,
        hop=_hops(problem, chosen, rows, best_hop_ps if optimistic else expected_hop_ps),
        finish=_finish(problem, chosen, setting),
        packing=packing,
    )


def _window_sums(values: Ints) -> Ints:
    """``out[i, n]`` = sum of ``values[i : i + n]``; positions past the end repeat the last sum."""
    length = len(values)
    prefix = np.concatenate([[0], np.cumsum(values)])
    ends = np.minimum(np.arange(length)[:, None] + np.arange(length + 1)[None, :], length)
    out: Ints = prefix[ends] - prefix[:length, None]
    return out


def _window_max(values: Ints) -> Ints:
    length = len(values)
    out = np.zeros((length, length + 1), dtype=np.int64)
    for n in range(1, length + 1):
        stop = length - n + 1
        out[:stop, n] = np.maximum(out[:stop, n - 1], values[n - 1 :])
    return out


def stage_limits(
    problem: Problem, table: OptionTable, policy: int, replicas: int
) -> tuple[Ints, Ints, Ints]:
    """Static bytes, bytes per in-flight micro-batch and room left, each ``[i, n]``."""
    tables = problem.tables
    cls = problem.topology.classes[table.option.class_index]
    over = tables.overheads[cls.index]
    shards = replicas if tables.zero_level else 1
    optimizer = sharded_optimizer_bytes(table.parameters, tables.state.optimizer, shards)
    per_layer = (
        table.parameters * (tables.state.parameter + tables.state.gradient)
        + optimizer
        + table.logits_bytes
    )
    length = tables.layers
    edge = np.concatenate([tables.boundary_bytes[table.option.rows], [0]])
    ends = np.minimum(np.arange(length)[:, None] + np.arange(length + 1)[None, :], length)
    buffers = 2 * (edge[:length, None] + edge[ends])
    if tables.sequence_parallel and table.option.tp > 1:
        buffers //= table.option.tp
    static = (
        _window_sums(per_layer)
        + _window_max(table.working_bytes[policy])
        + buffers
        + over.context_bytes
        + over.buffer_bytes
        + over.fragmentation_bytes
    )
    each = _window_sums(table.activation_bytes[policy])
    return static, each, cls.usable_memory_bytes - static


def _stages(
    problem: Problem, table: OptionTable, policy: int, replicas: int, setting: Setting
) -> tuple[Floats, Ints]:
    length = problem.tables.layers
    time = _window_sums(table.forward_ps + table.backward_ps[policy]) / PS_PER_S
    _, each, room = stage_limits(problem, table, policy, replicas)
    depth = np.where(
        each > 0, np.maximum(room, 0) // np.maximum(each, 1), UNBOUNDED_DEPTH * (room >= 0)
    )
    first, end = setting.windows[table.option.class_index]
    i = np.arange(length)[:, None]
    n = np.arange(length + 1)[None, :]
    legal = (n >= 1) & (i >= first) & (i + n <= end)
    return np.where(legal, time, np.inf), np.where(legal, depth, 0)


HopPrice = Callable[[Topology, OptionTable, OptionTable, int], int | None]


def _hops(problem: Problem, chosen: tuple[OptionTable, ...], rows: int, price: HopPrice) -> Floats:
    """Hop seconds between any two options at every cut; infinite without a route."""
    topology = problem.topology
    cuts = problem.tables.boundary_bytes[rows]
    out = np.full((len(chosen), len(chosen), problem.tables.layers + 1), np.inf)
    sizes = {int(b): np.flatnonzero(cuts == b) for b in np.unique(cuts)}
    for a, from_table in enumerate(chosen):
        for b, to_table in enumerate(chosen):
            for size, where in sizes.items():
                ps = price(topology, from_table, to_table, size)
                if ps is not None:
                    out[a, b, where] = ps / PS_PER_S
    return out


def _finish(problem: Problem, chosen: tuple[OptionTable, ...], setting: Setting) -> Floats:
    out = np.zeros((len(chosen), problem.tables.layers + 1))
    for k, table in enumerate(chosen):
        if problem.free_finish:
            break
        out[k] = least_finish_s(problem, table, setting.replicas)
    return out


def best_hop_ps(
    topology: Topology, source: OptionTable, target: OptionTable, bytes_: int
) -> int | None:
    """The least time that a hop between two options can take anywhere in the cluster."""
    a = topology.classes[source.option.class_index]
    b = topology.classes[target.option.class_index]
    tp_a, tp_b = source.option.tp, target.option.tp
    ways = []
    if a.index == b.index and tp_a + tp_b <= a.size:
        ways.append(fabric_hop_ps(bytes_, a.fabric, tp_a, tp_b))
    route = topology.class_routes.get((a.index, b.index))
    if route is not None:
        ways.append(route_hop_ps(bytes_, route, fair_share(a, tp_a, b, tp_b)))
    return min(ways) if ways else None


def over_network(topology: Topology, source: OptionTable, target: OptionTable) -> bool:
    """Whether a placement must expect the hop to leave the island."""
    a = topology.classes[source.option.class_index]
    return source.option.class_index != target.option.class_index or a.count > 1


def expected_hop_ps(
    topology: Topology,
    source: OptionTable,
    target: OptionTable,
    bytes_: int,
    busy: tuple[bool, bool] = (False, False),
) -> int | None:
    """The time that a placement can count on: over the network as soon as there are islands.

    ``busy`` says for either end whether its stage has a second neighbour over the network.
    """
    a = topology.classes[source.option.class_index]
    b = topology.classes[target.option.class_index]
    tp_a, tp_b = source.option.tp, target.option.tp
    if not over_network(topology, source, target):
        return fabric_hop_ps(bytes_, a.fabric, tp_a, tp_b) if tp_a + tp_b <= a.size else None
    route = topology.class_routes.get((a.index, b.index))
    if route is None:
        return None
    share = min(tp_a / a.size / (1 + busy[0]), tp_b / b.size / (1 + busy[1]))
    return route_hop_ps(bytes_, route, share)


__all__ = [
    "Problem",
    "Setting",
    "StageSpace",
    "best_hop_ps",
    "build_space",
    "expected_hop_ps",
    "stage_limits",
]
