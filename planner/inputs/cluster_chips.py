"""What a cluster says about its chips, against the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from costmodels.catalog import Catalog, CatalogError, Chip, cross_vendor
from costmodels.units import GIB
from planner.errors import Problem
from planner.inputs.chips import extended_catalog, memory_agrees, resolve_chip
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.document import DataPath, Document, JsonValue
from planner.inputs.quantities import describe_bandwidth, parse_memory
from planner.inputs.reading import nearest

LIBRARIES = ("flagcx", "dicomm")
"""Libraries that reduce gradients between vendors and whose cost the catalogue describes."""

STAGED = ("cpu-staged", "cpu-staged-rdma")


@dataclass
class ChipNames:
    """Catalogue ids by name as written; what was found on the way."""

    ids: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def own_catalog(document: Document, catalog: Catalog) -> tuple[Catalog, list[Problem]]:
    """The catalogue with the file's own chips; where one is wrong, without them all."""
    records = own_records(document)
    try:
        return extended_catalog(catalog, records), []
    except CatalogError as error:
        return catalog, [
            Problem(document.where(_chip_path(p.where, records)), p.message, p.remedy)
            for p in error.problems
        ]


def own_records(document: Document) -> list[dict[str, Any]]:
    """The chip records of a file that may still be invalid."""
    data = document.data
    records = data.get("chips") if isinstance(data, dict) else None
    found = records if isinstance(records, list) else []
    return [cast("dict[str, Any]", r) for r in found if isinstance(r, dict)]


def _chip_path(where: str, records: list[dict[str, Any]]) -> DataPath:
    """``my-chip.fp16_tflops`` as the place in the file."""
    for index, record in enumerate(records):
        for name in (str(record.get("id")), f"chips[{index}]"):
            if where == name:
                return ("chips", index)
            if where.startswith(f"{name}."):
                return ("chips", index, where.removeprefix(f"{name}."))
    return ("chips",)


def resolve_names(document: Document, catalog: Catalog, skip: frozenset[str]) -> ChipNames:
    """Resolves every chip name of a file that may still be invalid; each problem once.

    ``skip`` are ids of own chips that were refused already.
    """
    found = ChipNames()
    seen: dict[str, Chip | None] = {}
    for path, group in _device_groups(document.data):
        name = group.get("chip")
        if not isinstance(name, str) or not name or name in skip:
            continue
        if name not in seen:
            where = document.where((*path, "chip"))
            seen[name], problem, note = resolve_chip(name, catalog, where)
            found.problems += [problem] if problem else []
            found.notes += [note] if note else []
        chip = seen[name]
        if chip is None:
            continue
        found.ids[name] = chip.id
        label = group.get("memory_label")
        try:
            stated = parse_memory(label)
        except ValueError:
            continue  # absent, or reported by the validation of the field
        have = chip.memory_bytes / GIB
        if not memory_agrees(chip, stated):
            where = document.where((*path, "memory_label"))
            message = f"{label} differs from the catalogue's {have:g} GiB by more than 5 %"
            remedy = "name the variant that you have, or define your own under chips"
            found.problems.append(Problem(where, message, remedy))
        else:
            found.notes.append(f"{name}: labelled {label}; planned with {have:g} GiB")
    return found


def _device_groups(data: JsonValue) -> Iterator[tuple[DataPath, dict[str, JsonValue]]]:
    nodes = data.get("nodes") if isinstance(data, dict) else None
    for i, node in enumerate(nodes if isinstance(nodes, list) else ()):
        devices = node.get("devices") if isinstance(node, dict) else None
        for j, group in enumerate(devices if isinstance(devices, list) else ()):
            if isinstance(group, dict):
                yield ("nodes", i, "devices", j), group


def with_ids(data: JsonValue, ids: Mapping[str, str]) -> dict[str, JsonValue]:
    """The data of a valid cluster with catalogue ids in place of aliases."""
    cluster = cast("dict[str, Any]", data)
    nodes = [
        {**node, "devices": [{**g, "chip": ids[g["chip"]]} for g in node["devices"]]}
        for node in cluster["nodes"]
    ]
    return {**cluster, "nodes": nodes}


def check_against_chips(
    spec: ClusterSpec, document: Document, catalog: Catalog
) -> Iterator[Problem]:
    """Reserved memory and bridges against the catalogue; chips are named by id."""
    for i, node in enumerate(spec.nodes):
        for j, group in enumerate(node.devices):
            path: DataPath = ("nodes", i, "devices", j)
            chip = catalog.chips[group.chip]
            usable = chip.usable_memory_bytes / GIB
            if group.reserved_gib >= usable:
                yield Problem(
                    document.where((*path, "reserved_gib")),
                    f"{group.reserved_gib:g} GiB are reserved of {usable:.1f} GiB usable",
                    "leave the device out of the list if it is taken",
                )
            unknown = chip.bridge is None and chip.fabric is None
            if group.fabric and group.fabric.bandwidth_one_way is None and unknown:
                yield Problem(
                    document.where((*path, "fabric")),
                    f"the catalogue knows no bridge for {catalog.alias(chip.id)}",
                    "add bandwidth_one_way, the total of one card's links",
                )


def check_cross_vendor(
    spec: ClusterSpec, document: Document, catalog: Catalog
) -> Iterator[Problem]:
    """How vendors meet: a known way, and one that covers the chips at hand."""
    chips = [catalog.chips[g.chip] for node in spec.nodes for g in node.devices]
    chosen = {
        "cross_vendor_collectives": (spec.cross_vendor_collectives, ("none", "cpu-staged")),
        "cross_vendor_transfers": (spec.cross_vendor_transfers or "cpu-staged", STAGED),
    }
    for name, (value, plain) in chosen.items():
        options = (*plain, *LIBRARIES)
        close = nearest(value, options, count=1)
        if value not in options and (close or name == "cross_vendor_transfers"):
            remedy = f"did you mean {close[0]}?" if close else f"one of {', '.join(options)}"
            yield Problem(document.where((name,)), f"{value!r} is not known", remedy)
        elif value in LIBRARIES:
            refused = cross_vendor(value).unsupported_backends
            for chip_id in sorted({c.id for c in chips if c.dist_backend in refused}):
                yield Problem(
                    document.where((name,)),
                    f"{value} does not cover {catalog.alias(chip_id)}",
                    "use cpu-staged",
                )


def warn_slow_fabrics(spec: ClusterSpec, document: Document, catalog: Catalog) -> Iterator[Problem]:
    """A scale-up link slower than PCIe, or a network faster than what is inside a node."""
    for i, node in enumerate(spec.nodes):
        inside = 0.0
        for j, group in enumerate(node.devices):
            chip = catalog.chips[group.chip]
            host = chip.host_fabric.total_bandwidth
            own = (chip.fabric or chip.host_fabric).total_bandwidth
            stated = group.fabric.bandwidth_one_way if group.fabric else None
            if stated is not None and stated < host:
                yield Problem(
                    document.where(("nodes", i, "devices", j, "fabric", "bandwidth_one_way")),
                    f"{describe_bandwidth(stated)} is slower than the chip's host link, "
                    f"{describe_bandwidth(host)}",
                    "check Gb/s against GB/s, and that it is the total of one chip",
                )
            inside += group.count * float(stated or own)
        network = max((float(n.bandwidth_one_way * n.count) for n in node.nics), default=0.0)
        if network > inside:
            yield Problem(
                document.where(("nodes", i, "nics")),
                f"the network of the node ({describe_bandwidth(network)}) is faster than all links "
                f"inside it ({describe_bandwidth(inside)})",
                "check Gb/s against GB/s, and the number of ports",
            )
