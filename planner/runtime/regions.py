"""The borders of a tensor-parallel region, as operations with gradients.

Outside a region activations are equal on all members of the group, or with sequence parallelism
each member has its part of the sequence. Inside, every member works on its part of the weights.

*enter* leads in, *leave* adds up the members' results and leads out. Their gradients mirror one
another: what one copies or gathers, the other adds (Shoeybi et al. 2019; Korthikanti et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from planner.runtime.comm import (
    Group,
    all_reduce,
    gather_sequence,
    reduce_scatter_sequence,
)


@dataclass(frozen=True)
class Region:
    """The tensor-parallel group of one replica, and this rank's place in it."""

    group: Group
    shard: int
    sequence_parallel: bool

    @property
    def shards(self) -> int:
        """Size of the group."""
        return self.group.size

    @property
    def split_sequence(self) -> bool:
        """Whether activations outside the region are parts of the sequence."""
        return self.sequence_parallel and self.shards > 1


def enter(tensor: Tensor, region: Region) -> Tensor:
    """Into the region: the whole sequence, equal on all members; gradients are added."""
    if region.shards == 1:
        return tensor
    if region.split_sequence:
        return cast(Tensor, _GatherSequence.apply(tensor, region.group))
    return cast(Tensor, _Copy.apply(tensor, region.group))


def leave(tensor: Tensor, region: Region) -> Tensor:
    """Out of the region: the sum over all members, or their part of its sequence."""
    if region.shards == 1:
        return tensor
    if region.split_sequence:
        return cast(Tensor, _ReduceScatterSequence.apply(tensor, region.group))
    return cast(Tensor, _Reduce.apply(tensor, region.group))


def add_up(tensor: Tensor, region: Region) -> Tensor:
    """The sum over all members, equal on all of them; each has the gradient of the sum."""
    if region.shards == 1:
        return tensor
    return cast(Tensor, _Reduce.apply(tensor, region.group))


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        total = grads[0].clone(memory_format=torch.contiguous_format)
        all_reduce(total, ctx.group)
        return total, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        total = tensor.clone(memory_format=torch.contiguous_format)
        all_reduce(total, group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grads[0], None


class _GatherSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        ctx.group = group
        return gather_sequence(tensor, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return reduce_scatter_sequence(grads[0], ctx.group), None


class _ReduceScatterSequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:  # noqa: ANN401
        ctx.group = group
        return reduce_scatter_sequence(tensor, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gather_sequence(grads[0], ctx.group), None
