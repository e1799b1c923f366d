"""Which devices a layout means: groups carved out of islands in order, or devices named one by one.

The order is Megatron-LM's: tensor parallel fastest, then data parallel, then pipeline. Inside a
class, islands are filled in order, so a group leaves an island only when it is larger than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from costmodels.catalog import Catalog
from planner.errors import InputError, Problem
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.layout_spec import LayoutInput
from planner.inputs.reading import nearest

Group = tuple[str, ...]
"""The devices of one tensor-parallel group."""


class Carver:
    """Takes groups of chips from the classes in a given order, first fit."""

    def __init__(self, classes: Sequence[IslandClass]) -> None:
        self._classes = classes
        self._free = [[list(i.devices) for i in c.islands] for c in classes]
        self._open: dict[tuple[int, int], int] = {}

    def take(self, tp: int) -> Group | None:
        """The next ``tp`` chips of one island, or whole islands where none is that large."""
        for c, cls in enumerate(self._classes):
            if cls.size >= tp:
                group = self._inside(c, tp)
            else:
                group = self._across(c, tp, cls.size) if tp % cls.size == 0 else None
            if group is not None:
                return group
        return None

    def _inside(self, c: int, tp: int) -> Group | None:
        islands = self._free[c]
        at = self._open.get((c, tp), 0)
        while at < len(islands) and len(islands[at]) < tp:
            at += 1
        self._open[c, tp] = at
        if at == len(islands):
            return None
        group = tuple(islands[at][:tp])
        del islands[at][:tp]
        return group

    def _across(self, c: int, tp: int, size: int) -> Group | None:
        islands = self._free[c]
        at = self._open.get((c, tp), 0)
        whole: list[list[str]] = []
        while at < len(islands) and len(whole) < tp // size:
            if len(islands[at]) == size:
                whole.append(islands[at])
            at += 1
        if len(whole) < tp // size:
            return None
        self._open[c, tp] = at
        group = tuple(d for island in whole for d in island)
        for island in whole:
            island.clear()
        return group


def carve(classes: Sequence[IslandClass], degrees: Sequence[int], dp: int) -> list[list[Group]]:
    """Groups by stage and pipeline, as far as they go: the last list may be short."""
    carver = Carver(classes)
    out: list[list[Group]] = []
    for tp in degrees:
        groups: list[Group] = []
        out.append(groups)
        for _ in range(dp):
            group = carver.take(tp)
            if group is None:
                return out
            groups.append(group)
    return out


def classes_in_order(
    layout: LayoutInput, topology: Topology, catalog: Catalog
) -> tuple[IslandClass, ...]:
    """The classes that the layout may use, in its order. Raises InputError for unknown names."""
    if layout.spec.chips is None:
        return topology.classes
    problems: list[Problem] = []
    found: dict[int, IslandClass] = {}
    for n, name in enumerate(layout.spec.chips):
        chips = {chip.id for chip in catalog.find(name)}
        named = [c for c in topology.classes if c.chip.id in chips or c.name == name]
        ids = dict.fromkeys(c.chip.id for c in named)
        if len(ids) != 1:
            own = dict.fromkeys(Catalog.alias(c.chip.id) for c in topology.classes)
            what = "is not in the cluster" if not ids else "fits several chips of the cluster"
            remedy = f"the cluster has {', '.join(own)}"
            problems.append(Problem(layout.where("chips", n), f"{name!r} {what}", remedy))
        found.update((c.index, c) for c in named)
    if problems:
        raise InputError(problems)
    return tuple(found.values())


def placed(
    layout: LayoutInput, degrees: Sequence[int], topology: Topology
) -> tuple[list[list[Group]], list[Problem]]:
    """Groups by stage and pipeline as the layout names them, and what is wrong with the names."""
    known = [d for c in topology.classes for i in c.islands for d in i.devices]
    devices = dict.fromkeys(known)
    hosts = dict.fromkeys(d.rpartition("/")[0] for d in known)
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    out: list[list[Group]] = []
    for s, entry in enumerate(layout.spec.placement or ()):
        where = layout.where("placement", s)
        texts = (entry,) if isinstance(entry, str) else entry
        named = chain.from_iterable(map(expand, texts))
        names = list(islice(named, len(devices) + 1))
        if len(names) > len(devices):
            message = f"names more devices than the {len(devices)} of {topology.name}"
            problems.append(Problem(where, message, "a device runs one stage of one pipeline"))
            out.append([])
            continue
        unknown = [d for d in names if d not in devices]
        if unknown:
            problems.append(_unknown(unknown, hosts, devices, where))
        for name in names:
            if name in seen:
                message = f"{name} is used twice, first by stage {seen[name] + 1}"
                problems.append(Problem(where, message, "a device runs one stage of one pipeline"))
                break
            seen[name] = s
        tp = degrees[s]
        out.append([tuple(names[k : k + tp]) for k in range(0, len(names), tp)])
    return out, problems


def _unknown(
    unknown: Sequence[str], hosts: Iterable[str], devices: Iterable[str], where: str
) -> Problem:
    name = unknown[0]
    host = name.rpartition("/")[0]
    if host in hosts:
        there = [d for d in devices if d.rpartition("/")[0] == host]
        remedy = f"{host} has {there[0]} to {there[-1]}"
    else:
        close = nearest(host, hosts, count=1)
        remedy = f"did you mean {close[0]}?" if close else f"hosts are {_some(list(hosts))}"
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    return Problem(where, f"no device is called {name}{more}", remedy)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} … {names[-1]}"


_RANGES = re.compile(r"(?P<head>[^\[\]]*)\[(?P<ranges>[\d,\- ]+)\](?P<tail>.*)")


def expand(text: str) -> Iterator[str]:
    """``node[0-1]/0-3`` as its eight devices, as reports write them; a single name as itself."""
    host, slash, numbers = text.strip().rpartition("/")
    if not slash:
        yield text.strip()
        return
    match = _RANGES.fullmatch(host)
    for n in _numbers(match["ranges"]) if match is not None else ("",):
        name = f"{match['head']}{n}{match['tail']}" if match is not None else host
        for number in _numbers(numbers):
            yield f"{name}/{number}"


def _numbers(text: str) -> Iterator[str]:
    """``0,2,4-6`` one by one; anything else as it stands."""
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part)
        if bounds is None:
            yield part.strip()
            continue
        first, last = int(bounds[1]), int(bounds[2])
        step = 1 if last >= first else -1
        yield from map(str, range(first, last + step, step))
