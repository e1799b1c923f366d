"""What the options of an import say: chips, networks, and which hosts they hold for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from costmodels.catalog import Catalog, Chip
from planner.errors import Problem
from planner.importers.hosts import HostListError, matching
from planner.importers.imported import asked
from planner.inputs.chips import resolve_chip
from planner.inputs.document import JsonValue
from planner.inputs.quantities import parse_bandwidth
from planner.inputs.shorthand import NETWORK_KINDS

NETWORK = "network"
"""What the network of an import is called."""

CHIP_EXAMPLE = "A100-SXM-80GB (planner chips list shows the names)"
NETWORK_EXAMPLE = "8x200Gb/s:ib (ports of a node, rate of one port one way, kind)"

_NETWORK = re.compile(r"(?:(?P<ports>\d+)x)?(?P<rate>[^:]+?)(?::(?P<kind>\w+))?")
_DEVICES = re.compile(r"(?P<count>\d+)x(?P<chip>\S+)")


@dataclass(frozen=True, slots=True)
class Network:
    """The ports of every node: how many, one way rate of one of them as written, kind or None."""

    ports: int | None
    rate: str
    kind: str | None

    def nic(self, ports: int, switch: str | None = None) -> dict[str, JsonValue]:
        """The entry of a node; ``ports`` where the option does not say how many."""
        nic: dict[str, JsonValue] = {"network": NETWORK}
        if switch is not None:
            nic["switch"] = switch
        nic["bandwidth_one_way"] = self.rate
        count = self.ports or ports
        if count > 1:
            nic["count"] = count
        if self.kind is not None:
            nic["kind"] = self.kind
        return nic


def read_network(text: str | None, problems: list[Problem]) -> Network | None:
    """``[PORTSx]RATE[:KIND]``; what is wrong with it goes to ``problems``."""
    if text is None:
        return None
    where = f"--network {text}"
    match = _NETWORK.fullmatch(text.strip())
    if match is None:
        problems.append(Problem(where, "is not [PORTSx]RATE[:KIND]", f"write {NETWORK_EXAMPLE}"))
        return None
    kind, ports = match["kind"], match["ports"]
    if kind is not None and kind not in NETWORK_KINDS:
        remedy = "use one of " + ", ".join(NETWORK_KINDS)
        problems.append(Problem(where, f"unknown network kind {kind!r}", remedy))
    if ports is not None and not 1 <= int(ports) <= 256:
        problems.append(Problem(where, f"{ports} ports", "a node has 1 to 256"))
    rate = match["rate"].strip()
    try:
        parse_bandwidth(rate)
    except PydanticCustomError as error:
        remedy = str((error.context or {}).get("remedy", ""))
        problems.append(Problem(where, f"the rate {rate!r} {error.message()}", remedy))
        return None
    return Network(int(ports) if ports else None, rate, kind)


def read_chip(name: str | None, catalog: Catalog, problems: list[Problem], why: str) -> Chip | None:
    """The chip that ``--chip`` names, asked for where it is missing."""
    if name is None:
        problems.append(asked("--chip", why, CHIP_EXAMPLE))
        return None
    chip, problem, _ = resolve_chip(name, catalog, f"--chip {name}")
    problems += [problem] if problem else []
    return chip


def per_host(
    option: str,
    texts: Sequence[str],
    hosts: Sequence[str],
    problems: list[Problem],
) -> dict[str, str]:
    """The value of ``[HOSTS=]VALUE`` options by host; a value without hosts holds for the rest."""
    found: dict[str, str] = {}
    rest: list[str] = []
    for text in texts:
        pattern, equals, value = text.partition("=")
        if not equals:
            rest.append(text)
            continue
        where = f"{option} {text}"
        try:
            named = matching(pattern.strip(), hosts)
        except HostListError as error:
            problems.append(Problem(where, str(error), "write hosts as node[0-3] or node*"))
            continue
        if not named:
            message = f"no host of the file is called {pattern.strip()}"
            problems.append(Problem(where, message, f"the first hosts are {_some(hosts)}"))
        twice = [host for host in named if host in found]
        if twice:
            problems.append(Problem(where, f"{_some(twice)} has a value already", "name it once"))
        found.update(dict.fromkeys(named, value.strip()))
    if len(rest) > 1:
        message = f"is given {len(rest)} times for all hosts"
        problems.append(Problem(option, message, f"say which hosts: {option} node[0-3]={rest[0]}"))
    if rest:
        found = {host: found.get(host, rest[0]) for host in hosts}
    return {host: found[host] for host in hosts if host in found}


def read_devices(
    text: str, where: str, catalog: Catalog, problems: list[Problem]
) -> list[JsonValue] | None:
    """``8xA100-SXM-80GB``, several kinds joined by ``+``, as the device groups of a node."""
    groups: list[JsonValue] = []
    for part in text.split("+"):
        match = _DEVICES.fullmatch(part.strip())
        if match is None:
            problems.append(
                Problem(where, f"{part.strip()!r} is not COUNTxCHIP", "8xA100-SXM-80GB")
            )
            return None
        chip, problem, _ = resolve_chip(match["chip"], catalog, where)
        if chip is None:
            problems += [problem] if problem else []
            return None
        if not 1 <= int(match["count"]) <= 1024:
            problems.append(Problem(where, f"{match['count']} chips in a node", "1 to 1,024"))
            return None
        groups.append({"chip": catalog.alias(chip.id), "count": int(match["count"])})
    return groups


def _some(hosts: Sequence[str]) -> str:
    return ", ".join(hosts[:3]) + (", …" if len(hosts) > 3 else "")
