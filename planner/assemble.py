"""From a priced layout to the plan: the artefact's fields, in the artefact's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from costmodels.catalog import Catalog
from costmodels.confidence import step_range
from costmodels.units import PS_PER_S
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Topology
from planner.inputs.job import ResolvedJob
from planner.layout import LayoutPipeline, PricedLayout, PricedPipeline, PricedStage
from planner.plan import (
    Breakdown,
    Estimate,
    Pipeline,
    PlanClass,
    Recompute,
    RecomputeRange,
    Replica,
    Stage,
    StageMemory,
    StageTime,
    SyncGroup,
    SyncMember,
    UnusedDevices,
    Zero,
)
from planner.plan_mesh import plan_mesh

POLICY_NAMES: tuple[Recompute, ...] = ("none", "selective", "full", "offload", "full_offload")
"""``costmodels.price.WAYS`` in the words of the plan."""


def to_seconds(ps: int) -> float:
    """Seconds of whole picoseconds; ``round(x * 1e12)`` gives them back."""
    return ps / PS_PER_S


def plan_pipelines(
    priced: PricedLayout, topology: Topology, zero_level: int
) -> tuple[Pipeline, ...]:
    """The plan's pipelines in their final order."""
    return tuple(
        _pipeline(p, topology, zero_level, len(priced.pipelines)) for p in priced.pipelines
    )


def _pipeline(
    priced: PricedPipeline, topology: Topology, zero_level: int, replicas: int
) -> Pipeline:
    pipe = priced.pipeline
    return Pipeline(
        micro_batches=pipe.micro_batches,
        micro_batch_rows=pipe.rows,
        last_micro_batch_rows=pipe.last_rows,
        schedule=pipe.schedule,
        stages=tuple(_stage(s, topology, pipe.rows, zero_level, replicas) for s in priced.stages),
        formula_time_s=to_seconds(priced.formula_ps),
        exact_time_s=to_seconds(priced.exact.total),
    )


def _stage(
    priced: PricedStage, topology: Topology, rows: int, zero_level: int, replicas: int
) -> Stage:
    stage = priced.stage
    cls = topology.classes[stage.island.class_index]
    costs = list(zip(priced.costs, stage.policies))
    time = StageTime(
        forward=to_seconds(sum(c.forward_ps for c, _ in costs)),
        backward_input=to_seconds(sum(c.backward_input_ps for c, _ in costs)),
        backward_weight=to_seconds(sum(c.backward_weight_ps for c, _ in costs)),
        recompute=to_seconds(sum(c.again_ps(p) for c, p in costs)),
        tp_comm_forward=to_seconds(sum(c.tp_forward_ps for c, _ in costs)),
        tp_comm_backward=to_seconds(sum(c.comm_backward_ps(p) for c, p in costs)),
        transfer_forward=to_seconds(priced.transfer_ps),
        transfer_backward=to_seconds(priced.transfer_ps),
        copy_forward=to_seconds(sum(c.copy_forward_ps[p] for c, p in costs)),
        copy_backward=to_seconds(sum(c.copy_backward_ps[p] for c, p in costs)),
        forward_total=to_seconds(priced.forward_ps),
        backward_total=to_seconds(priced.backward_ps),
    )
    m = priced.memory
    memory = StageMemory(
        parameters=m.parameters,
        gradients=m.gradients,
        optimizer=m.optimizer,
        activations=m.activations,
        logits=m.logits,
        buffers=m.buffers,
        context=m.context,
        fragmentation=m.fragmentation,
        peak=m.peak,
        usable=priced.usable_bytes,
        host=m.host,
        host_usable=priced.host_bytes if m.host else 0,
    )
    sharded = zero_level >= 1 and replicas * stage.mesh.copies > 1
    return Stage(
        layers=(stage.first, stage.end),
        chunks=stage.chunks,
        in_flight=priced.in_flight,
        recompute=_ranges(stage.parts, stage.policies),
        zero=Zero(level=zero_level, scope="all-replicas" if sharded else "none"),
        offload="optimizer" if stage.mesh.offload else "none",
        replicas=(
            Replica(
                rows=rows,
                chip=cls.chip.id,
                mesh=plan_mesh(stage.mesh),
                devices=stage.devices,
                time_s=time,
                chunk_time_s=tuple((to_seconds(f), to_seconds(b)) for f, b in priced.chunk_ps),
                memory_bytes=memory,
            ),
        ),
        hop_to_next_s=(
            None if priced.hop_to_next_ps is None else to_seconds(priced.hop_to_next_ps)
        ),
    )


