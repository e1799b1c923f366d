"""Why a target cannot run a plan: each feature by name, and the nearest plan that would do."""

from __future__ import annotations

from collections.abc import Iterator

from costmodels.catalog import Catalog, Chip
from costmodels.interleaved import classic_depths, groups
from costmodels.price import HOSTED
from planner.errors import Problem
from planner.exporters.capability import Capability, compute_capability
from planner.exporters.grid import Grid, differences, uneven_degrees
from planner.exporters.view import Recomputed, View, block_counts, recomputed

ORDER = ("rectangular", "staged", "asymmetric")
NO_CHUNKS = "--set job.techniques.interleaved=false"
"""What makes a plan without chunks."""

NO_TORCH_DEVICE = ("xla",)
"""Devices that no runtime in this list drives."""


def refusals(capability: Capability, view: View) -> tuple[Problem, ...]:
    """Everything about a plan that the target cannot run; empty when it can."""
    problems = [*_plan_class(capability, view), *_chips(capability, view), *_job(capability, view)]
    problems += _model(capability, view)
    problems += _schedules(capability, view)
    problems += _meshes(capability, view)
    problems += _grouped(capability, view)
    problems += _offload(capability, view)
    problems += _activations(capability, view)
    problems += _packed(capability, view)
    if view.grid is not None:
        problems += _grid(capability, view, view.grid)
    return tuple(problems)


def _plan_class(capability: Capability, view: View) -> Iterator[Problem]:
    allowed = capability.plan_classes
    if "asymmetric" in allowed:
        return
    unlike = list(differences(view.plan))
    widest = max(allowed, key=ORDER.index)
    remedy = f"plan with --set job.plan_class={widest}"
    if unlike:
        batch = "the last micro-batch" in unlike[0]
        more = "; or choose a global batch that divides, such as --global-batch " if batch else ""
        near = str(_nearest_batch(view)) if batch else ""
        yield Problem("plan class asymmetric", unlike[0], remedy + more + near)
        return
    if view.grid is not None and "staged" not in allowed:
        for what in uneven_degrees(view.grid):
            yield Problem("plan class staged", what, remedy)


