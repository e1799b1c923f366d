"""Changes of how many nodes and chips a cluster has, in its plain data."""

from __future__ import annotations

from typing import Any

from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterInput
from planner.scenario.chips import chip_in

ClusterData = dict[str, Any]
Node = dict[str, Any]


def with_count(data: ClusterData, cluster: ClusterInput, of: str, count: int) -> ClusterData:
    """So many nodes of a kind in all."""
    if count < 0:
        raise InputError([Problem("", f"{count} nodes cannot be had", "give 0 or more")])
    have = sum(int(n["count"]) for n in _matching(data, cluster, of))
    return with_more(data, cluster, of, count - have)


def with_more(data: ClusterData, cluster: ClusterInput, of: str, count: int) -> ClusterData:
    """More nodes like the last of a kind, or fewer from the last backwards."""
    matching = _matching(data, cluster, of)
    if count == 0:
        return data
    have = sum(int(n["count"]) for n in matching)
    if count < -have:
        message = f"{-count} nodes are to go, but there are {have} of them"
        raise InputError([Problem("", message, f"{-have} takes all of them away")])
    nodes = _fewer(data["nodes"], matching, -count) if count < 0 else list(data["nodes"])
    if count > 0:
        nodes.append(_copy(matching[-1], count, data["nodes"]))
        if not nodes[-1]["nics"]:
            message = "these nodes have no network: a further one could not be joined"
            remedy = "describe the cluster with its network, for example '… @ 100Gb/s'"
            raise InputError([Problem("", message, remedy)])
    if not nodes:
        raise InputError([Problem("", "no node is left", "leave at least one")])
    return {**data, "nodes": nodes, "chips": _records_in_use(data, nodes)}


def with_more_chips(data: ClusterData, cluster: ClusterInput, of: str, count: int) -> ClusterData:
    """One node of the kind with more chips, or with fewer; the other nodes stay."""
    chip = chip_in(cluster, of)
    matching = [n for n in data["nodes"] if any(g["chip"] == chip for g in n["devices"])]
    node = matching[-1]
    groups = []
    left = count
    for group in node["devices"]:
        if group["chip"] == chip and left:
            size = int(group["count"]) + left
            left = min(0, size)
            if size > 0:
                groups.append({**group, "count": size})
        else:
            groups.append(group)
    if left:
        message = f"a node has not {-count} chips of this kind"
        raise InputError([Problem("", message, "take whole nodes: nodes CHIP -1")])
    rest = _fewer(data["nodes"], [node], 1)
    nodes = [*rest, {**_copy(node, 1, rest), "devices": groups}] if groups else rest
    if not nodes:
        raise InputError([Problem("", "no chip is left", "leave at least one")])
    return {**data, "nodes": nodes, "chips": _records_in_use(data, nodes)}


def _matching(data: ClusterData, cluster: ClusterInput, of: str) -> list[Node]:
    """Entries of the node list that hold a chip or have a name."""
    named = [n for n in data["nodes"] if of in (n["name"], n["name_prefix"])]
    if named:
        return named
    chip = chip_in(cluster, of)
    return [n for n in data["nodes"] if any(g["chip"] == chip for g in n["devices"])]


def _fewer(nodes: list[Node], matching: list[Node], count: int) -> list[Node]:
    """The nodes without ``count`` of the matching ones, the last ones first."""
    left = count
    kept: list[Node] = []
    for node in reversed(nodes):
        if left and any(node is m for m in matching):
            gone = min(left, int(node["count"]))
            left -= gone
            if gone == int(node["count"]):
                continue
            node = {**node, "count": int(node["count"]) - gone}
        kept.append(node)
    return kept[::-1]


def _copy(node: Node, count: int, nodes: list[Node]) -> Node:
    """``count`` more hosts like one, under names that nobody has."""
    stem = str(node["name_prefix"] or f"{node['name']}-")
    taken = {name for n in nodes for name in _host_names(n)}
    first = int(node["first_index"]) + int(node["count"]) if node["name"] is None else 0
    while any(f"{stem}{first + i}" in taken for i in range(count)):
        first += 1
    return {**node, "name": None, "name_prefix": stem, "first_index": first, "count": count}


def _host_names(node: Node) -> list[str]:
    if node["name"] is not None:
        return [str(node["name"])]
    first = int(node["first_index"])
    return [f"{node['name_prefix']}{i}" for i in range(first, first + int(node["count"]))]


def _records_in_use(data: ClusterData, nodes: list[Node]) -> list[dict[str, Any]]:
    used = {g["chip"] for node in nodes for g in node["devices"]}
    return [r for r in data["chips"] if r["id"] in used]
