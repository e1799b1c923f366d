"""Options x layers -> integer tables: picoseconds and bytes, rounded once per layer.

Integer sums are the same in any order, so the search, ``estimate`` and the simulator agree to the
last bit. Layers of equal shape are priced once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from costmodels.activation_offload import copy_s, exposed_ps
from costmodels.catalog import Chip, Fabric
from costmodels.collectives import Links
from costmodels.compression import Compression, CompressionName, compression_of
from costmodels.compute import optimizer_update_s
from costmodels.constants import shipped_constants
from costmodels.memory import DeviceOverhead, StateBytes, device_overhead
from costmodels.offload import OFFLOAD_BUFFER_BYTES, HostShare, host_share, offloaded_update_s
from costmodels.price import (
    POLICIES,
    POLICY_OF,
    WAYS,
    LayerConfig,
    LayerPrice,
    price_layer,
)
from costmodels.shapes import LayerShape
from costmodels.sharding import ShardGroup, exposed_gathers_s
from costmodels.training import FULL, Training
from costmodels.units import PS_PER_S
from planner.graphs.across import Port, class_port, legs
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, IslandClass, Route, Topology
from planner.inputs.job import ResolvedJob
from planner.inputs.training import layer_training
from planner.mesh import Part, StageMesh
from planner.options import OptionSet, StageOption

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def picoseconds(seconds: float) -> int:
    """Whole picoseconds of a time in seconds; the only place where times are rounded."""
    return round(seconds * PS_PER_S)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer under one option: picoseconds per micro-batch and bytes per device.

    ``tp_*_ps`` is communication inside the stage: tensor, context and expert parallel, and the
    gathers of ZeRO-3, whose part in the backward pass, by policy, is ``scatter_ps``.
    ``copy_*_ps``: what a pass takes longer because kept activations leave for the host or come
    back, by way (:data:`costmodels.price.WAYS`).
    """

    price: LayerPrice
    forward_ps: int
    backward_input_ps: int
    backward_weight_ps: int
    recompute_ps: tuple[int, ...]
    tp_forward_ps: int
    tp_backward_ps: int
    scatter_ps: tuple[int, ...] = (0,) * len(POLICIES)
    copy_forward_ps: tuple[int, ...] = (0,) * len(WAYS)
    copy_backward_ps: tuple[int, ...] = (0,) * len(WAYS)

    def forward_total_ps(self, way: int) -> int:
        """Forward with its communication and copies."""
        return self.forward_ps + self.tp_forward_ps + self.copy_forward_ps[way]

    def backward_total_ps(self, way: int) -> int:
        """Backward with recomputation, communication and copies."""
        return (
            self.backward_input_ps
            + self.backward_weight_ps
            + self.again_ps(way)
            + self.comm_backward_ps(way)
            + self.copy_backward_ps[way]
        )

    def again_ps(self, way: int) -> int:
        """Recomputation."""
        return self.recompute_ps[POLICY_OF[way]]

    def comm_backward_ps(self, way: int) -> int:
        """Communication of the backward pass."""
        return self.tp_backward_ps + self.scatter_ps[POLICY_OF[way]]

    def copying(self, host: HostShare) -> LayerCost:
        """The same layer, with what its copies to a host and back add."""
        there = [picoseconds(copy_s(self.price.on_host(w), host)) for w in range(len(WAYS))]
        backward = self.backward_input_ps + self.backward_weight_ps
        return replace(
            self,
            copy_forward_ps=tuple(exposed_ps(ps, self.forward_ps) for ps in there),
            copy_backward_ps=tuple(
                exposed_ps(ps, backward + self.again_ps(way)) for way, ps in enumerate(there)
            ),
        )


