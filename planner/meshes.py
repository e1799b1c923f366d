"""Which meshes of more than tensor parallelism a stage may run, and why the others are not tried.

What is enumerated is declared in the certificate. Three restrictions keep it small:

- Degrees are powers of two, so that groups pack into islands without a knapsack.
- Data parallelism inside a stage appears with expert parallelism or ZeRO-3 alone. Elsewhere
  separate pipelines hold the same copies on the same chips and may even differ.
- ``expert_tp`` follows from the other degrees (:class:`planner.mesh.StageMesh`), and ``ep`` is one
  that leaves the fewest copies of an expert in the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from costmodels.shapes import LayerShape
from planner.graphs.model_graph import ModelGraph
from planner.inputs.job import ResolvedJob
from planner.mesh import StageMesh


def meshes(
    model: ModelGraph, job: ResolvedJob, sizes: Sequence[int], wide: Sequence[int] = ()
) -> list[StageMesh]:
    """Every mesh that the techniques of the job ask for, on numbers of chips from ``sizes``.

    ``wide`` numbers are those of several whole islands; ``sizes`` fit into one.

    Tensor parallelism alone comes first, then the others by chips. Of the ways to spread experts
    over the same devices, those that leave the fewest copies of an expert in the stage. With
    ``optimizer_offload`` all of them come again, their optimizer's state in the host's memory.
    """
    found = _on_devices(model, job, sizes) + _over_islands(model, job, sizes, wide)
    if job.optimizer_offload:
        found += [replace(mesh, offload=True) for mesh in found]
    return found


def _on_devices(model: ModelGraph, job: ResolvedJob, sizes: Sequence[int]) -> list[StageMesh]:
    """The meshes whose optimizer's state lies on the devices."""
    tensor = [n for n in sizes if n == 1 or job.tensor_parallel]
    context = [n for n in sizes if n == 1 or job.context_parallel]
    numbers = expert_numbers([layer.shape for layer in model.layers])
    even = [n for n in sizes if numbers and not any(e % n for e in numbers)]
    expert = [n for n in even if n > 1 and job.expert_parallel]
    found = [StageMesh(tp) for tp in tensor]
    for chips in sizes:
        for tp, cp in product(tensor, context):
            dp = chips // (tp * cp)
            if dp * tp * cp == chips:
                for zero3 in [False, True] if job.zero3 else [False]:
                    apart = [StageMesh(tp, cp, dp, ep, zero3) for ep in expert if ep <= chips]
                    fewest = min((m.expert_copies for m in apart), default=0)
                    made = [StageMesh(tp, cp, dp, 1, zero3)]
                    made += [m for m in apart if m.expert_copies == fewest]
                    found += filter(_wanted, made)
    return found


