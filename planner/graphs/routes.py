"""Ways between islands: through the fabric or the host links of one host, or over a network.

A way is priced once per pair of host types and switches; naming the hosts on it is all that is
left per pair of islands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from costmodels.catalog.links import CrossVendor, network_kind
from planner.graphs.hosts import HostType, IslandShape, Port
from planner.graphs.switches import INSIDE, SwitchGraph, SwitchWay
from planner.graphs.topology import Island, Route


@dataclass(frozen=True, slots=True)
class Cell:
    """The ``number``-th island of every host of a host type."""

    host_type: HostType
    number: int

    @property
    def shape(self) -> IslandShape:
        """The island as the host type describes it."""
        return self.host_type.islands[self.number]


@dataclass(frozen=True, slots=True)
class Leg:
    """A priced way whose hosts have no names yet. ``network`` is None inside a host."""

    bandwidth: float
    latency_s: float
    kind: str
    network: str | None = None
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Network:
    """How two vendors meet, and the switch graphs of the networks that declare their switches."""

    graphs: Mapping[str, SwitchGraph]
    staging: CrossVendor


def same_host_leg(
    source: IslandShape, target: IslandShape, total: float | None, net: Network
) -> Leg:
    """Between two islands of one host, as a whole island may use it alone.

    Islands that were cut from one physical fabric (they differ in derate or memory) use it; all
    others go through the host links of both sides, and between vendors through host memory, where
    every device has a copying process of its own.
    """
    crossing = source.chip.vendor.casefold() != target.chip.vendor.casefold()
    if source.domain == target.domain and not source.on_host_link and not crossing:
        fabric = source.fabric
        per_source = min(fabric.total_bandwidth, target.size * fabric.pair_bandwidth)
        per_target = min(fabric.total_bandwidth, source.size * fabric.pair_bandwidth)
        if not fabric.full_mesh:
            per_source = per_target = fabric.total_bandwidth
        nominal = min(source.size * per_source, target.size * per_target)
        return Leg(nominal * fabric.efficiency, fabric.latency_s, fabric.kind)
    slower = min(source, target, key=lambda s: (s.host_bandwidth, s.host_fabric.kind))
    bandwidth = slower.host_bandwidth if total is None else min(slower.host_bandwidth, total)
    latency = max(source.host_fabric.latency_s, target.host_fabric.latency_s)
    if not crossing:
        return Leg(bandwidth, latency, slower.host_fabric.kind)
    return _staged(bandwidth, latency, "host memory", source, target, net.staging)


def network_legs(source: Cell, target: Cell, net: Network) -> list[Leg]:
    """One leg per network that joins two hosts, the best first."""
    legs: list[Leg] = []
    ports = {p.network: p for p in target.host_type.ports}
    for out in source.host_type.ports:
        back = ports.get(out.network)
        if back is None:
            continue
        graph = net.graphs.get(out.network)
        way = graph.way(out.switch, back.switch) if graph else INSIDE
        if way is not None:
            legs.append(_network_leg(source.shape, target.shape, out, back, way, net))
    return sorted(legs, key=lambda leg: (-leg.bandwidth, leg.latency_s, leg.network or ""))


def _network_leg(
    source: IslandShape, target: IslandShape, out: Port, back: Port, way: SwitchWay, net: Network
) -> Leg:
    kind = out.kind if out.kind == back.kind else "tcp"
    bandwidth = min(_carried(out, kind), _carried(back, kind))
    if way.bandwidth is not None:
        bandwidth = min(bandwidth, way.bandwidth)
    bandwidth = min(bandwidth, source.host_bandwidth, target.host_bandwidth)
    latency = max(out.latency_s, back.latency_s)
    if kind not in (out.kind, back.kind):
        latency = max(latency, network_kind(kind).latency_s)
    leg = Leg(bandwidth, latency + way.latency_s, kind, out.network, way.links)
    if source.chip.vendor.casefold() == target.chip.vendor.casefold():
        return leg
    nominal = min(out.nominal, back.nominal)
    limit = min(bandwidth, nominal * net.staging.efficiency)
    staged = _staged(limit, leg.latency_s, kind, source, target, net.staging)
    return Leg(staged.bandwidth, staged.latency_s, staged.kind, leg.network, leg.links)


def _carried(port: Port, kind: str) -> float:
    """Achievable bytes/s of a port when both ends speak ``kind``."""
    if kind == port.kind or port.stated:
        return port.achievable
    return port.nominal * network_kind(kind).efficiency(port.nominal, port.ports)


def _staged(
    bandwidth: float,
    latency_s: float,
    kind: str,
    source: IslandShape,
    target: IslandShape,
    staging: CrossVendor,
) -> Leg:
    if staging.process_bytes_per_s is not None:
        processes = min(source.size, target.size)
        bandwidth = min(bandwidth, processes * staging.process_bytes_per_s)
    return Leg(bandwidth, max(latency_s, staging.latency_s), f"{kind}, {staging.name}")


def port_resource(host: str, network: str, direction: str) -> str:
    """The name of all ports of a host on a network, in one direction ("out" or "in")."""
    return f"host:{host}:{network}:{direction}"


def switch_resource(source: str, target: str) -> str:
    """The name of the uplink between two switches, in one direction."""
    return f"switch:{source}->{target}"


@dataclass
class Router:
    """Answers ``Topology.route``: the real way between two named islands, None if there is none."""

    cells: Mapping[str, Cell]
    net: Network
    _legs: dict[tuple[int, int, int, int], Leg | None] = field(default_factory=dict)
    _named: dict[tuple[str, str], Route | None] = field(default_factory=dict)

    def __call__(self, source: Island, target: Island) -> Route | None:
        """The best way alone; what it shares with others is in ``resources``."""
        pair = (source.name, target.name)
        if pair not in self._named:
            self._named[pair] = None if pair[0] == pair[1] else self._way(source, target)
        return self._named[pair]

    def _way(self, source: Island, target: Island) -> Route | None:
        a, b = self.cells[source.name], self.cells[target.name]
        if source.host == target.host:
            leg = same_host_leg(a.shape, b.shape, a.host_type.link_total, self.net)
            on_fabric = a.shape.domain == b.shape.domain and not a.shape.on_host_link
            shared: list[str] = []
            if not on_fabric:
                shared += [f"island:{source.name}:out", f"island:{target.name}:in"]
                if a.host_type.link_total is not None:
                    shared.append(f"host:{source.host}:link")
            return Route(leg.bandwidth, leg.latency_s, leg.kind, tuple(shared))
        key = (id(a.host_type), a.number, id(b.host_type), b.number)
        if key not in self._legs:
            self._legs[key] = next(iter(network_legs(a, b, self.net)), None)
        best = self._legs[key]
        return None if best is None else name_leg(best, source.host, target.host)


def name_leg(leg: Leg, source: str, target: str) -> Route:
    """The route of a network leg between two named hosts."""
    network = leg.network or ""
    resources = (
        port_resource(source, network, "out"),
        *(switch_resource(a, b) for a, b in leg.links),
        port_resource(target, network, "in"),
    )
    return Route(leg.bandwidth, leg.latency_s, leg.kind, resources)
