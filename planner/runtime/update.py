"""From local gradients to new weights: reduction, clipping, the optimizer's step.

The optimizer works element by element on what a rank keeps: its parameters, or fp32 copies of
16-bit ones; under ZeRO level 1 flat parts of the weights, one per piece. Any optimizer whose update
of an element needs no other element (SGD, Adam, AdamW, ...) gives the same as on one device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from planner.runtime.comm import Group, all_reduce
from planner.runtime.reduction import Piece, flatten, hand_around, padded, sum_dense, sum_owned
from planner.runtime.weights import Held, Weights

OptimizerFactory = Callable[[Sequence[Mapping[str, Any]]], torch.optim.Optimizer]
"""Takes parameter groups: ``params``, and ``weight_decay`` 0.0 for those that must not decay."""


@dataclass
class Master:
    """What the optimizer changes in place of a weight or a flat part.

    Exactly one of ``held`` (a whole local weight) and ``piece`` (a part of a sharded piece) is set.
    """

    tensor: Tensor
    decay: bool
    name: str = ""
    held: Held | None = None
    piece: Piece | None = None


@dataclass
class Updater:
    """The optimizer of one rank and everything around its step."""

    weights: Weights
    pieces: Sequence[Piece]
    world: Group
    optimizer: torch.optim.Optimizer
    masters: Sequence[Master]
    clip_norm: float | None = None
    last_norm: float = math.nan
    reduced: bool = field(default=False)

    def reduce(self) -> None:
        """Add up all gradients over their holders, in one order on all ranks."""
        parts = {id(m.piece): m for m in self.masters if m.piece is not None}
        for piece in self.pieces:
            if piece.bucket.zero:
                master = parts[id(piece)]
                master.tensor.grad = sum_owned(piece, self.weights).to(master.tensor.dtype)
            else:
                sum_dense(piece, self.weights)
        self.reduced = True

    def widen(self) -> None:
        """Hand gradients to the optimizer in the type of its copies.

        A narrow gradient is dropped as soon as it has been widened: both of the whole model at
        once would take more memory than the plan counts.
        """
        for master in self.masters:
            if master.held is None:
                continue
            gradient = master.held.gradient()
            if gradient is not master.tensor.grad:
                master.tensor.grad = gradient.to(master.tensor.dtype)
            if master.tensor is not master.held.parameter and master.held.summed is None:
                master.held.parameter.grad = None

    def scale(self, factor: float) -> None:
        """Multiply all reduced gradients."""
        for master in self.masters:
            if master.tensor.grad is not None:
                master.tensor.grad.mul_(factor)

    def norm(self) -> float:
        """The norm of the whole gradient, every element of the model counted once."""
        square = torch.zeros((), dtype=torch.float64)
        for master in self.masters:
            gradient = master.tensor.grad
            if master.piece is not None and gradient is not None:
                square += gradient.double().square().sum().cpu()
        for piece in self.pieces:
            if not piece.bucket.zero and piece.member == 0:
                for span in piece.spans:
                    view = self.weights.views(span, gradient=True)
                    square += view.double().square().sum().cpu()
        all_reduce(square, self.world)
        return math.sqrt(float(square))

    def step(self) -> None:
        """Clip if asked, update, hand updated weights around, and clear the gradients."""
        if not self.reduced:
            self.reduce()
        if self.clip_norm is not None:
            self.last_norm = self.norm()
        self.widen()
        if self.clip_norm is not None and self.last_norm > self.clip_norm:
            self.scale(self.clip_norm / (self.last_norm + 1e-6))
        self.optimizer.step()
        for master in self.masters:
            if master.piece is not None:
                local = master.tensor.detach().to(_dtype_of(master.piece, self.weights))
                hand_around(master.piece, local, self.weights)
            elif master.held is not None and master.tensor is not master.held.parameter:
                master.held.parameter.data.copy_(master.tensor)
        self.clear()

    def clear(self) -> None:
        """Forget the gradients."""
        self.weights.clear_gradients()
        for master in self.masters:
            master.tensor.grad = None
        self.reduced = False

    def owned_gradients(self) -> Iterator[tuple[Piece, Tensor]]:
        """Reduced gradients of sharded pieces: the part of the flat piece that this rank owns."""
        for master in self.masters:
            if master.piece is not None and master.tensor.grad is not None:
                yield master.piece, master.tensor.grad


def make_masters(weights: Weights, pieces: Sequence[Piece]) -> tuple[Master, ...]:
    """What the optimizer will change, in the order of names and pieces."""
    sharded = {span.weight for piece in pieces if piece.bucket.zero for span in piece.spans}
    masters = []
    for name, held in weights:
        if name in sharded:
            continue
        parameter: Tensor = held.parameter
        if parameter.element_size() < 4:
            parameter = parameter.detach().float().clone()
        masters.append(Master(parameter, len(held.cut.shape) > 1, name=name, held=held))
    for piece in pieces:
        if piece.bucket.zero:
            flat = padded(piece, flatten(piece, weights, gradient=False))[piece.owned].clone()
            wide = flat if flat.element_size() >= 4 else flat.float()
            masters.append(Master(wide, piece.bucket.decay, piece=piece))
    return tuple(masters)


def parameter_groups(masters: Sequence[Master]) -> list[dict[str, Any]]:
    """Two groups for the optimizer: what decays, and what must not (vectors)."""
    groups = []
    for decay in (True, False):
        tensors = [m.tensor for m in masters if m.decay == decay]
        if tensors:
            groups.append({"params": tensors} | ({} if decay else {"weight_decay": 0.0}))
    return groups


def default_optimizer(name: str, learning_rate: float, weight_decay: float) -> OptimizerFactory:
    """The optimizer that the job names: adam, adamw or sgd with momentum 0.9.

    Raises ``LookupError`` for one that this runtime does not have.
    """

    def build(groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        given = [dict(group) for group in groups]
        # One kernel per tensor list, without temporaries; None leaves the choice to PyTorch.
        fused = True if all(t.is_cuda for g in given for t in g["params"]) else None
        if name == "adamw":
            return torch.optim.AdamW(
                given, lr=learning_rate, weight_decay=weight_decay, fused=fused
            )
        if name == "adam":
            return torch.optim.Adam(given, lr=learning_rate, fused=fused)
        return torch.optim.SGD(given, lr=learning_rate, momentum=0.9)

    if name not in ("adam", "adamw", "sgd"):
        raise LookupError(name)
    return build


def _dtype_of(piece: Piece, weights: Weights) -> torch.dtype:
    return weights.held[piece.spans[0].weight].parameter.dtype
