"""What the topology took for granted, as sentences for the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodels.catalog import Catalog
from costmodels.catalog.links import CrossVendor
from planner.graphs.classes import MAX_GROUPS, Members
from planner.graphs.hosts import HostType, Port
from planner.inputs.cluster_spec import ClusterSpec
from planner.inputs.quantities import describe_bandwidth


def topology_assumptions(
    spec: ClusterSpec,
    types: Sequence[HostType],
    unsplit: Sequence[Members],
    staging: CrossVendor,
    catalog: Catalog,
) -> tuple[str, ...]:
    """Every figure that was assumed and not given, each once, in a fixed order."""
    lines = [
        *_kinds(spec),
        *_ports(types),
        *_unsplit(unsplit, catalog),
        *_vendors(types, staging),
        *_chips(types, catalog),
    ]
    return tuple(dict.fromkeys(lines))


def _kinds(spec: ClusterSpec) -> Iterator[str]:
    stated = {n.name: n.kind for n in spec.networks}
    for name in sorted(
        {nic.network for node in spec.nodes for nic in node.nics if nic.kind is None}
    ):
        if stated.get(name) is None:
            yield f"network {name}: kind tcp assumed (none was given)"


def _ports(types: Sequence[HostType]) -> Iterator[str]:
    ports = {p for t in types for p in t.ports if not p.stated}
    for port in sorted(ports, key=lambda p: (p.network, p.kind, p.nominal)):
        yield (
            f"network {port.network}: {port.kind} at {_rate(port)} per host achieves "
            f"{port.achievable / port.nominal:.0%}, {port.achievable / 1e9:.3g} GB/s"
        )


def _rate(port: Port) -> str:
    return describe_bandwidth(port.nominal)


def _unsplit(unsplit: Sequence[Members], catalog: Catalog) -> Iterator[str]:
    for members in unsplit:
        shape = members[0].shape
        yield (
            f"{shape.size}x{catalog.alias(shape.chip.id)}: more than {MAX_GROUPS} groups of hosts "
            "behind slow uplinks are searched as one class; placement prices the real routes"
        )


def _vendors(types: Sequence[HostType], staging: CrossVendor) -> Iterator[str]:
    vendors = {s.chip.vendor for t in types for s in t.islands}
    if len(vendors) > 1:
        yield (
            f"between vendors ({', '.join(sorted(vendors))}): {staging.name}, "
            f"{staging.efficiency:.0%} of the nominal rate and {staging.latency_s * 1e6:g} us "
            "per message; never measured publicly"
        )


def _chips(types: Sequence[HostType], catalog: Catalog) -> Iterator[str]:
    chips = {s.chip.id: s.chip for t in types for s in t.islands}
    for chip_id in sorted(chips):
        for sentence in chips[chip_id].assumed:
            yield f"{catalog.alias(chip_id)}: {sentence}"
