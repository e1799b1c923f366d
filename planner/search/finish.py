"""After the last backward: gradient synchronisation and optimizer update of one stage.

Two prices of the same thing: the least that any plan of a setting can pay (for bounds) and what
a placement will pay that puts either the replicas of a stage or the stages of a pipeline side by
side (for plans, before they are placed and priced for real).

A layer with P parameters per device moves w = P · (gradient + parameter bytes) under ZeRO-1
(reduce-scatter, then all-gather) or 2 · P · gradient bytes (all-reduce); a ring over n members
takes (n − 1)/n · w / bandwidth. The chips of a host share its port evenly; k replicas of one host
send what they sum only once, over the shares of all k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from costmodels.compute import optimizer_update_s
from costmodels.units import PS_PER_S
from planner.costing import OptionTable
from planner.graphs.topology import IslandClass, Route, Topology
from planner.search.problem import Problem


def sync_bytes_per_parameter(problem: Problem) -> int:
    """Bytes per parameter that a ring carries once around, both phases together."""
    state = problem.tables.state
    if problem.tables.zero_level:
        return state.gradient + state.parameter
    return 2 * state.gradient


def _routes(topology: Topology, cls: IslandClass) -> list[Route]:
    """The ways of a host of the class towards every class it may reduce with."""
    routes = (
        topology.class_routes.get((cls.index, other.index))
        for other in topology.classes
        if other.chip.vendor == cls.chip.vendor or topology.cross_vendor_collectives != "none"
    )
    return [r for r in routes if r is not None]


def _ports(topology: Topology, cls: IslandClass) -> list[float]:
    """Achievable bytes/s of a host of the class towards every class it may reduce with."""
    return [route.bandwidth for route in _routes(topology, cls)]


def _update_s(problem: Problem, table: OptionTable, parameters: int, replicas: int) -> float:
    cls = problem.topology.classes[table.option.class_index]
    shards = replicas if problem.tables.zero_level else 1
    update = optimizer_update_s(parameters, problem.tables.state, cls.chip, shards)
    return update * cls.update_scale


def least_finish_s(
    problem: Problem, table: OptionTable, replicas: tuple[int, int]
) -> NDArray[np.float64]:
    """Seconds ``[n]`` that a first stage of n layers pays at least under a replica interval.

    Optimistic: the fewest replicas pay for the traffic, the most share the update; the replicas
    share one island if they could, and reach the others over the best port without competition.
    """
    topology = problem.topology
    cls = topology.classes[table.option.class_index]
    tp = table.option.tp
    low, high = replicas
    parameters = np.concatenate([[0], np.cumsum(table.parameters)]).astype(np.float64)
    traffic = parameters * sync_bytes_per_parameter(problem)
    widest = max(c.size for c in topology.classes)
    hosts = max(2, -(-low // widest))
    port = max(_ports(topology, cls), default=np.inf)
    degrees = [t.option.tp for t in problem.tables.tables if t.option.class_index == cls.index]
    # other replicas on the same island share what leaves it, however wide they are
    chips = min(cls.size, tp + (high - 1) * max(degrees))
    sync = (hosts - 1) / hosts * traffic * tp * cls.size / chips / port
    if low <= 1:
        sync = np.zeros_like(traffic)
    elif tp + (low - 1) * min(degrees) <= cls.size:
        # all in one island, or spread over two where the port is faster than the fabric
        rate = cls.fabric.total_bandwidth * cls.fabric.efficiency
        sync = np.minimum(sync, (low - 1) / low * traffic / rate)
    shards = high if problem.tables.zero_level else 1
    update = np.array(
        [optimizer_update_s(p, problem.tables.state, cls.chip, shards) for p in parameters]
    )
    update *= cls.update_scale
    # plans round synchronisation and update to picoseconds: stay below either rounding
    whole = np.maximum(np.floor((sync + update) * PS_PER_S) - 2, 0.0)
    out: NDArray[np.float64] = whole / PS_PER_S
    return out


def expected_finish_s(
    problem: Problem,
    table: OptionTable,
    first: int,
    end: int,
    replicas: int,
    *,
    together: bool = False,
) -> float:
    """Seconds that stage ``[first, end)`` will pay when its replicas fill islands.

    ``together``: when its islands are filled with other stages of the same pipeline instead.
    """
    cls = problem.topology.classes[table.option.class_index]
    tp = table.option.tp
    parameters = int(table.parameters[first:end].sum())
    traffic = parameters * sync_bytes_per_parameter(problem)
    local = 1 if together else max(1, min(replicas, cls.size // tp))
    hosts = -(-replicas // local)
    sync = 0.0
    if local > 1:
        sync += (local - 1) / local * traffic / cls.fabric.group_bandwidth(local)
    if hosts > 1:
        # where the way was measured, a ring sends with one chip of each rank: slower than a port
        exchanged = traffic * cls.size / local
        senders = max(1, cls.size // local)
        rates = (
            route.rate(exchanged / 2 / hosts, senders) for route in _routes(problem.topology, cls)
        )
        sync += (hosts - 1) / hosts * exchanged / min(rates, default=np.inf)
    return sync + _update_s(problem, table, parameters, replicas)