def layer_cost(
    shape: LayerShape,
    cls: IslandClass,
    mesh: StageMesh,
    rows: int,
    job: ResolvedJob,
    scale: float = 1.0,
    *,
    layer: int | None = None,
    training: Training = FULL,
    port: Port | None = None,
) -> LayerCost:
    """Price one layer on a mesh of a class's chips; ``scale`` maps formulas to a measured rate.

    On a class with a profile, ``layer`` (its index in the model) finds what was measured.
    ``training`` says what of the layer has gradients. ``port`` is what the chips of a mesh on
    several islands have between these: a token crosses once to each that holds an expert of its.
    """
    price = _priced(
        shape,
        cls.chip,
        cls.fabric,
        LayerConfig(
            rows=rows // mesh.dp,
            seq_len=job.seq_len,
            tp=mesh.tp,
            precision=job.precision,
            sequence_parallel=job.sequence_parallel and mesh.tp > 1,
            flash=cls.chip.flash_attention,
            grouped_experts=job.groups_experts(cls.chip),
            training=training,
            cp=mesh.cp,
            ep=mesh.ep,
            expert_tp=mesh.expert_tp if mesh.ep > 1 else None,
            island=0 if port is None else cls.size,
            port=0.0 if port is None else port.bandwidth,
            port_latency_s=0.0 if port is None else port.latency_s,
            once_per_host=port is not None,
            node_limited=port is not None,
        ),
        cls.derate,
    )
    if cls.profile is not None and layer is not None:
        price = cls.profile.price(layer, mesh.tp, rows, price, cls.derate)
    gathers = _gathers_s(price, mesh, cls.fabric, job)
    cost = LayerCost(
        price=price,
        forward_ps=picoseconds(price.forward_s * scale),
        backward_input_ps=picoseconds(price.backward_input_s * scale),
        backward_weight_ps=picoseconds(price.backward_weight_s * scale),
        recompute_ps=tuple(picoseconds(r * scale) for r in price.recompute_s),
        tp_forward_ps=picoseconds(price.tp_comm_forward_s) + picoseconds(gathers[0][0]),
        tp_backward_ps=picoseconds(price.tp_comm_backward_s),
        scatter_ps=tuple(picoseconds(back) for _, back in gathers),
    )
    return cost.copying(class_host(cls))


def class_host(cls: IslandClass) -> HostShare:
    """What a device of the class may count on of its host; memory unknown where nobody said."""
    return cls.host or host_share(None, cls.size, cls.chip.host_fabric.total_bandwidth)


def _gathers_s(
    price: LayerPrice, mesh: StageMesh, fabric: Fabric, job: ResolvedJob
) -> list[tuple[float, float]]:
    """Exposed seconds of ZeRO-3 inside the stage, forward and backward, by policy."""
    if not mesh.zero3:
        return [(0.0, 0.0)] * len(POLICIES)
    dense = price.parameters - price.expert_parameters
    groups = (
        ShardGroup(dense, mesh.copies, mesh.tp),
        ShardGroup(price.expert_parameters, mesh.expert_copies, mesh.ep * mesh.expert_tp),
    )
    return [
        exposed_gathers_s(
            price,
            groups,
            Links(fabric),
            weight_bytes=job.element_bytes,
            gradient_bytes=job.state_bytes.gradient,
            policy=policy,
            gradients_alone=False,
            constants=shipped_constants(),
        )
        for policy in range(len(POLICIES))
    ]


@lru_cache(maxsize=65536)
def _priced(
    shape: LayerShape, chip: Chip, fabric: Fabric, config: LayerConfig, derate: float
) -> LayerPrice:
    return price_layer(shape, chip, fabric, config, derate=derate)


def measured_scale(model: ModelGraph, cls: IslandClass, job: ResolvedJob, rows: int) -> float:
    """Factor from formula to the measured rate of the whole model on one device of the class.

    A measured rate (rows per second, forward and backward) fixes the sum over layers whatever the
    micro-batch; the formulas keep their say only in how that sum divides among the layers.
    """
    if cls.measured_rows_per_s is None:
        return 1.0
    formula = 0.0
    for layer, training in zip(model.layers, layer_training(model, job)):
        cost = layer_cost(layer.shape, cls, StageMesh(), rows, job, training=training).price
        formula += cost.forward_s + cost.backward_input_s + cost.backward_weight_s
    return rows / cls.measured_rows_per_s / formula


