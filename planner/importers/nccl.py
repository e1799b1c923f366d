"""NCCL's topology XML: cards, PCIe switches, NVLinks and network ports of one host.

NCCL reads such files (``NCCL_TOPO_FILE``; clouds ship them for their machines) and writes them
(``NCCL_TOPO_DUMP_FILE``). Files to be read often hold PCIe devices only; a written one names cards,
links and the rate of every port. Neither says how many such hosts there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from costmodels.catalog import Catalog, Chip
from planner.errors import InputError, Problem
from planner.importers.given import (
    NETWORK,
    NETWORK_EXAMPLE,
    Network,
    read_chip,
    read_network,
)
from planner.importers.imported import Imported, asked, checked_cluster, counted, refuse
from planner.importers.links import CardLinks, device_groups
from planner.importers.nccl_file import Host, read_host
from planner.importers.pci_ids import CHIP_OF
from planner.inputs.document import JsonValue
from planner.inputs.quantities import format_bandwidth

FORMAT = "NCCL topology XML"


def import_nccl(
    text: str,
    source: str,
    catalog: Catalog,
    *,
    chip: str | None = None,
    nodes: int = 1,
    name: str = "node",
    network: str | None = None,
    nvlink_pairs: str | None = None,
    nvlink_rate: str | None = None,
) -> Imported:
    """A cluster of ``nodes`` such hosts. Raises InputError with every problem."""
    host = read_host(text, source)
    problems: list[Problem] = []
    found = _chip(host, chip, catalog, source, problems)
    links = _links(host, nvlink_pairs, source, problems)
    nics, left = _nics(host, read_network(network, problems), nodes, problems)
    if found is None:
        raise InputError(problems)
    notes = list(left)
    if links is None:
        devices: list[JsonValue] = [{"chip": catalog.alias(found.id), "count": len(host.cards)}]
        if found.fabric is not None:
            notes.append("the file names no NVLinks: the catalogue's fabric of the chip holds")
    else:
        groups = device_groups(found, catalog, links, nvlink_rate, problems)
        devices = list(groups.devices)
        notes += groups.notes
    refuse(problems)
    node: dict[str, JsonValue] = {"name": name} if nodes == 1 else {"name_prefix": name}
    if nodes > 1:
        node["count"] = nodes
    node["devices"] = devices
    if nics:
        node["nics"] = nics
    link = _host_link(host, found)
    if link:
        node["host_link"] = link
    given = [f"chip {catalog.alias(found.id)}"] if chip is not None else []
    given += [f"{nodes} equal nodes"] if nodes > 1 else []
    given += [f"network {network}"] if network is not None else []
    given += [f"NVLink between cards {nvlink_pairs}"] if nvlink_pairs is not None else []
    data: dict[str, JsonValue] = {"name": name, "nodes": [node]}
    read = (_summary(host),)
    result = Imported("cluster", source, FORMAT, data, read, tuple(given), tuple(notes))
    return checked_cluster(result, catalog)


def _chip(
    host: Host, name: str | None, catalog: Catalog, source: str, problems: list[Problem]
) -> Chip | None:
    """The card by its PCI identity or by ``--chip``; where they differ, a problem."""
    identities = sorted({card.identity for card in host.cards if card.identity != ":"})
    known = sorted({CHIP_OF[i] for i in identities if i in CHIP_OF})
    if len(known) > 1:
        message = f"holds different cards: {', '.join(map(catalog.alias, known))}"
        problems.append(Problem(source, message, "import each kind from a host of its own"))
        return None
    if name is None and known:
        return catalog.chips[known[0]]
    why = "the file does not say which cards these are"
    if identities:
        why = f"the PCI identity {identities[0]} is not among those that are known"
    found = read_chip(name, catalog, problems, why)
    if found is not None and known and found.id != known[0]:
        message = f"the file says that the cards are {catalog.alias(known[0])}"
        problems.append(Problem(f"--chip {name}", message, "leave --chip out"))
        return catalog.chips[known[0]]
    return found


def _links(host: Host, pairs: str | None, source: str, problems: list[Problem]) -> CardLinks | None:
    """NVLinks of the file; None where it names none. A link that leads nowhere is asked for."""
    number = {card.bus: n for n, card in enumerate(host.cards)}
    counts = [sum(count for _, count, _ in card.links) for card in host.cards]
    if not any(counts):
        if pairs is not None:
            message = "the file names no NVLinks"
            problems.append(Problem("--nvlink-pairs", message, "leave it out"))
        return None
    direct: dict[tuple[int, int], int] = {}
    lost = []
    switched: dict[int, int] = {}
    for a, card in enumerate(host.cards):
        for target, count, switch in card.links:
            b = number.get(target)
            if switch:
                switched[a] = switched.get(a, 0) + count
            elif b is None or b == a:
                lost.append(f"{card.bus} to {target or 'nowhere'}")
            elif a < b:
                direct[a, b] = direct.get((a, b), 0) + count
    if lost and pairs is None:
        why = f"{source}: NVLinks lead to no other card ({lost[0]})"
        example = "0-1,2-3 (cards that a bridge joins), or --nvlink-pairs none"
        problems.append(asked("--nvlink-pairs", why, example))
    if pairs is not None and pairs != "none":
        for one, other in _pairs(pairs, len(host.cards), problems):
            direct[one, other] = min(counts[one], counts[other])
    return CardLinks(len(host.cards), direct, switched)


def _pairs(text: str, cards: int, problems: list[Problem]) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)-(\d+)\s*", part)
        one, other = (int(match[1]), int(match[2])) if match else (-1, -1)
        if match is None or not 0 <= one < other < cards or {one, other} & seen:
            message = f"{part.strip()!r} is not a pair of two cards of 0 … {cards - 1}, each once"
            problems.append(Problem(f"--nvlink-pairs {text}", message, "write 0-1,2-3"))
            continue
        seen |= {one, other}
        yield one, other


def _nics(
    host: Host, network: Network | None, nodes: int, problems: list[Problem]
) -> tuple[list[JsonValue], list[str]]:
    """Entries of the node's ports, and what is left out."""
    kinds = {port.kind for port in host.ports}
    kind = next(iter(kinds)) if len(kinds) == 1 else None
    if network is not None:
        nic = network.nic(max(1, len(host.ports)))
        if kind is not None and network.kind is None:
            nic["kind"] = kind
        return [nic], []
    rates = {port.gbit_per_s for port in host.ports}
    if host.ports and None not in rates:
        return [_nic(rate, host) for rate in sorted(r for r in rates if r is not None)], []
    if nodes > 1:
        why = "the file does not say what its ports carry" if host.ports else "it names no port"
        problems.append(asked("--network", why, NETWORK_EXAMPLE))
    if host.ports:
        return [], [f"{len(host.ports)} ports are left out: a single node needs no network"]
    return [], []