def _ranges(
    parts: Sequence[tuple[int, int]], policies: Sequence[int]
) -> tuple[RecomputeRange, ...]:
    """Runs of equal policy in intervals of layers; one policy for each of their layers."""
    out: list[RecomputeRange] = []
    every = iter(policies)
    for first, end in parts:
        run = list(zip(range(first, end), islice(every, end - first)))
        for policy, same in groupby(run, key=lambda each: each[1]):
            layers = [layer for layer, _ in same]
            name = POLICY_NAMES[policy]
            out.append(RecomputeRange(layers=(layers[0], layers[-1] + 1), policy=name))
    return tuple(out)


def sync_groups(priced: PricedLayout, zero_level: int) -> tuple[SyncGroup, ...]:
    """Gradient reductions of the plan."""
    return tuple(
        SyncGroup(
            layers=(s.first, s.end),
            kind="tied" if s.kind == "tied" else "gradients",
            level=zero_level,
            members=tuple(
                SyncMember(
                    pipeline=p,
                    stage=stage,
                    tensor_parallel=priced.pipelines[p].stages[stage].stage.tp,
                )
                for p, stage in s.members
            ),
            time_s=to_seconds(s.time_ps),
            compression=s.compression,
        )
        for s in priced.syncs
    )


def classify(priced: PricedLayout) -> PlanClass:
    """The least general class that the plan belongs to (contracts.md)."""
    shapes = set()
    loads = set()
    for p in priced.pipelines:
        pipe = p.pipeline
        shapes.add(tuple((s.mesh, s.parts, s.island.class_index) for s in pipe.stages))
        loads.add((pipe.rows, pipe.micro_batches, pipe.last_rows))
    layouts = {tuple((mesh, parts) for mesh, parts, _ in shape) for shape in shapes}
    mixed = len(shapes) > len(layouts)
    full = all(p.pipeline.last_rows == p.pipeline.rows for p in priced.pipelines)
    if len(layouts) > 1 or len(loads) > 1 or mixed or not full:
        return "asymmetric"
    (layout,) = layouts
    return "rectangular" if len({mesh for mesh, _ in layout}) == 1 else "staged"


CLASSES: tuple[PlanClass, ...] = ("rectangular", "staged", "asymmetric")
"""Plan classes from the least to the most general one."""


def most_general(job: ResolvedJob) -> PlanClass:
    """The most general class of plan that the job allows."""
    if job.plan_class in ("rectangular", "staged"):
        return "rectangular" if job.plan_class == "rectangular" else "staged"
    return "asymmetric" if job.unequal_pipelines else "staged"


def allowed(priced: PricedLayout, job: ResolvedJob, topology: Topology) -> bool:
    """Whether a layout is of a class that the job allows and obeys its constraints."""
    if CLASSES.index(classify(priced)) > CLASSES.index(most_general(job)):
        return False
    layouts = [p.pipeline for p in priced.pipelines]
    return broken_constraint(layouts, job, topology) is None


