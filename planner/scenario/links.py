"""Changes of links in the plain data of a cluster: networks, fabrics inside nodes, host links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodels.units import GB
from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterInput
from planner.inputs.quantities import format_bandwidth, parse_bandwidth
from planner.scenario.chips import chip_in, with_fields

ClusterData = dict[str, Any]
Group = dict[str, Any]

KINDS = "network, network:NAME, fabric:CHIP or host:CHIP"


def networks_of(cluster: ClusterInput) -> tuple[str, ...]:
    """Names of the networks that nodes have ports on."""
    return tuple(dict.fromkeys(nic.network for n in cluster.spec.nodes for nic in n.nics))


def links_of(cluster: ClusterInput) -> tuple[str, ...]:
    """Every link of a cluster that can be changed, by name."""
    found = ["network"] if networks_of(cluster) else []
    for chip_id in dict.fromkeys(g.chip for n in cluster.spec.nodes for g in n.devices):
        chip = cluster.catalog.chips[chip_id]
        groups = [g for n in cluster.spec.nodes for g in n.devices if g.chip == chip_id]
        if all(g.count < 2 for g in groups):
            continue  # nothing to talk to inside its node
        stated = any(g.fabric is not None for g in groups)
        kind = "fabric" if chip.fabric is not None or stated else "host"
        found.append(f"{kind}:{cluster.catalog.alias(chip_id)}")
    return tuple(found)


def link_rate(cluster: ClusterInput, link: str) -> float:
    """Nominal bytes/s of a link, one way: the fastest node's total, or one chip's."""
    kind, name = _parsed(cluster, link)
    if kind == "network":
        return max(
            float(nic.bandwidth_one_way * nic.count)
            for node in cluster.spec.nodes
            for nic in node.nics
            if name in ("", nic.network)
        )
    chip = cluster.catalog.chips[name]
    if kind == "host":
        return chip.host_fabric.total_bandwidth
    for node in cluster.spec.nodes:
        for group in node.devices:
            stated = group.fabric.bandwidth_one_way if group.fabric else None
            if group.chip == name and stated is not None:
                return float(stated)
    fabric = chip.fabric or chip.bridge
    if fabric is None:
        raise InputError([_no_fabric(cluster, name)])
    return fabric.total_bandwidth


def measured_share(cluster: ClusterInput, link: str) -> float | None:
    """What the fastest port of a network was seen to carry over its nominal rate, if it was."""
    kind, name = _parsed(cluster, link)
    ports = [n for node in cluster.spec.nodes for n in node.nics if name in ("", n.network)]
    if kind != "network" or not ports:
        return None
    port = max(ports, key=lambda nic: nic.bandwidth_one_way * nic.count)
    if port.measured_bandwidth_one_way is None:
        return None
    return float(port.measured_bandwidth_one_way / port.bandwidth_one_way)


def scaled(data: ClusterData, cluster: ClusterInput, link: str, factor: float) -> ClusterData:
    """The link ``factor`` times as fast; what was measured on it scales with it."""
    kind, name = _parsed(cluster, link)
    if kind == "network":
        return _on_ports(data, name, lambda nic: _scaled_port(nic, factor), factor)
    rate = link_rate(cluster, link)
    return _chip_link(data, cluster, kind, name, rate * factor, factor)


def with_rate(data: ClusterData, cluster: ClusterInput, link: str, rate: int) -> ClusterData:
    """The link at a nominal rate; what was measured at the old one does not carry over."""
    kind, name = _parsed(cluster, link)
    if kind == "network":
        return _on_ports(data, name, lambda nic: _port_of(nic, rate // int(nic["count"])), None)
    return _chip_link(data, cluster, kind, name, rate, rate / link_rate(cluster, link))


def with_share(data: ClusterData, cluster: ClusterInput, link: str, share: float) -> ClusterData:
    """The achieved share of a link's nominal rate."""
    kind, name = _parsed(cluster, link)
    if kind == "network":
        fields = {"efficiency": share, "measured_bandwidth_one_way": None}
        return _on_ports(data, name, lambda nic: {**nic, **fields}, None)
    if kind == "host":
        return with_fields(data, name, {"host_efficiency": share})
    return with_fields(data, name, {"scaleup_efficiency": share})


