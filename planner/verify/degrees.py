"""Whether a stage's mesh is one that the model, the job and the chip allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.errors import Problem
from planner.graphs.across import MAX_HOSTS
from planner.graphs.topology import Island
from planner.plan import Replica
from planner.restore import Restored
from planner.verify.meshes import chips_of, copies_of, experts


def mesh_problems(replica: Replica, world: Restored, at: str) -> Iterator[Problem]:
    """Context, expert and data parallelism and ZeRO-3 of one replica; tp is judged elsewhere."""
    mesh = replica.mesh
    where = f"{at}.mesh"
    if chips_of(mesh) == mesh.tensor_parallel and mesh.expert_parallel == 1 and not mesh.zero3:
        return
    if mesh.context_parallel > 1:
        yield from _context(replica, world, where)
    if mesh.expert_parallel > 1:
        yield from _experts(replica, world, where)
    if mesh.data_parallel > 1 and mesh.expert_parallel == 1 and not mesh.zero3:
        message = "data parallelism inside a stage is priced with experts or ZeRO-3 alone"
        yield Problem(where, message, "give every copy a pipeline of its own")
    if replica.rows % mesh.data_parallel:
        message = f"{replica.rows} rows do not divide among {mesh.data_parallel} devices"
        yield Problem(where, message)
    if mesh.zero3:
        yield from _zero3(replica, world, where)
    if world.topology.classes[_class_of(replica, world)].profile is not None:
        yield Problem(where, "a measured profile prices tensor parallelism alone")


def over_islands(
    replica: Replica, islands: Sequence[Island], world: Restored, at: str
) -> Iterator[Problem]:
    """A stage on several islands takes whole ones of one class, as many as a power of two.

    Only experts, one copy of each in the stage, and sequences may lie over them, as the job allows.
    """
    mesh, job = replica.mesh, world.job
    where, names = f"{at}.devices", ", ".join(island.name for island in islands)
    if mesh.tensor_parallel == chips_of(mesh):
        yield Problem(where, f"a tensor-parallel group spans islands {names}")
        return
    cls = world.topology.classes[islands[0].class_index]
    order = [device for island in islands for device in island.devices]
    if any(i.class_index != cls.index for i in islands) or list(replica.devices) != order:
        message = f"the mesh of a stage spans islands {names}"
        yield Problem(where, message, "take whole islands of one kind, one after the other")
    if len(islands) & (len(islands) - 1) or cls.size & (cls.size - 1):
        yield Problem(where, f"{len(islands)} islands of {cls.size}: not powers of two")
    if len(islands) > MAX_HOSTS:
        yield Problem(where, f"{len(islands)} islands, at most {MAX_HOSTS} are searched")
    if any(world.topology.host_chips[i.host] != cls.size for i in islands):
        yield Problem(where, "a stage over hosts shares their ports with other islands")
    if any(world.topology.route(a, b) is None for a in islands for b in islands if a != b):
        yield Problem(where, f"no network joins islands {names}")
    where = f"{at}.mesh"
    inner = mesh.tensor_parallel * mesh.context_parallel
    scattered = mesh.expert_parallel > 1 and experts(mesh).copies == 1
    if mesh.tensor_parallel > cls.size:
        yield Problem(where, "a tensor-parallel group spans islands")
    if mesh.zero3:
        yield Problem(where, "ZeRO-3 over several islands is not priced")
    if scattered and not job.cross_node_expert_parallel:
        remedy = "plan with --set job.techniques.cross_node_expert_parallel=true"
        yield Problem(where, "experts over hosts are not allowed by the job", remedy)
    if (inner > cls.size or not scattered) and not job.cross_node_context_parallel:
        remedy = "plan with --set job.techniques.cross_node_context_parallel=true"
        yield Problem(where, "sequences over hosts are not allowed by the job", remedy)
    if not scattered and (mesh.data_parallel > 1 or mesh.context_parallel == 1):
        yield Problem(where, "neither experts nor sequences lie on all of its chips")


def _class_of(replica: Replica, world: Restored) -> int:
    island = world.island_of.get(replica.devices[0])
    return 0 if island is None else island.class_index


def _context(replica: Replica, world: Restored, where: str) -> Iterator[Problem]:
    mesh, job = replica.mesh, world.job
    if not job.context_parallel:
        yield Problem(where, "context parallelism is not allowed by the job")
    for layer in world.model.layers:
        if layer.shape.generic is not None:
            yield Problem(where, f"layer {layer.name} is known by its totals: no sequence to share")
            return
    # a causal mask is even when every device takes one piece from the front and one from the back
    pieces = 2 * mesh.context_parallel * (mesh.tensor_parallel if job.sequence_parallel else 1)
    if job.seq_len % pieces:
        yield Problem(where, f"sequence length {job.seq_len} does not divide into {pieces} pieces")


def _experts(replica: Replica, world: Restored, where: str) -> Iterator[Problem]:
    mesh, job = replica.mesh, world.job
    if not job.expert_parallel:
        yield Problem(where, "expert parallelism is not allowed by the job")
    if job.lora_rank:
        yield Problem(where, "adapters of experts that lie apart are not priced")
    numbers = {m.experts for layer in world.model.layers for m in layer.shape.matmuls} - {1}
    if not numbers:
        yield Problem(where, "the model has no experts")
    for number in sorted(numbers):
        if number % mesh.expert_parallel:
            yield Problem(where, f"{number} experts do not divide by {mesh.expert_parallel}")
    if chips_of(mesh) % mesh.expert_parallel:
        message = f"{mesh.expert_parallel} devices for experts do not divide the stage's"
        yield Problem(where, f"{message} {chips_of(mesh)}")


def _zero3(replica: Replica, world: Restored, where: str) -> Iterator[Problem]:
    job = world.job
    if not job.zero3:
        yield Problem(where, "ZeRO-3 is not allowed by the job")
    if copies_of(replica.mesh) == 1:
        yield Problem(where, "ZeRO-3 needs several copies to divide weights among")
    if job.lora_rank or job.frozen_layers:
        yield Problem(where, "ZeRO-3 with frozen weights is not priced")
