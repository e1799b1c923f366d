"""Slurm's ``topology.conf``: which hosts hang on which switch (plugins tree and block).

The file names hosts and switches. It does not say what a host holds, what a port or an uplink
carries; ``LinkSpeed`` has no unit and Slurm itself ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from costmodels.catalog import Catalog
from planner.errors import InputError, Problem
from planner.importers.given import NETWORK_EXAMPLE, per_host, read_devices, read_network
from planner.importers.hosts import HostListError, expand
from planner.importers.imported import Imported, asked, checked_cluster, counted, refuse
from planner.importers.racks import DEVICES_EXAMPLE, Tree, network_entry, rack_nodes
from planner.inputs.document import JsonValue

FORMAT = "Slurm topology.conf"

KEYS = {
    "switchname": ("nodes", "switches", "linkspeed"),
    "blockname": ("nodes",),
    "blocksizes": (),
}
"""What may stand on a line, by its first key."""

SPINE = "spine"


@dataclass
class _Read:
    """What was read so far."""

    source: str
    tree: Tree = field(default_factory=Tree)
    problems: list[Problem] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_slurm(
    text: str,
    source: str,
    catalog: Catalog,
    *,
    devices: Sequence[str] = (),
    network: str | None = None,
    uplink: str | None = None,
    oversubscription: float | None = None,
    name: str = "cluster",
) -> Imported:
    """The cluster. Raises InputError with every problem of the file and the options."""
    tree, notes = read_topology(text, source)
    problems: list[Problem] = []
    hosts = tree.hosts
    held = per_host("--devices", devices, hosts, problems)
    bare = [host for host in hosts if host not in held]
    if bare and not problems:
        why = f"the file does not say what {bare[0]} holds"
        problems.append(asked("--devices", why, DEVICES_EXAMPLE))
    net = read_network(network, problems)
    if network is None:
        why = "the file does not say what the port of a host carries"
        problems.append(asked("--network", why, NETWORK_EXAMPLE))
    switches = network_entry(tree, uplink, oversubscription, problems)
    groups = {
        value: read_devices(value, f"--devices {value}", catalog, problems)
        for value in dict.fromkeys(held.values())
    }
    refuse(problems)
    assert net is not None
    nodes: list[JsonValue] = []
    for leaf in tree.leaves:
        nodes += rack_nodes(leaf, {h: groups[held[h]] for h in tree.on[leaf]}, net)
    kind: dict[str, JsonValue] = {"kind": net.kind} if net.kind is not None else {}
    data: dict[str, JsonValue] = {
        "name": name,
        "nodes": nodes,
        "networks": [{"name": "network", **kind, "switches": switches}],
    }
    given = [*(f"devices {text}" for text in devices), f"network {network}"]
    given += [f"uplinks {uplink}"] if uplink is not None else []
    given += [f"oversubscription {oversubscription:g}"] if oversubscription is not None else []
    leaves = counted(len(tree.leaves), "switch", "switches")
    read = f"{counted(len(hosts), 'host')} on {leaves}"
    upper = len(tree.switches) - len(tree.leaves)
    read += f", {counted(upper, 'switch', 'switches')} above them" if upper else ""
    result = Imported("cluster", source, FORMAT, data, (read,), tuple(given), tuple(notes))
    return checked_cluster(result, catalog)


def read_topology(text: str, source: str) -> tuple[Tree, list[str]]:
    """Switches and hosts of the file. Raises InputError with every line that is wrong."""
    read = _Read(source)
    for number, line in _lines(text):
        _line(read, number, line)
    if read.blocks:
        _join_blocks(read)
    _check(read)
    refuse(read.problems)
    return read.tree, read.notes


def _lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments, continued ones joined, with their numbers."""
    found: list[tuple[int, str]] = []
    start, joined = 0, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].rstrip()
        start = start or number
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        if joined.strip():
            found.append((start, joined.strip()))
        start, joined = 0, ""
    return [*found, (start, joined.strip())] if joined.strip() else found


def _line(read: _Read, number: int, line: str) -> None:
    where = f"{read.source}:{number}"
    pairs = [word.partition("=") for word in line.split()]
    values = {key.lower(): value for key, _, value in pairs}
    first = pairs[0][0].lower()
    if first not in KEYS or not all(equals for _, equals, _ in pairs):
        message = f"{line[:40]!r} is no line of topology.conf"
        known = "SwitchName=… Nodes=… or Switches=…, BlockName=… Nodes=…, BlockSizes=…"
        read.problems.append(Problem(where, message, f"known lines: {known}"))
        return
    unknown = [key for key, _, _ in pairs[1:] if key.lower() not in KEYS[first]]
    if unknown:
        read.problems.append(Problem(where, f"unknown key {unknown[0]}", "leave it out"))
    if first == "blocksizes":
        read.notes.append(f"BlockSizes={values['blocksizes']}: how jobs are packed, not a link")
        return
    if "linkspeed" in values:
        read.notes.append("LinkSpeed has no unit and is not used")
    switch = values[first]
    if switch in read.lines:
        place = f"{read.source}:{read.lines[switch]} and {where}"
        read.problems.append(Problem(place, f"{switch} stands twice", "join the two lines"))
        return
    read.lines[switch] = number
    below = {key: _names(read, where, values.get(key, "")) for key in ("nodes", "switches")}
    if not values.get("nodes") and not values.get("switches"):
        message = f"{switch} has neither nodes nor switches below it"
        read.problems.append(Problem(where, message, "add Nodes=… or Switches=…"))
    for host in below["nodes"]:
        if host in read.tree.leaf_of:
            other = read.tree.leaf_of[host]
            place = f"{read.source}:{read.lines[other]} and {where}"
            message = f"the host {host} hangs on {other} and on {switch}"
            read.problems.append(Problem(place, message, "name every host once"))
        read.tree.leaf_of.setdefault(host, switch)
    read.tree.add(switch, below["nodes"], below["switches"])
    if first == "blockname":
        read.blocks.append(switch)


def _names(read: _Read, where: str, text: str) -> list[str]:
    if not text:
        return []
    try:
        return expand(text)
    except HostListError as error:
        remedy = "write hosts as node[1-4,7]"
        read.problems.append(Problem(where, str(error), remedy))
        return []


def _join_blocks(read: _Read) -> None:
    """Blocks are joined by something that the file does not name: one switch above them."""
    if len(read.blocks) > 1:
        read.tree.add(SPINE, [], read.blocks)
        read.lines[SPINE] = 0
        read.notes.append(f"the blocks are joined by one switch, called {SPINE}")


def _check(read: _Read) -> None:
    """Switches that are named but not described, and parts that nothing joins."""
    tree = read.tree
    if not tree.switches:
        message = "names no switch and no block"
        raise InputError([*read.problems, Problem(read.source, message, "give a topology.conf")])
    for switch, below in tree.below.items():
        for other in below:
            if other not in tree.below:
                where = f"{read.source}:{read.lines[switch]}"
                message = f"{switch} names the switch {other}, which no line describes"
                read.problems.append(Problem(where, message, f"add SwitchName={other} Nodes=…"))
    if len(tree.roots) > 1 and not read.problems:
        message = f"nothing joins {' and '.join(tree.roots)}"
        remedy = f"add SwitchName={SPINE} Switches={','.join(tree.roots)}"
        read.problems.append(Problem(read.source, message, remedy))
