"""Changes of chips in the plain data of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodels.units import GIB
from planner.errors import InputError, Problem
from planner.inputs.chips import resolve_chip
from planner.inputs.cluster import ClusterInput

ClusterData = dict[str, Any]


def chips_of(cluster: ClusterInput) -> tuple[str, ...]:
    """Catalogue ids of the cluster's chips, in the order of its nodes."""
    return tuple(dict.fromkeys(g.chip for node in cluster.spec.nodes for g in node.devices))


def chip_in(cluster: ClusterInput, name: str) -> str:
    """The one chip of the cluster that a name fits; ``v100`` is enough where there is one V100.

    Raises InputError that lists the cluster's chips.
    """
    have = chips_of(cluster)
    if name in have:
        return name
    fits = [chip.id for chip in cluster.catalog.find(name) if chip.id in have]
    if len(fits) == 1:
        return fits[0]
    known = ", ".join(cluster.catalog.alias(i) for i in have)
    if fits:
        names = " and ".join(cluster.catalog.alias(i) for i in fits)
        raise InputError([Problem("", f"{name!r} fits {names}", "write one of them")])
    raise InputError([Problem("", f"the cluster has no {name}", f"it has {known}")])


def replaced(data: ClusterData, cluster: ClusterInput, old: str, new: str) -> ClusterData:
    """Every chip of a kind becomes one of another kind, with the other's own links.

    What was measured on the old chip, or stated of its fabric, does not carry over.
    """
    here = chip_in(cluster, old)
    chip, problem, _ = resolve_chip(new, cluster.catalog, "")
    if chip is None:
        raise InputError([problem] if problem else [Problem("", f"no chip is called {new!r}")])
    keep = ("count", "reserved_gib", "derate")
    nodes = [
        {
            **node,
            "devices": [
                {"chip": chip.id, **{k: g[k] for k in keep if k in g}} if g["chip"] == here else g
                for g in node["devices"]
            ],
        }
        for node in data["nodes"]
    ]
    used = {g["chip"] for node in nodes for g in node["devices"]}
    return {**data, "nodes": nodes, "chips": [r for r in data["chips"] if r["id"] in used]}


def with_fields(data: ClusterData, chip_id: str, fields: Mapping[str, object]) -> ClusterData:
    """The cluster's own record of a chip with these figures in place of the catalogue's."""
    own = [dict(r) for r in data["chips"]]
    for record in own:
        if record["id"] == chip_id:
            record.update(fields)
            return {**data, "chips": own}
    return {**data, "chips": [*own, {"id": chip_id, "inherit": chip_id, **fields}]}


def with_memory(data: ClusterData, cluster: ClusterInput, name: str, factor: float) -> ClusterData:
    """``factor`` times the memory, usable and labelled."""
    chip = cluster.catalog.chips[chip_in(cluster, name)]
    return with_fields(
        data,
        chip.id,
        {
            "memory_gib": chip.memory_bytes * factor / GIB,
            "usable_memory_gib": chip.usable_memory_bytes * factor / GIB,
        },
    )


def with_efficiency(
    data: ClusterData, cluster: ClusterInput, name: str, factor: float
) -> ClusterData:
    """``factor`` times the share of the peak that matrix products reach, at best and sustained."""
    chip = cluster.catalog.chips[chip_in(cluster, name)]
    share = chip.gemm_fraction * factor
    if not 0 < share <= 1:
        message = f"the best product of {chip.name} would reach {share:.0%} of the dense peak"
        remedy = f"at most x{1 / chip.gemm_fraction:.3g}"
        raise InputError([Problem("", message, remedy)])
    sustained = {name: min(1.0, own * factor) for name, own in chip.sustained_shares}
    return with_fields(data, chip.id, {"gemm_fraction": share, "sustained": sustained})


def with_speed(data: ClusterData, cluster: ClusterInput, name: str, factor: float) -> ClusterData:
    """The derate of every such chip times ``factor``."""
    here = chip_in(cluster, name)

    def faster(group: dict[str, Any]) -> dict[str, Any]:
        if group["chip"] != here:
            return group
        changed = {**group, "derate": float(group["derate"]) * factor}
        if changed.get("measured_rows_per_s") is not None:
            changed["measured_rows_per_s"] = changed["measured_rows_per_s"] * factor
        return changed

    nodes = [{**n, "devices": [faster(g) for g in n["devices"]]} for n in data["nodes"]]
    return {**data, "nodes": nodes}
