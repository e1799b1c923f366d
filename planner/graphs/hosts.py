"""Host types: equal hosts of a cluster taken together, with their islands and network ports.

Everything that follows (classes, routes) is worked out once per host type and not per host, so a
cluster of thousands of equal hosts costs no more than one of two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from costmodels.catalog import Chip, Fabric
from costmodels.catalog.links import network_kind
from costmodels.offload import HostShare, host_share
from costmodels.units import GIB, US_PER_S
from planner.inputs.cluster_spec import (
    ClusterSpec,
    DeviceGroup,
    FabricSpec,
    HostLinkSpec,
    NetworkSpec,
    NicSpec,
    NodeSpec,
)

_BRIDGED = 2
"""An NVLink bridge joins two cards."""


@dataclass(frozen=True, slots=True)
class IslandShape:
    """An island of a host type. ``domain`` numbers the physical fabrics of the host."""

    chip: Chip
    devices: tuple[int, ...]
    fabric: Fabric
    host_fabric: Fabric
    domain: int
    on_host_link: bool
    derate: float
    reserved_bytes: int
    measured_rows_per_s: float | None

    @property
    def size(self) -> int:
        """Chips of the island."""
        return len(self.devices)

    @property
    def label(self) -> str:
        """``0-7``: the devices of the island, runs joined; with its host it names the island."""
        runs: list[list[int]] = []
        for device in self.devices:
            if runs and runs[-1][-1] == device - 1:
                runs[-1].append(device)
            else:
                runs.append([device])
        return "+".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)

    @property
    def usable_memory_bytes(self) -> int:
        """What the framework can allocate on one device."""
        return self.chip.usable_memory_bytes - self.reserved_bytes

    @property
    def host_bandwidth(self) -> float:
        """Achievable bytes/s, one way, of all its chips' host links together."""
        return self.size * self.host_fabric.total_bandwidth * self.host_fabric.efficiency


@dataclass(frozen=True, slots=True)
class Port:
    """All ports of one host on one switch of a network, in bytes/s one way."""

    network: str
    switch: str
    kind: str
    nominal: float
    achievable: float
    stated: bool
    latency_s: float
    ports: int


@dataclass(frozen=True, slots=True, eq=False)
class HostType:
    """Equal hosts: their names in natural order, their islands, their ports.

    Compared by identity: :func:`host_types` makes one per kind of host.
    """

    hosts: tuple[str, ...]
    islands: tuple[IslandShape, ...]
    ports: tuple[Port, ...]
    host_memory_bytes: int | None
    link_total: float | None
    """Achievable bytes/s of the root complex that all chips share, None if they do not."""
    memory_bandwidth: float | None = None
    """Bytes/s that the processors stream, None where nobody says."""

    def share(self, shape: IslandShape) -> HostShare:
        """What a device of one of the islands may count on while all devices do the same."""
        own = shape.host_fabric
        return host_share(
            self.host_memory_bytes,
            sum(island.size for island in self.islands),
            own.total_bandwidth * own.efficiency,
            link_total=self.link_total,
            memory_bandwidth=self.memory_bandwidth,
        )


def host_types(spec: ClusterSpec, chip_of: Callable[[str], Chip]) -> tuple[HostType, ...]:
    """The host types of a checked cluster; entries that differ only in name are joined.

    ``chip_of`` resolves a chip's id and knows the cluster's own chips.
    """
    alike: dict[Hashable, list[NodeSpec]] = {}
    for node in spec.nodes:
        host = (node.host_memory_gib, node.host_memory_bandwidth, node.host_link)
        content = (node.devices, node.nics, host)
        alike.setdefault(content, []).append(node)
    networks = {n.name: n for n in spec.networks}
    return tuple(_host_type(nodes, networks, chip_of) for nodes in alike.values())


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorts ``node2`` before ``node10``."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for character in [*name, ""]:
        if character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits), digits))
            digits = ""
        parts.append((1, 0, character))
    return tuple(parts)


def _host_type(
    nodes: list[NodeSpec],
    networks: dict[str, NetworkSpec],
    chip_of: Callable[[str], Chip],
) -> HostType:
    node = nodes[0]
    hosts = sorted((name for n in nodes for name in n.host_names), key=natural_key)
    link = node.host_link
    total: float | None = None
    if link is not None and link.total_bandwidth_one_way is not None:
        total = link.total_bandwidth_one_way * (link.efficiency or 1.0)
    gib = node.host_memory_gib
    return HostType(
        hosts=tuple(hosts),
        islands=tuple(_islands(node, chip_of)),
        ports=tuple(_ports(node.nics, networks)),
        host_memory_bytes=None if gib is None else round(gib * GIB),
        link_total=total,
        memory_bandwidth=(
            None if node.host_memory_bandwidth is None else float(node.host_memory_bandwidth)
        ),
    )


