"""Fleets of equal nodes of one kind of chip, for questions that begin with "how many"."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, get_args

from costmodels.catalog import Catalog, Chip, Machine, load_catalog, load_machines
from planner.errors import InputError, Problem
from planner.inputs.chips import resolve_chip
from planner.inputs.cluster import ClusterInput, cluster_from_document
from planner.inputs.cluster_spec import NetworkKindName
from planner.inputs.document import Document
from planner.inputs.quantities import describe_bandwidth, format_bandwidth, parse_bandwidth

DEFAULT_CHIPS = 8
"""Chips of a node where no machine of the catalogue says otherwise."""

_COUNTED = re.compile(r"(?P<count>\d[\d_,]*) ?[x×] ?(?P<chip>\S+)")


@dataclass(frozen=True)
class NodeType:
    """One node: its chips and its network (nominal bytes/s, one way, of the whole node).

    ``notes`` say what was assumed.
    """

    chip: Chip
    chips: int
    bandwidth: int
    kind: str
    catalog: Catalog
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``H100-SXM-80GB``."""
        return self.catalog.alias(self.chip.id)


def parse_count(text: str) -> tuple[int, str]:
    """``1000xH100`` as a number and a name. Raises InputError."""
    match = _COUNTED.fullmatch(text.strip())
    count = int(re.sub(r"[_,]", "", match["count"])) if match else 0
    if match is None or count < 1:
        remedy = "write the number of chips and their name, such as 1000xH100"
        raise InputError([Problem(f"--from {text}", "is not COUNTxCHIP", remedy)])
    return count, match["chip"]


def node_type(
    name: str,
    *,
    chips: int | None = None,
    network: str | None = None,
    where: str = "--chip",
    catalog: Catalog | None = None,
) -> NodeType:
    """A node of a kind of chip.

    A name that fits several chips is taken for the one that machines of the catalogue are built
    of, if that is one; the machine also gives chips per node and ports. ``network`` is
    ``RATE[:KIND]`` for a whole node. Raises InputError.
    """
    catalog = catalog or load_catalog()
    chip, notes = _chip(name, catalog, where)
    machine = next(iter(_machines(chip)), None)
    size = chips or (machine.chips if machine else DEFAULT_CHIPS)
    if chips is None:
        source = f"as {machine.name}" if machine else "assumed"
        notes.append(f"{catalog.alias(chip.id)}: {size} chips per node ({source})")
    bandwidth, kind = _network(chip, size, network, machine, notes, f"{where} {name}", catalog)
    return NodeType(chip, size, bandwidth, kind, catalog, tuple(notes))


def fleet_of(node: NodeType, count: int) -> ClusterInput:
    """A cluster of so many equal nodes on one network that does not block."""
    ports = node.chips if node.bandwidth % node.chips == 0 else 1
    data: dict[str, Any] = {
        "name": f"{count * node.chips}x{node.name}",
        "nodes": [
            {
                "name_prefix": "node",
                "count": count,
                "devices": [{"chip": node.chip.id, "count": node.chips}],
                "nics": [
                    {
                        "network": "network",
                        "bandwidth_one_way": format_bandwidth(node.bandwidth // ports),
                        "count": ports,
                        "kind": node.kind,
                    }
                ],
            }
        ],
    }
    made = cluster_from_document(Document("cluster", data), node.catalog)
    return replace(made, notes=(*node.notes, *made.notes))


def _chip(name: str, catalog: Catalog, where: str) -> tuple[Chip, list[str]]:
    """The chip that is meant, and what was assumed about it."""
    chip, problem, note = resolve_chip(name, catalog, where)
    if chip is not None:
        return chip, [note] if note else []
    fits = catalog.find(name)
    built = [c for c in fits if any(m.chip == c.id for m in load_machines().values())]
    if len(fits) > 1 and len(built) == 1:
        alias = catalog.alias(built[0].id)
        others = ", ".join(catalog.alias(c.id) for c in fits if c.id != built[0].id)
        what = f"taken as {alias}, the one that machines are built of, not {others}"
        return built[0], [f"{name}: {what}"]
    raise InputError([problem] if problem else [Problem(where, f"no chip is called {name!r}")])


def _machines(chip: Chip) -> list[Machine]:
    return [m for m in load_machines().values() if m.chip == chip.id and m.network_bandwidth]


def _network(
    chip: Chip,
    size: int,
    network: str | None,
    machine: Machine | None,
    notes: list[str],
    where: str,
    catalog: Catalog,
) -> tuple[int, str]:
    """Bytes/s of a node and the kind of its network."""
    alias = catalog.alias(chip.id)
    default = "ib" if chip.vendor in ("NVIDIA", "AMD") else "roce"
    if network is not None:
        rate, _, kind = network.partition(":")
        known = get_args(NetworkKindName)
        if kind and kind not in known:
            message = f"unknown network kind {kind!r}"
            raise InputError([Problem("--network", message, f"one of {', '.join(known)}")])
        try:
            bandwidth = parse_bandwidth(rate.strip())
        except ValueError as error:
            remedy = "write RATE[:KIND] of one node, such as 3200Gb/s:ib"
            raise InputError([Problem(f"--network {network}", str(error), remedy)]) from None
        if not kind:
            notes.append(f"{alias}: network kind {default} assumed")
        return bandwidth, kind or default
    if machine is not None and machine.network_bandwidth and machine.chips == size:
        bandwidth = round(machine.network_bandwidth)
        how = f"as {machine.name}"
    elif chip.nic_bytes_per_s:
        bandwidth, how = round(chip.nic_bytes_per_s) * size, "the catalogue's rate per chip"
    else:
        message = f"the catalogue knows no network of {alias}"
        raise InputError([Problem(where, message, "give --network RATE[:KIND] of one node")])
    shown = describe_bandwidth(bandwidth)
    notes.append(f"{alias}: {shown} {default} per node ({how}, kind assumed)")
    return bandwidth, default