def _parsed(cluster: ClusterInput, link: str) -> tuple[str, str]:
    """``("network", NAME or "")`` or ``("fabric" | "host", chip id)``."""
    kind, _, name = link.partition(":")
    if kind == "network":
        known = networks_of(cluster)
        if not known:
            message = "the cluster has no network"
            raise InputError([Problem("", message, f"its links are {_listed(cluster)}")])
        if name and name not in known:
            message = f"no network is called {name!r}"
            raise InputError([Problem("", message, f"it has {', '.join(known)}")])
        return kind, name
    if kind in ("fabric", "host") and name:
        return kind, chip_in(cluster, name)
    message = f"{link!r} is no link; write {KINDS}"
    raise InputError([Problem("", message, f"the cluster has {_listed(cluster)}")])


def _listed(cluster: ClusterInput) -> str:
    return ", ".join(links_of(cluster)) or "none"


def _no_fabric(cluster: ClusterInput, chip_id: str) -> Problem:
    alias = cluster.catalog.alias(chip_id)
    message = f"{alias} has no fabric: its chips talk over their host"
    return Problem("", message, f"host:{alias}")


def _on_ports(
    data: ClusterData,
    network: str,
    change: Callable[[Group], Group],
    uplinks: float | None,
) -> ClusterData:
    """Ports of a network (all for "") changed; its uplinks scaled where a factor is given."""
    nodes = [
        {
            **node,
            "nics": [
                change(nic) if network in ("", nic["network"]) else nic for nic in node["nics"]
            ],
        }
        for node in data["nodes"]
    ]
    networks = [
        {**net, "switches": [_scaled_switch(s, uplinks) for s in net["switches"]]}
        if uplinks is not None and network in ("", net["name"])
        else net
        for net in data["networks"]
    ]
    return {**data, "nodes": nodes, "networks": networks}


def _scaled_switch(switch: Group, factor: float) -> Group:
    uplinks = [
        {**up, "bandwidth_one_way": _times(up["bandwidth_one_way"], factor)}
        for up in switch["uplinks"]
    ]
    return {**switch, "uplinks": uplinks}


def _scaled_port(nic: Group, factor: float) -> Group:
    return {
        **nic,
        "bandwidth_one_way": _times(nic["bandwidth_one_way"], factor),
        "measured_bandwidth_one_way": _times(nic["measured_bandwidth_one_way"], factor),
    }


def _port_of(nic: Group, rate: int) -> Group:
    if rate <= 0:
        raise InputError([Problem("", "the link carries nothing", "give a rate above 0")])
    return {
        **nic,
        "bandwidth_one_way": format_bandwidth(rate),
        "measured_bandwidth_one_way": None,
    }


def _times(rate: str | None, factor: float) -> str | None:
    return None if rate is None else format_bandwidth(max(1, round(parse_bandwidth(rate) * factor)))


def _chip_link(
    data: ClusterData,
    cluster: ClusterInput,
    kind: str,
    chip_id: str,
    rate: float,
    factor: float,
) -> ClusterData:
    """A chip's fabric or host link at another rate, wherever the cluster states it."""
    chip = cluster.catalog.chips[chip_id]
    if kind == "host":
        nodes = [_host_scaled(n, factor) if _holds(n, chip_id) else n for n in data["nodes"]]
        return with_fields({**data, "nodes": nodes}, chip_id, {"host_gbs_per_dir": rate / GB})
    nodes = [
        {**n, "devices": [_fabric_scaled(g, chip_id, factor) for g in n["devices"]]}
        for n in data["nodes"]
    ]
    changed = {**data, "nodes": nodes}
    fabric = chip.fabric or chip.bridge
    if fabric is None:
        return changed
    fields: dict[str, float | None] = {
        "scaleup_per_dir_gbs": fabric.total_bandwidth * factor / GB,
        "scaleup_p2p_per_dir_gbs": fabric.pair_bandwidth * factor / GB,
        "scaleup_bidir_gbs": None,
    }
    return with_fields(changed, chip_id, fields)


def _holds(node: Group, chip_id: str) -> bool:
    return any(g["chip"] == chip_id for g in node["devices"])


def _host_scaled(node: Group, factor: float) -> Group:
    link = node["host_link"]
    if link is None:
        return node
    fields = ("bandwidth_one_way", "total_bandwidth_one_way")
    return {**node, "host_link": {**link, **{f: _times(link[f], factor) for f in fields}}}


def _fabric_scaled(group: Group, chip_id: str, factor: float) -> Group:
    fabric = group["fabric"]
    if group["chip"] != chip_id or fabric is None:
        return group
    fields = ("bandwidth_one_way", "pair_bandwidth_one_way")
    return {**group, "fabric": {**fabric, **{f: _times(fabric[f], factor) for f in fields}}}