def _islands(node: NodeSpec, chip_of: Callable[[str], Chip]) -> Iterator[IslandShape]:
    """Cuts a host's devices into islands, in the order of their first device.

    Chips of one kind fill one physical fabric after another (``joins`` or the catalogue's domain
    many each); inside a fabric, devices that differ in derate, reserved memory or measured rate
    are islands of their own.
    """
    by_fabric: dict[tuple[str, FabricSpec | None], list[tuple[int, DeviceGroup]]] = {}
    index = 0
    for group in node.devices:
        for _ in range(group.count):
            by_fabric.setdefault((group.chip, group.fabric), []).append((index, group))
            index += 1
    shapes: list[IslandShape] = []
    domain = 0
    for (chip_name, fabric_spec), members in by_fabric.items():
        chip = chip_of(chip_name)
        host_fabric = _host_fabric(chip, node.host_link)
        fabric, joins = _fabric(chip, fabric_spec, host_fabric)
        step = min(joins, len(members))
        for start in range(0, len(members), step):
            alike: dict[tuple[float, float, float | None], list[int]] = {}
            for device, group in members[start : start + step]:
                key = (group.derate, group.reserved_gib, group.measured_rows_per_s)
                alike.setdefault(key, []).append(device)
            for (derate, reserved_gib, measured), devices in alike.items():
                shapes.append(
                    IslandShape(
                        chip=chip,
                        devices=tuple(devices),
                        fabric=fabric,
                        host_fabric=host_fabric,
                        domain=domain,
                        on_host_link=fabric is host_fabric,
                        derate=derate,
                        reserved_bytes=round(reserved_gib * GIB),
                        measured_rows_per_s=measured,
                    )
                )
            domain += 1
    yield from sorted(shapes, key=lambda shape: shape.devices[0])


def _host_fabric(chip: Chip, link: HostLinkSpec | None) -> Fabric:
    own = chip.host_fabric
    if link is None:
        return own
    return replace(
        own,
        kind=link.kind,
        total_bandwidth=float(link.bandwidth_one_way),
        pair_bandwidth=float(link.bandwidth_one_way),
        efficiency=link.efficiency or own.efficiency,
        latency_s=own.latency_s if link.latency_us is None else link.latency_us / US_PER_S,
    )


def _fabric(chip: Chip, spec: FabricSpec | None, host: Fabric) -> tuple[Fabric, int]:
    """The fabric of a device group and how many chips one of it joins."""
    unbounded = 1 << 30
    if spec is None:
        if chip.fabric is None:
            return host, unbounded
        return chip.fabric, max(chip.fabric_domain, 1)
    like = chip.fabric or chip.bridge or host
    if spec.bandwidth_one_way is None:
        total, pair = like.total_bandwidth, like.pair_bandwidth
        joins = spec.joins or (max(chip.fabric_domain, 1) if chip.fabric else _BRIDGED)
    else:
        total = pair = float(spec.bandwidth_one_way)
        joins = spec.joins or unbounded
    fabric = Fabric(
        kind=spec.kind,
        total_bandwidth=total,
        pair_bandwidth=float(spec.pair_bandwidth_one_way or pair),
        efficiency=spec.efficiency or like.efficiency,
        latency_s=like.latency_s if spec.latency_us is None else spec.latency_us / US_PER_S,
        full_mesh=spec.full_mesh or (like.full_mesh and spec.bandwidth_one_way is None),
    )
    return fabric, joins


def _ports(nics: tuple[NicSpec, ...], networks: dict[str, NetworkSpec]) -> Iterator[Port]:
    """One entry per network: ports on the same network are added.

    Where they differ in kind or switch, the host is taken to sit where its fastest ports are.
    """
    by_network: dict[str, list[Port]] = {}
    for nic in nics:
        by_network.setdefault(nic.network, []).append(_port(nic, networks.get(nic.network)))
    for name in sorted(by_network):
        ports = by_network[name]
        best = max(ports, key=lambda p: (p.nominal, p.switch))
        yield replace(
            best,
            nominal=sum(p.nominal for p in ports),
            achievable=sum(p.achievable for p in ports),
            latency_s=max(p.latency_s for p in ports),
            ports=sum(p.ports for p in ports),
        )


def _port(nic: NicSpec, network: NetworkSpec | None) -> Port:
    kind = network_kind(nic.kind or (network.kind if network else None) or "tcp")
    nominal = float(nic.bandwidth_one_way) * nic.count
    efficiency = nic.efficiency or (network.efficiency if network else None)
    if nic.measured_bandwidth_one_way is not None:
        achievable = float(nic.measured_bandwidth_one_way) * nic.count
    else:
        achievable = nominal * (efficiency or kind.efficiency(nominal, nic.count))
    latency_us = nic.latency_us
    if latency_us is None and network is not None:
        latency_us = network.latency_us
    switches = network.switches if network else ()
    return Port(
        network=nic.network,
        switch=nic.switch or (switches[0].name if switches else nic.network),
        kind=kind.name,
        nominal=nominal,
        achievable=achievable,
        stated=efficiency is not None or nic.measured_bandwidth_one_way is not None,
        latency_s=kind.latency_s if latency_us is None else latency_us / US_PER_S,
        ports=nic.count,
    )
