"""What the runtime asks of a model: a list of layers, one per layer of the plan.

Two kinds are built in: Hugging Face causal language models (:mod:`planner.runtime.hf`) and any
list of blocks (:class:`Blocks` below). Another kind has to provide the few methods of
:class:`LayeredModel`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from planner.errors import InputError, Problem
from planner.plan import Interval, Recompute
from planner.runtime.regions import Region
from planner.runtime.shards import Cut, whole

State = tuple[Tensor, ...]
"""What one layer hands to the next: tensors whose first axis counts rows."""

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | int]]
"""From the last layer's output and the targets to the *summed* loss and the number of terms."""


class LayeredModel(Protocol):
    """A model as a list of layers. ``weights`` and ``cuts`` must not depend on the rank."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each layer is called; as many as the plan has layers."""
        ...

    @property
    def sequence_parallel(self) -> bool:
        """Whether layers keep only their part of the sequence outside tensor-parallel regions."""
        ...

    def alike(self) -> tuple[Interval, ...]:
        """All layers in order as intervals of layers that do the same work."""
        ...

    def weights(self, layer: int) -> Mapping[str, str]:
        """The model-wide name of every parameter of a layer, by its name inside the layer.

        Layers that share a weight give it the same model-wide name.
        """
        ...

    def cuts(self, layer: int, shards: int, shard: int, *, split: bool) -> Mapping[str, Cut]:
        """What a member of a tensor-parallel group holds of each parameter of a layer.

        ``split``: outside the region every member has a part of the sequence only.
        """
        ...

    def full(self, layer: int, dtype: torch.dtype) -> nn.Module:
        """A copy of the layer with its whole weights, on the CPU."""
        ...

    def install(self, layer: int, module: nn.Module, region: Region, policy: Recompute) -> None:
        """Prepare a layer, whose weights have been cut, for its group and recomputation.

        Raises InputError for a policy that the layer cannot follow ("none" always works; "full" is
        the runtime's own work).
        """
        ...

    def loss(self, outputs: State, targets: Tensor, region: Region) -> tuple[Tensor, Tensor | int]:
        """Summed loss of some rows, equal on all members of the group, and its terms."""
        ...


@runtime_checkable
class ShardedBlock(Protocol):
    """A block that can run on several devices.

    ``cuts`` says which part of its parameters a member holds (those not named are whole), and
    ``set_region`` hands it the region, whose borders its ``forward`` crosses with
    :func:`planner.runtime.regions.enter` and :func:`~planner.runtime.regions.leave`.
    """

    def cuts(self, shards: int, shard: int) -> Mapping[str, Cut]:
        """By parameter name."""
        ...

    def set_region(self, region: Region) -> None:
        """Called once, after the parameters have been cut."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Any list of modules as a model: block k is layer k of the plan.

    A block takes what the one before it returned (a tensor, or several) and returns a tensor or a
    tuple of tensors, rows first; the first one takes the batch's inputs. All ranks must be given
    the same weights, or modules on the meta device with a ``reset_parameters`` of their own.
    ``loss(output, targets)`` returns the summed loss and the number of its terms.
    ``tied`` names parameters that share a weight: ``{(9, "weight"): (0, "weight")}``.

    Blocks run on one device, unless they are a :class:`ShardedBlock`.
    """

    blocks: Sequence[nn.Module]
    loss_function: Loss
    tied: Mapping[tuple[int, str], tuple[int, str]] | None = None
    sequence_parallel: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """``layer0``, ``layer1``, ..."""
        return tuple(f"layer{k}" for k in range(len(self.blocks)))

    def alike(self) -> tuple[Interval, ...]:
        """Every block by itself: nothing is known of them."""
        return tuple((k, k + 1) for k in range(len(self.blocks)))

    def weights(self, layer: int) -> Mapping[str, str]:
        """``LAYER.PARAMETER``, or that of the parameter it is tied to."""
        tied = self.tied or {}

        def name(parameter: str) -> str:
            owner, inner = tied.get((layer, parameter), (layer, parameter))
            return f"{self.names[owner]}.{inner}"

        return {inner: name(inner) for inner, _ in self.blocks[layer].named_parameters()}

    def cuts(self, layer: int, shards: int, shard: int, *, split: bool) -> Mapping[str, Cut]:
        """What the block says; a block that says nothing runs on one device only."""
        block = self.blocks[layer]
        shapes = {name: tuple(p.shape) for name, p in block.named_parameters()}
        if shards == 1:
            return {name: whole(shape) for name, shape in shapes.items()}
        if not isinstance(block, ShardedBlock):
            message = (
                f"layer {layer} ({type(block).__name__}) cannot be split over {shards} devices"
            )
            remedy = "give the block cuts() and set_region(), or plan with --forbid tensor_parallel"
            raise InputError([Problem("tensor_parallel", message, remedy)])
        own = block.cuts(shards, shard)
        return {name: own.get(name, whole(shape)) for name, shape in shapes.items()}

    def full(self, layer: int, dtype: torch.dtype) -> nn.Module:
        """A deep copy; a block on the meta device is initialised from a seed of its own."""
        block = copy.deepcopy(self.blocks[layer])
        if any(p.is_meta for p in block.parameters()):
            block = block.to_empty(device="cpu")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(layer)
                for module in block.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()
        return block.to(dtype=dtype)

    def install(self, layer: int, module: nn.Module, region: Region, policy: Recompute) -> None:
        """Hand the block its region; ask it for selective recomputation where planned."""
        if region.shards > 1 and isinstance(module, ShardedBlock):
            module.set_region(region)
        if policy == "selective":
            select = getattr(module, "recompute_selective", None)
            if not callable(select):
                message = f"layer {layer} ({type(module).__name__}) has no selective recomputation"
                remedy = "give it recompute_selective(), or plan with --forbid recompute_selective"
                raise InputError([Problem("recompute", message, remedy)])
            select()

    def loss(self, outputs: State, targets: Tensor, region: Region) -> tuple[Tensor, Tensor | int]:
        """The given function of the last block's first output."""
        return self.loss_function(outputs[0], targets)


def token_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy of tokens, and their number. Targets below zero are left out.

    ``logits`` (rows, sequence, classes), ``targets`` (rows, sequence). Sums are at least fp32.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat = targets.reshape(-1)
    total = nn.functional.cross_entropy(
        wide.reshape(-1, wide.shape[-1]), flat.clamp(min=-1), ignore_index=-1, reduction="sum"
    )
    return total, (flat >= 0).sum()
