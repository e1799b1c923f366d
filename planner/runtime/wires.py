"""Messages from one rank to another, without waiting for the other side.

Chips of one kind talk over their own backend, each direction of each boundary in a pair group of
its own, because such backends keep the order of messages within a group and know no tags. All
others talk over gloo on the default group, told apart by tags; tensors of other devices are copied
through host memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from planner.runtime.comm import GLOO, Groups, common_backend


@dataclass
class Arrival:
    """A message on its way: wait for it, then read it."""

    work: dist.Work | None
    buffer: Tensor
    device: torch.device

    def wait(self) -> Tensor:
        """The message, on the device that asked for it."""
        if self.work is not None:
            self.work.wait()
        return self.buffer.to(self.device)


@dataclass
class Wires:
    """Sends and receives of one rank."""

    groups: Groups
    device: torch.device
    leaving: list[tuple[dist.Work, Tensor]] = field(default_factory=list)

    def connect(self, sender: int, receiver: int, purpose: str) -> None:
        """Make the pair's group ahead of time; every rank calls this for every pair in order."""
        if self._backend(sender, receiver) != GLOO:
            self.groups.make((sender, receiver), purpose)

    def send(self, tensor: Tensor, receiver: int, tag: int, purpose: str) -> None:
        """Start sending; the tensor must not change until :meth:`drain`."""
        backend = self._backend(self.groups.rank, receiver)
        ready = tensor.detach().contiguous()
        if backend == GLOO:
            ready = ready.cpu()
            work = dist.isend(ready, receiver, tag=tag)
        else:
            group = self.groups.get((self.groups.rank, receiver), purpose)
            work = dist.isend(ready, receiver, group=group.handle)
        self.leaving = [(w, t) for w, t in self.leaving if not w.is_completed()]
        if work is not None:
            self.leaving.append((work, ready))

    def receive(
        self, shape: tuple[int, ...], dtype: torch.dtype, sender: int, tag: int, purpose: str
    ) -> Arrival:
        """Start receiving."""
        backend = self._backend(sender, self.groups.rank)
        if backend == GLOO:
            buffer = torch.empty(shape, dtype=dtype)
            return Arrival(dist.irecv(buffer, sender, tag=tag), buffer, self.device)
        group = self.groups.get((sender, self.groups.rank), purpose)
        buffer = torch.empty(shape, dtype=dtype, device=self.device)
        return Arrival(dist.irecv(buffer, sender, group=group.handle), buffer, self.device)

    def eager(self, sender: int) -> bool:
        """Whether a receive may be started before it is needed.

        Backends of accelerators keep a kernel waiting for it, which could hold up others.
        """
        return self._backend(sender, self.groups.rank) == GLOO

    def drain(self) -> None:
        """Wait until everything that was sent has left."""
        for work, _ in self.leaving:
            work.wait()
        self.leaving = []

    def _backend(self, sender: int, receiver: int) -> str:
        return common_backend([self.groups.backends[r] for r in (sender, receiver)])
