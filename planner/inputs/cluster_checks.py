"""What spans several fields of a cluster: names, references between its parts, physical sense.

Each check returns every problem it finds, with the place in the file. Errors are what cannot be
planned with; warnings are figures that a person should look at once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from planner.errors import Problem
from planner.inputs.cluster_spec import ClusterSpec, FabricSpec, NetworkSpec, NicSpec
from planner.inputs.document import DataPath, Document
from planner.inputs.quantities import describe_bandwidth
from planner.inputs.reading import nearest

MAX_PORT = 1600 * 10**9 // 8
"""Bytes/s of a 1.6 Tb/s port, the fastest that is announced."""

FAST_PORT = 1000 * 10**9 // 8
"""Above 1,000 Gb/s per port a mixed-up unit is more likely than such a network card."""

MAX_FABRIC = 4 * 10**12
"""Bytes/s: four times the fastest published scale-up fabric of one chip, one way."""

MEASURED_SLACK = 1.05
"""A measurement may exceed the nominal rate by rounding, not by more."""


def cluster_problems(spec: ClusterSpec, document: Document) -> list[Problem]:
    """Every error of a structurally valid cluster."""
    return [
        *_check_node_names(spec, document),
        *_check_networks(spec, document),
        *_check_nics(spec, document),
        *_check_fabrics(spec, document),
    ]


def cluster_warnings(spec: ClusterSpec, document: Document) -> list[Problem]:
    """What looks wrong although it can be planned with."""
    return [*_warn_fast_ports(spec, document), *_warn_unjoined_hosts(spec, document)]


def _check_node_names(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    places: dict[str, list[DataPath]] = defaultdict(list)
    for i, node in enumerate(spec.nodes):
        path: DataPath = ("nodes", i)
        if (node.name is None) == (node.name_prefix is None):
            what = "has no name" if node.name is None else "has both name and name_prefix"
            remedy = "give name for one host, or name_prefix and count for several equal ones"
            yield Problem(document.where(path), f"the node {what}", remedy)
        elif node.name is not None and node.count > 1:
            yield Problem(
                document.where((*path, "count")),
                f"{node.count} hosts cannot all be called {node.name!r}",
                f"write name_prefix: {node.name}- in place of name",
            )
        else:
            for name in node.host_names:
                places[name].append(path)
    twice: dict[tuple[DataPath, ...], list[str]] = defaultdict(list)
    for name, paths in places.items():
        if len(paths) > 1:
            twice[tuple(paths)].append(name)
    for where, names in twice.items():
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        yield Problem(
            " and ".join(document.where(p) for p in where),
            f"the host name {shown} is given {len(where)} times",
            "give every host its own name, or raise first_index",
        )


def _check_networks(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for i, network in enumerate(spec.networks):
        path: DataPath = ("networks", i)
        if network.name in seen:
            first = document.where(("networks", seen[network.name]))
            yield Problem(
                f"{first} and {document.where(path)}",
                f"the network {network.name!r} is declared twice",
                "join the two entries",
            )
        seen.setdefault(network.name, i)
        yield from _check_switches(network, path, document)
    yield from _check_switch_names(spec, document)


def _check_switch_names(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    places: dict[str, DataPath] = {}
    for i, network in enumerate(spec.networks):
        for j, switch in enumerate(network.switches):
            path: DataPath = ("networks", i, "switches", j)
            if switch.name in places:
                yield Problem(
                    f"{document.where(places[switch.name])} and {document.where(path)}",
                    f"the switch {switch.name!r} is declared twice",
                    "give every switch of the cluster its own name",
                )
            places.setdefault(switch.name, path)


def _check_switches(network: NetworkSpec, base: DataPath, document: Document) -> Iterator[Problem]:
    names = [s.name for s in network.switches]
    for j, switch in enumerate(network.switches):
        path: DataPath = (*base, "switches", j)
        if switch.oversubscription is not None and not switch.uplinks:
            yield Problem(
                document.where((*path, "oversubscription")),
                f"switch {switch.name!r} has no uplinks that could be oversubscribed",
                "add uplinks: [{to: SWITCH}]",
            )
        for k, uplink in enumerate(switch.uplinks):
            at = document.where((*path, "uplinks", k))
            if uplink.to == switch.name:
                yield Problem(at, f"switch {switch.name!r} is linked to itself", "name another")
            elif uplink.to not in names:
                yield Problem(at, f"no switch is called {uplink.to!r}", _known(uplink.to, names))
            if (uplink.bandwidth_one_way is None) == (switch.oversubscription is None):
                what = "neither" if uplink.bandwidth_one_way is None else "both"
                yield Problem(
                    at,
                    f"{what} of bandwidth_one_way and the switch's oversubscription given",
                    "give exactly one: the uplink's own rate, or the ratio",
                )


def _check_nics(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    declared = {n.name: n for n in spec.networks}
    for path, nic in _nics(spec):
        if declared and nic.network not in declared:
            yield Problem(
                document.where((*path, "network")),
                f"no network is called {nic.network!r}",
                _known(nic.network, list(declared)),
            )
        else:
            network = declared.get(nic.network)
            switches = [s.name for s in network.switches] if network else []
            yield from _check_attachment(nic, switches, path, document)
        if nic.bandwidth_one_way > MAX_PORT:
            yield Problem(
                document.where((*path, "bandwidth_one_way")),
                f"one port carries {describe_bandwidth(nic.bandwidth_one_way)}; no network port "
                "exceeds 1,600 Gb/s",
                "give the rate of one port and their count; check Gb/s against GB/s",
            )
        measured = nic.measured_bandwidth_one_way
        if measured is not None and measured > MEASURED_SLACK * nic.bandwidth_one_way:
            yield Problem(
                document.where((*path, "measured_bandwidth_one_way")),
                f"measured {describe_bandwidth(measured)} on a port of "
                f"{describe_bandwidth(nic.bandwidth_one_way)}",
                "give the measured rate of one port, one way (bus bandwidth, not both ways)",
            )
        if measured is not None and nic.efficiency is not None:
            yield Problem(
                document.where((*path, "efficiency")),
                "efficiency and measured_bandwidth_one_way say the same thing twice",
                "keep the measured one",
            )
    if spec.hosts > 1:
        for i, node in enumerate(spec.nodes):
            if not node.nics:
                yield Problem(
                    document.where(("nodes", i)),
                    f"the cluster has {spec.hosts} hosts, but this one has no network port",
                    "add nics: [{network: ethernet, bandwidth_one_way: 100 Gb/s}]",
                )


def _check_attachment(
    nic: NicSpec, switches: list[str], path: DataPath, document: Document
) -> Iterator[Problem]:
    if nic.switch is None and len(switches) > 1:
        yield Problem(
            document.where(path),
            f"network {nic.network!r} has {len(switches)} switches; which one is the port on?",
            f"add switch: one of {', '.join(switches)}",
        )
    elif nic.switch is not None and nic.switch not in switches:
        yield Problem(
            document.where((*path, "switch")),
            f"network {nic.network!r} has no switch {nic.switch!r}",
            _known(nic.switch, switches) or "declare it under networks",
        )


def _check_fabrics(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    for path, fabric in _fabrics(spec):
        total, pair = fabric.bandwidth_one_way, fabric.pair_bandwidth_one_way
        if total is not None and pair is not None and pair > total:
            yield Problem(
                document.where((*path, "pair_bandwidth_one_way")),
                f"a pair gets {describe_bandwidth(pair)}, more than all links of a chip together",
                f"at most {describe_bandwidth(total)}",
            )
        if total is not None and total > MAX_FABRIC:
            yield Problem(
                document.where((*path, "bandwidth_one_way")),
                f"{describe_bandwidth(total)} per chip is beyond any fabric",
                "give the links of one chip, one direction; the fastest carry about 900 GB/s",
            )


def _warn_fast_ports(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    for path, nic in _nics(spec):
        if FAST_PORT < nic.bandwidth_one_way <= MAX_PORT:
            yield Problem(
                document.where((*path, "bandwidth_one_way")),
                f"one port carries {describe_bandwidth(nic.bandwidth_one_way)}",
                "check Gb/s against GB/s, and that it is one port, one way",
            )


def _warn_unjoined_hosts(spec: ClusterSpec, document: Document) -> Iterator[Problem]:
    """Hosts that share no network can never work on one pipeline."""
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for i, node in enumerate(spec.nodes):
        alike[frozenset(nic.network for nic in node.nics)].append(i)
    groups: list[tuple[frozenset[str], list[int]]] = []
    for networks, members in alike.items():
        apart = [g for g in groups if not g[0] & networks]
        for group in groups:
            if group[0] & networks:
                networks, members = networks | group[0], group[1] + members
        groups = [*apart, (networks, sorted(members))]
    groups.sort(key=lambda group: group[1])
    if spec.hosts < 2 or len(groups) < 2:
        return
    for networks, members in groups[1:]:
        rest = sorted({n for other, _ in groups if other != networks for n in other})
        for i in members:
            yield Problem(
                document.where(("nodes", i)),
                f"no network joins this node ({', '.join(sorted(networks))}) to the others "
                f"({', '.join(rest)})",
                next((_known(n, rest) for n in sorted(networks)), "") or "add a common network",
            )


def _nics(spec: ClusterSpec) -> Iterator[tuple[DataPath, NicSpec]]:
    for i, node in enumerate(spec.nodes):
        for j, nic in enumerate(node.nics):
            yield ("nodes", i, "nics", j), nic


def _fabrics(spec: ClusterSpec) -> Iterator[tuple[DataPath, FabricSpec]]:
    for i, node in enumerate(spec.nodes):
        for j, group in enumerate(node.devices):
            if group.fabric is not None:
                yield ("nodes", i, "devices", j, "fabric"), group.fabric


def _known(name: str, known: list[str]) -> str:
    close = nearest(name, known)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(set(known)))}" if known else ""