def broken_constraint(
    layouts: Sequence[LayoutPipeline], job: ResolvedJob, topology: Topology
) -> str | None:
    """The first limit or pin of the job that a layout breaks, in words; None where it obeys all."""
    deepest = max(len(p.stages) for p in layouts)
    if job.max_pipeline_stages is not None and deepest > job.max_pipeline_stages:
        return f"{deepest} stages, the job allows {job.max_pipeline_stages} (max_pipeline_stages)"
    stages = [s for p in layouts for s in p.stages]
    widest = max(s.tp for s in stages)
    if job.max_tensor_parallel is not None and widest > job.max_tensor_parallel:
        return f"tp {widest}, the job allows {job.max_tensor_parallel} (max_tensor_parallel)"
    for pin in job.constraints.pinned_layers:
        for s in stages:
            chip = topology.classes[s.island.class_index].chip.id
            held = [p for p in s.parts if p[0] < pin.end and p[1] > pin.first]
            if held and not pin.allows(chip):
                name = Catalog.alias(chip)
                span = f"layers {held[0][0]}–{held[0][1] - 1}"
                return f"{span} on {name}, the job wants {pin.describe()} (pinned_layers)"
    return None


FORBIDDEN = "ruled out by the job"


def forbidden(devices: Mapping[str, str]) -> tuple[UnusedDevices, ...]:
    """Devices that the job must not use, by the field that says so."""
    return tuple(
        UnusedDevices(
            devices=tuple(d for d, own in devices.items() if own == name),
            reason=f"{FORBIDDEN} ({name})",
        )
        for name in dict.fromkeys(devices.values())
    )


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """FLOPs per token that count as useful, with and without the attention term."""

    with_attention: float
    six_n: float


def model_flops(model: ModelGraph, seq_len: int) -> ModelFlops:
    """6·N_active (+ 6·blocks·hidden·seq for causal attention); generic layers count 3× forward."""
    generic = sum(
        3.0 * layer.shape.generic.forward_flops_per_row / seq_len
        for layer in model.layers
        if layer.shape.generic is not None
    )
    active = float(model.active_parameters)
    if generic:
        return ModelFlops(generic, generic)
    attention = sum(
        6.0 * layer.shape.hidden * seq_len
        for layer in model.layers
        if layer.shape.attention is not None
    )
    return ModelFlops(6.0 * active + attention, 6.0 * active)


def estimate(
    priced: PricedLayout,
    model: ModelGraph,
    topology: Topology,
    job: ResolvedJob,
    simulated_s: float | None,
    *,
    global_batch: int | None = None,
) -> Estimate:
    """Headline figures of a priced layout."""
    step = to_seconds(priced.exact_ps)
    tokens = (global_batch or job.global_batch) * job.seq_len
    peak = sum(
        topology.classes[s.stage.island.class_index].chip.peak(job.precision) * s.stage.chips
        for p in priced.pipelines
        for s in p.stages
    )
    flops = model_flops(model, job.seq_len)
    critical = priced.pipelines[priced.critical]
    pipeline_end = critical.exact.total
    # by the formula interleaved stages may take longer to fill than they really run
    fill = min(critical.fill_ps, pipeline_end)
    update = priced.update_ps
    steady = max(0, min(pipeline_end, priced.exact_ps - update) - fill)
    sync = priced.exact_ps - fill - steady - update
    return Estimate(
        step_time_s=step,
        tokens_per_s=tokens / step,
        mfu=flops.with_attention * tokens / (peak * step),
        mfu_6n=flops.six_n * tokens / (peak * step),
        breakdown_s=Breakdown(
            fill=to_seconds(fill),
            steady=to_seconds(steady),
            sync=to_seconds(sync),
            update=to_seconds(update),
        ),
        step_time_range_s=step_range(
            step,
            [
                topology.classes[s.stage.island.class_index].chip
                for p in priced.pipelines
                for s in p.stages
            ],
            job.precision,
            experts=any(layer.shape.is_moe for layer in model.layers),
        ),
        simulated_step_time_s=simulated_s,
    )


def unused(
    priced: PricedLayout, topology: Topology, reasons: dict[int, str]
) -> tuple[UnusedDevices, ...]:
    """Devices that no stage holds, grouped by class with the reason of the class."""
    used = {d for p in priced.pipelines for s in p.stages for d in s.stage.devices}
    out = []
    for cls in topology.classes:
        idle = tuple(d for island in cls.islands for d in island.devices if d not in used)
        if idle:
            out.append(UnusedDevices(devices=idle, reason=reasons[cls.index]))
    return tuple(out)