@dataclass(frozen=True)
class OptionTable:
    """All layers under one option: arrays of length L.

    Times and activations are ``[way, layer]`` (:data:`costmodels.price.WAYS`): ``activation_bytes``
    of each micro-batch in flight on the device, ``hosted_bytes`` in the host's memory.

    ``parameters`` are those with gradients, ``experts`` those of them that lie on ``ep`` devices;
    frozen weights lie beside the logits in ``logits_bytes``, the bytes that a layer holds whatever
    the plan.
    """

    option: StageOption
    costs: tuple[LayerCost, ...]
    forward_ps: Ints
    backward_ps: Ints
    parameters: Ints
    experts: Ints
    activation_bytes: Ints
    hosted_bytes: Ints
    working_bytes: Ints
    logits_bytes: Ints
    barred: Bools

    @property
    def parts(self) -> tuple[tuple[Ints, Part], ...]:
        """Parameters per layer and device, by how the stage holds them: all others', experts'."""
        mesh = self.option.mesh
        if not self.experts.any():
            return ((self.parameters, mesh.dense),)
        return ((self.parameters - self.experts, mesh.dense), (self.experts, mesh.expert))


@dataclass(frozen=True)
class CostTables:
    """Everything the search needs to know about time and memory, without graphs or formulas.

    ``boundary_bytes[rows][cut]`` is what crosses the cut before layer ``cut``. ``tied``: pairs of
    layers that share a weight.
    """

    tables: tuple[OptionTable, ...]
    boundary_bytes: dict[int, Ints]
    state: StateBytes
    overheads: tuple[DeviceOverhead, ...]
    zero_level: int
    sequence_parallel: bool
    offload_bytes: int = OFFLOAD_BUFFER_BYTES
    compression: CompressionName = "none"
    tied: tuple[tuple[int, int], ...] = ()

    @property
    def packed(self) -> Compression | None:
        """How gradients may be packed between hosts; None where they may not."""
        return compression_of(self.compression, self.state, self.zero_level)

    def offload_buffer(self, option: StageOption) -> int:
        """Bytes of a device through which offloaded state passes; 0 without offload."""
        return self.offload_bytes if option.mesh.offload else 0

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.tables[0].costs)