def _nic(rate: float, host: Host) -> dict[str, JsonValue]:
    count = sum(port.gbit_per_s == rate for port in host.ports)
    nic: dict[str, JsonValue] = {"network": NETWORK, "bandwidth_one_way": f"{rate:g} Gb/s"}
    if count > 1:
        nic["count"] = count
    return nic


def _host_link(host: Host, chip: Chip) -> dict[str, JsonValue]:
    """PCIe where it is not the catalogue's: fewer lanes, or a switch that cards share."""
    rates = [card.pcie for card in host.cards if card.pcie is not None]
    if len(rates) < len(host.cards):
        return {}
    each = min(rates)
    shared = host.uplinks is not None and host.uplinks < each * len(host.cards) * 0.99
    if not shared and abs(each / chip.host_fabric.total_bandwidth - 1) < 0.05:
        return {}
    link: dict[str, JsonValue] = {"kind": "pcie", "bandwidth_one_way": _bandwidth(each)}
    if shared and host.uplinks is not None:
        link["total_bandwidth_one_way"] = _bandwidth(host.uplinks)
    return link


def _bandwidth(value: float) -> str:
    return format_bandwidth(round(value / 1e6) * 10**6)


def _summary(host: Host) -> str:
    identities = sorted({CHIP_OF[c.identity] for c in host.cards if c.identity in CHIP_OF})
    known_as = f" ({', '.join(map(Catalog.alias, identities))} by PCI identity)"
    text = f"{len(host.cards)} cards" + (known_as if identities else "")
    links = [sum(count for _, count, _ in card.links) for card in host.cards]
    if any(links):
        text += f" with {min(links)} NVLinks each"
    if host.ports:
        known = sorted({p.gbit_per_s for p in host.ports if p.gbit_per_s is not None})
        rates = f" ({', '.join(f'{r:g}' for r in known)} Gb/s)" if known else ""
        kinds = sorted({p.kind for p in host.ports if p.kind is not None})
        text += f", {counted(len(host.ports), 'port')}{rates}" + (
            f" of {', '.join(kinds)}" if kinds else ""
        )
    return text
