"""The weights that one rank holds: parameters, their cuts, and the gradients that pile up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from planner.runtime.shards import Cut, Span, local_pieces


@dataclass
class Held:
    """One weight on this rank. ``summed`` is the wide gradient, where gradients are wider."""

    parameter: nn.Parameter
    cut: Cut
    summed: Tensor | None = None

    def gradient(self) -> Tensor:
        """The gradient so far; zeros where nothing reached it."""
        if self.summed is not None:
            return self.summed
        if self.parameter.grad is None:
            self.parameter.grad = torch.zeros_like(self.parameter)
        return self.parameter.grad


@dataclass
class Weights:
    """All weights of a rank, by their model-wide names.

    ``gradient_dtype`` None keeps gradients in the type of the weights.
    """

    gradient_dtype: torch.dtype | None = None
    held: dict[str, Held] = field(default_factory=dict)

    def add(self, name: str, parameter: nn.Parameter, cut: Cut) -> nn.Parameter:
        """Register a parameter, or find the one that this rank already has of the weight."""
        if name in self.held:
            return self.held[name].parameter
        entry = Held(parameter, cut)
        self.held[name] = entry
        if self.gradient_dtype not in (None, parameter.dtype):
            entry.summed = torch.zeros_like(parameter, dtype=self.gradient_dtype)
            parameter.register_post_accumulate_grad_hook(_into(entry.summed))
        return parameter

    def views(self, span: Span, *, gradient: bool) -> Tensor:
        """The part of a weight, or of its gradient, that a span names."""
        entry = self.held[span.weight]
        tensor = entry.gradient() if gradient else entry.parameter.data
        return view_of(tensor, entry.cut, span)

    def clear_gradients(self) -> None:
        """Forget all gradients."""
        for entry in self.held.values():
            entry.parameter.grad = None
            if entry.summed is not None:
                entry.summed.zero_()

    def scale_gradients(self, factor: float) -> None:
        """Multiply all gradients."""
        for entry in self.held.values():
            entry.gradient().mul_(factor)

    def __iter__(self) -> Iterator[tuple[str, Held]]:
        return iter(self.held.items())


def view_of(tensor: Tensor, cut: Cut, span: Span) -> Tensor:
    """A span of a tensor that is laid out like the rank's cut of the weight."""
    if not cut.shape:
        return tensor.view(1)
    begin, length = local_pieces(cut, span)
    return tensor.narrow(span.axis, begin, length)


def take(full: Tensor, cut: Cut) -> Tensor:
    """A rank's part of a whole weight, as a tensor of its own."""
    if cut.axis is None:
        return full.detach().clone()
    pieces = [full.narrow(cut.axis, first, end - first) for first, end in cut.pieces]
    return torch.cat(pieces, cut.axis).detach().clone()


def _into(summed: Tensor) -> _Accumulate:
    return _Accumulate(summed)


@dataclass(frozen=True)
class _Accumulate:
    """Adds a parameter's gradient to a wider sum and drops it."""

    summed: Tensor

    def __call__(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.summed.add_(parameter.grad)
            parameter.grad = None