def build_tables(
    model: ModelGraph, topology: Topology, job: ResolvedJob, options: OptionSet
) -> CostTables:
    """Price every option on every layer."""
    scales: dict[tuple[int, int], float] = {}
    tables = []
    for option in options.options:
        cls = topology.classes[option.class_index]
        key = (cls.index, option.rows // option.mesh.dp)
        if key not in scales:
            scales[key] = measured_scale(model, cls, job, key[1])
        tables.append(
            option_table(
                option,
                model_costs(
                    model,
                    cls,
                    option.mesh,
                    option.rows,
                    job,
                    scales[key],
                    class_port(topology, cls) if option.chips > cls.size else None,
                ),
                job.state_bytes.parameter,
                job.constraints.barred(cls.chip.id, len(model.layers)),
            )
        )
    element = job.element_bytes
    boundaries = {
        rows: np.array(
            [model.boundary_bytes(c, rows, job.seq_len, element) for c in range(len(model.layers))],
            dtype=np.int64,
        )
        for rows in sorted({*job.micro_batch_rows, *(o.rows for o in options.options)})
    }
    return CostTables(
        tables=tuple(tables),
        boundary_bytes=boundaries,
        state=job.state_bytes,
        overheads=tuple(device_overhead(c.chip, c.usable_memory_bytes) for c in topology.classes),
        zero_level=options.zero_level,
        sequence_parallel=job.sequence_parallel,
        compression=job.gradient_compression,
        tied=model.tied,
    )


def model_costs(
    model: ModelGraph,
    cls: IslandClass,
    mesh: StageMesh,
    rows: int,
    job: ResolvedJob,
    scale: float,
    port: Port | None = None,
) -> tuple[LayerCost, ...]:
    """Every layer of the model, equal ones priced once. LookupError where a profile has a gap.

    ``port`` joins the islands of a mesh that is larger than one.
    """
    cache: dict[tuple[LayerShape, Training, int | None], LayerCost] = {}
    out = []
    for index, (layer, training) in enumerate(zip(model.layers, layer_training(model, job))):
        key = (layer.shape, training, None if cls.profile is None else index)
        if key not in cache:
            cache[key] = layer_cost(
                layer.shape,
                cls,
                mesh,
                rows,
                job,
                scale,
                layer=index,
                training=training,
                port=port,
            )
        out.append(cache[key])
    return tuple(out)


def option_table(
    option: StageOption,
    costs: tuple[LayerCost, ...],
    weight_bytes: int = 0,
    barred: Sequence[bool] = (),
) -> OptionTable:
    """Arrays over the layers of one option; a frozen weight takes ``weight_bytes``.

    ``barred``: layers that must not lie on these chips; empty: none.
    """

    def row(values: list[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    def frozen(price: LayerPrice) -> int:
        return weight_bytes * (price.parameters - price.trained_parameters)

    different = {id(c): c for c in costs}  # layers that are alike share one cost
    number = {key: n for n, key in enumerate(different)}
    of = [number[id(c)] for c in costs]

    def by_way(value: Callable[[LayerCost, int], int]) -> Ints:
        each = [[value(c, way) for c in different.values()] for way in range(len(WAYS))]
        return np.array(each, dtype=np.int64)[:, of]

    return OptionTable(
        option=option,
        costs=costs,
        forward_ps=by_way(LayerCost.forward_total_ps),
        backward_ps=by_way(LayerCost.backward_total_ps),
        parameters=row([c.price.trained_parameters for c in costs]),
        experts=row([trained_experts(c.price) for c in costs]),
        activation_bytes=by_way(lambda c, way: c.price.kept(way)),
        hosted_bytes=by_way(lambda c, way: c.price.on_host(way)),
        working_bytes=by_way(lambda c, way: c.price.working(way)),
        logits_bytes=row([c.price.logits_bytes + frozen(c.price) for c in costs]),
        barred=np.array(barred or (False,) * len(costs), dtype=np.bool_),
    )


def fabric_hop_ps(bytes_: int, fabric: Fabric, chips_from: int, chips_to: int) -> int:
    """A micro-batch between two stages of one island: slices over parallel pairs of chips."""
    if bytes_ == 0:
        return 0
    lanes = min(chips_from, chips_to)
    rate = fabric.pair_bandwidth * fabric.efficiency * lanes
    return picoseconds(bytes_ / rate + fabric.latency_s)


def route_hop_ps(bytes_: int, route: Route, share: float) -> int:
    """A micro-batch over a network: the stage's fair share of its host's port."""
    if bytes_ == 0:
        return 0
    return picoseconds(route.seconds(bytes_, share))


def fair_share(cls_from: IslandClass, chips_from: int, cls_to: IslandClass, chips_to: int) -> float:
    """Part of a host port that a stage may count on when all chips of its island use it."""
    return min(chips_from / cls_from.size, chips_to / cls_to.size)


def pipeline_hops_ps(
    topology: Topology, places: Sequence[tuple[Sequence[Island], int]], bytes_: Sequence[int]
) -> list[int | None]:
    """The real hops of a pipeline whose stages lie on ``(islands, chips)``; None without a route.

    A stage in the middle sends activations to one neighbour and gradients to the other; where
    both leave by the same port, each gets half of the stage's fair share, unless transfers block:
    then a stage makes one at a time. Islands of a stage send to those of the next one in turn, all
    at once; the slowest of these ways counts.
    """
    hops: list[int | None] = []
    at_once = not topology.blocking_transfers
    ways = [_ways(topology, a, b) for (a, _), (b, _) in pairwise(places)]
    back = [_ways(topology, b, a) for (a, _), (b, _) in pairwise(places)]
    for s, ((here, chips_a), (there, chips_b)) in enumerate(pairwise(places)):
        a, b = here[0], there[0]
        source, target = topology.classes[a.class_index], topology.classes[b.class_index]
        if a.name == b.name:
            hops.append(fabric_hop_ps(bytes_[s], source.fabric, chips_a, chips_b))
            continue
        if None in ways[s]:
            hops.append(None)
            continue
        out_twice = at_once and s > 0 and share_ports(ways[s], back[s - 1])
        in_twice = at_once and s + 1 < len(ways) and share_ports(back[s], ways[s + 1])
        share = min(
            chips_a / source.size / (2 if out_twice else 1),
            chips_b / target.size / (2 if in_twice else 1),
        )
        each = {(w.bandwidth, w.latency_s, w.points): w for w in ways[s] if w is not None}
        hops.append(max(route_hop_ps(bytes_[s], way, share) for way in each.values()))
    return hops


def _ways(
    topology: Topology, here: Sequence[Island], there: Sequence[Island]
) -> list[Route | None]:
    """The ways of the legs; none inside an island."""
    if here[0].name == there[0].name:
        return []
    return [topology.route(a, b) for a, b in legs(here, there)]


def share_ports(one: Sequence[Route | None], other: Sequence[Route | None]) -> bool:
    """Whether any two ways out of two stages use one resource at the same time."""
    return any(shares_port(a, b) for a in one for b in other)


def blocked_ps(hops: Sequence[int]) -> list[int]:
    """What each stage waits in one pass if transfers block: one hop from the stage before it.

    An engine that works off its exchanges in order sends an activation only after it received the
    gradient for its next backward, so the later stage waits for the way there and back; the
    earlier one finds its gradient delivered while it computed.
    """
    return [0, *hops]


def shares_port(one: Route | None, other: Route | None) -> bool:
    """Whether two ways out of a host use one resource at the same time."""
    return one is not None and other is not None and bool(set(one.resources) & set(other.resources))


def trained_experts(price: LayerPrice) -> int:
    """Parameters of one device with gradients that lie on ``ep`` devices."""
    return price.expert_parameters if price.trained is None else 0


def split_parameters(prices: Sequence[LayerPrice], mesh: StageMesh) -> list[tuple[int, Part]]:
    """Parameters with gradients of some layers on one device, by how the stage holds them."""
    experts = sum(trained_experts(price) for price in prices)
    others = sum(price.trained_parameters for price in prices) - experts
    found = [(others, mesh.dense)]
    return [*found, (experts, mesh.expert)] if experts else found


def sharded_bytes(values: Ints, devices: int) -> Ints:
    """Bytes per layer that each of ``devices`` holds when they share them evenly (ceiling)."""
    return -(-values // devices)


def optimizer_shards(part: Part, pipelines: int, zero_level: int) -> int:
    """Devices that share the optimizer's state of a part.

    ZeRO-1 divides it among the pipelines, and each one's share among the stage's own copies.
    """
    return pipelines * part.copies if zero_level else part.shards


def fixed_bytes(tables: CostTables, table: OptionTable, pipelines: int) -> Ints:
    """Bytes that every layer holds on one device whatever is in flight."""
    state = tables.state
    total = table.logits_bytes
    for parameters, part in table.parts:
        over = optimizer_shards(part, pipelines, tables.zero_level)
        total = (
            total
            + sharded_bytes(parameters * state.parameter, part.shards)
            + sharded_bytes(parameters * state.gradient, part.shards)
        )
        if not table.option.mesh.offload:
            total = total + sharded_bytes(parameters * state.optimizer, over)
    return total


def host_bytes(tables: CostTables, table: OptionTable, pipelines: int) -> Ints:
    """Bytes of state that every layer of a device holds in host memory: 0 without offload."""
    total = np.zeros_like(table.parameters)
    if table.option.mesh.offload:
        for parameters, part in table.parts:
            over = optimizer_shards(part, pipelines, tables.zero_level)
            total = total + sharded_bytes(parameters * tables.state.total, over)
    return total


def host_limit(cls: IslandClass) -> int:
    """Bytes that a device of the class may hold in its host's memory."""
    return 0 if cls.host is None else cls.host.memory_bytes or 0


def offload_buffer(mesh: StageMesh) -> int | None:
    """Bytes of a device through which offloaded state passes; None without offload."""
    return OFFLOAD_BUFFER_BYTES if mesh.offload else None


def gathered_bytes(tables: CostTables, table: OptionTable) -> Ints:
    """Bytes of a layer at work under ZeRO-3: its weights, the next one's, and its gradients."""
    if not table.option.mesh.zero3:
        return np.zeros_like(table.parameters)
    state = tables.state
    return table.parameters * (2 * state.parameter + state.gradient)


def update_s(
    parts: Sequence[tuple[float, Part]],
    pipelines: int,
    zero_level: int,
    state: StateBytes,
    cls: IslandClass,
    *,
    offload: bool = False,
) -> float:
    """Seconds of the optimizer's update on one device: parameters of each part of its layers.

    A measured optimizer step scales the formula's; one that runs on the host was not measured.
    """
    seconds = 0.0
    for parameters, part in parts:
        over = optimizer_shards(part, pipelines, zero_level) // part.shards
        own = -(-parameters // part.shards)
        # fractions of a parameter do not occur: sums of integers may come as floats
        if offload:
            host = class_host(cls)
            seconds += offloaded_update_s(int(own), state, cls.chip, host, over, derate=cls.derate)
        else:
            seconds += optimizer_update_s(int(own), state, cls.chip, over, derate=cls.derate)
    return seconds if offload else seconds * cls.update_scale
