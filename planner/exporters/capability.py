"""What a target can run, as data: the refusals, the help and the reference are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.plan import PlanClass, Recompute

RecomputeShape = Literal[
    "none", "one for the whole job", "one count for all stages", "a count per stage", "per layer"
]
"""How finely a target takes recomputation, from the coarsest on."""

COMPUTE_CAPABILITY = {
    "kepler": (3, 5),
    "maxwell": (5, 0),
    "pascal": (6, 0),
    "volta": (7, 0),
    "turing": (7, 5),
    "ampere": (8, 0),
    "ada": (8, 9),
    "hopper": (9, 0),
    "blackwell": (10, 0),
}
"""The lowest CUDA compute capability of each NVIDIA architecture."""


def compute_capability(architecture: str) -> tuple[int, int] | None:
    """Of an NVIDIA architecture by its name, such as "Maxwell" or "maxwell 2"; None if unknown."""
    words = architecture.lower().split()
    return COMPUTE_CAPABILITY.get(words[0]) if words else None


@dataclass(frozen=True, slots=True)
class Floor:
    """The oldest NVIDIA chip that a version of a framework runs on, and where that is said."""

    compute_capability: tuple[int, int]
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Capability:
    """The declaration of one target; everything that it does not list is refused by name.

    ``families`` are Hugging Face model types, None for any layers. ``vendors`` are chip vendors,
    None for any with a torch device. ``optimizers`` and ``gradient_bytes`` are what the target's
    state per parameter can be. ``keeps_depth``: whether it holds as many micro-batches in flight
    as the plan says, or always stages - stage. ``checked_by_target`` says which of its own code
    has read such files. ``optimizer_offload``: whether it keeps the optimizer's state, and nothing
    else, in the host's memory; ``why_no_offload`` is the reason where it is a particular one.
    ``grouped_experts``: whether its files ask for experts as one grouped product, and for fused
    copies to them.
    ``why_no_activations``: why plans that leave activations in host memory are refused;
    ``why_no_packing``: why those that pack gradients between hosts are.
    """

    target: str
    title: str
    writes: str
    plan_classes: tuple[PlanClass, ...]
    schedules: tuple[str, ...]
    recompute: tuple[Recompute, ...]
    recompute_shape: RecomputeShape
    zero: tuple[int, ...]
    precisions: tuple[str, ...]
    optimizers: tuple[str, ...]
    gradient_bytes: tuple[int, ...]
    families: tuple[str, ...] | None
    vendors: tuple[str, ...] | None
    floor: Floor | None
    checked_by_target: str
    placement: str
    tensor_parallel: bool = True
    pipeline_parallel: bool = True
    tensor_with_pipeline: bool = True
    context_parallel: bool = False
    expert_parallel: bool = False
    uneven_layers: bool = True
    mixed_vendors: bool = False
    keeps_depth: bool = False
    tied_across_stages: bool = True
    optimizer_offload: bool = False
    grouped_experts: bool = False
    why_no_offload: str = "no exporter of it writes that"
    why_no_activations: str = "no exporter of it writes that"
    why_no_packing: str = "no exporter of it writes that"
    on_torch: bool = True
