"""Small interleaved plans: chunks written by hand, figures priced for real."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from costmodels.schedules import ScheduleName
from costmodels.units import PS_PER_S
from planner import assemble
from planner.graphs.topology import Island
from planner.layout import LayoutPipeline, LayoutStage, PricedLayout
from planner.mesh import StageMesh
from planner.plan import Certificate, Interval, Plan, SearchSpace, SolverInfo, seal
from planner.solve import Context, input_records
from tests.mesh_inputs import small_context

FLEET = "2x4xA100-SXM-80GB @ 100Gb/s"
DEALT = (((0, 3), (5, 8)), ((3, 5), (8, 10)))
"""10 layers in two chunks on each of two stages: embedding, 8 blocks, head."""


def chunked_context(
    batch: int = 8, cluster: str = FLEET, more: str = "", layers: int = 8
) -> Context:
    """A dense model of ``layers`` blocks of hidden size 2,048, in micro-batches of one row."""
    sets = f"global_batch={batch} micro_batch_rows=[1] seq_len=1024"
    sets += f" techniques.interleaved=true {more}"
    return small_context(cluster, sets, layers=layers, experts=0)


def stage_on(
    island: Island,
    devices: Sequence[str],
    parts: Sequence[Interval],
    mesh: StageMesh,
    policy: int,
    in_flight: int | None = None,
) -> LayoutStage:
    """A stage that holds these intervals of layers under one policy."""
    return LayoutStage(
        island,
        tuple(devices),
        parts[0][0],
        parts[-1][1],
        mesh,
        (policy,) * sum(end - first for first, end in parts),
        in_flight,
        chunks=tuple(parts) if len(parts) > 1 else (),
    )


def dealt(edges: Sequence[int], chunks: int) -> list[tuple[Interval, ...]]:
    """Chunks of every stage when each run of inner layers is cut at these edges, ends included."""
    run = edges[-1]
    out = []
    for s, (a, b) in enumerate(pairwise(edges)):
        own = [[1 + c * run + a, 1 + c * run + b] for c in range(chunks)]
        own[0][0] -= s == 0
        own[-1][1] += s == len(edges) - 2
        out.append(tuple((i, j) for i, j in own))
    return out


def placed(
    each: Sequence[tuple[Sequence[Interval], Sequence[Island]]],
    mesh: StageMesh,
    policy: int,
    copies: int,
    rows: int,
    batch: int,
) -> list[LayoutPipeline] | None:
    """Equal pipelines, each stage on the first of its islands with room; None where one has none.

    ``each``: of every stage the layers and the islands that it may lie on.
    """
    free = {island: list(island.devices) for _, islands in each for island in islands}
    pipes = []
    for _ in range(copies):
        stages = []
        for parts, islands in each:
            island = next((i for i in islands if len(free[i]) >= mesh.chips), None)
            if island is None:
                return None
            devices = tuple(free[island][: mesh.chips])
            del free[island][: mesh.chips]
            stages.append(stage_on(island, devices, parts, mesh, policy))
        pipes.append(pipeline_of(stages, batch // rows // copies, rows))
    return pipes


def pipeline_of(stages: Sequence[LayoutStage], micro_batches: int, rows: int = 1) -> LayoutPipeline:
    """Stages in a pipeline, interleaved where they hold chunks."""
    schedule: ScheduleName = "interleaved" if stages[0].chunks else "1f1b"
    return LayoutPipeline(tuple(stages), rows, micro_batches, rows, schedule)


def chunked_pipeline(
    context: Context,
    devices: Sequence[Sequence[str]],
    dealt: Sequence[Sequence[Interval]],
    micro_batches: int,
    policy: int = 0,
) -> LayoutPipeline:
    """Stages on these devices with these chunks each, rows of one, one policy for all layers."""
    homes = {d: i for c in context.topology.classes for i in c.islands for d in i.devices}
    stages = [
        stage_on(homes[own[0]], own, chunks, StageMesh(len(own)), policy)
        for own, chunks in zip(devices, dealt, strict=True)
    ]
    return pipeline_of(stages, micro_batches)


def plan_of(context: Context, pipelines: Sequence[LayoutPipeline]) -> Plan:
    """A sealed plan of these pipelines, with a certificate that proves nothing."""
    level = context.options.zero_level
    priced = context.pricer.price(list(pipelines), level)
    if priced.problems:
        raise ValueError(priced.problems[0])
    return seal(_plan(context, priced, level))


def _plan(context: Context, priced: PricedLayout, level: int) -> Plan:
    graph, topology = context.model.graph, context.topology
    return Plan(
        planner_version="0",
        inputs=input_records(context),
        plan_class=assemble.classify(priced),
        layer_order=tuple(layer.name for layer in graph.layers),
        pipelines=assemble.plan_pipelines(priced, topology, level),
        sync_groups=assemble.sync_groups(priced, level),
        unused_devices=assemble.unused(priced, topology, {c.index: "" for c in topology.classes}),
        alternatives=(),
        estimate=assemble.estimate(priced, graph, topology, context.job, None),
        certificate=Certificate(
            status="feasible",
            objective_s=priced.formula_ps / PS_PER_S,
            lower_bound_s=0.0,
            gap=1.0,
            exact_lower_bound_s=None,
            search_space=SearchSpace(allowed=(), dropped=()),
            solver=SolverInfo(
                name="by hand", versions={}, seed=0, limits={"gap": 1.0, "time_limit_s": None}
            ),
            deterministic=True,
        ),
        baselines=(),
        assumptions=(),
    )


@lru_cache(maxsize=1)
def chunked_plan() -> Plan:
    """Two equal pipelines of two stages of two chunks, four micro-batches each, tp 2."""
    return _two_pipelines(DEALT)


@lru_cache(maxsize=1)
def plain_plan() -> Plan:
    """The same stages with their layers in a row."""
    return _two_pipelines((((0, 5),), ((5, 10),)))


def _two_pipelines(dealt: Sequence[Sequence[Interval]]) -> Plan:
    context = chunked_context()
    pairs = [[(f"node{k}/0", f"node{k}/1"), (f"node{k}/2", f"node{k}/3")] for k in range(2)]
    return plan_of(context, [chunked_pipeline(context, own, dealt, 4) for own in pairs])
