"""Between the mesh of a plan file and that of the search."""

from __future__ import annotations

from planner.mesh import StageMesh
from planner.plan import Mesh


def stage_mesh(mesh: Mesh, offload: str = "none") -> StageMesh:
    """The mesh that a plan's replica names, with what its stage offloads."""
    return StageMesh(
        tp=mesh.tensor_parallel,
        cp=mesh.context_parallel,
        dp=mesh.data_parallel,
        ep=mesh.expert_parallel,
        zero3=mesh.zero3,
        offload=offload == "optimizer",
    )


def plan_mesh(mesh: StageMesh) -> Mesh:
    """The mesh as a plan names it."""
    return Mesh(
        context_parallel=mesh.cp,
        expert_parallel=mesh.ep,
        tensor_parallel=mesh.tp,
        data_parallel=mesh.dp,
        zero3=mesh.zero3,
    )
