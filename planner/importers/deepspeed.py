"""A DeepSpeed (or MPI) hostfile: hosts and how many slots each has.

``worker-1 slots=8``, one host a line. ``--include`` and ``--exclude`` choose among them in
DeepSpeed's own words (``worker-0@worker-1:0,2``). The file does not say which chips these are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from costmodels.catalog import Catalog
from planner.errors import Problem
from planner.importers.given import CHIP_EXAMPLE, NETWORK_EXAMPLE, per_host, read_network
from planner.importers.imported import Imported, asked, checked_cluster, counted, refuse
from planner.importers.racks import rack_nodes
from planner.inputs.chips import resolve_chip
from planner.inputs.document import JsonValue
from planner.inputs.problems import nearest

FORMAT = "DeepSpeed hostfile"

_LINE = re.compile(r"(?P<host>\S+)\s+slots\s*=\s*(?P<slots>\S+)(?P<rest>.*)")

Slots = dict[str, list[int]]
"""Numbers of the slots that are used, by host."""


def import_deepspeed(
    text: str,
    source: str,
    catalog: Catalog,
    *,
    chips: Sequence[str] = (),
    network: str | None = None,
    include: str | None = None,
    exclude: str | None = None,
    world_size: int | None = None,
    name: str = "cluster",
) -> Imported:
    """The cluster. Raises InputError with every problem of the file and the options."""
    slots, lines = read_hostfile(text, source)
    problems: list[Problem] = []
    used = _selected(slots, include, exclude, source, problems)
    hosts = list(used)
    count = sum(map(len, used.values()))
    if world_size is not None and world_size != count and not problems:
        table = ", ".join(f"{host} {len(numbers)}" for host, numbers in used.items())
        message = f"the hosts have {count} slots ({table}), not {world_size}"
        first = f"{source}:{lines[hosts[0]]}" if hosts else source
        remedy = f"change a slots= (the first is {first}), --include or --world-size"
        problems.append(Problem(f"--world-size {world_size}", message, remedy))
    named = per_host("--chip", chips, hosts, problems)
    bare = [host for host in hosts if host not in named]
    if bare and not problems:
        why = f"the file does not say which chips {bare[0]} has"
        problems.append(asked("--chip", why, CHIP_EXAMPLE))
    alias = {value: _alias(value, catalog, problems) for value in dict.fromkeys(named.values())}
    net = read_network(network, problems)
    if network is None and len(hosts) > 1:
        why = "the file does not say what the network of a host carries"
        problems.append(asked("--network", why, NETWORK_EXAMPLE))
    refuse(problems)
    held: dict[str, list[JsonValue] | None] = {
        host: [{"chip": alias[named[host]], "count": len(numbers)}]
        for host, numbers in used.items()
    }
    left = sum(map(len, slots.values())) - count
    given = [*(f"chip {text}" for text in chips)]
    given += [f"network {network}"] if network is not None else []
    given += [f"include {include}"] if include is not None else []
    given += [f"exclude {exclude}"] if exclude is not None else []
    notes = [f"{left} slots of the file are left out"] if left else []
    renumbered = [host for host, numbers in used.items() if numbers != list(range(len(numbers)))]
    notes += [f"{host}: device i is slot {used[host]}" for host in renumbered]
    result = Imported(
        "cluster",
        source,
        FORMAT,
        {"name": name, "nodes": rack_nodes(None, held, net)},
        (f"{counted(len(slots), 'host')} with {sum(map(len, slots.values()))} slots",),
        tuple(given),
        tuple(notes),
    )
    return checked_cluster(result, catalog)


def read_hostfile(text: str, source: str) -> tuple[Slots, dict[str, int]]:
    """Slots and line numbers by host. Raises InputError with every line that is wrong."""
    slots: Slots = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        where = f"{source}:{number}"
        match = _LINE.fullmatch(line)
        if match is None or not match["slots"].isdigit() or match["rest"].strip():
            message = f"{line!r} is not HOST slots=N"
            problems.append(Problem(where, message, "write for example worker-1 slots=8"))
            continue
        host = match["host"]
        if host in lines:
            place = f"{source}:{lines[host]} and {where}"
            message = f"the host {host} is given twice, with {len(slots[host])} and "
            message += f"{match['slots']} slots"
            problems.append(Problem(place, message, "keep one of the lines"))
            continue
        if int(match["slots"]) == 0:
            problems.append(Problem(where, f"{host} has no slot", "leave the host out"))
        lines[host] = number
        slots[host] = list(range(int(match["slots"])))
    if not slots and not problems:
        problems.append(Problem(source, "names no host", "write for example worker-1 slots=8"))
    refuse([*problems, *_same_host(lines, source)])
    return slots, lines


def _same_host(lines: dict[str, int], source: str) -> list[Problem]:
    """A host under its short and its full name is one host."""
    short: dict[str, str] = {}
    found = []
    for host in lines:
        first = host.split(".")[0]
        if first.isdigit():
            continue
        other = short.setdefault(first, host)
        if other != host and first in (other, host):
            place = f"{source}:{lines[other]} and {source}:{lines[host]}"
            message = f"{other} and {host} are one host under two names"
            found.append(Problem(place, message, "keep one of the lines"))
    return found


def _selected(
    slots: Slots, include: str | None, exclude: str | None, source: str, problems: list[Problem]
) -> Slots:
    """The slots that the options leave, as DeepSpeed itself understands them."""
    if include is not None and exclude is not None:
        message = "DeepSpeed takes one of them"
        problems.append(Problem("--include and --exclude", message, "keep one"))
        return slots
    if include is not None:
        return _named(f"--include {include}", include, slots, source, problems)
    if exclude is None:
        return slots
    out = _named(f"--exclude {exclude}", exclude, slots, source, problems)
    left = {h: [n for n in numbers if n not in out.get(h, ())] for h, numbers in slots.items()}
    found = {host: numbers for host, numbers in left.items() if numbers}
    if not found:
        problems.append(Problem(f"--exclude {exclude}", "leaves no slot", "exclude fewer"))
    return found


def _named(where: str, text: str, slots: Slots, source: str, problems: list[Problem]) -> Slots:
    found: Slots = {}
    for part in text.split("@"):
        host, colon, numbers = part.partition(":")
        if host not in slots:
            close = nearest(host, slots)
            remedy = f"did you mean {close[0]}?" if close else f"hosts: {', '.join(slots)}"
            problems.append(Problem(where, f"{host!r} is not a host of {source}", remedy))
            continue
        if not colon:
            found[host] = slots[host]
            continue
        wanted = [n.strip() for n in numbers.split(",")]
        wrong = [n for n in wanted if not n.isdigit() or int(n) not in slots[host]]
        if wrong:
            message = f"{host} has no slot {wrong[0]!r}: its slots are 0 … {len(slots[host]) - 1}"
            problems.append(Problem(where, message, f"see {host} in {source}"))
        found[host] = [int(n) for n in wanted if n not in wrong]
    return found


def _alias(text: str, catalog: Catalog, problems: list[Problem]) -> str:
    chip, problem, _ = resolve_chip(text, catalog, f"--chip {text}")
    if chip is None:
        problems += [problem] if problem else []
        return text
    return catalog.alias(chip.id)
