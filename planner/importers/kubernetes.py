"""Labels of Kubernetes nodes: which chips they hold and on which switches they hang.

Understood are the labels of one node (as GPU Feature Discovery writes them), a Node, and the list
that ``kubectl get nodes -o json`` (or ``-o yaml``) prints. Labels say product, count and memory;
with NVIDIA's topology labels also the switches. They do not say what a port carries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from costmodels.catalog import Catalog, Chip
from planner.errors import InputError, Problem
from planner.importers.given import NETWORK_EXAMPLE, Network, read_network
from planner.importers.imported import Imported, asked, checked_cluster, counted, refuse
from planner.importers.racks import Tree, network_entry, rack_nodes
from planner.inputs.chips import memory_agrees, resolve_chip
from planner.inputs.document import Document, JsonValue

FORMAT = "Kubernetes node labels"

PRODUCT = "nvidia.com/gpu.product"
COUNT = "nvidia.com/gpu.count"
MEMORY = "nvidia.com/gpu.memory"
"""MiB of one card."""
REPLICAS = "nvidia.com/gpu.replicas"
RESOURCE = "nvidia.com/gpu"
LEVELS = tuple(f"network.topology.nvidia.com/{level}" for level in ("leaf", "spine", "core"))
"""Switches from the host upwards."""

MIB = 2**20

PRODUCTS = {"NVIDIA-H100-80GB-HBM3": "H100-SXM-80GB", "NVIDIA-H800": "H800-SXM-80GB"}
"""The driver's names of cards that do not say their form: the PCIe cards are called so."""

_MAKERS = re.compile(r"^(?:(?:NVIDIA|Tesla|GeForce)-)+")


@dataclass(frozen=True, slots=True)
class Node:
    """What the labels of one node say, and where they stand in the file."""

    name: str
    where: str
    chip: str
    count: int
    switches: tuple[str, ...]
    notes: tuple[str, ...]


def import_kubernetes(
    document: Document,
    catalog: Catalog,
    *,
    chips: Sequence[str] = (),
    nodes: int = 1,
    name: str = "node",
    network: str | None = None,
    uplink: str | None = None,
    oversubscription: float | None = None,
) -> Imported:
    """The cluster; ``nodes`` and ``name`` are for a file with the bare labels of one node.

    ``chips`` are texts ``PRODUCT=CHIP`` for products that the catalogue does not know.
    Raises InputError with every problem of the file and the options.
    """
    problems: list[Problem] = []
    listed, without = _nodes(document)
    named = _Products(catalog, _products(chips, problems))
    if listed is None:
        found = [_node(name, document.source, document.data, {}, named, problems)]
        many = nodes
    else:
        found = [_listed(document, item, i, named, problems) for i, item in listed]
        many = 1
        if nodes != 1:
            message = f"the file lists its {len(listed)} nodes itself"
            problems.append(Problem(f"--nodes {nodes}", message, "leave --nodes out"))
    known = [node for node in found if node is not None]
    problems += _twice(known)
    net = read_network(network, problems)
    if network is None and (many > 1 or len(known) > 1):
        why = "labels do not say what the port of a node carries"
        problems.append(asked("--network", why, NETWORK_EXAMPLE))
    tree = _tree(known, problems)
    switches = network_entry(tree, uplink, oversubscription, problems) if tree.switches else []
    refuse(problems)
    entries = _entries(known, tree, net)
    if many > 1 and isinstance(entries[0], dict):
        bare = {key: value for key, value in entries[0].items() if key != "name"}
        entries = [{"name_prefix": name, "count": many, **bare}]
    data: dict[str, JsonValue] = {"name": "cluster", "nodes": entries}
    if switches and net is not None:
        kind: dict[str, JsonValue] = {"kind": net.kind} if net.kind is not None else {}
        data["networks"] = [{"name": "network", **kind, "switches": switches}]
    given = [f"{many} equal nodes"] if many > 1 else []
    given += [f"network {network}"] if network is not None else []
    given += [f"uplinks {uplink}"] if uplink is not None else []
    given += [f"oversubscription {oversubscription:g}"] if oversubscription is not None else []
    notes = [note for node in known for note in node.notes]
    notes += [f"nodes without cards are left out: {', '.join(without)}"] if without else []
    read = _summary(known, tree)
    result = Imported("cluster", document.source, FORMAT, data, read, tuple(given), tuple(notes))
    return checked_cluster(result, catalog)


