"""How the chips of one stage share its layers: the mesh that lies inside one island.

    chips = tp · cp · dp        tensor parallel fastest, then context, then data parallel

Experts lie across the same chips: ``ep`` of them hold different experts, each divided among
``expert_tp``. Everything here is local to a stage, so that pipelines stay independent of one
another and the search sees only an option's chips, times, bytes and gradients. Where the
optimizer's state of the stage lies, on its devices or in their host's memory, is decided with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a stage's weights: ``lanes`` devices hold it once, and there are ``copies``.

    ``shards`` of the devices with the same weights divide them among themselves: 1, or all the
    copies with ZeRO-3.
    """

    copies: int
    shards: int
    lanes: int

    @property
    def summed(self) -> int:
        """Copies whose gradients the stage sums after the last backward pass.

        Under ZeRO-3 every pass has scattered them already.
        """
        return self.copies // self.shards

    def own(self, parameters: int) -> int:
        """What one device holds of a part of so many parameters per copy and lane."""
        return -(-parameters // self.shards)


@dataclass(frozen=True, slots=True, order=True)
class StageMesh:
    """Degrees of one stage. ``zero3``: its copies share weights and gradients (FSDP).

    ``offload``: its optimizer's state lies in the host's memory and is updated there.
    """

    tp: int = 1
    cp: int = 1
    dp: int = 1
    ep: int = 1
    zero3: bool = False
    offload: bool = False

    @property
    def chips(self) -> int:
        """Chips of the stage."""
        return self.tp * self.cp * self.dp

    @property
    def copies(self) -> int:
        """Devices of the stage that hold, or with ZeRO-3 share, the same weights."""
        return self.cp * self.dp

    @property
    def expert_tp(self) -> int:
        """Devices that share one expert.

        As many of the ``tp`` as leave whole groups of ``ep``: so the stage holds the fewest
        copies of an expert. More than ``tp`` would need tokens that a device does not have.
        """
        return self.tp if self.ep == 1 else gcd(self.tp, self.chips // self.ep)

    @property
    def expert_copies(self) -> int:
        """Devices of the stage that hold, or with ZeRO-3 share, the same part of an expert."""
        return self.chips // (self.ep * self.expert_tp)

    @property
    def dense(self) -> Part:
        """How the stage holds everything but experts."""
        return Part(self.copies, self.copies if self.zero3 else 1, self.tp)

    @property
    def expert(self) -> Part:
        """How the stage holds experts."""
        copies = self.expert_copies
        return Part(copies, copies if self.zero3 else 1, self.ep * self.expert_tp)

    @property
    def plain(self) -> bool:
        """Whether there is nothing but tensor parallelism."""
        return self.tensor_alone and not self.offload

    @property
    def tensor_alone(self) -> bool:
        """Whether the devices share layers by tensor parallelism alone; the state lies anywhere."""
        return self.cp == self.dp == self.ep == 1 and not self.zero3

    def boundary_parts(self, *, sequence_parallel: bool) -> int:
        """Into how many parts a tensor at the stage's edge is divided among its devices."""
        return self.copies * (self.tp if sequence_parallel else 1)

    def describe(self) -> str:
        """``tp 4 cp 2``: what is not 1, tensor parallelism always."""
        named = (("cp", self.cp), ("dp", self.dp), ("ep", self.ep))
        parts = [f"tp {self.tp}", *(f"{name} {degree}" for name, degree in named if degree > 1)]
        said = (("zero 3", self.zero3), ("offload", self.offload))
        return " ".join([*parts, *(name for name, yes in said if yes)])
