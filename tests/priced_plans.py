"""Small plans whose layout is written by hand and whose figures are priced for real.

They go through the planner's own pricing, not through verification, so that the two check each
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from costmodels.catalog import load_catalog
from costmodels.schedules import ScheduleName
from costmodels.units import PS_PER_S
from planner import assemble
from planner.graphs.topology import Island, Topology
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage
from planner.mesh import StageMesh
from planner.plan import (
    Certificate,
    Inputs,
    Plan,
    SearchSpace,
    SolverInfo,
    UnusedDevices,
    digest,
    seal,
)
from planner.solve import Context, prepare

SMALL = {
    "llama-3-8b": [
        "model.num_hidden_layers=8",
        "model.hidden_size=1024",
        "model.intermediate_size=4096",
    ]
}
"""What makes a preset small: 10 layers."""


@dataclass(frozen=True)
class StageSketch:
    """Devices ``host/first`` to ``host/last`` run layers ``[first, end)`` under one policy.

    An interleaved stage holds its ``chunks`` of them only.
    """

    devices: tuple[str, ...]
    layers: tuple[int, int]
    policy: int = 0
    in_flight: int | None = None
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """How many layers it holds."""
        return sum(end - first for first, end in self.chunks or (self.layers,))


@dataclass(frozen=True)
class PipelineSketch:
    """Stages with the pipeline's micro-batches."""

    stages: Sequence[StageSketch]
    rows: int
    micro_batches: int
    last_rows: int
    schedule: ScheduleName = "1f1b"


def priced_plan(
    cluster: str, sketches: Sequence[PipelineSketch], *, model: str = "llama-3-8b", bound: float
) -> Plan:
    """A sealed plan with a certificate whose bound is ``bound`` times the objective."""
    batch = sum((p.micro_batches - 1) * p.rows + p.last_rows for p in sketches)
    rows = sorted({p.rows for p in sketches})
    interleaved = []
    if any(p.schedule == "interleaved" for p in sketches):
        interleaved.append("job.techniques.interleaved=true")
    changes = parse_overrides(
        [
            *SMALL.get(model, ()),
            "job.seq_len=512",
            f"job.global_batch={batch}",
            f"job.micro_batch_rows={rows}",
            *interleaved,
        ]
    )
    catalog = load_catalog()
    context = prepare(
        load_model(model, changes),
        load_cluster(cluster, catalog),
        load_job(None, changes),
    )
    topology, job = context.topology, context.job
    level = context.options.zero_level
    priced = context.pricer.price([_pipeline(p, topology) for p in sketches], level)
    if priced.problems:
        raise ValueError(priced.problems[0])
    objective = priced.formula_ps / PS_PER_S
    lower = round(priced.formula_ps * bound) / PS_PER_S
    names = sorted({c.chip.id for c in topology.classes})
    return seal(
        Plan(
            planner_version="0",
            inputs=Inputs(
                model=_record(context.model.name, context.model.resolved),
                cluster=_record(context.cluster.name, context.cluster.resolved),
                job=_record("job", job.as_json()),
                catalogue=_record("catalogue", catalog.excerpt(names)),
            ),
            plan_class=assemble.classify(priced),
            layer_order=tuple(layer.name for layer in context.model.graph.layers),
            pipelines=assemble.plan_pipelines(priced, topology, level),
            sync_groups=assemble.sync_groups(priced, level),
            unused_devices=_unused(sketches, topology),
            alternatives=(),
            estimate=assemble.estimate(priced, context.model.graph, topology, job, None),
            certificate=Certificate(
                status="optimal" if bound == 1.0 else "within_tolerance",
                objective_s=objective,
                lower_bound_s=lower,
                gap=(objective - lower) / objective,
                exact_lower_bound_s=None,
                search_space=SearchSpace(allowed=(), dropped=()),
                solver=SolverInfo(
                    name="by hand", versions={}, seed=0, limits={"gap": 0.1, "time_limit_s": None}
                ),
                deterministic=True,
            ),
            baselines=(),
            assumptions=(),
        )
    )


