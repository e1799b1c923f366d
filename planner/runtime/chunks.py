"""The layers of one chunk on one rank, and what they keep between forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from planner.plan import Recompute
from planner.runtime.channels import Channel, floats
from planner.runtime.model import State


@dataclass(frozen=True)
class RunLayer:
    """A layer ready to run, and whether it runs again in the backward pass."""

    index: int
    module: nn.Module
    policy: Recompute

    def __call__(self, state: State) -> State:
        """The layer's output as a tuple."""
        if self.policy == "full" and torch.is_grad_enabled():
            out = checkpoint(self.module, *state, use_reentrant=False)
        else:
            out = self.module(*state)
        return out if isinstance(out, tuple) else (out,)


@dataclass
class Chunk:
    """Consecutive layers on this rank with their four channels; None at the model's ends.

    ``repeat`` does all work so many times and keeps the last result: a slower chip than it is.
    """

    layers: Sequence[RunLayer]
    arriving: Channel | None
    leaving: Channel | None
    gradients_in: Channel | None
    gradients_out: Channel | None
    repeat: int = 1
    kept: dict[int, tuple[State, State]] = field(default_factory=dict)

    def forward(self, micro_batch: int, inputs: State) -> State:
        """Run the layers and keep what the backward needs; hand the output on."""
        if self.arriving is not None:
            inputs = tuple(_leaf(t) for t in inputs)
        for _ in range(self.repeat - 1):
            self._through(inputs)
        state = self._through(inputs)
        self.kept[micro_batch] = (inputs, state)
        if self.leaving is not None:
            self.leaving.send(micro_batch, state)
            if self.gradients_in is not None and self.leaving.signature is not None:
                self.gradients_in.signature = floats(self.leaving.signature)
        return state

    def await_gradients(self, micro_batch: int) -> State:
        """Gradients of the outputs from the next chunk."""
        return () if self.gradients_in is None else self.gradients_in.receive(micro_batch)

    def backward(self, micro_batch: int, loss: Tensor | None, given: State) -> None:
        """Gradients of the layers, from the loss or those given; hand those of the inputs back."""
        inputs, outputs = self.kept.pop(micro_batch)
        if loss is not None:
            pairs = [(loss, torch.ones_like(loss))] if loss.requires_grad else []
        else:
            pairs = [(t, g) for t, g in zip(_floating(outputs), given) if t.requires_grad]
        if pairs:
            for _ in range(self.repeat - 1):
                self._discard(pairs, inputs)
            torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
        if self.gradients_out is not None and self.arriving is not None:
            self.gradients_out.signature = floats(self.arriving.signature or ())
            self.gradients_out.send(micro_batch, tuple(map(_gradient, _floating(inputs))))

    def _through(self, state: State) -> State:
        for layer in self.layers:
            state = layer(state)
        return state

    def _discard(self, pairs: Sequence[tuple[Tensor, Tensor]], inputs: State) -> None:
        """The backward's work without its effect."""
        every = (p for layer in self.layers for p in layer.module.parameters())
        wanted: list[Tensor] = [p for p in every if p.requires_grad]
        wanted += [t for t in inputs if t.requires_grad]
        torch.autograd.grad(
            [t for t, _ in pairs],
            list(dict.fromkeys(wanted)),
            [g for _, g in pairs],
            retain_graph=True,
            allow_unused=True,
        )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Those that exist."""
        every = (self.arriving, self.leaving, self.gradients_in, self.gradients_out)
        return tuple(channel for channel in every if channel is not None)


def _floating(state: State) -> State:
    return tuple(t for t in state if t.is_floating_point())


def _leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
