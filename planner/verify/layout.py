"""Whether the plan says one possible thing: coverage, devices, batch, degrees, groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from planner.errors import Problem
from planner.graphs.topology import IslandClass
from planner.plan import Pipeline, Plan, Replica, Stage, SyncGroup
from planner.restore import Restored
from planner.verify.constraints import constraint_problems
from planner.verify.coverage import (
    chunk_problems,
    coverage_problems,
    depth_problems,
    recompute_problems,
)
from planner.verify.degrees import mesh_problems, over_islands
from planner.verify.meshes import chips_of, copies_of
from planner.verify.parts import held


def check_layout(plan: Plan, world: Restored) -> list[Problem]:
    """All problems that can be seen without pricing anything."""
    problems = [*_layer_order(plan, world)]
    for p, pipeline in enumerate(plan.pipelines):
        where = f"pipelines[{p}]"
        problems += chunk_problems(pipeline, where)
        problems += coverage_problems(pipeline, len(world.model.layers), where)
        problems += depth_problems(pipeline, where)
        problems += _rows(pipeline, where)
        for s, stage in enumerate(pipeline.stages):
            at = f"{where}.stages[{s}]"
            copies = len(plan.pipelines) * sum(copies_of(r.mesh) for r in stage.replicas)
            problems += recompute_problems(stage, world, at)
            problems += _zero(stage, copies, world, at)
            problems += _offload(stage, world, at)
            problems += _alone(stage, at)
            for r, replica in enumerate(stage.replicas):
                problems += _replica(replica, world, f"{at}.replicas[{r}]")
    problems += constraint_problems(plan, world)
    problems += _devices(plan, world)
    problems += _batch(plan, world)
    problems += _plan_class(plan)
    problems += _sync_groups(plan, world)
    return problems


def _layer_order(plan: Plan, world: Restored) -> Iterator[Problem]:
    names = tuple(layer.name for layer in world.model.layers)
    if plan.layer_order != names:
        yield Problem("layer_order", "differs from the layers of the plan's own model")


def _rows(pipeline: Pipeline, where: str) -> Iterator[Problem]:
    rows, last = pipeline.micro_batch_rows, pipeline.last_micro_batch_rows
    if rows < 1 or not 1 <= last <= rows:
        message = f"{last} rows in the last micro-batch of {rows}: not between 1 and {rows}"
        yield Problem(f"{where}.last_micro_batch_rows", message)
    for s, stage in enumerate(pipeline.stages):
        at = f"{where}.stages[{s}].replicas"
        total = sum(replica.rows for replica in stage.replicas)
        if min((replica.rows for replica in stage.replicas), default=0) < 1:
            yield Problem(at, "every stage needs a replica, and every replica at least 1 row")
        elif total != rows:
            yield Problem(at, f"replicas share {total} rows, but a micro-batch has {rows}")


def _zero(stage: Stage, copies: int, world: Restored, at: str) -> Iterator[Problem]:
    level, scope = stage.zero.level, stage.zero.scope
    if level not in (0, 1):
        yield Problem(f"{at}.zero", f"ZeRO level {level} is not one that this version prices")
    elif level == 1 and not world.job.zero1:
        yield Problem(f"{at}.zero", "ZeRO level 1 is not allowed by the job")
    if (level > 0 and copies > 1) != (scope == "all-replicas"):
        message = f"level {level} with {copies} replicas does not go with scope {scope!r}"
        yield Problem(f"{at}.zero", message)


def _replica(replica: Replica, world: Restored, at: str) -> Iterator[Problem]:
    mesh = replica.mesh
    degrees = (mesh.tensor_parallel, mesh.context_parallel, mesh.data_parallel)
    if min(*degrees, mesh.expert_parallel) < 1:
        yield Problem(f"{at}.mesh", "every degree is at least 1")
        return
    if len(replica.devices) != chips_of(mesh):
        product = " × ".join(map(str, degrees if max(degrees[1:]) > 1 else degrees[:1]))
        yield Problem(f"{at}.devices", f"{len(replica.devices)} devices for a mesh of {product}")
        return
    yield from mesh_problems(replica, world, at)
    islands = {
        world.island_of[d].name: world.island_of[d] for d in replica.devices if d in world.island_of
    }
    if len(islands) > 1:
        yield from over_islands(replica, tuple(islands.values()), world, at)
    for island in islands.values():
        cls = world.topology.classes[island.class_index]
        if cls.chip.id != replica.chip:
            message = f"says {replica.chip}, but {replica.devices[0]} is a {cls.chip.id}"
            yield Problem(f"{at}.chip", message)
        yield from _legal(cls, mesh.tensor_parallel, world, at)


def _legal(cls: IslandClass, tp: int, world: Restored, at: str) -> Iterator[Problem]:
    """Whether the chip has the job's precision and the layers divide by ``tp``."""
    job = world.job
    if not cls.chip.supports(job.precision):
        yield Problem(f"{at}.chip", f"{cls.chip.id} does not support {job.precision}")
    if tp == 1:
        return
    if not job.tensor_parallel:
        yield Problem(f"{at}.mesh", "tensor parallelism is not allowed by the job")
    if job.sequence_parallel and job.seq_len % tp:
        yield Problem(f"{at}.mesh", f"sequence length {job.seq_len} does not divide by {tp}")
    for layer in world.model.layers:
        shape = layer.shape
        core = shape.attention
        if core is not None and core.heads % tp:
            yield Problem(f"{at}.mesh", f"{core.heads} attention heads do not divide by {tp}")
            return
        if core is not None and core.kv_heads % tp and tp % core.kv_heads:
            message = f"{core.kv_heads} key/value heads neither divide by {tp} nor replicate evenly"
            yield Problem(f"{at}.mesh", message)
            return
        if shape.generic is not None and not shape.generic.tensor_parallel:
            yield Problem(f"{at}.mesh", f"layer {layer.name} declares tensor_parallel: false")
            return
        for matmul in shape.matmuls if shape.kind != "head" else ():
            width = {"column": matmul.outputs, "row": matmul.inputs}.get(matmul.split, tp)
            if width % tp:
                message = f"{matmul.name} of {layer.name} is {width} wide, not a multiple of {tp}"
                yield Problem(f"{at}.mesh", message)
                return


