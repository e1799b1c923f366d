"""An old plan on new inputs: the same layers on the same (or alike) devices, if that is legal."""

from __future__ import annotations

from costmodels.price import WAYS
from planner.chunks import chunk_problems
from planner.graphs.across import numbers_of_islands
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.inputs.job import ResolvedJob
from planner.layout import LayoutPipeline, LayoutStage
from planner.meshes import mesh_problem, over_islands_problem
from planner.plan import Pipeline, Plan
from planner.plan_mesh import stage_mesh


def layouts_of(
    plan: Plan, model: ModelGraph, topology: Topology, job: ResolvedJob
) -> tuple[LayoutPipeline, ...] | None:
    """The plan's pipelines on the named devices of this topology; None where they do not fit it.

    The plan must cover the same layers and the same global batch. Devices are taken by name where
    the cluster still has them with the same chip, else the plan is not reused.
    """
    if plan.layer_order != tuple(layer.name for layer in model.layers):
        return None
    rows = sum(
        (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows for p in plan.pipelines
    )
    if rows != job.global_batch:
        return None
    where: dict[str, Island] = {
        d: island for c in topology.classes for island in c.islands for d in island.devices
    }
    out = []
    for pipeline in plan.pipelines:
        if not _takes_turns(pipeline, model, job):
            return None
        layout = _layout(pipeline, where, topology)
        if layout is None:
            return None
        for stage in layout.stages:
            cls = topology.classes[stage.island.class_index]
            if stage.more and len(stage.islands) not in numbers_of_islands(topology, cls):
                return None
            measured = cls.profile is not None
            if not _possible(stage, layout.rows, model, job, measured=measured):
                return None
        out.append(layout)
    return tuple(out)


def _takes_turns(pipeline: Pipeline, model: ModelGraph, job: ResolvedJob) -> bool:
    """Whether the job tries the pipeline's schedule, and its chunks can take turns."""
    if pipeline.schedule != "interleaved" and not any(s.chunks for s in pipeline.stages):
        return True
    return job.interleaved and not list(chunk_problems(pipeline, len(model.layers), model.name))


def _possible(
    stage: LayoutStage, rows: int, model: ModelGraph, job: ResolvedJob, *, measured: bool
) -> bool:
    """Whether the job tries the stage's mesh and the model can run it; measured: tp alone."""
    mesh = stage.mesh
    if measured and not mesh.tensor_alone:
        return False
    tried = (
        (job.context_parallel or mesh.cp == 1)
        and (job.expert_parallel or mesh.ep == 1)
        and (job.zero3 or not mesh.zero3)
        and (
            not stage.more
            or over_islands_problem(mesh, stage.chips // len(stage.islands), job) is None
        )
        and (job.optimizer_offload or not mesh.offload)
    )
    fits = mesh.chips == len(stage.devices)
    return tried and fits and mesh_problem(model, mesh, rows, job)[1] is None


def _layout(
    pipeline: Pipeline, where: dict[str, Island], topology: Topology
) -> LayoutPipeline | None:
    stages = []
    for stage in pipeline.stages:
        if len(stage.replicas) != 1:
            return None
        (replica,) = stage.replicas
        if any(d not in where for d in replica.devices):
            return None
        islands = tuple({where[d].name: where[d] for d in replica.devices}.values())
        island = islands[0]
        whole = sum(len(i.devices) for i in islands) == len(replica.devices)
        alike = len({i.class_index for i in islands}) == 1
        if len(islands) > 1 and not (whole and alike):
            return None
        if topology.classes[island.class_index].chip.id != replica.chip:
            return None
        policies: list[int] = []
        for part in stage.recompute:
            policies += [WAYS.index(part.policy)] * (part.layers[1] - part.layers[0])
        stages.append(
            LayoutStage(
                island=island,
                devices=replica.devices,
                first=stage.layers[0],
                end=stage.layers[1],
                mesh=stage_mesh(replica.mesh, stage.offload),
                policies=tuple(policies),
                in_flight=stage.in_flight,
                more=islands[1:],
                chunks=stage.chunks,
            )
        )
    return LayoutPipeline(
        stages=tuple(stages),
        rows=pipeline.micro_batch_rows,
        micro_batches=pipeline.micro_batches,
        last_rows=pipeline.last_micro_batch_rows,
        schedule=pipeline.schedule,
    )
