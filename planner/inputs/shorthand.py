"""One line for a whole fleet: ``8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s``.

    fleet := group { " + " group } [ " @ " RATE [":" KIND] ]
    group := [NODES "x"] CHIPS "x" NAME [ "@" RATE [":" KIND] ]

RATE is the total of one node, one way, with its unit (``Gb/s`` or ``GB/s``). A RATE after the
last group with a space before its ``@`` holds for every group that has none of its own. KIND is
tcp, roce, ib or efa. Nothing is guessed: text that does not match is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import PydanticCustomError

from planner.errors import InputError, Problem
from planner.inputs.quantities import format_bandwidth, parse_bandwidth

NETWORK_KINDS = ("tcp", "roce", "ib", "efa")

GRAMMAR = (
    "[NODESx]CHIPSxCHIP, groups joined by ' + ', then ' @ RATE[:KIND]' for the network of a node "
    "(one way; KIND is tcp, roce, ib or efa); for example "
    "'8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s'"
)

MAX_COUNT = 1_000_000
GBIT = 10**9 // 8

_GROUP = re.compile(
    r"(?:(?P<nodes>\d+)x)?(?P<devices>\d+)x(?P<chip>[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?:@(?P<rate>[^@\s:]+)(?::(?P<kind>[A-Za-z]+))?)?"
)
_TRAILING = re.compile(r"(?P<groups>.*\S) @ ?(?P<rate>[^@:]+?)(?::(?P<kind>[A-Za-z]+))?")


@dataclass(frozen=True, slots=True)
class FleetGroup:
    """``nodes`` equal machines of ``devices`` chips; ``bandwidth`` in bytes/s, one way, per node.

    ``kind`` is None where the text names none (tcp is then assumed).
    """

    nodes: int
    devices: int
    chip: str
    bandwidth: int | None = None
    kind: str | None = None

    def __str__(self) -> str:
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.devices}x{self.chip}{_at(self, '@')}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a line of shorthand says; ``str`` gives the canonical line back."""

    groups: tuple[FleetGroup, ...]

    @property
    def nodes(self) -> int:
        """Machines in all groups."""
        return sum(g.nodes for g in self.groups)

    def __str__(self) -> str:
        first = self.groups[0]
        if first.bandwidth is None or any(
            (g.bandwidth, g.kind) != (first.bandwidth, first.kind) for g in self.groups
        ):
            return " + ".join(map(str, self.groups))
        bare = (replace(g, bandwidth=None, kind=None) for g in self.groups)
        return " + ".join(map(str, bare)) + _at(first, " @ ")


def looks_like_shorthand(text: str) -> bool:
    """Whether the text can only be meant as a fleet, and not as a file or a shipped name."""
    return re.search(r"\d\s*[x*×]|[+@*]", text) is not None


def parse_shorthand(text: str, *, where: str = "cluster") -> Fleet:
    """Read one line of shorthand.

    Raises InputError with every problem of the line: garbled text with the grammar, zero or absurd
    counts, a rate without its unit, an unknown kind, or no rate although there are two nodes.
    """
    problems: list[Problem] = []
    line = text.strip()
    trailing = _TRAILING.fullmatch(line)
    common: tuple[int | None, str | None] = (None, None)
    if trailing is not None:
        line = trailing["groups"]
        common = _read_rate(trailing["rate"], trailing["kind"], where, problems)
    groups = [_read_group(part, where, problems) for part in line.split(" + ")]
    if any(g is None for g in groups):
        problems.append(
            Problem(where, f"{text!r} is not a fleet in shorthand", f"the grammar is {GRAMMAR}")
        )
        raise InputError(problems)
    fleet = Fleet(
        tuple(
            g if g.bandwidth is not None else replace(g, bandwidth=common[0], kind=common[1])
            for g in groups
            if g is not None
        )
    )
    if fleet.nodes > 1 and not problems:
        problems += [
            Problem(
                where,
                f"{str(g)!r} has no network rate, but the fleet has {fleet.nodes} nodes",
                f"append ' @ RATE', for example '{text.strip()} @ 100Gb/s'",
            )
            for g in fleet.groups
            if g.bandwidth is None
        ]
    if problems:
        raise InputError(problems)
    return fleet


def fleet_document(fleet: Fleet, *, name: str) -> dict[str, Any]:
    """The fleet as the cluster document that a file would hold, nodes named node0, node1, …"""
    nodes: list[dict[str, Any]] = []
    first = 0
    for group in fleet.groups:
        node: dict[str, Any] = {
            "name_prefix": "node",
            "first_index": first,
            "count": group.nodes,
            "devices": [{"chip": group.chip, "count": group.devices}],
        }
        if group.bandwidth is not None:
            ports = _ports(group.bandwidth, group.devices)
            nic: dict[str, Any] = {
                "network": "network",
                "bandwidth_one_way": format_bandwidth(group.bandwidth // ports),
                "count": ports,
            }
            if group.kind is not None:
                nic["kind"] = group.kind
            node["nics"] = [nic]
        nodes.append(node)
        first += group.nodes
    return {"name": name, "nodes": nodes}


def _read_group(text: str, where: str, problems: list[Problem]) -> FleetGroup | None:
    match = _GROUP.fullmatch(text.strip())
    if match is None:
        return None
    counts = {"nodes": int(match["nodes"] or 1), "chips": int(match["devices"])}
    for noun, count in counts.items():
        if not 1 <= count <= MAX_COUNT:
            problems.append(
                Problem(
                    where,
                    f"{text.strip()!r} has {count} {noun}",
                    f"use a count from 1 to {MAX_COUNT:,}",
                )
            )
    bandwidth: int | None = None
    kind: str | None = None
    if match["rate"] is not None:
        bandwidth, kind = _read_rate(match["rate"], match["kind"], where, problems)
    return FleetGroup(counts["nodes"], counts["chips"], match["chip"], bandwidth, kind)


def _read_rate(
    rate: str, kind: str | None, where: str, problems: list[Problem]
) -> tuple[int | None, str | None]:
    if kind is not None and kind not in NETWORK_KINDS:
        problems.append(
            Problem(
                where,
                f"unknown network kind {kind!r}",
                "use one of " + ", ".join(NETWORK_KINDS),
            )
        )
    try:
        return parse_bandwidth(rate.strip()), kind
    except PydanticCustomError as error:
        remedy = str((error.context or {}).get("remedy", ""))
        problems.append(Problem(where, f"the rate {rate.strip()!r} {error.message()}", remedy))
        return None, kind


def _ports(bandwidth: int, devices: int) -> int:
    """How many ports share a node's total rate: one up to 400 Gb/s, else one per chip.

    The achievable fraction of a port depends on its own rate, and machines with more than
    400 Gb/s are built with a port per chip. Where that does not come out even (or gives ports
    above 800 Gb/s), the smallest even number of ports of at most 400 Gb/s.
    """
    if bandwidth <= 400 * GBIT:
        return 1
    if bandwidth % devices == 0 and bandwidth <= devices * 800 * GBIT:
        return devices
    ports = -(-bandwidth // (400 * GBIT))
    while bandwidth % ports:
        ports += 1
    return ports


def _at(group: FleetGroup, sign: str) -> str:
    if group.bandwidth is None:
        return ""
    kind = f":{group.kind}" if group.kind else ""
    return f"{sign}{_rate_text(group.bandwidth)}{kind}"


def _rate_text(bandwidth: int) -> str:
    bits = bandwidth * 8
    if bits % 10**8 == 0:
        return f"{bits / 10**9:g}Gb/s"
    return format_bandwidth(bandwidth).replace(" ", "")