def _devices(plan: Plan, world: Restored) -> Iterator[Problem]:
    used = Counter(
        device
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        for device in replica.devices
    )
    idle = Counter(device for entry in plan.unused_devices for device in entry.devices)
    known = {*world.island_of, *world.forbidden}
    for device in [d for d in (*used, *idle) if d not in known][:5]:
        yield Problem("devices", f"{device} is not a device of the cluster")
    for device in [d for d, n in used.items() if n > 1][:5]:
        yield Problem("devices", f"{device} is used {used[device]} times")
    for device in [d for d, n in idle.items() if n > 1 or d in used][:5]:
        yield Problem("unused_devices", f"{device} is listed as unused, but not only once")
    missing = [d for d in (*world.island_of, *world.forbidden) if d not in used and d not in idle]
    if missing:
        message = f"{len(missing)} devices are neither used nor listed: {', '.join(missing[:5])}"
        yield Problem("unused_devices", message)
    for k, entry in enumerate(plan.unused_devices):
        if not entry.reason.strip():
            yield Problem(f"unused_devices[{k}]", "has no reason")


def _batch(plan: Plan, world: Restored) -> Iterator[Problem]:
    total = sum(
        (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows for p in plan.pipelines
    )
    if total != world.job.global_batch:
        message = f"run {total} rows per step, but the job's global batch is"
        yield Problem("pipelines", f"{message} {world.job.global_batch}")


def _plan_class(plan: Plan) -> Iterator[Problem]:
    """Whether the plan claims to be simpler than it is."""
    degrees = {
        (replica.mesh, stage.offload)
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
    }
    alike = {
        (
            p.micro_batches,
            p.micro_batch_rows,
            p.last_micro_batch_rows,
            tuple(
                (s.parts, s.offload, tuple((r.rows, r.mesh) for r in s.replicas)) for s in p.stages
            ),
        )
        for p in plan.pipelines
    }
    uneven = any(p.last_micro_batch_rows != p.micro_batch_rows for p in plan.pipelines)
    if plan.plan_class != "asymmetric" and (len(alike) > 1 or uneven):
        yield Problem("plan_class", f"is {plan.plan_class}, but the pipelines differ")
    elif plan.plan_class == "rectangular" and len(degrees) > 1:
        message = "is rectangular, but the stages differ in their degrees or in what they offload"
        yield Problem("plan_class", message)


def _sync_groups(plan: Plan, world: Restored) -> Iterator[Problem]:
    """Every layer is reduced once, over all of its replicas, by members that hold it."""
    holders = _holders(plan, len(world.model.layers))
    reduced: list[int] = [0] * len(holders)
    for k, group in enumerate(plan.sync_groups):
        where = f"sync_groups[{k}]"
        yield from _members(plan, group, world, where)
        first, end = group.layers
        if not 0 <= first < end <= len(holders):
            yield Problem(f"{where}.layers", f"[{first}, {end}) are not layers of the model")
        elif group.kind == "gradients":
            members = Counter((m.pipeline, m.stage) for m in group.members)
            for layer in range(first, end):
                reduced[layer] += 1
                if members != holders[layer]:
                    message = f"does not join exactly the replicas of layer {layer}"
                    yield Problem(f"{where}.members", message)
                    break
        if group.time_s < 0:
            yield Problem(f"{where}.time_s", "is negative")
    unsummed = _unsummed(plan, len(holders))
    for layer, count in enumerate(reduced):
        if count > 1:
            yield Problem("sync_groups", f"layer {layer} is reduced {count} times")
        elif not count and (holders[layer].total() > 1 or layer in unsummed):
            yield Problem("sync_groups", f"no group reduces layer {layer} over its replicas")
    yield from _tied(plan, world, holders)


def _offload(stage: Stage, world: Restored, at: str) -> Iterator[Problem]:
    """State and activations go to hosts whose memory is known; state only if the job allows it."""
    leaves = any(part.policy in ("offload", "full_offload") for part in stage.recompute)
    if stage.offload == "none" and not leaves:
        return
    if stage.offload == "optimizer" and not world.job.optimizer_offload:
        yield Problem(f"{at}.offload", "optimizer offload is not allowed by the job")
    field = "recompute" if leaves else "offload"
    for replica in stage.replicas:
        for device in replica.devices[:1]:
            if device in world.island_of:
                cls = world.topology.classes[world.island_of[device].class_index]
                if cls.host is None or cls.host.memory_bytes is None:
                    message = f"the cluster does not say how much memory the host of {device} has"
                    yield Problem(f"{at}.{field}", message)


def _alone(stage: Stage, at: str) -> Iterator[Problem]:
    """Replicas that share a stage's rows, and meshes, are not priced together."""
    plain = all(chips_of(r.mesh) == r.mesh.tensor_parallel for r in stage.replicas)
    plain = plain and all(r.mesh.expert_parallel == 1 and not r.mesh.zero3 for r in stage.replicas)
    if len(stage.replicas) > 1 and not plain:
        message = "several replicas with meshes of more than tensor parallelism are not priced"
        yield Problem(f"{at}.replicas", message, "give every replica a pipeline of its own")


def _unsummed(plan: Plan, layers: int) -> set[int]:
    """Layers of which some stage alone holds several copies that must be summed."""
    return {
        layer
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        if not replica.mesh.zero3 and copies_of(replica.mesh) > 1
        for layer in held(stage, layers)
    }


def _members(plan: Plan, group: SyncGroup, world: Restored, where: str) -> Iterator[Problem]:
    vendors: dict[str, None] = {}
    for member in group.members:
        if not (
            0 <= member.pipeline < len(plan.pipelines)
            and 0 <= member.stage < len(plan.pipelines[member.pipeline].stages)
        ):
            message = f"pipeline {member.pipeline} has no stage {member.stage}"
            yield Problem(f"{where}.members", message)
            continue
        stage = plan.pipelines[member.pipeline].stages[member.stage]
        if stage.zero.level != group.level:
            message = f"is {group.level}, but its members run ZeRO level {stage.zero.level}"
            yield Problem(f"{where}.level", message)
        if all(r.mesh.tensor_parallel != member.tensor_parallel for r in stage.replicas):
            message = f"stage {member.stage} of pipeline {member.pipeline} does not run tp"
            yield Problem(f"{where}.members", f"{message} {member.tensor_parallel}")
        for replica in stage.replicas:
            for device in replica.devices[:1]:
                if device in world.island_of:
                    cls = world.topology.classes[world.island_of[device].class_index]
                    vendors[cls.chip.vendor] = None
    # a shared weight is summed by two messages, which cross vendors as activations do
    several = len(vendors) > 1 and group.kind != "tied"
    if several and world.topology.cross_vendor_collectives == "none":
        message = f"spans vendors {', '.join(vendors)}, which the cluster does not allow"
        yield Problem(f"{where}.members", message)


def _tied(
    plan: Plan, world: Restored, holders: list[Counter[tuple[int, int]]]
) -> Iterator[Problem]:
    """A weight that two layers share is summed in every pipeline that holds them on two stages."""
    summed = [
        {(m.pipeline, m.stage) for m in group.members}
        for group in plan.sync_groups
        if group.kind == "tied"
    ]
    for first, second in world.model.tied:
        for p in range(len(plan.pipelines)):
            wanted = {
                holder for layer in (first, second) for holder in holders[layer] if holder[0] == p
            }
            if len(wanted) > 1 and wanted not in summed:
                message = f"no group sums the weight that layers {first} and {second} share"
                yield Problem("sync_groups", f"{message} in pipeline {p}")


def _holders(plan: Plan, layers: int) -> list[Counter[tuple[int, int]]]:
    """Per layer, how many replicas each (pipeline, stage) holds of it."""
    holders: list[Counter[tuple[int, int]]] = [Counter() for _ in range(layers)]
    for p, pipeline in enumerate(plan.pipelines):
        for s, stage in enumerate(pipeline.stages):
            for layer in held(stage, layers):
                holders[layer][p, s] += len(stage.replicas)
    return holders
