"""A layer graph on the chips of a cluster, as an operator graph: one chip per stage.

Times come from the cost tables: forward, backward and recomputation of one micro-batch on one
chip. A tensor is sent forward as an activation and comes back as a gradient; it is priced over the
slowest route that a kind of chip has to any other, with a chip's fair share of its host's port.
Memory is that of training: a layer keeps its state, its logits and its activations of as many
micro-batches as there are stages at most, which is what the first stage of a 1F1B pipeline holds.
So a partition that fits here fits in a pipeline; what the others keep less is left unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from costmodels.catalog.names import short_name
from costmodels.memory import device_overhead
from costmodels.price import POLICIES
from costmodels.units import PS_PER_S
from planner.checks import check_inputs
from planner.costing import (
    LayerCost,
    fabric_hop_ps,
    fair_share,
    layer_cost,
    measured_scale,
    route_hop_ps,
)
from planner.errors import InputError, Problem
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.job import JobInput, ResolvedJob
from planner.inputs.layer_order import ORDER_NOTE
from planner.inputs.model import ModelInput
from planner.inputs.operator_graph import (
    MAX_DEVICES,
    GraphDevice,
    GraphNode,
    GraphTensor,
    OperatorGraph,
)
from planner.mesh import StageMesh
from planner.resolve import topology_and_job


@dataclass(frozen=True, slots=True)
class PricedGraph:
    """The graph under one recomputation policy, and what was assumed to price it."""

    graph: OperatorGraph
    policy: str
    assumptions: tuple[str, ...]


def priced_graphs(model: ModelInput, cluster: ClusterInput, job: JobInput) -> list[PricedGraph]:
    """The graph under every allowed recomputation policy, the fastest first.

    Raises InputError where the inputs contradict one another or there are too many chips.
    """
    topology, resolved = topology_and_job(model, cluster, job)
    problems, _ = check_inputs(model, cluster, resolved, topology)
    if resolved.constraints.pinned_layers:
        message = "the partition of a graph takes no pinned layers"
        problems = [*problems, Problem("job: pinned_layers", message, "planner plan obeys them")]
    if topology.chips > MAX_DEVICES:
        message = f"{topology.chips} chips; one copy of a graph is put on {MAX_DEVICES} at most"
        remedy = "give the chips of one pipeline, or let planner plan use them all"
        problems = [*problems, Problem(f"cluster {cluster.name}", message, remedy)]
    if problems:
        raise InputError(problems)
    policies = [0]
    policies += [1] if resolved.recompute_selective else []
    policies += [2] if resolved.recompute_full else []
    return [_priced(model, topology, resolved, policy) for policy in policies]


def _priced(model: ModelInput, topology: Topology, job: ResolvedJob, policy: int) -> PricedGraph:
    rows = min(job.micro_batch_rows)
    graph = model.graph
    costs = [_costs(graph, cls, rows, job) for cls in topology.classes]
    stages = min(topology.chips, len(graph.layers))
    names = _names(topology)
    nodes = tuple(
        GraphNode.model_validate(
            {
                "name": layer.name,
                "time_s": {n: _time_s(c[v], policy) for n, c in zip(names, costs)},
                "memory_bytes": max(_memory(c[v], policy, stages, job) for c in costs),
            }
        )
        for v, layer in enumerate(graph.layers)
    )
    tensors = tuple(
        GraphTensor.model_validate(
            {
                "from": graph.layers[source].name,
                "to": [graph.layers[e.target].name for e in graph.edges if e.source == source],
                "time_s": {
                    name: 2 * _transfer_ps(topology, cls, size) / PS_PER_S
                    for name, cls in zip(names, topology.classes)
                },
            }
        )
        for source, size in sorted(_tensor_bytes(graph, rows, job).items())
    )
    devices = tuple(
        GraphDevice(
            name=names[i],
            count=cls.chips,
            memory_bytes=max(0, _room(graph, cls, costs[i], policy, rows, job)),
        )
        for i, cls in enumerate(topology.classes)
    )
    return PricedGraph(
        OperatorGraph(name=model.name, devices=devices, nodes=nodes, tensors=tensors),
        POLICIES[policy],
        (
            *(note for note in model.notes if not note.startswith(ORDER_NOTE)),
            *job.notes,
            *topology.assumptions,
            f"times are of micro-batches of {rows} row{'s' if rows > 1 else ''}, "
            f"recomputation {POLICIES[policy]}",
            f"every stage keeps the activations of {stages} micro-batches, as the first one does",
            "a tensor is priced over the slowest route that a kind of chip has to any other",
        ),
    )


def _names(topology: Topology) -> list[str]:
    """The chip of every class, or the class where two have the same chip."""
    chips = [short_name(cls.chip.id) for cls in topology.classes]
    return [
        chip if chips.count(chip) == 1 else cls.name for chip, cls in zip(chips, topology.classes)
    ]


def _costs(graph: ModelGraph, cls: IslandClass, rows: int, job: ResolvedJob) -> list[LayerCost]:
    scale = measured_scale(graph, cls, job, rows)
    return [layer_cost(layer.shape, cls, StageMesh(), rows, job, scale) for layer in graph.layers]


def _time_s(cost: LayerCost, policy: int) -> float:
    return (cost.forward_total_ps(policy) + cost.backward_total_ps(policy)) / PS_PER_S


def _memory(cost: LayerCost, policy: int, stages: int, job: ResolvedJob) -> int:
    price = cost.price
    kept = stages * price.activation_bytes[policy]
    return price.parameters * job.state_bytes.total + kept + price.logits_bytes


def _room(
    graph: ModelGraph,
    cls: IslandClass,
    costs: Sequence[LayerCost],
    policy: int,
    rows: int,
    job: ResolvedJob,
) -> int:
    """What a chip has left for the layers: overheads, working memory and buffers are taken off."""
    overhead = device_overhead(cls.chip, cls.usable_memory_bytes)
    working = max(cost.price.working_bytes[policy] for cost in costs)
    widest = max(
        (
            graph.boundary_bytes(cut, rows, job.seq_len, job.element_bytes)
            for cut in range(1, len(graph.layers))
        ),
        default=0,
    )
    taken = overhead.context_bytes + overhead.buffer_bytes + overhead.fragmentation_bytes
    return cls.usable_memory_bytes - taken - working - 4 * widest  # both cuts, double-buffered


def _tensor_bytes(graph: ModelGraph, rows: int, job: ResolvedJob) -> dict[int, int]:
    """Bytes of every layer's output."""
    return {
        e.source: rows
        * (e.elements_per_token * job.seq_len + e.elements_per_row)
        * job.element_bytes
        for e in graph.edges
    }


def _transfer_ps(topology: Topology, cls: IslandClass, size: int) -> int:
    """One direction over the slowest route of a kind of chip; 0 where it is the only chip."""
    times = [fabric_hop_ps(size, cls.fabric, 1, 1)] if cls.size > 1 else []
    for other in topology.classes:
        if other.index == cls.index and cls.count == 1:
            continue
        route = topology.class_routes[cls.index, other.index]
        if route is None:
            message = f"no network joins {cls.name} and {other.name}"
            raise InputError([Problem("cluster", message, "connect them, or leave one out")])
        times.append(route_hop_ps(size, route, fair_share(cls, 1, other, 1)))
    return max(times, default=0)