def _over_islands(
    model: ModelGraph, job: ResolvedJob, sizes: Sequence[int], wide: Sequence[int]
) -> list[StageMesh]:
    """The meshes that no island holds: experts, or sequences, over whole islands.

    Tensor parallelism stays inside. Experts lie on all chips, each once and in as few slices as
    there can be: with copies left over, separate pipelines do the same on fewer islands each.
    """
    tensor = [n for n in sizes if n == 1 or job.tensor_parallel]
    numbers = expert_numbers([layer.shape for layer in model.layers])
    expert = [n for n in (*sizes, *wide) if numbers and not any(e % n for e in numbers)]
    found = []
    for chips, tp in product(wide, tensor):
        left = chips // tp
        for cp in _context_degrees(job, sizes, left, max(sizes) // tp):
            dp = left // cp
            if _sequences_over(job) and dp == 1:
                found.append(StageMesh(tp, cp))
            if job.cross_node_expert_parallel and job.expert_parallel:
                apart = [StageMesh(tp, cp, dp, ep) for ep in expert if 1 < ep <= chips]
                found += [m for m in apart if m.expert_copies == 1][-1:]
    return found


def over_islands_problem(mesh: StageMesh, size: int, job: ResolvedJob) -> str | None:
    """Why the job does not let a mesh lie on several whole islands of ``size``; None if it does."""
    if mesh.tp > size:
        return "a tensor-parallel group lies inside an island"
    if mesh.zero3:
        return "ZeRO-3 over several islands is not priced"
    if mesh.ep > 1 and mesh.expert_copies == 1:
        if not job.cross_node_expert_parallel:
            return "experts over hosts need --set job.techniques.cross_node_expert_parallel=true"
        if mesh.tp * mesh.cp <= size:
            return None
    elif mesh.dp > 1 or mesh.cp == 1:
        return (
            "no expert and no sequence lies on all of its chips: pipelines of their own do the same"
        )
    if not _sequences_over(job):
        return (
            "sequences over hosts need job.techniques.context_parallel and "
            "cross_node_context_parallel, both true"
        )
    return None


def _sequences_over(job: ResolvedJob) -> bool:
    """Whether sequences may be shared by chips of several islands."""
    return job.context_parallel and job.cross_node_context_parallel


def _context_degrees(job: ResolvedJob, sizes: Sequence[int], left: int, inside: int) -> list[int]:
    """Context-parallel degrees of a stage over islands, with ``left`` chips per tensor rank."""
    degrees = [n for n in sizes if n <= inside and (n == 1 or job.context_parallel)]
    if _sequences_over(job):
        n = 2 * max(degrees)
        while n <= left:
            degrees.append(n)
            n *= 2
    return degrees


def _wanted(mesh: StageMesh) -> bool:
    """Whether a mesh is no other one under another name, and not left to separate pipelines."""
    if mesh.plain or (mesh.zero3 and mesh.copies == 1):
        return False
    return mesh.dp == 1 or mesh.ep > 1 or mesh.zero3


def mesh_problem(
    model: ModelGraph, mesh: StageMesh, rows: int, job: ResolvedJob
) -> tuple[str, str | None]:
    """Which degree no layer-complete model can run on a mesh, and why; None if it can run.

    Rules: every context-parallel device takes one piece from the front of a sequence and one from
    the back, so that a causal mask leaves all of them the same work; experts divide evenly over
    their devices; rows divide evenly over the data-parallel ones. Tensor parallelism is judged
    elsewhere.
    """
    shapes = [layer.shape for layer in model.layers]
    if mesh.cp > 1 and (problem := _context_problem(shapes, mesh, job)) is not None:
        return f"cp={mesh.cp}", problem
    if mesh.ep > 1 and (problem := _expert_problem(shapes, mesh, job)) is not None:
        return f"ep={mesh.ep}", problem
    if mesh.zero3 and (job.lora_rank or job.frozen_layers):
        return "zero3", "ZeRO-3 with frozen weights is not priced"
    if mesh.dp > 1 and mesh.ep == 1 and not mesh.zero3:
        return f"dp={mesh.dp}", "inside a stage priced with experts or ZeRO-3 alone"
    if rows % mesh.dp:
        return "", f"{rows} rows per micro-batch do not divide among {mesh.dp} devices"
    return "", None


def _context_problem(shapes: Sequence[LayerShape], mesh: StageMesh, job: ResolvedJob) -> str | None:
    if any(shape.generic is not None for shape in shapes):
        return "a layer that is known by its totals has no sequence to share"
    pieces = 2 * mesh.cp * (mesh.tp if job.sequence_parallel else 1)
    if job.seq_len % pieces:
        return f"sequence length {job.seq_len} does not divide into {pieces} pieces"
    return None


def _expert_problem(shapes: Sequence[LayerShape], mesh: StageMesh, job: ResolvedJob) -> str | None:
    numbers = expert_numbers(shapes)
    if not numbers:
        return "the model has no experts"
    if job.lora_rank:
        return "adapters of experts that lie apart are not priced"
    if mesh.chips % mesh.ep:
        return f"{mesh.ep} devices for experts do not divide the stage's {mesh.chips}"
    uneven = [n for n in numbers if n % mesh.ep]
    if uneven:
        return f"{uneven[0]} experts do not divide by {mesh.ep}"
    return None


def expert_numbers(shapes: Sequence[LayerShape]) -> list[int]:
    """How many experts the layers have that have any."""
    return sorted({m.experts for shape in shapes for m in shape.matmuls} - {1})
