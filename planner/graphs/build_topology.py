"""From a cluster as written to islands, classes of interchangeable islands, and routes.

*Islands*: the chips of one host that share a physical fabric and are equal in derate, usable
memory and measured rate. Cards without a fabric form one island on their host links.

*Classes*: see :mod:`planner.graphs.classes`. *Routes*: see :mod:`planner.graphs.routes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from costmodels.catalog import Catalog, cross_vendor, network_kind
from costmodels.catalog.links import CrossVendor
from planner.graphs.assumptions import topology_assumptions
from planner.graphs.classes import Members, class_members, named_classes
from planner.graphs.hosts import HostType, host_types
from planner.graphs.routes import (
    Cell,
    Leg,
    Network,
    Router,
    network_legs,
    port_resource,
    same_host_leg,
    switch_resource,
)
from planner.graphs.switches import Attached, SwitchGraph, switch_graph
from planner.graphs.topology import Route, Topology
from planner.inputs.chips import extended_catalog
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.constraints import Constraints


def build_topology(
    spec: ClusterSpec, catalog: Catalog, constraints: Constraints | None = None
) -> Topology:
    """The topology of a checked cluster (see :func:`planner.inputs.cluster.load_cluster`).

    Hosts are enumerated only to name them; pairs of hosts never are. Chips that the
    ``constraints`` forbid are left out; they stand idle where they are, so that ports and switches
    are as before.
    """
    own = extended_catalog(catalog, spec.chips)
    every = host_types(spec, own.get)
    net = Network(_switch_graphs(spec, every), _staging(spec))
    types = every if constraints is None else tuple(_allowed(every, constraints))
    members, unsplit = class_members(types, net)
    every_cell = [c for m in members for c in m]
    cells = {f"{h}/{c.shape.label}": c for c in every_cell for h in c.host_type.hosts}
    return Topology(
        name=spec.name,
        classes=tuple(named_classes(members, own)),
        class_routes=_class_routes(members, net),
        route=Router(cells, net),
        capacity=_capacity(types, net),
        cross_vendor_collectives=spec.cross_vendor_collectives,
        assumptions=topology_assumptions(spec, types, unsplit, net.staging, own),
        cells={
            f"{h}/{c.shape.label}": k for k, c in enumerate(every_cell) for h in c.host_type.hosts
        },
    )


def _allowed(types: Sequence[HostType], constraints: Constraints) -> Iterator[HostType]:
    """Host types without the hosts and islands that a job must not use."""
    for host_type in types:
        hosts = tuple(h for h in host_type.hosts if h not in constraints.forbidden_nodes)
        kept = tuple(
            island
            for island in host_type.islands
            if island.chip.id not in constraints.forbidden_chips
        )
        if hosts and kept:
            yield replace(host_type, hosts=hosts, islands=kept)


def _switch_graphs(spec: ClusterSpec, types: Sequence[HostType]) -> dict[str, SwitchGraph]:
    graphs: dict[str, SwitchGraph] = {}
    for network in spec.networks:
        if not network.switches:
            continue
        attached: dict[str, Attached] = {}
        for host_type, port in ((t, p) for t in types for p in t.ports):
            if port.network == network.name:
                known = attached.get(port.switch, Attached())
                hosts = len(host_type.hosts)
                attached[port.switch] = Attached(
                    known.nominal + hosts * port.nominal,
                    known.achievable + hosts * port.achievable,
                )
        # What TCP loses it loses in the hosts; a switch passes on what RDMA would get.
        kind = network.kind if network.kind not in (None, "tcp") else "roce"
        graphs[network.name] = switch_graph(network, attached, network_kind(kind or "roce"))
    return graphs


def _staging(spec: ClusterSpec) -> CrossVendor:
    chosen = spec.cross_vendor_transfers or spec.cross_vendor_collectives
    try:
        return cross_vendor(chosen)
    except LookupError:
        return cross_vendor("cpu-staged")


def _class_routes(members: Sequence[Members], net: Network) -> dict[tuple[int, int], Route | None]:
    """The widest and the quickest way that any two different islands of two classes have."""
    routes: dict[tuple[int, int], Route | None] = {}
    for a, source in enumerate(members):
        for b in range(a, len(members)):
            # All links are full duplex: the way back is the same.
            routes[a, b] = routes[b, a] = _best(list(_legs_between(source, members[b], net)))
    return dict(sorted(routes.items()))


def _legs_between(source: Members, target: Members, net: Network) -> Iterator[Leg]:
    """Legs of all pairs of cells, or only of pairs on the same switches where there are some."""
    pairs = [(s, t) for s in source for t in target]
    for s, t in pairs:
        if s.host_type is t.host_type and s.number != t.number:
            yield same_host_leg(s.shape, t.shape, s.host_type.link_total, net)
    apart = [
        (s, t) for s, t in pairs if s.host_type is not t.host_type or len(s.host_type.hosts) > 1
    ]
    beside = [(s, t) for s, t in apart if _on_same_switches(s, t)]
    for s, t in beside[:1] or apart:
        yield from network_legs(s, t, net)


def _on_same_switches(one: Cell, other: Cell) -> bool:
    switches = {p.network: p.switch for p in other.host_type.ports}
    return all(
        p.switch == switches[p.network] for p in one.host_type.ports if p.network in switches
    )


def _best(legs: Sequence[Leg]) -> Route | None:
    if not legs:
        return None
    widest = max(legs, key=lambda leg: (leg.bandwidth, -leg.latency_s))
    return Route(widest.bandwidth, min(leg.latency_s for leg in legs), widest.kind)


def _capacity(types: Sequence[HostType], net: Network) -> dict[str, float]:
    capacity: dict[str, float] = {}
    for graph in net.graphs.values():
        for (a, b), link in sorted(graph.uplinks.items()):
            capacity[switch_resource(a, b)] = link.bandwidth
    for host_type in types:
        for host in host_type.hosts:
            for port in host_type.ports:
                for direction in ("out", "in"):
                    capacity[port_resource(host, port.network, direction)] = port.achievable
            if len(host_type.islands) > 1:
                capacity |= _inner_capacity(host, host_type)
    return capacity


def _inner_capacity(host: str, host_type: HostType) -> dict[str, float]:
    """Host links, which matter only where islands of one host talk to each other."""
    inner: dict[str, float] = {}
    for shape in host_type.islands:
        for direction in ("out", "in"):
            resource = f"island:{host}/{shape.label}:{direction}"
            inner[resource] = shape.host_bandwidth
    if host_type.link_total is not None:
        inner[f"host:{host}:link"] = host_type.link_total
    return inner
