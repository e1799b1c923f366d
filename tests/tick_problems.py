"""Problems made of small integers, without files, graphs or formulas.

Time is counted in ticks of ten microseconds, a few of which are an update's kernel launches; a
link of `TICK_RATE` moves a byte per tick; memory is counted in single bytes. Small integers make
every tie, rounding and off-by-one visible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodels.catalog import Chip, Fabric
from costmodels.compression import CompressionName
from costmodels.constants import shipped_constants
from costmodels.memory import DeviceOverhead, StateBytes
from costmodels.price import LayerPrice
from costmodels.units import PS_PER_S
from planner.costing import CostTables, LayerCost, OptionTable, class_host, option_table
from planner.graphs.topology import Island, IslandClass, Route, Topology
from planner.mesh import StageMesh
from planner.options import StageOption
from planner.search.problem import Problem, Setting

TICK_PS = 10**7
"""Picoseconds of one tick."""

TICK_S = TICK_PS / PS_PER_S
"""Seconds of one tick."""

TICK_RATE = 1.0 / TICK_S
"""Bytes per second at which one byte takes one tick."""

UPDATE_PS = round(4 * shipped_constants().launch_s * PS_PER_S)
"""An update without parameters moves nothing: norm, clipping, update and cast are a launch each."""

AMPLE = 10**6
"""More bytes than any tiny problem needs."""

OFFLOAD_BYTES = 2
"""Buffers of a device whose state lies on its host."""

SMALL_STATE = StateBytes(1, 1, 2)
NO_OVERHEAD = DeviceOverhead(0, 0, 0)


@dataclass(frozen=True)
class LayerTicks:
    """One layer on one chip of speed 1 and one row: ticks and bytes."""

    forward: int
    backward: int
    recompute: tuple[int, int, int] = (0, 0, 0)
    parameters: int = 0
    activations: tuple[int, int, int] = (0, 0, 0)
    working: tuple[int, int, int] = (0, 0, 0)
    logits: int = 0
    experts: int = 0


def tick_chip(name: str, *, vendor: str = "vendor", bandwidth: float = TICK_RATE) -> Chip:
    """A chip whose memory moves ``bandwidth`` bytes/s; its FLOP/s are never asked for."""
    link = Fabric("link", TICK_RATE, TICK_RATE, 1.0, 0.0, False)
    return Chip(
        id=name,
        name=name,
        vendor=vendor,
        peak_flops=(("fp16", 1e12),),
        memory_bytes=AMPLE,
        usable_memory_bytes=AMPLE,
        memory_bandwidth=bandwidth,
        gemm_fraction=1.0,
        fabric=link,
        host_fabric=link,
        fabric_domain=8,
        nic_bytes_per_s=TICK_RATE,
        torch_device="cuda",
        dist_backend="nccl",
        flash_attention=True,
        price_usd_per_hour=None,
        confidence="high",
    )


def island_class(
    index: int,
    size: int,
    count: int,
    *,
    memory: int = AMPLE,
    fabric_rate: float = TICK_RATE,
    latency_ticks: int = 0,
    update_rate: float = TICK_RATE,
    vendor: str = "vendor",
) -> IslandClass:
    """``count`` islands of ``size`` chips; rates in bytes/s."""
    name = f"class{index}"
    islands = tuple(
        Island(f"{name}-{k}", f"{name}-{k}", index, tuple(f"{name}-{k}/{d}" for d in range(size)))
        for k in range(count)
    )
    return IslandClass(
        index=index,
        name=name,
        chip=tick_chip(name, vendor=vendor, bandwidth=update_rate),
        size=size,
        fabric=Fabric("fabric", fabric_rate, fabric_rate, 1.0, latency_ticks * TICK_S, False),
        islands=islands,
        derate=1.0,
        reserved_bytes=0,
        usable_memory_bytes=memory,
        host_memory_bytes=None,
    )


def topology(
    classes: tuple[IslandClass, ...], routes: dict[tuple[int, int], Route | None]
) -> Topology:
    """Classes joined by one route per pair of classes."""

    def route(source: Island, target: Island) -> Route | None:
        return routes.get((source.class_index, target.class_index))

    return Topology("ticks", classes, routes, route, {}, "none")


def even_routes(
    classes: tuple[IslandClass, ...], rate: float = TICK_RATE, latency_ticks: int = 0
) -> dict[tuple[int, int], Route | None]:
    """One network for all: a single island has nobody of its class to talk to."""
    way = Route(rate, latency_ticks * TICK_S, "net")
    return {
        (a.index, b.index): None if a.index == b.index and a.count == 1 else way
        for a in classes
        for b in classes
    }


def layer_cost(
    layer: LayerTicks, slowness: int, mesh: StageMesh, rows: int, tp_ticks: int
) -> LayerCost:
    """A layer on a mesh of chips that are ``slowness`` times as slow as the reference.

    ``layer.experts`` are parameters that ``ep`` devices hold apart; without it, slices like others.
    """

    def ticks(work: int) -> int:
        return -(-work * slowness * rows // mesh.chips) * TICK_PS

    def sharded(count: int) -> int:
        return -(-count // mesh.chips)

    comm = tp_ticks * TICK_PS if mesh.chips > 1 else 0
    apart = -(-layer.experts // (mesh.ep * mesh.expert_tp)) if mesh.ep > 1 else 0
    rest = layer.parameters + (layer.experts if mesh.ep == 1 else 0)
    weight = layer.backward // 2
    times = (layer.forward, layer.backward - weight, weight)
    forward, backward_input, backward_weight = (ticks(t) for t in times)
    first, second, third = (ticks(r) for r in layer.recompute)
    recompute = (first, second, third)
    price = LayerPrice(
        forward_s=forward / PS_PER_S,
        backward_input_s=backward_input / PS_PER_S,
        backward_weight_s=backward_weight / PS_PER_S,
        tp_comm_forward_s=comm / PS_PER_S,
        tp_comm_backward_s=comm / PS_PER_S,
        recompute_s=(first / PS_PER_S, second / PS_PER_S, third / PS_PER_S),
        parameters=-(-rest // mesh.tp) + apart,
        activation_bytes=_each(sharded, layer.activations, rows),
        working_bytes=_each(sharded, layer.working, rows),
        logits_bytes=sharded(layer.logits * rows),
        items=(),
        expert_parameters=apart,
    )
    scatter = (comm,) * 3 if mesh.zero3 else (0, 0, 0)
    own = (backward_input, backward_weight, recompute, comm, comm)
    return LayerCost(price, forward, *own, scatter)


def build_problem(
    layers: tuple[LayerTicks, ...],
    cluster: Topology,
    *,
    slowness: tuple[int, ...],
    degrees: tuple[tuple[int | StageMesh, ...], ...],
    rows: tuple[int, ...] = (1,),
    tp_ticks: int = 0,
    boundary: tuple[int, ...] | None = None,
    policies: tuple[int, ...] = (0,),
    state: StateBytes = SMALL_STATE,
    overhead: DeviceOverhead = NO_OVERHEAD,
    zero_level: int = 0,
    sequence_parallel: bool = False,
    global_batch: int = 4,
    max_stages: int = 4,
    compression: CompressionName = "none",
    tied: tuple[tuple[int, int], ...] = (),
) -> Problem:
    """Tables over all options: ``slowness`` and ``degrees`` (tp, or meshes) are per class.

    ``boundary[c]`` is what one row sends over the cut before layer c.
    """
    tables: list[OptionTable] = []
    for size in rows:
        for cls in cluster.classes:
            for degree in degrees[cls.index]:
                mesh = mesh_of(degree)
                if size % mesh.dp:
                    continue
                option = StageOption(len(tables), cls.index, mesh, size)
                costs = tuple(
                    layer_cost(layer, slowness[cls.index], mesh, size, tp_ticks).copying(
                        class_host(cls)
                    )
                    for layer in layers
                )
                tables.append(option_table(option, costs))
    crossing = np.array(boundary or (0,) * len(layers), dtype=np.int64)
    return Problem(
        tables=CostTables(
            tables=tuple(tables),
            boundary_bytes={size: size * crossing for size in rows},
            state=state,
            overheads=(overhead,) * len(cluster.classes),
            zero_level=zero_level,
            sequence_parallel=sequence_parallel,
            offload_bytes=OFFLOAD_BYTES,
            compression=compression,
            tied=tied,
        ),
        topology=cluster,
        policies=policies,
        global_batch=global_batch,
        max_stages=max_stages,
    )


def open_setting(problem: Problem, replicas: tuple[int, int] | None = None) -> Setting:
    """Every class may hold every layer."""
    most = min(problem.topology.chips, problem.global_batch)
    windows = ((0, problem.tables.layers),) * len(problem.topology.classes)
    return Setting(replicas or (1, most), windows)


def mesh_of(degree: int | StageMesh) -> StageMesh:
    """The mesh of a tensor-parallel degree, or a mesh as it is."""
    return degree if isinstance(degree, StageMesh) else StageMesh(degree)


def _each(
    sharded: Callable[[int], int], items: tuple[int, int, int], rows: int
) -> tuple[int, int, int]:
    return sharded(items[0] * rows), sharded(items[1] * rows), sharded(items[2] * rows)
