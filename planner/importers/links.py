"""NVLinks between the cards of one host as the device groups of a cluster file.

A file counts links; what one link carries follows from the chip's generation. Links of NVIDIA's
generations carry 20, 25, 25, 25 and 50 GB/s one way (published totals of 80, 150, 300, 450 and
900 GB/s over 4, 6, 12, 18 and 18 links of P100, V100, A100, H100 and B200).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from costmodels.catalog import Catalog, Chip
from costmodels.units import GB
from planner.errors import Problem
from planner.importers.imported import asked
from planner.inputs.document import JsonValue
from planner.inputs.quantities import format_bandwidth, parse_bandwidth

LINK_RATE = {1: 20 * GB, 2: 25 * GB, 3: 25 * GB, 4: 25 * GB, 5: 50 * GB}
"""Bytes/s of one link, one way, by generation."""

LINKS = {1: 4, 2: 6, 3: 12, 4: 18, 5: 18}
"""Links of the largest chip of a generation."""

SAME = 0.02
"""Totals closer than this are the catalogue's."""


@dataclass(frozen=True, slots=True)
class CardLinks:
    """Links among ``cards`` cards: counts of direct ones by pair, and to a switch by card."""

    cards: int
    direct: dict[tuple[int, int], int]
    switched: dict[int, int]

    def between(self, one: int, other: int) -> int:
        """Direct links of a pair."""
        return self.direct.get((min(one, other), max(one, other)), 0)


@dataclass(frozen=True, slots=True)
class Groups:
    """Device groups of a node, in the order in which its devices are numbered."""

    devices: tuple[dict[str, JsonValue], ...]
    order: tuple[int, ...]
    notes: tuple[str, ...]


def device_groups(
    chip: Chip, catalog: Catalog, links: CardLinks, rate: str | None, problems: list[Problem]
) -> Groups:
    """The cards of a host, those on one fabric together. ``rate`` is that of one link, if given."""
    parts = _components(links)
    sizes = sorted({len(part) for part in parts}, reverse=True)
    alias = catalog.alias(chip.id)
    groups: list[dict[str, JsonValue]] = []
    order: list[int] = []
    notes: list[str] = []
    for size in sizes:
        same = [part for part in parts if len(part) == size]
        for shape, members in _by_shape(links, same).items():
            group: dict[str, JsonValue] = {"chip": alias, "count": size * len(members)}
            fabric = _fabric(chip, size, shape, rate, problems, notes)
            alone = len(parts) == 1 and size <= max(chip.fabric_domain, 1)
            if fabric is not None and not (fabric.catalogued and alone):
                group["fabric"] = fabric.entry(size)
            elif fabric is None and chip.fabric is not None:
                group["fabric"] = {
                    "kind": "pcie",
                    "bandwidth_one_way": format_bandwidth(round(chip.host_fabric.total_bandwidth)),
                }
                notes.append(f"the file shows no NVLink between the {alias}: planned over PCIe")
            groups.append(group)
            order += [card for part in members for card in part]
    if order != sorted(order):
        notes.append(f"devices are numbered by fabric: device i is card {order} of the file")
    return Groups(tuple(groups), tuple(order), tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the cards of one fabric are joined: least links of a card, of a pair, by a switch."""

    total: int
    pair: int
    switch: bool


@dataclass(frozen=True, slots=True)
class _Fabric:
    kind: str
    total: int
    pair: int
    mesh: bool
    catalogued: bool

    def entry(self, size: int) -> dict[str, JsonValue]:
        """The fabric of a device group."""
        found: dict[str, JsonValue] = {
            "kind": self.kind,
            "bandwidth_one_way": format_bandwidth(self.total),
            "joins": size,
        }
        if self.pair < self.total:
            found["pair_bandwidth_one_way"] = format_bandwidth(self.pair)
        if self.mesh:
            found["full_mesh"] = True
        return found


def _fabric(
    chip: Chip,
    size: int,
    shape: _Shape,
    rate: str | None,
    problems: list[Problem],
    notes: list[str],
) -> _Fabric | None:
    """The fabric of ``size`` cards; None where there is none."""
    if size == 1 or not shape.total:
        return None
    like = chip.fabric or chip.bridge
    match = re.match(r"nvlink(\d)", like.kind) if like is not None else None
    generation = int(match[1]) if match else 0
    each = _link_rate(generation, rate, problems, chip)
    if each is None:
        return None
    most = LINKS.get(generation, shape.total)
    switch = shape.switch or (size > 2 and shape.total > most)
    count = shape.pair if switch and not shape.switch else shape.total
    total = count * each
    pair = total if switch else shape.pair * each
    known = chip.fabric.total_bandwidth if chip.fabric is not None else 0.0
    catalogued = abs(total / known - 1) <= SAME if known and rate is None else False
    if known and not catalogued and total > known and rate is None:
        message = f"{count} links of {each / GB:g} GB/s are more than {chip.name} has"
        remedy = f"--chip names another card: the catalogue's has {known / GB:g} GB/s one way"
        problems.append(Problem("--chip", message, remedy))
    elif known and not catalogued:
        notes.append(
            f"{count} links of {each / GB:g} GB/s are {total / GB:g} GB/s per card; "
            f"the catalogue has {known / GB:g}"
        )
    kind = like.kind if like is not None else "nvlink"
    return _Fabric(kind, total, pair, not switch and size > 2, catalogued)


def _link_rate(
    generation: int, rate: str | None, problems: list[Problem], chip: Chip
) -> int | None:
    """Bytes/s of one link, one way."""
    if rate is not None:
        try:
            return parse_bandwidth(rate)
        except PydanticCustomError as error:
            remedy = str((error.context or {}).get("remedy", ""))
            problems.append(Problem(f"--nvlink-rate {rate}", error.message(), remedy))
            return None
    if generation in LINK_RATE:
        return round(LINK_RATE[generation])
    why = f"the catalogue does not know which NVLink {chip.name} has"
    found = asked("--nvlink-rate", why, "'25 GB/s' (one link, one way)")
    if found not in problems:
        problems.append(found)
    return None


def _components(links: CardLinks) -> list[tuple[int, ...]]:
    """Cards joined by links, directly or over others, in order of their first card."""
    left = list(range(links.cards))
    parts = []
    on_switch = {card for card, count in links.switched.items() if count}
    while left:
        part = {left[0]}
        while True:
            near = {
                c
                for c in left
                if c not in part
                and (
                    any(links.between(c, p) for p in part) or (c in on_switch and part & on_switch)
                )
            }
            if not near:
                break
            part |= near
        parts.append(tuple(sorted(part)))
        left = [c for c in left if c not in part]
    return parts


def _by_shape(
    links: CardLinks, parts: Sequence[tuple[int, ...]]
) -> dict[_Shape, list[tuple[int, ...]]]:
    found: dict[_Shape, list[tuple[int, ...]]] = {}
    for part in parts:
        pairs = [links.between(a, b) for n, a in enumerate(part) for b in part[n + 1 :]]
        direct = [sum(links.between(a, b) for b in part if b != a) for a in part]
        switched = [links.switched.get(a, 0) for a in part]
        shape = (
            _Shape(min(switched), min(switched), True)
            if any(switched)
            else _Shape(min(direct, default=0), min((p for p in pairs if p), default=0), False)
        )
        found.setdefault(shape, []).append(part)
    return found
