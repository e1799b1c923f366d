"""Linear layers in fp8 with one scale per tensor, found anew for every product.

What TorchAO's ``Float8Linear`` does: the largest element is looked for, the operand scaled and
cast (e4m3 forward, e5m2 for gradients), and the two backward products need the 8-bit operands
transposed, since Hopper's matrix units load them along the reduction alone. To be compiled: one by
one these kernels move several times as much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


def cast(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """The tensor in 8 bits, and what its elements are to be multiplied with."""
    most = torch.finfo(kind).max
    scale = most / x.abs().amax().float().clamp(min=1e-12)
    return (x.float() * scale).clamp(-most, most).to(kind), scale.reciprocal()


def product(a: Tensor, b: Tensor, scales: tuple[Tensor, Tensor], *, fast: bool) -> Tensor:
    """[m, k] x [k, n] of rows along k in both: ``b`` is given as [n, k]."""
    return torch._scaled_mm(
        a, b.t(), *scales, out_dtype=torch.bfloat16, use_fast_accum=fast and a.is_cuda
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        (x8, x_scale), (w8, w_scale) = cast(x, FORWARD), cast(weight, FORWARD)
        return product(x8, w8, (x_scale, w_scale), fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        g8, g_scale = cast(grads[0], BACKWARD)
        x8, x_scale = cast(x, FORWARD)
        w8, w_scale = cast(weight, FORWARD)
        to_input = product(g8, w8.t().contiguous(), (g_scale, w_scale), fast=False)
        to_weight = product(
            g8.t().contiguous(), x8.t().contiguous(), (g_scale, x_scale), fast=False
        )
        return to_input, to_weight


class Linear(nn.Linear):
    """No bias."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return _Linear.apply(flat, self.weight).view(*x.shape[:-1], -1)


def eight_bits(model: nn.Module) -> nn.Module:
    """The model with all linear layers in fp8."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model
