"""Which stage sits on which chip of which host; hosts that look alike are joined.

A cluster of thousands of hosts is read as a handful: two hosts are alike when they have the same
islands, ports and memory, and hold the same stages of pipelines that run alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from planner.graphs.topology import IslandClass, Topology
from planner.inputs.cluster_spec import ClusterSpec, NetworkSpec, NicSpec, NodeSpec, SwitchSpec
from planner.plan import Plan
from planner.report.groups import PipelineGroup


@dataclass(frozen=True, slots=True)
class Seat:
    """A stage on a chip. ``pipeline`` counts the pipelines of one host from 0, in their order."""

    group: int
    stage: int
    pipeline: int


@dataclass(frozen=True, slots=True)
class IslandSeats:
    """One island of a host and what is on its chips; None is an idle chip."""

    cls: IslandClass
    seats: tuple[Seat | None, ...]


@dataclass(frozen=True, slots=True)
class HostKind:
    """Hosts that look alike. ``devices`` are those of the first one, island by island."""

    hosts: tuple[str, ...]
    islands: tuple[IslandSeats, ...]
    devices: tuple[tuple[str, ...], ...]
    node: NodeSpec

    @property
    def chips(self) -> int:
        """Chips of one host."""
        return sum(len(island.seats) for island in self.islands)


@dataclass(frozen=True, slots=True)
class Rack:
    """Equal leaf switches and the hosts on each of them; no switch where the network has none.

    ``kinds`` are pairs (number in :attr:`Placement.kinds`, how many of them on one switch).
    """

    switches: tuple[SwitchSpec, ...]
    kinds: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """The whole cluster: kinds of hosts, and how switches hold them."""

    kinds: tuple[HostKind, ...]
    racks: tuple[Rack, ...]
    networks: tuple[NetworkSpec, ...]
    hosts_on: Mapping[str, int]
    """How many hosts have a port on a network, by its name."""


def placement(
    plan: Plan, spec: ClusterSpec, topology: Topology, groups: tuple[PipelineGroup, ...]
) -> Placement:
    """Seats of all chips; kinds of hosts in the order of the cluster file."""
    seats = _seats(plan, groups)
    islands: dict[str, list[tuple[IslandClass, tuple[str, ...]]]] = {}
    for cls in topology.classes:
        for island in cls.islands:
            islands.setdefault(island.host, []).append((cls, island.devices))
    names: dict[object, list[str]] = {}
    first: dict[object, HostKind] = {}
    key_of: dict[str, object] = {}
    for node in spec.nodes:
        for host in node.host_names:
            kind = _host_kind(host, node, islands.get(host, []), seats)
            key = (tuple((_alike(i.cls), i.seats) for i in kind.islands), _alike_ports(node))
            first.setdefault(key, kind)
            names.setdefault(key, []).append(host)
            key_of[host] = key
    number = {key: n for n, key in enumerate(first)}
    kinds = tuple(
        HostKind(tuple(names[key]), kind.islands, kind.devices, kind.node)
        for key, kind in first.items()
    )
    return Placement(
        kinds=kinds,
        racks=_racks(spec, {host: number[key] for host, key in key_of.items()}),
        networks=_networks(spec),
        hosts_on=_hosts_on(spec),
    )


def _seats(plan: Plan, groups: tuple[PipelineGroup, ...]) -> Mapping[str, tuple[int, int, int]]:
    """Group, stage (from 0) and number of the pipeline, by device."""
    group_of = {p: g for g, group in enumerate(groups) for p in group.numbers}
    return {
        device: (group_of[p], s, p)
        for p, pipeline in enumerate(plan.pipelines)
        for s, stage in enumerate(pipeline.stages)
        for replica in stage.replicas
        for device in replica.devices
    }


def _host_kind(
    host: str,
    node: NodeSpec,
    islands: list[tuple[IslandClass, tuple[str, ...]]],
    seats: Mapping[str, tuple[int, int, int]],
) -> HostKind:
    ordinal: dict[int, int] = {}
    found = []
    for cls, devices in islands:
        row: list[Seat | None] = []
        for device in devices:
            seat = seats.get(device)
            if seat is None:
                row.append(None)
                continue
            group, stage, pipeline = seat
            row.append(Seat(group, stage, ordinal.setdefault(pipeline, len(ordinal))))
        found.append(IslandSeats(cls, tuple(row)))
    return HostKind((host,), tuple(found), tuple(devices for _, devices in islands), node)


def _alike(cls: IslandClass) -> object:
    """What a drawing shows of an island; where it hangs is told by racks."""
    return cls.chip.id, cls.size, cls.fabric, cls.derate, cls.usable_memory_bytes


def _alike_ports(node: NodeSpec) -> object:
    """What tells ports apart but their switches: those are told apart by their racks."""
    return tuple((n.network, n.bandwidth_one_way, n.count, n.kind) for n in node.nics)


def _racks(spec: ClusterSpec, kind_of: Mapping[str, int]) -> tuple[Rack, ...]:
    """Hosts by the leaf switch of the first network that has several; equal leaves joined."""
    network = _switched(spec)
    switches = {s.name: s for s in network.switches} if network is not None else {}
    held: dict[str | None, Counter[int]] = {}
    for node in spec.nodes:
        leaf = _switch_of(node, network.name) if network is not None else None
        for host in node.host_names:
            held.setdefault(leaf, Counter())[kind_of[host]] += 1
    alike: dict[object, list[str | None]] = {}
    for leaf, kinds in held.items():
        switch = switches.get(leaf) if leaf is not None else None
        way = (switch.uplinks, switch.oversubscription) if switch is not None else None
        alike.setdefault((tuple(sorted(kinds.items())), way), []).append(leaf)
    return tuple(
        Rack(
            tuple(switches[leaf] for leaf in leaves if leaf is not None and leaf in switches),
            tuple(sorted(held[leaves[0]].items())),
        )
        for leaves in alike.values()
    )


def _switched(spec: ClusterSpec) -> NetworkSpec | None:
    """The first declared network whose hosts hang on more than one switch."""
    for network in spec.networks:
        leaves = {_switch_of(node, network.name) for node in spec.nodes} - {None}
        if len(leaves) > 1:
            return network
    return None


def _switch_of(node: NodeSpec, network: str) -> str | None:
    return next((nic.switch for nic in node.nics if nic.network == network), None)


def _networks(spec: ClusterSpec) -> tuple[NetworkSpec, ...]:
    """Declared networks that have ports, then those that only ports name."""
    used = list(dict.fromkeys(nic.network for node in spec.nodes for nic in node.nics))
    declared = {n.name: n for n in spec.networks}
    kinds = {nic.network: nic.kind for node in spec.nodes for nic in node.nics}
    known = [n for n in spec.networks if n.name in used]
    return (*known, *(NetworkSpec(name=n, kind=kinds[n]) for n in used if n not in declared))


def _hosts_on(spec: ClusterSpec) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in spec.nodes:
        for network in {nic.network for nic in node.nics}:
            found[network] = found.get(network, 0) + node.count
    return found


def ports(node: NodeSpec) -> dict[str, tuple[NicSpec, ...]]:
    """The ports of a host by network."""
    found: dict[str, tuple[NicSpec, ...]] = {}
    for nic in node.nics:
        found[nic.network] = (*found.get(nic.network, ()), nic)
    return found
