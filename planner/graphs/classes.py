"""Which islands are interchangeable.

A class holds islands that agree in chip, size, fabric, derate, memory, measured rate and in their
host: what else it holds, its memory, its ports (networks, kinds, rates), its root complex. Names
and order of the nodes play no part: classes are numbered by these properties, then by how many
islands they have, and only a full tie is broken by name.

*Hosts behind different switches* stay in one class while the bandwidth between the groups is at
least half of that within a group, counted as a host's fair share when all hosts send at once
(that is what oversubscription takes away). Below half the class is cut into these groups, up to
eight of them; with more it stays whole, the topology says so among its assumptions, and placement
prices the real routes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from costmodels.catalog import Catalog, Fabric
from costmodels.units import GIB
from planner.graphs.hosts import HostType, IslandShape, natural_key
from planner.graphs.routes import Cell, Network
from planner.graphs.switches import INSIDE
from planner.graphs.topology import Island, IslandClass

MAX_GROUPS = 8
"""More groups of one class would slow the search for a gain that placement finds as well."""

SPLIT_BELOW = 0.5
"""Share of the bandwidth within a group below which another group is no longer the same class."""

Members = tuple[Cell, ...]
"""The cells of one class."""


def class_members(
    types: Sequence[HostType], net: Network
) -> tuple[tuple[Members, ...], tuple[Members, ...]]:
    """The cells of every class in canonical order, and those left whole for too many groups."""
    alike: dict[Hashable, list[Cell]] = {}
    for host_type in types:
        for number in range(len(host_type.islands)):
            cell = Cell(host_type, number)
            alike.setdefault(_class_key(cell), []).append(cell)
    found: list[Members] = []
    unsplit: list[Members] = []
    for cells in alike.values():
        groups = _switch_groups(cells, net)
        if len(groups) > MAX_GROUPS:
            unsplit.append(tuple(cells))
            groups = [cells]
        found += [tuple(g) for g in groups]
    return tuple(sorted(found, key=_order)), tuple(sorted(unsplit, key=_order))


def _class_key(cell: Cell) -> Hashable:
    """Everything that distinguishes a class, switches aside."""
    networks = tuple(p.network for p in cell.host_type.ports)
    return (_shape_key(cell.shape), _host_key(cell.host_type), networks)


def _shape_key(shape: IslandShape) -> tuple[str | float, ...]:
    """An island's own properties, comparable; it says nothing of names."""
    measured = shape.measured_rows_per_s
    return (
        shape.chip.id,
        -shape.size,
        -shape.derate,
        -shape.usable_memory_bytes,
        -1.0 if measured is None else measured,
        *_link_key(shape.fabric),
        *_link_key(shape.host_fabric),
    )


def _link_key(fabric: Fabric) -> tuple[str | float, ...]:
    return (
        fabric.kind,
        -fabric.total_bandwidth,
        -fabric.pair_bandwidth,
        -fabric.efficiency,
        fabric.latency_s,
        fabric.full_mesh,
    )


def _host_key(host: HostType) -> tuple[tuple[tuple[str | float, ...], ...], ...]:
    """The host around an island, comparable and without names."""
    memory = -1 if host.host_memory_bytes is None else host.host_memory_bytes
    total = -1.0 if host.link_total is None else host.link_total
    # named only where it is given: classes of older clusters keep their order
    rate = () if host.memory_bandwidth is None else (host.memory_bandwidth,)
    return (
        tuple(sorted(_shape_key(s) for s in host.islands)),
        tuple(sorted((p.kind, -p.achievable, -p.nominal, p.latency_s) for p in host.ports)),
        ((memory, total, *rate),),
    )


def _order(members: Members) -> tuple[object, ...]:
    """Canonical order: properties, then the number of islands, then (a full tie) names."""
    first = members[0]
    return (
        _shape_key(first.shape),
        _host_key(first.host_type),
        -sum(len(c.host_type.hosts) for c in members),
        min(natural_key(c.host_type.hosts[0]) for c in members),
    )


def _switch_groups(cells: list[Cell], net: Network) -> list[list[Cell]]:
    """Cells that reach each other at no less than half of what they reach among themselves."""
    groups: list[list[Cell]] = []
    for cell in cells:
        joined, apart = [cell], []
        for group in groups:
            if any(_is_near(cell, other, net) for other in group):
                joined = group + joined
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


def _is_near(one: Cell, other: Cell, net: Network) -> bool:
    """Whether two cells of equal ports may share a class; judged on their best network."""
    within = max((p.achievable for p in one.host_type.ports), default=0.0)
    across = 0.0
    for port, back in zip(one.host_type.ports, other.host_type.ports):
        graph = net.graphs.get(port.network)
        way = graph.way(port.switch, back.switch) if graph else INSIDE
        if way is not None:
            limit = port.achievable if way.bandwidth is None else way.bandwidth
            across = max(across, min(limit, port.achievable * way.fair_share))
    return across >= SPLIT_BELOW * within


def named_classes(members: Sequence[Members], catalog: Catalog) -> Iterator[IslandClass]:
    """The classes with their islands named, in the given order; equal names get a number."""
    names: dict[str, int] = {}
    plain = [_class_name(m[0].shape, catalog) for m in members]
    for index, (cells, name) in enumerate(zip(members, plain)):
        names[name] = names.get(name, 0) + 1
        shape = cells[0].shape
        yield IslandClass(
            index=index,
            name=name if plain.count(name) == 1 else f"{name} #{names[name]}",
            chip=shape.chip,
            size=shape.size,
            fabric=shape.fabric,
            islands=tuple(_islands(cells, index)),
            derate=shape.derate,
            reserved_bytes=shape.reserved_bytes,
            usable_memory_bytes=shape.usable_memory_bytes,
            host_memory_bytes=cells[0].host_type.host_memory_bytes,
            measured_rows_per_s=shape.measured_rows_per_s,
            host=cells[0].host_type.share(shape),
        )


def _class_name(shape: IslandShape, catalog: Catalog) -> str:
    parts = [f"{shape.size}x{catalog.alias(shape.chip.id)}"]
    if shape.derate != 1.0:
        parts.append(f"at {shape.derate:.0%}")
    if shape.reserved_bytes:
        parts.append(f"less {shape.reserved_bytes / GIB:g} GiB")
    return " ".join(parts)


def _islands(cells: Members, index: int) -> Iterator[Island]:
    """The islands of a class, hosts in natural order."""
    places = [(natural_key(h), c.number, h, c) for c in cells for h in c.host_type.hosts]
    for _, _, host, cell in sorted(places, key=lambda place: place[:2]):
        devices = tuple(f"{host}/{d}" for d in cell.shape.devices)
        yield Island(f"{host}/{cell.shape.label}", host, index, devices)
