"""Groups of ranks and the collectives that the runtime needs, with their gradients.

A group of chips of one kind talks over that kind's own backend (from the plan's catalogue excerpt:
nccl, hccl, gloo, ...). A group of unlike chips, and every group on a CPU, talks over gloo; tensors
of other devices are then copied through host memory.

Every rank makes its groups in one global order, so that no two ranks wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

GLOO = "gloo"
DIRECT = 16
"""Members of a gloo group up to which every one sends to every other."""

TAG = 2**30
"""Of messages inside collectives, beyond those of all channels."""


@dataclass(frozen=True)
class Group:
    """Some ranks, in order; ``handle`` is None for a group of one, which needs no messages."""

    ranks: tuple[int, ...]
    backend: str
    handle: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)

    @property
    def direct(self) -> bool:
        """Whether members exchange parts themselves.

        gloo reduces all to scatter a part, which takes twice as long in small groups.
        """
        return self.backend == GLOO and self.size <= DIRECT


@dataclass
class Groups:
    """The groups that this rank belongs to; made once each."""

    rank: int
    backends: Sequence[str]
    """Backend of every rank's device."""
    made: dict[tuple[tuple[int, ...], str], Group | None] = field(default_factory=dict)

    def make(self, ranks: Sequence[int], purpose: str = "") -> Group | None:
        """Make a group; None on ranks outside it.

        Every rank of the job must make every group, in the same order: names of groups are
        counted. (``use_local_synchronization`` would spare that, but in PyTorch 2.13 it hashes the
        number of groups that a rank has, so that members of several groups wait forever.)
        ``purpose`` keeps groups of the same ranks apart, where their messages may overtake one
        another.
        """
        key = (tuple(ranks), purpose)
        if key not in self.made:
            backend = common_backend([self.backends[r] for r in ranks])
            handle = None
            if len(ranks) > 1:
                handle = dist.new_group(list(ranks), backend=backend, sort_ranks=False)
            self.made[key] = Group(key[0], backend, handle) if self.rank in ranks else None
        return self.made[key]

    def get(self, ranks: Sequence[int], purpose: str = "") -> Group:
        """A group of this rank that was made. Raises ``LookupError`` for others."""
        found = self.made[tuple(ranks), purpose]
        if found is None:
            raise LookupError(f"rank {self.rank} is not in {ranks}")
        return found


def common_backend(backends: Sequence[str]) -> str:
    """The backend that all chips share, else gloo."""
    return backends[0] if len(set(backends)) == 1 else GLOO


def all_reduce(tensor: Tensor, group: Group, *, op: dist.ReduceOp.RedOpType | None = None) -> None:
    """Sum (or ``op``) over the group, in place."""
    if group.handle is None:
        return
    staged = _staged(tensor, group)
    dist.all_reduce(staged, op=op or dist.ReduceOp.SUM, group=group.handle)
    if staged is not tensor:
        tensor.copy_(staged)


def broadcast(tensor: Tensor, group: Group, source: int = 0) -> None:
    """From the ``source``-th member of the group to all others, in place."""
    if group.handle is None:
        return
    staged = _staged(tensor, group)
    dist.broadcast(staged, src=group.ranks[source], group=group.handle)
    if staged is not tensor:
        tensor.copy_(staged)


def gather_flat(part: Tensor, group: Group) -> Tensor:
    """Equal flat parts of all members, one after the other."""
    if group.handle is None:
        return part
    staged = _staged(part.contiguous(), group)
    out = torch.empty(staged.numel() * group.size, dtype=staged.dtype, device=staged.device)
    if group.direct:
        own = group.ranks.index(dist.get_rank())
        places = list(out.chunk(group.size))
        places[own].copy_(staged)
        _exchange(group, own, [staged] * group.size, places)
    else:
        dist.all_gather_single(out, staged, group=group.handle)
    return out.to(part.device)


def reduce_scatter_flat(full: Tensor, group: Group) -> Tensor:
    """The sum over the group of a flat tensor, of which every member keeps its equal part."""
    if group.handle is None:
        return full
    staged = _staged(full.contiguous(), group)
    if group.direct:
        own = group.ranks.index(dist.get_rank())
        parts = list(staged.chunk(group.size))
        arrived = [torch.empty_like(parts[own]) for _ in group.ranks]
        arrived[own] = parts[own]
        _exchange(group, own, parts, arrived)
        out = arrived[0].clone()
        for other in arrived[1:]:  # in the order of ranks: the same sum on every run
            out += other
    else:
        out = torch.empty(staged.numel() // group.size, dtype=staged.dtype, device=staged.device)
        dist.reduce_scatter_single(out, staged, group=group.handle)
    return out.to(full.device)


def gather_sequence(tensor: Tensor, group: Group) -> Tensor:
    """Equal parts of axis 1 of all members, side by side."""
    if group.handle is None:
        return tensor
    moved = tensor.transpose(0, 1).contiguous()
    flat = gather_flat(moved.view(-1), group)
    return flat.view(-1, *moved.shape[1:]).transpose(0, 1).contiguous()


def reduce_scatter_sequence(tensor: Tensor, group: Group) -> Tensor:
    """The sum over the group, of which every member keeps its part of axis 1."""
    if group.handle is None:
        return tensor
    moved = tensor.transpose(0, 1).contiguous()
    part = reduce_scatter_flat(moved.view(-1), group)
    return part.view(-1, *moved.shape[1:]).transpose(0, 1).contiguous()


def _exchange(group: Group, own: int, parts: Sequence[Tensor], arrived: Sequence[Tensor]) -> None:
    """``parts[k]`` to member k of the group, and what comes from it into ``arrived[k]``."""
    works = []
    for step in range(1, group.size):
        to, source = (own + step) % group.size, (own - step) % group.size
        works.append(dist.irecv(arrived[source], group.ranks[source], tag=TAG))
        works.append(dist.isend(parts[to], group.ranks[to], tag=TAG))
    for work in works:
        if work is not None:
            work.wait()


def _staged(tensor: Tensor, group: Group) -> Tensor:
    """The tensor where the group's backend can reach it."""
    if group.backend == GLOO and tensor.device.type != "cpu":
        return tensor.cpu()
    return tensor
