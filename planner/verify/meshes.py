"""What the degrees of a replica mean: chips, copies of its weights, and who divides them.

This module's own account of a stage's mesh, from the plan's words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from costmodels.price import LayerPrice
from planner.plan import Mesh


@dataclass(frozen=True, slots=True)
class Holding:
    """``lanes`` chips hold a part of the weights once, ``copies`` times over in the stage.

    With ``divided`` the chips of equal weights keep a share each.
    """

    lanes: int
    copies: int
    divided: bool

    @property
    def shares(self) -> int:
        """Among how many chips weights and gradients are divided."""
        return self.copies if self.divided else 1

    @property
    def to_sum(self) -> int:
        """Chips of the stage whose gradients are still unsummed after the last backward."""
        return 1 if self.divided else self.copies

    def on_a_chip(self, parameters: int) -> int:
        """What is left of a part on each chip."""
        return -(-parameters // self.shares)


def chips_of(mesh: Mesh) -> int:
    """Chips that a mesh asks for."""
    return mesh.tensor_parallel * mesh.context_parallel * mesh.data_parallel


def copies_of(mesh: Mesh) -> int:
    """Chips of a mesh that work with the same dense weights."""
    return mesh.context_parallel * mesh.data_parallel


def expert_slices(mesh: Mesh) -> int:
    """Chips that share one expert: the widest slicing that leaves whole groups of experts."""
    tp, ep = mesh.tensor_parallel, mesh.expert_parallel
    if ep == 1:
        return tp
    return max(n for n in range(1, tp + 1) if tp % n == 0 and chips_of(mesh) % (ep * n) == 0)


def dense(mesh: Mesh) -> Holding:
    """How everything but experts is held."""
    return Holding(mesh.tensor_parallel, copies_of(mesh), mesh.zero3)


def experts(mesh: Mesh) -> Holding:
    """How experts are held."""
    lanes = mesh.expert_parallel * expert_slices(mesh)
    return Holding(lanes, chips_of(mesh) // lanes, mesh.zero3)


def trained(layers: Sequence[LayerPrice], mesh: Mesh) -> list[tuple[int, Holding]]:
    """Parameters with gradients on one chip: everything but experts, then experts if any."""
    lying_apart = sum(p.expert_parameters for p in layers if p.trained is None)
    rest = sum(p.trained_parameters for p in layers) - lying_apart
    found = [(rest, dense(mesh))]
    return [*found, (lying_apart, experts(mesh))] if lying_apart else found
