"""Hypothesis strategies for tiny and small planning problems.

`cases` builds a `Problem` from tables of small integers, without files, graphs or formulas. Time
is counted in ticks of ten microseconds, a few of which are an update's kernel launches; a link of
`TICK_RATE` moves a byte per tick; memory is counted in single bytes. Small integers make
every tie, rounding and off-by-one visible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from costmodels.catalog import Chip, Fabric
from costmodels.compression import CompressionName
from costmodels.constants import shipped_constants
from costmodels.memory import DeviceOverhead, StateBytes
from costmodels.offload import HostShare
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

MESHES = {
    2: (
        StageMesh(cp=2),
        StageMesh(dp=2, ep=2),
        StageMesh(tp=2, ep=2),
        StageMesh(dp=2, zero3=True),
        StageMesh(cp=2, zero3=True),
    ),
    4: (
        StageMesh(tp=2, cp=2),
        StageMesh(cp=4),
        StageMesh(tp=2, dp=2, ep=2),
        StageMesh(dp=2, cp=2, ep=2),
        StageMesh(tp=2, dp=2, ep=4),
        StageMesh(tp=2, cp=2, zero3=True),
        StageMesh(dp=2, cp=2, ep=2, zero3=True),
    ),
}
"""Meshes of more than tensor parallelism, by chips."""

SMALL_STATE = StateBytes(1, 1, 2)
NO_OVERHEAD = DeviceOverhead(0, 0, 0)


def reproducible(examples: int) -> settings:
    """The same examples on every run and machine, however long each takes."""
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=examples,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@dataclass(frozen=True)
class Case:
    """A problem and the setting under which it is to be solved."""

    problem: Problem
    setting: Setting


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
) -> Problem:
    """Tables over all options: ``slowness`` and ``degrees`` (tp, or meshes) are per class.

    ``boundary[c]`` is what one row sends over the cut before layer c.
    """
    tables: list[OptionTable] = []
    for size in rows:
        for cls in cluster.classes:
            for degree in degrees[cls.index]:
                mesh = _mesh(degree)
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


def count_pipelines(problem: Problem) -> int:
    """How many sequences of (option, policy, layers) a brute force has to look at."""
    total = 0
    layers = problem.tables.layers
    for rows in problem.tables.boundary_bytes:
        ways = sum(t.option.rows == rows for t in problem.tables.tables) * len(problem.policies)
        total += sum(
            comb(layers - 1, stages - 1) * ways**stages
            for stages in range(1, min(problem.max_stages, layers) + 1)
        )
    return total


@st.composite
def layer_ticks(draw: st.DrawFn, heavy: int = 6) -> LayerTicks:
    """A layer with a forward of 1 … 9 ticks; keeps up to ``heavy`` bytes per micro-batch."""
    forward = draw(st.integers(1, 9))
    kept = draw(st.integers(heavy // 2, heavy))
    return LayerTicks(
        forward=forward,
        backward=draw(st.integers(forward, 2 * forward)),
        recompute=(0, draw(st.integers(0, forward)), forward + draw(st.integers(0, 1))),
        parameters=draw(st.integers(0, 4)),
        activations=(kept, -(-kept // 2), min(kept, 1)),
        working=(draw(st.integers(0, 2)), 1, draw(st.integers(0, 4))),
        logits=draw(st.sampled_from((0, 0, 0, 3))),
    )


@st.composite
def clusters(draw: st.DrawFn, max_classes: int = 3) -> Topology:
    """One to three classes of at most four chips; some pairs of classes may not be joined."""
    classes = []
    for index in range(draw(st.integers(1, max_classes))):
        size, count = draw(
            st.sampled_from(((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (1, 3), (3, 1)))
        )
        classes.append(
            island_class(
                index,
                size,
                count,
                fabric_rate=TICK_RATE * draw(st.sampled_from((1, 2, 8))),
                latency_ticks=draw(st.integers(0, 1)),
                update_rate=TICK_RATE * draw(st.sampled_from((16, 64))),
            )
        )
    found = tuple(classes)
    rate = TICK_RATE * draw(st.sampled_from((4, 1, 0.5)))
    routes = even_routes(found, rate, draw(st.integers(0, 2)))
    if len(found) > 1 and draw(st.integers(0, 5)) == 0:
        routes[0, 1] = None
    return topology(found, routes)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_layers: int = 5,
    max_classes: int = 3,
    max_pipelines: int = 2500,
    max_batch: int = 9,
    meshes: bool = False,
    offload: bool = False,
    activations: bool = False,
    packed: bool = False,
) -> Problem:
    """A problem that a brute force can enumerate: at most ``max_pipelines`` pipelines.

    ``meshes`` adds options of more than tensor parallelism, ``offload`` such of all kinds that
    keep their optimizer's state on hosts, which may be too small for it. With ``activations``
    stages may leave those on hosts, some of which may not be known. ``packed``: gradients may cross
    between islands in 16, 8 or 4 bits.
    """
    count = draw(st.sampled_from(range(max_layers, 0, -1)))
    heavy = draw(st.sampled_from((6, 30)))
    layers = tuple(draw(layer_ticks(heavy)) for _ in range(count))
    cluster = draw(clusters(max_classes))
    widths = tuple(
        draw(st.sampled_from(((1,), (1, 2)) if cls.size > 1 else ((1,),)))
        + ((4,) if cls.size == 4 and draw(st.booleans()) else ())
        for cls in cluster.classes
    )
    sizes = draw(st.sampled_from(((1,), (1,), (2,), (1, 2))))
    if meshes:
        layers = tuple(replace(x, experts=draw(st.integers(0, 6))) for x in layers)
        widths = tuple(
            (
                *own,
                *draw(
                    st.lists(st.sampled_from(MESHES[cls.size]), min_size=1, max_size=2, unique=True)
                ),
            )
            if cls.size in MESHES
            else own
            for own, cls in zip(widths, cluster.classes)
        )
    if offload:
        widths = tuple(
            (*own, *(replace(_mesh(m), offload=True) for m in draw(_some(own)))) for own in widths
        )
    policies = draw(st.sampled_from(((0, 1, 2), (0, 2), (0,))))
    if activations:
        policies = draw(st.sampled_from(((0, 3), (0, 2, 4), (0, 1, 2, 3, 4))))
    state = draw(st.sampled_from((SMALL_STATE, StateBytes(2, 2, 12))))
    fat = draw(st.sampled_from((4, 25)))  # a tensor that fits only inside a stage
    overhead = DeviceOverhead(*(draw(st.integers(0, 2)) for _ in range(3)))
    whole = sum(x.parameters * state.total + x.activations[0] + x.logits for x in layers)
    share = draw(st.sampled_from((None, 1.1, 0.8, 0.6, 0.45)))
    classes = tuple(
        replace(
            cls,
            usable_memory_bytes=AMPLE
            if share is None
            else int(whole * share) + draw(st.integers(0, 24)),
        )
        for cls in cluster.classes
    )
    if offload:
        classes = tuple(replace(cls, host=draw(hosts(whole))) for cls in classes)
    elif activations:
        some = st.one_of(hosts(whole), hosts(whole), st.none())
        classes = tuple(replace(cls, host=draw(some)) for cls in classes)
    problem = build_problem(
        layers,
        topology(classes, cluster.class_routes),
        slowness=tuple(draw(st.sampled_from((1, 1, 2, 3))) for _ in classes),
        degrees=widths,
        rows=sizes,
        tp_ticks=draw(st.integers(0, 2)),
        boundary=(0, *(draw(st.sampled_from((0, 1, 2, 3, 6, fat))) for _ in layers[1:])),
        policies=policies,
        state=state,
        overhead=overhead,
        zero_level=draw(st.integers(0, 1)),
        sequence_parallel=draw(st.booleans()),
        global_batch=draw(st.integers(max(sizes), max_batch)),
        max_stages=draw(st.sampled_from((4, 3, 2, 1))),
        compression=draw(st.sampled_from(("int4", "int4", "fp8", "fp16"))) if packed else "none",
    )
    while count_pipelines(problem) > max_pipelines:
        problem = replace(problem, max_stages=problem.max_stages - 1)
    return problem


@st.composite
def hosts(draw: st.DrawFn, whole: int) -> HostShare:
    """A host that holds everything or some of it, over a link of some speed."""
    rates = [TICK_RATE * draw(st.sampled_from((1, 4, 32))) for _ in range(2)]
    room = draw(st.sampled_from((AMPLE, AMPLE, whole // 2, whole // 4)))
    return HostShare(room, *rates)


def _mesh(degree: int | StageMesh) -> StageMesh:
    return degree if isinstance(degree, StageMesh) else StageMesh(degree)


def _some(own: tuple[int | StageMesh, ...]) -> st.SearchStrategy[list[int | StageMesh]]:
    return st.lists(st.sampled_from(own), min_size=1, max_size=2, unique=True)


@st.composite
def settings_of(draw: st.DrawFn, problem: Problem) -> Setting:
    """Any replica interval; mostly open windows."""
    most = min(problem.topology.chips, problem.global_batch)
    low = draw(st.sampled_from((1, 1, 1, min(2, most), most)))
    high = draw(st.sampled_from((most, low)))
    layers = problem.tables.layers
    windows = [(0, layers)] * len(problem.topology.classes)
    if draw(st.integers(0, 3)) == 0:
        first = draw(st.integers(0, layers))
        windows[-1] = (first, draw(st.integers(first, layers)))
    return Setting((low, high), tuple(windows))


@st.composite
def cases(draw: st.DrawFn, **limits: Any) -> Case:
    """A tiny problem and a setting."""
    problem = draw(problems(**limits))
    return Case(problem, draw(settings_of(problem)))


def _each(
    sharded: Callable[[int], int], items: tuple[int, int, int], rows: int
) -> tuple[int, int, int]:
    return sharded(items[0] * rows), sharded(items[1] * rows), sharded(items[2] * rows)
