"""A tree of switches with hosts on its leaves, as the nodes and the network of a cluster file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic_core import PydanticCustomError

from planner.errors import Problem
from planner.importers.given import Network
from planner.importers.hosts import joined
from planner.importers.imported import asked
from planner.inputs.document import JsonValue
from planner.inputs.quantities import parse_bandwidth

DEVICES_EXAMPLE = "8xA100-SXM-80GB (or node[0-3]=8xA100-SXM-80GB, repeated)"
UPLINK_EXAMPLE = "4x400Gb/s (cables to the switch above, rate of one), or --oversubscription 2"

_UPLINK = re.compile(r"(?:(?P<count>\d+)x)?(?P<rate>.+)")


@dataclass
class Tree:
    """Switches in the order of the file: the hosts on each, the switches below each."""

    on: dict[str, list[str]] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)
    leaf_of: dict[str, str] = field(default_factory=dict)

    def add(self, switch: str, hosts: Sequence[str], switches: Sequence[str]) -> None:
        """One switch and what is directly below it."""
        self.on[switch] = list(hosts)
        self.below[switch] = list(switches)
        for host in hosts:
            self.leaf_of.setdefault(host, switch)

    @property
    def switches(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.below)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Switches that have hosts."""
        return tuple(switch for switch, hosts in self.on.items() if hosts)

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts, in the order of the file."""
        return tuple(dict.fromkeys(host for hosts in self.on.values() for host in hosts))

    @property
    def roots(self) -> tuple[str, ...]:
        """Switches with nothing above them."""
        known = {switch for below in self.below.values() for switch in below}
        return tuple(switch for switch in self.below if switch not in known)


def network_entry(
    tree: Tree, uplink: str | None, oversubscription: float | None, problems: list[Problem]
) -> list[JsonValue]:
    """The switches of the network, those at the leaves first; uplinks as the options say."""
    above = {lower: upper for upper, below in tree.below.items() for lower in below}
    if above and (uplink is None) == (oversubscription is None):
        what = "neither" if uplink is None else "both"
        why = f"the file does not say what a switch's uplinks carry, and {what} of the options does"
        problems.append(asked("--uplink", why, UPLINK_EXAMPLE))
        return []
    if not above and (uplink is not None or oversubscription is not None):
        option = "--uplink" if uplink is not None else "--oversubscription"
        message = "the file has one switch, which has no uplinks"
        problems.append(Problem(option, message, "leave it out"))
    cables = _uplink(uplink, problems) if uplink is not None else {}
    found: list[JsonValue] = []
    for switch in sorted(tree.switches, key=lambda s: (not tree.on[s], s not in above)):
        entry: dict[str, JsonValue] = {"name": switch}
        if switch in above:
            if oversubscription is not None:
                entry["oversubscription"] = oversubscription
            entry["uplinks"] = [{"to": above[switch], **cables}]
        found.append(entry)
    return found


def _uplink(text: str, problems: list[Problem]) -> dict[str, JsonValue]:
    match = _UPLINK.fullmatch(text.strip())
    rate = match["rate"] if match else text
    try:
        parse_bandwidth(rate)
    except PydanticCustomError as error:
        remedy = str((error.context or {}).get("remedy", ""))
        problems.append(Problem(f"--uplink {text}", f"the rate {rate!r} {error.message()}", remedy))
    found: dict[str, JsonValue] = {"bandwidth_one_way": rate}
    if match and match["count"]:
        found["count"] = int(match["count"])
    return found


def rack_nodes(
    switch: str | None, held: Mapping[str, list[JsonValue] | None], network: Network | None
) -> list[JsonValue]:
    """The hosts of one switch as entries of the node list, equal neighbours joined."""
    nodes: list[JsonValue] = []
    hosts = list(held)
    while hosts:
        devices = held[hosts[0]]
        alike = [hosts[0]]
        for host in hosts[1:]:
            if held[host] != devices:
                break
            alike.append(host)
        hosts = hosts[len(alike) :]
        for names in joined(alike):
            node: dict[str, JsonValue] = {**names, "devices": list(devices or ())}
            if network is not None:
                node["nics"] = [network.nic(1, switch)]
            nodes.append(node)
    return nodes