def _entries(nodes: Sequence[Node], tree: Tree, network: Network | None) -> list[JsonValue]:
    """The node list of the cluster file, switch by switch."""
    entries: list[JsonValue] = []
    for leaf in dict.fromkeys(tree.leaf_of.get(node.name) for node in nodes):
        held: dict[str, list[JsonValue] | None] = {
            node.name: [{"chip": node.chip, "count": node.count}]
            for node in nodes
            if tree.leaf_of.get(node.name) == leaf
        }
        entries += rack_nodes(leaf, held, network)
    return entries


def _summary(nodes: Sequence[Node], tree: Tree) -> tuple[str, ...]:
    """What was read, in words."""
    cards = counted(sum(node.count for node in nodes), "card")
    read = f"{counted(len(nodes), 'node')} with {cards}"
    if not tree.leaves:
        return (read,)
    return read, counted(len(tree.leaves), "leaf switch", "leaf switches")


def _nodes(document: Document) -> tuple[list[tuple[int, JsonValue]] | None, list[str]]:
    """Nodes of a list with their numbers and names of those without cards; None: bare labels."""
    data = document.data
    if not isinstance(data, dict):
        message = "is neither labels nor a node nor a list of nodes"
        remedy = "kubectl get nodes -o json > nodes.json"
        raise InputError([Problem(document.source, message, remedy)])
    items = data.get("items")
    if isinstance(items, list):
        whole = list(enumerate(items))
    elif data.get("kind") == "Node" or "metadata" in data:
        whole = [(-1, data)]
    else:
        return None, []
    cards = [(i, item) for i, item in whole if PRODUCT in _labels(item) or COUNT in _labels(item)]
    if not cards:
        message = f"no node has the label {PRODUCT}"
        remedy = "GPU Feature Discovery writes it; without it write the cluster file by hand"
        raise InputError([Problem(document.source, message, remedy)])
    kept = {i for i, _ in cards}
    return cards, [_name(item) for i, item in whole if i not in kept]


def _part(item: JsonValue, *path: str) -> Mapping[str, JsonValue]:
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item if isinstance(item, dict) else {}


def _labels(item: JsonValue) -> Mapping[str, JsonValue]:
    return _part(item, "metadata", "labels")


def _name(item: JsonValue) -> str:
    return str(_part(item, "metadata").get("name") or "")


def _listed(
    document: Document, item: JsonValue, i: int, products: _Products, problems: list[Problem]
) -> Node | None:
    where = document.where(("items", i, "metadata", "labels") if i >= 0 else ("metadata", "labels"))
    name = _name(item)
    if not name:
        problems.append(Problem(where, "the node has no metadata.name", "give every node a name"))
    free = _part(item, "status", "allocatable")
    return _node(name, where, dict(_labels(item)), free, products, problems)