def _nearest_batch(view: View) -> int:
    """The largest global batch below the job's that all pipelines fill with whole micro-batches."""
    rows = sum(p.micro_batch_rows for p in view.plan.pipelines)
    return max(rows, view.job.global_batch // rows * rows)


def _chips(capability: Capability, view: View) -> Iterator[Problem]:
    devices = view.devices
    chips = {devices[name].chip.id: devices[name].chip for name in view.used}
    vendors = list(dict.fromkeys(chip.vendor for chip in chips.values()))
    if len(vendors) > 1 and not capability.mixed_vendors:
        what = f"{' and '.join(vendors)} in one job"
        remedy = "plan for the chips of one vendor, or export to torch or flagscale"
        yield Problem("chips of several vendors", what, remedy)
    for chip_id, chip in chips.items():
        where = f"chip {Catalog.alias(chip_id)}"
        problem = chip_problem(capability, chip)
        if problem:
            used = sum(1 for name in view.used if devices[name].chip.id == chip_id)
            remedy = "leave it out of the cluster file and plan again"
            yield Problem(where, f"{problem}; the plan uses {used} of them", remedy)


def chip_problem(capability: Capability, chip: Chip) -> str:
    """Why a target does not run on a chip, "" if it does."""
    title = capability.title
    if capability.vendors is not None and chip.vendor not in capability.vendors:
        return (
            f"{chip.name} is made by {chip.vendor}; {title} drives {', '.join(capability.vendors)}"
        )
    if chip.torch_device in NO_TORCH_DEVICE:
        return f"{chip.name} has no torch device that {title} drives"
    floor = capability.floor
    own = compute_capability(chip.architecture) if chip.vendor == "NVIDIA" else None
    if floor is None or own is None or own >= floor.compute_capability:
        return ""
    wanted = ".".join(map(str, floor.compute_capability))
    return (
        f"{chip.name} ({chip.architecture}, compute capability {own[0]}.x) is too old for "
        f"{floor.version}, which needs {wanted}: {floor.reason}"
    )


def _job(capability: Capability, view: View) -> Iterator[Problem]:
    job = view.job
    if job.precision not in capability.precisions:
        known = ", ".join(capability.precisions)
        remedy = f"plan with --precision {capability.precisions[0]}"
        yield Problem(f"precision {job.precision}", f"the target trains in {known}", remedy)
    if job.optimizer not in capability.optimizers:
        known = ", ".join(capability.optimizers)
        remedy = f"plan with --set job.optimizer={capability.optimizers[0]}"
        yield Problem(f"optimizer {job.optimizer}", f"the target has {known}", remedy)
    if job.precision != "fp32" and job.state_bytes.gradient not in capability.gradient_bytes:
        yield from _gradients(capability, view)


def _gradients(capability: Capability, view: View) -> Iterator[Problem]:
    """Wider gradients than planned are no harm where every device still has room for them."""
    planned, kept = view.job.state_bytes.gradient, min(capability.gradient_bytes)
    if kept > planned and not list(lacking_room(view, kept)):
        return
    name = "fp32" if kept == 4 else "same"
    short = next(lacking_room(view, kept), "") if kept > planned else ""
    message = f"the target keeps gradients in {kept} bytes{short}"
    remedy = f"plan with --set job.gradient_dtype={name}"
    yield Problem(f"gradients in {planned} bytes", message, remedy)


def lacking_room(view: View, gradient_bytes: int) -> Iterator[str]:
    """Devices that would not hold gradients of this width, as the end of a sentence."""
    factor = gradient_bytes / view.job.state_bytes.gradient
    for pipeline in view.plan.pipelines:
        for stage in pipeline.stages:
            for replica in stage.replicas:
                memory = replica.memory_bytes
                more = (factor - 1) * memory.gradients - (memory.usable - memory.peak)
                if more > 0:
                    yield f": {replica.devices[0]} lacks {more / 2**30:.1f} GiB for that"


def _model(capability: Capability, view: View) -> Iterator[Problem]:
    families = capability.families
    if families is None:
        return
    family = view.model.family
    if family not in families:
        known = ", ".join(families)
        remedy = "export to torch or deepspeed, which take any layers"
        yield Problem(f"model family {family}", f"its layers are known for {known}", remedy)


def _schedules(capability: Capability, view: View) -> Iterator[Problem]:
    for schedule in dict.fromkeys(p.schedule for p in view.plan.pipelines):
        deep = any(len(p.stages) > 1 for p in view.plan.pipelines)
        if deep and capability.pipeline_parallel and schedule not in capability.schedules:
            known = ", ".join(capability.schedules)
            remedy = "plan with one of these schedules"
            if schedule == "interleaved":
                remedy = f"plan with {NO_CHUNKS}, or export to torch, which runs the plan's chunks"
            yield Problem(f"schedule {schedule}", f"the target runs {known}", remedy)


def _turns(capability: Capability, view: View, grid: Grid) -> Iterator[Problem]:
    """Groups of micro-batches that take turns: stock runtimes have one size for all of them."""
    if grid.schedule != "interleaved" or capability.keeps_depth:
        return
    if "interleaved" not in capability.schedules:
        return
    sizes = [len(members) for members in groups(grid.micro_batches, grid.pp)]
    rows = sum(p.micro_batch_rows for p in view.plan.pipelines)
    wanted = max(1, grid.micro_batches // grid.pp) * grid.pp * rows
    remedy = f"--global-batch {wanted}, or plan with {NO_CHUNKS}"
    if min(sizes) < grid.pp:
        message = f"{grid.micro_batches} micro-batches for {grid.pp} stages; the target needs as "
        message += "many as stages"
        yield Problem("interleaved micro-batches", message, remedy)
    elif len(set(sizes)) > 1:
        message = f"{grid.micro_batches} micro-batches take turns in groups of {min(sizes)} and "
        message += f"{max(sizes)}; the target's groups are equal"
        yield Problem("interleaved micro-batches", message, remedy)


def _grid(capability: Capability, view: View, grid: Grid) -> Iterator[Problem]:
    yield from _degrees(capability, grid)
    yield from _turns(capability, view, grid)
    if not capability.keeps_depth:
        yield from _depth(capability, grid)
    if grid.dp > 1 and grid.zero not in capability.zero:
        known = ", ".join(map(str, capability.zero))
        remedy = "plan with --forbid zero1" if grid.zero else "plan with job.techniques.zero1=true"
        yield Problem(f"ZeRO level {grid.zero}", f"the target has {known}", remedy)
    if not capability.uneven_layers and grid.pp > 1:
        counts = block_counts(view)
        if len(set(counts)) > 1:
            message = f"the target splits layers evenly, the plan {'/'.join(map(str, counts))}"
            remedy = "plan with --set job.max_pipeline_stages=1"
            yield Problem("uneven layers", message, remedy)
    if not capability.tied_across_stages and view.model.tied and grid.pp > 1:
        message = "embedding and head share a weight, but lie on different stages"
        remedy = "plan with --set job.max_pipeline_stages=1"
        yield Problem("tied embeddings", message, remedy)
    yield from _recompute(capability, recomputed(view))


def _degrees(capability: Capability, grid: Grid) -> Iterator[Problem]:
    deep, wide = grid.pp > 1, max(s.tensor_parallel for s in grid.stages) > 1
    if deep and not capability.pipeline_parallel:
        message = f"the plan has {grid.pp} stages, the target no pipeline"
        remedy = "plan with --set job.max_pipeline_stages=1"
        yield Problem("pipeline parallelism", message, remedy)
    if wide and not capability.tensor_parallel:
        message = f"the plan has tensor-parallel degree {grid.tp}, the target none"
        yield Problem("tensor parallelism", message, "plan with --forbid tensor_parallel")
    elif wide and deep and capability.pipeline_parallel and not capability.tensor_with_pipeline:
        message = f"the plan has degree {grid.tp} in {grid.pp} stages; the target has one or other"
        remedy = "plan with --forbid tensor_parallel, or with --set job.max_pipeline_stages=1"
        yield Problem("tensor parallelism in a pipeline", message, remedy)


def _meshes(capability: Capability, view: View) -> Iterator[Problem]:
    """What the chips of a stage share beside a layer's matrices."""
    meshes = [r.mesh for p in view.plan.pipelines for s in p.stages for r in s.replicas]
    context = max(mesh.context_parallel for mesh in meshes)
    if context > 1 and not capability.context_parallel:
        message = f"the plan has degree {context}, the target none"
        yield Problem("context parallelism", message, "plan with --forbid context_parallel")
    unwritten = "no exporter writes it yet"
    experts = max(mesh.expert_parallel for mesh in meshes)
    if experts > 1 and not capability.expert_parallel:
        message = f"the plan has degree {experts}; {unwritten}"
        yield Problem("expert parallelism", message, "plan with --forbid expert_parallel")
    data = max(mesh.data_parallel for mesh in meshes)
    if any(m.data_parallel > 1 and m.expert_parallel == 1 for m in meshes) or (
        data > 1 and not capability.expert_parallel
    ):
        message = f"{data} devices of a stage share the rows of a micro-batch; {unwritten}"
        remedy = "plan with --forbid expert_parallel and --forbid zero3"
        yield Problem("data parallelism inside a stage", message, remedy)
    if any(mesh.zero3 for mesh in meshes):
        message = f"the copies inside a stage divide their weights; {unwritten}"
        yield Problem("ZeRO level 3 inside a stage", message, "plan with --forbid zero3")


def _grouped(capability: Capability, view: View) -> Iterator[Problem]:
    """Experts in one call on some chips and one by one on others: targets have one setting."""
    if capability.grouped_experts and len(view.grouped_experts) > 1:
        devices = view.devices
        chips = {devices[name].chip for name in view.used}
        alone = sorted(Catalog.alias(c.id) for c in chips if not view.job.groups_experts(c))
        message = f"not on {', '.join(alone)}; the target has one setting for all"
        yield Problem(
            "experts as one grouped product", message, "plan with --forbid grouped_experts"
        )


def _offload(capability: Capability, view: View) -> Iterator[Problem]:
    """Optimizer state in the host's memory: one setting for the whole job, where there is one."""
    stages = [s for p in view.plan.pipelines for s in p.stages]
    hosted = [s.offload == "optimizer" for s in stages]
    remedy = "plan with --forbid optimizer_offload"
    if not any(hosted):
        return
    if not capability.optimizer_offload:
        message = f"the plan updates state in host memory; {capability.why_no_offload}"
        yield Problem("optimizer offload", message, remedy)
    elif not all(hosted):
        count = sum(s.offload for s in view.grid.stages) if view.grid else sum(hosted)
        total = len(view.grid.stages) if view.grid else len(stages)
        message = f"{count} of {total} stages offload, the target has one setting for all"
        remedy = "plan with --set job.plan_class=rectangular"
        yield Problem("optimizer offload by stage", message, remedy)


def _activations(capability: Capability, view: View) -> Iterator[Problem]:
    """Activations in the host's memory: no target copies all of them by a setting of its own."""
    stages = [s for p in view.plan.pipelines for s in p.stages]
    if any(part.policy in HOSTED for s in stages for part in s.recompute):
        message = f"the plan leaves activations in host memory; {capability.why_no_activations}"
        yield Problem("activation offload", message, "plan with --forbid activation_offload")


def _packed(capability: Capability, view: View) -> Iterator[Problem]:
    """Gradients packed between hosts and summed in full inside them: no target does both."""
    forms = {group.compression for group in view.plan.sync_groups} - {"none"}
    for form in sorted(forms):
        message = f"the plan packs gradients as {form} between hosts; {capability.why_no_packing}"
        yield Problem("gradient compression", message, "plan with --forbid gradient_compression")


def _depth(capability: Capability, grid: Grid) -> Iterator[Problem]:
    """Fewer micro-batches in flight than the target's own 1F1B holds: it would need more memory."""
    chunked = grid.schedule == "interleaved"
    if grid.schedule == "gpipe" or (chunked and "interleaved" not in capability.schedules):
        return
    usual = classic_depths(grid.pp, grid.chunks, grid.micro_batches)
    for s, stage in enumerate(grid.stages):
        own = min(usual[s], grid.micro_batches * grid.chunks)
        if stage.least_in_flight < own:
            message = f"stage {s} holds {stage.least_in_flight}, the target's 1F1B {own}"
            remedy = "export to torch, which keeps the plan's depth"
            what = "micro-batches" if grid.chunks == 1 else "pairs of chunk and micro-batch"
            yield Problem(f"{what} in flight", message, remedy)


def _recompute(capability: Capability, stages: tuple[Recomputed, ...]) -> Iterator[Problem]:
    kinds = {kind for stage in stages for kind in stage.kinds}
    for kind in ("selective", "full"):
        if kind in kinds and kind not in capability.recompute:
            known = ", ".join(capability.recompute)
            message = f"the target has {known}"
            remedy = f"plan with --forbid recompute_{kind}"
            yield Problem(f"{kind} recomputation", message, remedy)
            return
    shape = capability.recompute_shape
    if shape in ("none", "per layer") or len(kinds) < 2:
        return
    if {"selective", "full"} <= kinds:
        message = "some blocks are recomputed selectively and others fully; the target has one kind"
        yield Problem("mixed recomputation", message, "plan with --forbid recompute_selective")
    elif "selective" in kinds:
        message = "only some blocks are recomputed selectively; the target does all or none"
        yield Problem("partial recomputation", message, "plan with --forbid recompute_selective")
    elif shape == "one for the whole job":
        message = "only some blocks are recomputed; the target recomputes all or none"
        yield Problem("partial recomputation", message, "plan with --forbid recompute_full")
    elif shape == "one count for all stages" and common_count(stages) is None:
        counts = ", ".join(f"{s.full} of {s.full + s.none}" for s in stages)
        message = f"recomputed blocks per stage: {counts}; the target takes one count for all"
        yield Problem("recomputation by stage", message, "plan with --forbid recompute_full")


def common_count(stages: tuple[Recomputed, ...]) -> int | None:
    """The count K such that every stage recomputes min(K, its blocks), or None."""
    wanted = max((s.full for s in stages), default=0)
    fits = all(s.full == min(wanted, s.full + s.none) for s in stages)
    return wanted if fits else None
