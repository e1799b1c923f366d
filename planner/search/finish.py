"""After the last backward: gradient synchronisation and optimizer update of one stage.

Two prices of the same thing: the least that any plan of a setting can pay (for bounds) and what
a placement will pay that puts either the replicas of a stage or the stages of a pipeline side by
side (for plans, before they are placed and priced for real).

A layer with P parameters per device moves w = P · (gradient + parameter bytes) under ZeRO-1
(reduce-scatter, then all-gather) or 2 · P · gradient bytes (all-reduce); a ring over n members
takes (n − 1)/n · w / bandwidth. The chips of a host share its port evenly; k replicas of one host
send what they sum only once, over the shares of all k. Copies of a layer inside a stage (context
and data parallel) count as replicas on its island; experts that lie on devices of their own have
other copies than the rest, and their sums come on top. A stage on several islands exchanges its
dense weights even alone; experts that lie on all its chips meet others of their part alone. Where
gradients may be packed between hosts, the shorter of the two ways counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from costmodels.units import PS_PER_S
from planner.costing import OptionTable, update_s
from planner.graphs.across import islands_of
from planner.graphs.topology import IslandClass, Route, Topology
from planner.mesh import Part
from planner.search.problem import Problem, Setting
from planner.search.spread import Spread, spread_by


def sync_bytes_per_parameter(problem: Problem) -> int:
    """Bytes per parameter that a ring carries once around, both phases together."""
    state = problem.tables.state
    if problem.tables.zero_level:
        return state.gradient + state.parameter
    return 2 * state.gradient


def _routes(topology: Topology, cls: IslandClass, setting: Setting | None) -> list[Route]:
    """The ways of a host of the class towards every class it may reduce with."""
    routes = (
        topology.class_routes.get((cls.index, other.index))
        for other in topology.classes
        if other.chip.vendor == cls.chip.vendor or topology.cross_vendor_collectives != "none"
        if setting is None or setting.meet(cls.index, other.index)
    )
    return [r for r in routes if r is not None]


def _update_s(
    problem: Problem, table: OptionTable, parts: Sequence[tuple[float, Part]], replicas: int
) -> float:
    cls = problem.topology.classes[table.option.class_index]
    tables = problem.tables
    # a part that a stage does not hold is not updated; the first one always is
    held = [(n, part) for k, (n, part) in enumerate(parts) if n or not k]
    offload = table.option.mesh.offload
    return update_s(held, replicas, tables.zero_level, tables.state, cls, offload=offload)


def least_finish_s(
    problem: Problem,
    table: OptionTable,
    replicas: tuple[int, int],
    setting: Setting | None = None,
    *,
    first: int = 0,
    spread: Spread | None = None,
) -> NDArray[np.float64]:
    """Seconds ``[n]`` that a stage of n layers from ``first`` on pays at least.

    A ``setting`` says which classes hold the same layers; without one, any may.

    Optimistic: the fewest replicas pay for the traffic, the most share the update; the replicas
    share one island if they could, and reach the others over the best port without competition.
    ``spread``: on how many islands layers lie, and how many layers one island can have to itself,
    in the plans that are spoken about (by default in any).
    """
    spread = spread or spread_by(problem, None)
    topology, option = problem.topology, table.option
    cls = topology.classes[option.class_index]
    low, high = replicas
    sizes = [t.option.chips for t in problem.tables.tables if t.option.class_index == cls.index]
    widest = max(c.size for c in topology.classes)
    fewest = max(2, -(-low // widest))
    hosts = np.full(problem.tables.layers - first, fewest)
    if not _parted(problem):
        hosts = np.maximum(spread.islands[first:], hosts)
    port = max((r.bandwidth for r in _routes(topology, cls, setting)), default=np.inf)
    rate = cls.fabric.total_bandwidth * cls.fabric.efficiency
    # other replicas on the same island share what leaves it, however wide they are
    chips = min(cls.size, option.chips + (high - 1) * max(sizes))
    part_of = option.chips / cls.size
    together = option.chips + (low - 1) * min(sizes) <= cls.size
    length = problem.tables.layers + 1 - first
    exchange, own = np.zeros(length), np.zeros(length)
    savings = np.zeros(length - 1)  # of layers whose replicas are all in one island
    islands = islands_of(option.chips, cls)
    gradients = np.zeros(length)  # of one chip of an island that exchanges them
    parts = []
    for layers, part in table.parts:
        parameters = np.concatenate([[0], np.cumsum(layers[first:])])
        parts.append((parameters, part))
        traffic = parameters.astype(np.float64) * sync_bytes_per_parameter(problem)
        # islands that a ring passes at least, lanes and copies of the stage on one of them
        ring = hosts if islands == 1 else least_ring(part, option.chips, islands, low, fewest)
        lanes, summed = min(part.lanes, cls.size), max(1, part.summed // islands)
        gradients += parameters * lanes / chips * (1 if islands == 1 else (ring - 1) / ring)
        each = np.diff(traffic)
        over = (ring - 1) / ring * each * lanes * cls.size / chips / port
        exchange += np.concatenate([[0.0], np.cumsum(over)])
        # copies of the stage itself, and all of them side by side
        local = part.summed + max(low, 1) - 1
        alone = (summed - 1) / summed
        own += alone * traffic / part.shards / rate
        savings += over - ((local - 1) / local - alone) * each / part.shards / rate
    packed = problem.tables.packed
    if packed is not None:
        packing = np.array([packed.packing_s(n, cls.chip, derate=cls.derate) for n in gradients])
        exchange = np.minimum(exchange, exchange * float(packed.ratio) + packing)
    sync = exchange + own
    if low <= 1:
        sync = own if islands == 1 else sync
    elif together:
        # all in one island, or spread over several where the port is faster than the fabric
        sync = np.maximum(sync - spread.saved(cls.index, first, savings, part_of), own)
    update = np.array(
        [
            _update_s(problem, table, [(int(p[n]), part) for p, part in parts], high)
            for n in range(length)
        ]
    )
    # plans round synchronisation and update to picoseconds: stay below either rounding
    whole = np.maximum(np.floor((sync + update) * PS_PER_S) - 2, 0.0)
    out: NDArray[np.float64] = whole / PS_PER_S
    return out


def _parted(problem: Problem) -> bool:
    """Whether islands may hold parts of a layer's experts, and sum them with few other islands."""
    sizes = [c.size for c in problem.topology.classes]
    return any(
        t.option.chips > sizes[t.option.class_index] and len(t.parts) > 1
        for t in problem.tables.tables
    )