def _node(
    name: str,
    where: str,
    labels: JsonValue,
    free: Mapping[str, JsonValue],
    products: _Products,
    problems: list[Problem],
) -> Node | None:
    """One node from its labels; None where they are not enough."""
    found = labels if isinstance(labels, dict) else {}
    product = str(found.get(PRODUCT) or "")
    count = _whole(found, COUNT, where, problems)
    if not product:
        message = f"has no label {PRODUCT}"
        problems.append(Problem(where, message, "GPU Feature Discovery writes it"))
        return None
    refused = _parts_of_cards(found, product, where)
    if refused is not None:
        problems.append(refused)
        return None
    chip, problem, note = products.chip(product, f"{where}: {PRODUCT}")
    if problem is not None and problem not in problems:
        problems.append(problem)
    if chip is None or count is None:
        return None
    memory = _whole(found, MEMORY, where, problems) if MEMORY in found else None
    if memory is not None and not memory_agrees(chip, memory * MIB):
        message = f"{memory:,} MiB are not the {chip.memory_bytes // MIB:,} MiB of {chip.name}"
        remedy = "the label and the product name two different cards: look with nvidia-smi"
        problems.append(Problem(f"{where}: {MEMORY}", message, remedy))
    notes = [note] if note else []
    given = free.get(RESOURCE)
    if given is not None and str(given).isdigit() and int(str(given)) < count:
        notes.append(f"{name}: {given} of its {count} cards can be allocated; planned with {given}")
        count = int(str(given))
        if not count:
            problems.append(Problem(where, "none of its cards can be allocated", "leave it out"))
    switches = tuple(str(found[level]) for level in LEVELS if found.get(level))
    return Node(name, where, Catalog.alias(chip.id), count, switches, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Products:
    """From the label's product to a chip: what options say, then known names, then the rest."""

    catalog: Catalog
    given: Mapping[str, str]

    def chip(self, product: str, where: str) -> tuple[Chip | None, Problem | None, str]:
        """As :func:`resolve_chip`; the remedy names the option."""
        name = self.given.get(product) or PRODUCTS.get(product) or _MAKERS.sub("", product)
        chip, problem, note = resolve_chip(name, self.catalog, where)
        if problem is None:
            return chip, None, note
        message = f"{product}: {problem.message}"
        remedy = f"say which chip it is: --chip {product}=NAME ({problem.remedy})"
        return None, Problem(where, message, remedy), ""


def _products(texts: Sequence[str], problems: list[Problem]) -> dict[str, str]:
    found = {}
    for text in texts:
        product, equals, name = text.partition("=")
        if not equals:
            remedy = "write --chip PRODUCT=NAME, the product as the label has it"
            problems.append(Problem(f"--chip {text}", "does not say which product", remedy))
        found[product.strip()] = name.strip()
    return found


def _parts_of_cards(labels: Mapping[str, JsonValue], product: str, where: str) -> Problem | None:
    """Cards that are cut (MIG) or shared (time slicing) are not whole chips."""
    replicas = str(labels.get(REPLICAS) or "1")
    if "-MIG-" in product:
        message = f"{product} is a part of a card"
        remedy = "switch MIG off on nodes that train, or leave the node out"
        return Problem(f"{where}: {PRODUCT}", message, remedy)
    if "-SHARED" in product or (replicas.isdigit() and int(replicas) > 1):
        message = f"its cards are shared ({replicas} pods on each)"
        remedy = "switch time slicing off on nodes that train, or leave the node out"
        return Problem(f"{where}: {REPLICAS}", message, remedy)
    return None


def _whole(
    labels: Mapping[str, JsonValue], key: str, where: str, problems: list[Problem]
) -> int | None:
    value = labels.get(key)
    if value is None:
        problems.append(Problem(where, f"has no label {key}", "GPU Feature Discovery writes it"))
        return None
    if not str(value).isdigit() or int(str(value)) < 1:
        message = f"{value!r} is not a whole number of at least 1"
        problems.append(Problem(f"{where}: {key}", message, "look at the node's labels"))
        return None
    return int(str(value))


def _twice(nodes: Sequence[Node]) -> list[Problem]:
    first: dict[str, Node] = {}
    found = []
    for node in nodes:
        other = first.setdefault(node.name, node)
        if other is not node:
            place = f"{other.where} and {node.where}"
            message = f"the node {node.name} is listed twice"
            found.append(Problem(place, message, "list every node once"))
    return found


def _tree(nodes: Sequence[Node], problems: list[Problem]) -> Tree:
    """Switches by the topology labels, if every node has them; empty if none has."""
    tree = Tree()
    labelled = [node for node in nodes if node.switches]
    if not labelled:
        return tree
    for node in nodes:
        if not node.switches:
            message = f"{node.name} has no label {LEVELS[0]}, other nodes have"
            problems.append(Problem(node.where, message, "label all nodes or none"))
    for node in labelled:
        tree.on.setdefault(node.switches[0], []).append(node.name)
        tree.leaf_of[node.name] = node.switches[0]
        for lower, upper in zip(node.switches, node.switches[1:]):
            below = tree.below.setdefault(upper, [])
            if lower not in below:
                below.append(lower)
    for switch in [*tree.on]:
        tree.below.setdefault(switch, [])
    for switch in tree.below:
        tree.on.setdefault(switch, [])
    if len(tree.roots) > 1:
        message = f"no label says what joins the switches {', '.join(tree.roots)}"
        remedy = f"add the label {LEVELS[1]}"
        problems.append(Problem(labelled[0].where, message, remedy))
    return tree
