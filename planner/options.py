"""The legal ways to run layers on chips of one class, and why the others are not legal.

An option fixes the class of island, the mesh of chips and the rows of a micro-batch.
Recomputation is not part of it: for a stage whose option, layers and in-flight depth are known,
the fastest policy that fits dominates the others (same chips, same transfers, less time), so the
tables resolve it. The same argument drops ZeRO level 0 where level 1 is allowed: it moves the
same bytes (a reduce-scatter and an all-gather instead of an all-reduce), updates no more
parameters and never holds more memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.price import WAYS
from planner.graphs.across import numbers_of_islands
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.job import ResolvedJob
from planner.mesh import StageMesh
from planner.meshes import mesh_problem, meshes


@dataclass(frozen=True, slots=True)
class StageOption:
    """One way to run layers: a mesh on one island of a class, or on several whole ones.

    ``rows`` per micro-batch.
    """

    index: int
    class_index: int
    mesh: StageMesh
    rows: int

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""
        return self.mesh.tp

    @property
    def chips(self) -> int:
        """Chips of the stage."""
        return self.mesh.chips


@dataclass(frozen=True, slots=True)
class Rejected:
    """A way that is not legal, and the rule that it breaks."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class OptionSet:
    """All legal options, the ZeRO level allowed, and the rejects.

    ``policies``: what stages may do with activations, as indices into
    :data:`costmodels.price.WAYS`.
    """

    options: tuple[StageOption, ...]
    policies: tuple[int, ...]
    zero_level: int
    rejected: tuple[Rejected, ...]


def tensor_parallel_problem(model: ModelGraph, tp: int, seq_len: int, sequence: bool) -> str | None:
    """Why no layer-complete model can run at tensor-parallel degree ``tp``; None if it can.

    Rules (Megatron-LM): the heads divide evenly; key/value heads divide evenly or are replicated
    evenly; widths divide evenly; with sequence parallelism the sequence divides evenly. The
    vocabulary is padded and never a reason.
    """
    if tp == 1:
        return None
    for layer in model.layers:
        shape = layer.shape
        if shape.generic is not None and not shape.generic.tensor_parallel:
            return f"layer {layer.name} declares tensor_parallel: false"
        core = shape.attention
        if core is not None and core.heads % tp:
            return f"{core.heads} attention heads do not divide by {tp}"
        if core is not None and core.kv_heads % tp and tp % core.kv_heads:
            return f"{core.kv_heads} key/value heads neither divide by {tp} nor replicate evenly"
        for m in shape.matmuls:
            width = {"column": m.outputs, "row": m.inputs, "replicated": tp}[m.split]
            if width % tp and shape.kind != "head":
                return f"{m.name} of {layer.name} is {width} wide, which does not divide by {tp}"
    if sequence and seq_len % tp:
        return f"sequence length {seq_len} does not divide by {tp} (sequence parallelism)"
    return None


def tensor_parallel_degrees(size: int) -> tuple[int, ...]:
    """Powers of two up to the island's size: they pack into islands without a knapsack."""
    degrees = []
    tp = 1
    while tp <= size:
        degrees.append(tp)
        tp *= 2
    return tuple(degrees)


def legal_options(model: ModelGraph, topology: Topology, job: ResolvedJob) -> OptionSet:
    """Enumerate options in a canonical order: rows, class, mesh."""
    options: list[StageOption] = []
    rejected: list[Rejected] = []
    wide = {cls.index: _wide(topology, cls, job) for cls in topology.classes}
    for rows in sorted({*job.micro_batch_rows, *job.cross_node_rows}):
        for cls in topology.classes:
            sizes = tensor_parallel_degrees(cls.size)
            for mesh in meshes(model, job, sizes, wide[cls.index]):
                if not _rows_wanted(mesh, rows, cls, job):
                    continue
                against = _against(model, cls, mesh, rows, job)
                if against is None:
                    options.append(StageOption(len(options), cls.index, mesh, rows))
                elif against.what and against not in rejected:
                    rejected.append(against)
    if job.activation_offload:
        reason = "the cluster does not say host_memory_gib, which bounds it"
        unknown = (c.name for c in topology.classes if not c.host_known)
        rejected += [Rejected(f"activation offload on {name}", reason) for name in unknown]
    ways = tuple(way for way, name in enumerate(WAYS) if way_allowed(name, job))
    return OptionSet(tuple(options), ways, 1 if job.zero1 else 0, tuple(rejected))


def _wide(topology: Topology, cls: IslandClass, job: ResolvedJob) -> tuple[int, ...]:
    """Numbers of chips of stages over several whole islands of the class."""
    if not (job.cross_node_expert_parallel or job.cross_node_context_parallel):
        return ()
    return tuple(cls.size * n for n in numbers_of_islands(topology, cls))


def _rows_wanted(mesh: StageMesh, rows: int, cls: IslandClass, job: ResolvedJob) -> bool:
    """Whether the job allows the rows of a micro-batch; over islands, or those of one device."""
    if rows in job.micro_batch_rows:
        return True
    each, rest = divmod(rows, mesh.dp)
    return mesh.chips > cls.size and not rest and each in job.micro_batch_rows


def way_allowed(way: str, job: ResolvedJob) -> bool:
    """Whether a job lets stages do this with their activations (:data:`costmodels.price.WAYS`).

    What leaves for the host is what recomputation would keep, and takes leave to recompute.
    """
    return {
        "none": True,
        "selective": job.recompute_selective,
        "full": job.recompute_full,
        "offload": job.activation_offload and job.recompute_selective,
        "full_offload": job.activation_offload and job.recompute_full,
    }[way]


def _against(
    model: ModelGraph, cls: IslandClass, mesh: StageMesh, rows: int, job: ResolvedJob
) -> Rejected | None:
    """Why a mesh is no option. What follows from its tensor parallelism alone is said there."""
    tp, plain = mesh.tp, mesh.plain
    if job.max_tensor_parallel is not None and tp > job.max_tensor_parallel:
        limit = f"the job allows tp up to {job.max_tensor_parallel} (max_tensor_parallel)"
        return Rejected(f"tp={tp} on {cls.name}" if plain else "", limit)
    problem = tensor_parallel_problem(model, tp, job.seq_len, job.sequence_parallel)
    if problem is not None:
        return Rejected(f"tp={tp} on {cls.name}" if plain else "", problem)
    gap = cls.profile.problem(tp, rows) if cls.profile is not None else None
    if gap is not None:
        return Rejected(f"{rows} rows at tp={tp} on {cls.name}" if plain else "", gap)
    if mesh.offload and not cls.host_known:
        reason = "the cluster does not say host_memory_gib, which bounds it"
        return Rejected(f"optimizer offload on {cls.name}", reason)
    if mesh.tensor_alone:
        return None
    if cls.profile is not None:
        reason = "a measured profile prices tensor parallelism alone"
        return Rejected(f"context and expert parallelism and ZeRO-3 on {cls.name}", reason)
    degree, why = mesh_problem(model, mesh, rows, job)
    return None if why is None else Rejected(degree, why)