def least_ring(part: Part, chips: int, islands: int, low: int, hosts: int) -> int:
    """Islands that hold the same part of a stage on several islands, at least.

    The stage has its islands to itself: ``low`` pipelines add at least one, or ``hosts`` in all.
    """
    own = islands if part.lanes * islands <= chips else max(1, chips // part.lanes)
    return max(own, hosts, own + 1) if low > 1 else own


def unhidden_s(problem: Problem, table: OptionTable, first: int, end: int, replicas: int) -> float:
    """Seconds of stage ``[first, end)`` after the last backward of all that nothing can hide.

    An update on the host waits for the norm of all gradients and takes seconds. On the device it
    takes milliseconds, and none are counted here.
    """
    if not table.option.mesh.offload:
        return 0.0
    parts = [(int(layers[first:end].sum()), part) for layers, part in table.parts]
    return _update_s(problem, table, parts, replicas)


def expected_exchange_s(
    problem: Problem,
    ends: tuple[OptionTable, ...],
    layer: int,
    replicas: int,
    *,
    inside: bool,
) -> float:
    """Seconds in which two stages of a pipeline sum what they hold of a weight of ``layer``.

    With ZeRO-1 a replica needs only the shard that it updates. ``inside``: on one island.
    """
    topology, each = problem.topology, sync_bytes_per_parameter(problem) / 2
    classes = [topology.classes[table.option.class_index] for table in ends]
    islands = [islands_of(t.option.chips, c) for t, c in zip(ends, classes, strict=True)]
    route = topology.class_routes.get((classes[0].index, classes[1].index))
    slowest = 0.0
    for table, cls, count in zip(ends, classes, islands, strict=True):
        parameters, part = table.parts[0]
        bytes_ = int(parameters[layer]) * each / (replicas if problem.tables.zero_level else 1)
        if inside:
            slowest = max(slowest, bytes_ / part.shards / cls.fabric.group_bandwidth(2))
        elif route is not None:
            copies = max(1, part.copies // count)
            sent = bytes_ * (min(part.lanes, cls.size) if count > 1 else cls.size / copies)
            ring = 2 * (sum(islands) - 1) / sum(islands)
            rate = route.rate(sent / sum(islands), max(1, cls.size // copies))
            slowest = max(slowest, ring * sent / rate)
    return slowest


def _ring_share(part: Part, chips: int, islands: int, hosts: int) -> float:
    """What a ring of fewer islands takes of one over all ``hosts``; 1 where they are the same."""
    same = hosts * least_ring(part, chips, islands, 1, 1) // islands
    return (same - 1) / same * hosts / (hosts - 1)


def expected_finish_s(
    problem: Problem,
    table: OptionTable,
    first: int,
    end: int,
    replicas: int,
    *,
    together: bool = False,
    beside: int | None = None,
    setting: Setting | None = None,
) -> float:
    """Seconds that stage ``[first, end)`` will pay when its replicas fill islands.

    ``together``: when its islands are filled with other stages of the same pipeline instead.
    ``beside``: when so many replicas lie side by side, and all others alone.
    """
    cls = problem.topology.classes[table.option.class_index]
    parts = [(int(layers[first:end].sum()), part) for layers, part in table.parts]
    near = replicas if beside is None else min(beside, replicas)
    local = 1 if together else max(1, min(near, cls.size // table.option.chips))
    islands = islands_of(table.option.chips, cls)
    groups = -(-replicas // local) if beside is None else 1 + replicas - min(local, replicas)
    hosts = groups * islands
    sync, exchanged = 0.0, 0.0
    for parameters, part in parts:
        traffic = parameters * sync_bytes_per_parameter(problem)
        copies = local * max(1, part.summed // islands)
        if copies > 1 and parameters:
            own = traffic / part.shards
            sync += (copies - 1) / copies * own / cls.fabric.group_bandwidth(copies)
        if islands > 1:
            exchanged += (
                traffic
                * min(part.lanes, cls.size)
                * _ring_share(part, table.option.chips, islands, hosts)
            )
        else:
            exchanged += traffic * cls.size / (local * part.copies)
    if hosts > 1:
        # where the way was measured, a ring sends with one chip of each rank: slower than a port
        copies = max(1, table.option.mesh.dense.summed // islands)
        senders = max(1, cls.size // (local * copies))
        routes = _routes(problem.topology, cls, setting)

        def ring_s(bytes_: float) -> float:
            rates = (route.rate(bytes_ / 2 / hosts, senders) for route in routes)
            return (hosts - 1) / hosts * bytes_ / min(rates, default=np.inf)

        between, packed = ring_s(exchanged), problem.tables.packed
        if packed is not None:
            gradients = exchanged / cls.size / sync_bytes_per_parameter(problem)
            packing = packed.packing_s(gradients, cls.chip, derate=cls.derate)
            between = min(between, ring_s(exchanged * float(packed.ratio)) + packing)
        sync += between
    return sync + _update_s(problem, table, parts, replicas)
