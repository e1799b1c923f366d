"""``nvidia-smi topo -m``: how the cards and ports of one host are joined.

The matrix says which pairs of cards share NVLinks and how many, and which network ports there are.
It does not say which cards these are, what a port carries, nor how many such hosts there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from costmodels.catalog import Catalog
from planner.errors import InputError, Problem
from planner.importers.given import NETWORK_EXAMPLE, read_chip, read_network
from planner.importers.imported import Imported, asked, checked_cluster, refuse
from planner.importers.links import CardLinks, device_groups
from planner.inputs.document import JsonValue

FORMAT = "nvidia-smi topo -m"

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CARD = re.compile(r"GPU\d+")
_CELL = re.compile(r"X|SYS|NODE|PHB|PXB|PIX|PIXX|NV(?P<links>\d+)")
_LEGEND = re.compile(r"\s*(?P<port>NIC\d+):\s*(?P<name>\S+)")


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrix by its labels; ``lines`` are the numbers of the rows in the file, from 1."""

    labels: tuple[str, ...]
    cells: dict[tuple[str, str], str]
    lines: dict[str, int]
    names: dict[str, str]

    @property
    def cards(self) -> tuple[str, ...]:
        """Labels of the cards."""
        return tuple(label for label in self.labels if _CARD.fullmatch(label))

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the network ports, by the legend where there is one."""
        others = [label for label in self.labels if not _CARD.fullmatch(label)]
        return tuple(self.names.get(label, label) for label in others)


def import_nvidia_smi(
    text: str,
    source: str,
    catalog: Catalog,
    *,
    chip: str | None = None,
    nodes: int = 1,
    name: str = "node",
    network: str | None = None,
    nics: Sequence[str] = (),
    nvlink_rate: str | None = None,
) -> Imported:
    """A cluster of ``nodes`` such hosts. Raises InputError with every problem."""
    matrix = read_matrix(text, source)
    problems: list[Problem] = []
    why = "the matrix does not say which cards these are"
    found = read_chip(chip, catalog, problems, why)
    net = read_network(network, problems)
    used = _chosen(matrix, nics, problems)
    if net is None and network is None and nodes > 1:
        why = "the matrix shows ports, but not what they carry"
        problems.append(asked("--network", why, NETWORK_EXAMPLE))
    if found is None:
        raise InputError(problems)
    groups = device_groups(found, catalog, _links(matrix), nvlink_rate, problems)
    refuse(problems)
    node: dict[str, JsonValue] = {"name": name} if nodes == 1 else {"name_prefix": name}
    if nodes > 1:
        node["count"] = nodes
    node["devices"] = list(groups.devices)
    open_ = list(groups.notes)
    if net is not None:
        node["nics"] = [net.nic(max(1, len(used)))]
    elif used:
        open_.append(f"ports {', '.join(used)} are left out: a single node needs no network")
    given = [f"chip {catalog.alias(found.id)}"]
    given += [f"{nodes} equal nodes"] if nodes > 1 else []
    given += [f"network {network}"] if network else []
    return checked_cluster(
        Imported(
            "cluster",
            source,
            FORMAT,
            {"name": name, "nodes": [node]},
            (_summary(matrix),),
            tuple(given),
            tuple(open_),
        ),
        catalog,
    )


def read_matrix(text: str, source: str) -> Matrix:
    """The matrix of the file. Raises InputError with every row and cell that is wrong."""
    lines = _COLOURS.sub("", text).splitlines()
    head = next((n for n, line in enumerate(lines) if line.split()[:1] == ["GPU0"]), None)
    if head is None:
        message = "no line starts with GPU0: this is not the matrix of nvidia-smi topo -m"
        remedy = "save the whole output: nvidia-smi topo -m > topo.txt"
        raise InputError([Problem(source, message, remedy)])
    labels = _labels(lines[head])
    problems: list[Problem] = []
    cells: dict[tuple[str, str], str] = {}
    where: dict[str, int] = {}
    for number, line in enumerate(lines[head + 1 :], head + 2):
        words = line.split()
        if not words or words[0] not in labels or words[0] in where:
            if words and words[0] in where and words[0] in labels:
                message = f"the row {words[0]} stands on line {where[words[0]]} already"
                problems.append(Problem(f"{source}:{number}", message, "keep one of them"))
            continue
        where[words[0]] = number
        problems += _row(words, labels, f"{source}:{number}", cells)
    missing = [label for label in labels if label not in where]
    if missing:
        message = f"no row for {', '.join(missing)}"
        problems.append(Problem(f"{source}:{head + 1}", message, "save the whole output"))
    refuse(problems)
    refuse(_asymmetric(labels, cells, where, source))
    names = {m["port"]: m["name"] for line in lines if (m := _LEGEND.fullmatch(line.rstrip()))}
    return Matrix(labels, cells, where, names)


def _labels(head: str) -> tuple[str, ...]:
    """Cards and ports of the heading; the affinity columns are none of them."""
    found = []
    for word in head.split():
        if word in ("CPU", "NUMA", "GPU"):
            break
        found.append(word)
    return tuple(found)


def _row(
    words: list[str], labels: Sequence[str], where: str, cells: dict[tuple[str, str], str]
) -> list[Problem]:
    row = words[1 : len(labels) + 1]
    if len(row) < len(labels):
        message = f"the row {words[0]} has {len(row)} cells for {len(labels)} columns"
        return [Problem(where, message, "save the output without wrapping its lines")]
    wrong = [cell for cell in row if not _CELL.fullmatch(cell)]
    if wrong:
        message = f"{wrong[0]!r} is no kind of connection"
        return [Problem(where, message, "known: X, NV#, PIX, PXB, PHB, NODE, SYS")]
    cells.update({(words[0], label): cell for label, cell in zip(labels, row)})
    return []


def _asymmetric(
    labels: Sequence[str],
    cells: dict[tuple[str, str], str],
    where: dict[str, int],
    source: str,
) -> list[Problem]:
    found = []
    for n, one in enumerate(labels):
        for other in labels[n:]:
            there, back = cells[one, other], cells[other, one]
            if there != back or (there == "X") != (one == other):
                place = f"{source}:{where[one]} and {source}:{where[other]}"
                message = f"{one} to {other} is {there}, {other} to {one} is {back}"
                found.append(Problem(place, message, "save the output again"))
    return found


def _links(matrix: Matrix) -> CardLinks:
    direct = {}
    cards = matrix.cards
    for a, one in enumerate(cards):
        for b in range(a + 1, len(cards)):
            match = _CELL.fullmatch(matrix.cells[one, cards[b]])
            if match is not None and match["links"]:
                direct[a, b] = int(match["links"])
    return CardLinks(len(cards), direct, {})


def _chosen(matrix: Matrix, nics: Sequence[str], problems: list[Problem]) -> tuple[str, ...]:
    """The ports that are on the network: all of them, or those that are named."""
    unknown = [nic for nic in nics if nic not in matrix.ports]
    if unknown:
        known = ", ".join(matrix.ports) or "none"
        message = f"no port is called {unknown[0]}"
        problems.append(Problem(f"--nic {unknown[0]}", message, f"the matrix has {known}"))
    return tuple(nics) or matrix.ports


def _summary(matrix: Matrix) -> str:
    kinds: dict[str, int] = {}
    cards = matrix.cards
    for n, one in enumerate(cards):
        for other in cards[n + 1 :]:
            cell = matrix.cells[one, other]
            kinds[cell] = kinds.get(cell, 0) + 1
    pairs = ", ".join(f"{count} pairs {kind}" for kind, count in sorted(kinds.items()))
    ports = f", ports {', '.join(matrix.ports)}" if matrix.ports else ", no network port"
    return f"{len(cards)} cards" + (f" ({pairs})" if pairs else "") + ports