@lru_cache(maxsize=1)
def two_generations() -> Plan:
    """Two unequal pipelines over A100 and V100 nodes; some devices idle, a short last batch."""
    first = PipelineSketch(
        [
            StageSketch(("node0/0", "node0/1"), (0, 6), policy=1),
            StageSketch(("node1/0", "node1/1"), (6, 10)),
        ],
        rows=2,
        micro_batches=5,
        last_rows=1,
    )
    second = PipelineSketch(
        [
            StageSketch(("node0/2", "node0/3"), (0, 5), policy=2),
            StageSketch(("node2/0",), (5, 10)),
        ],
        rows=2,
        micro_batches=3,
        last_rows=2,
    )
    fleet = "2x4xA100-SXM-80GB + 1x4xV100-SXM2-32GB @ 100Gb/s"
    return priced_plan(fleet, [first, second], bound=0.95)


@lru_cache(maxsize=1)
def two_vendors() -> Plan:
    """Two equal pipelines that change vendor at the same cut, so that no group spans vendors."""
    pipelines = [
        PipelineSketch(
            [
                StageSketch((f"node0/{2 * k}", f"node0/{2 * k + 1}"), (0, 6)),
                StageSketch((f"node1/{2 * k}", f"node1/{2 * k + 1}"), (6, 10)),
            ],
            rows=1,
            micro_batches=4,
            last_rows=1,
        )
        for k in range(2)
    ]
    return priced_plan("4xA100-SXM-80GB + 4x910B2-64GB @ 100Gb/s", pipelines, bound=1.0)


@lru_cache(maxsize=1)
def two_interleaved() -> Plan:
    """Two pipelines over two nodes of A100 whose stages hold two chunks each; unequal chunks."""
    pipelines = [
        PipelineSketch(
            [
                StageSketch((f"node0/{k}",), (0, 8), chunks=((0, 3), (5, 8)), policy=1),
                StageSketch((f"node1/{k}",), (3, 10), chunks=((3, 5), (8, 10)), in_flight=4),
            ],
            rows=1,
            micro_batches=4,
            last_rows=1,
            schedule="interleaved",
        )
        for k in range(2)
    ]
    return priced_plan("2x2xA100-SXM-80GB @ 100Gb/s", pipelines, bound=0.95)


def _pipeline(sketch: PipelineSketch, topology: Topology) -> LayoutPipeline:
    islands: dict[str, Island] = {
        d: island for cls in topology.classes for island in cls.islands for d in island.devices
    }
    return LayoutPipeline(
        stages=tuple(
            LayoutStage(
                island=islands[stage.devices[0]],
                devices=stage.devices,
                first=stage.layers[0],
                end=stage.layers[1],
                mesh=StageMesh(len(stage.devices)),
                policies=(stage.policy,) * stage.count,
                in_flight=stage.in_flight,
                chunks=stage.chunks,
            )
            for stage in sketch.stages
        ),
        rows=sketch.rows,
        micro_batches=sketch.micro_batches,
        last_rows=sketch.last_rows,
        schedule=sketch.schedule,
    )


def _unused(sketches: Sequence[PipelineSketch], topology: Topology) -> tuple[UnusedDevices, ...]:
    used = {d for p in sketches for s in p.stages for d in s.devices}
    idle = tuple(
        d
        for cls in topology.classes
        for island in cls.islands
        for d in island.devices
        if d not in used
    )
    return (UnusedDevices(devices=idle, reason="left out by hand"),) if idle else ()


def _record(name: str, resolved: dict[str, object]) -> object:
    return {"name": name, "digest": digest(resolved), "resolved": resolved}


def check_by_kind(known: Context, pipelines: Sequence[LayoutPipeline]) -> None:
    """Pipelines cost the same whether islands are known to be alike or not."""
    assert known.topology.cells
    unknown = replace(known.topology, cells={})
    by_kind = known.pricer.price(pipelines, 1)
    one_by_one = LayoutPricer(known.model.graph, unknown, known.job).price(pipelines, 1)
    for one, other in zip(by_kind.pipelines, one_by_one.pipelines, strict=True):
        assert one.stages == other.stages
        assert (one.fill_ps, one.formula_ps, one.exact) == (
            other.fill_ps,
            other.formula_ps,
            other.exact,
        )
    assert replace(by_kind, pipelines=()) == replace(one_by_one, pipelines=())
