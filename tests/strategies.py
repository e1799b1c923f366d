"""Hypothesis strategies for tiny and small planning problems (`tick_problems`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from costmodels.memory import DeviceOverhead, StateBytes
from costmodels.offload import HostShare
from planner.graphs.topology import Topology
from planner.mesh import StageMesh
from planner.search.problem import Problem, Setting
from tests.tick_problems import (
    AMPLE,
    SMALL_STATE,
    TICK_RATE,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    mesh_of,
    topology,
)

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
WIDE = {
    1: (StageMesh(cp=2), StageMesh(dp=2, ep=2)),
    2: (
        StageMesh(tp=2, cp=2),
        StageMesh(cp=4),
        StageMesh(tp=2, dp=2, ep=4),
        StageMesh(tp=2, dp=2, ep=2),
        StageMesh(tp=2, cp=2, ep=4),
    ),
}
"""Meshes over two islands, by the chips of an island."""


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
    wide: bool = False,
) -> Problem:
    """A problem that a brute force can enumerate: at most ``max_pipelines`` pipelines.

    ``meshes`` adds options of more than tensor parallelism, ``offload`` such of all kinds that
    keep their optimizer's state on hosts, which may be too small for it. With ``activations``
    stages may leave those on hosts, some of which may not be known. ``packed``: gradients may cross
    between islands in 16, 8 or 4 bits. ``wide``: some stages take two islands.
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
    if wide:
        widths = tuple(
            (*own, draw(st.sampled_from(WIDE[cls.size])))
            if cls.size in WIDE and cls.count > 1
            else own
            for own, cls in zip(widths, cluster.classes)
        )
    if offload:
        widths = tuple(
            (*own, *(replace(mesh_of(m), offload=True) for m in draw(_some(own)))) for own in widths
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
