"""What can be changed about the inputs of a plan, each change a value.

``text`` is how a change is written on the command line (:mod:`planner.scenario.grammar`) and what
tables call it. Chips are named as people name them; a name has to fit one chip of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from costmodels.units import GBIT
from planner.inputs.document import JsonValue


@dataclass(frozen=True, slots=True)
class ReplaceChip:
    """Every chip of one kind becomes one of another; nodes, ports and reserved memory stay."""

    old: str
    new: str

    @property
    def text(self) -> str:
        """``replace v100 by a100-sxm-80gb``."""
        return f"replace {self.old} by {self.new}"


@dataclass(frozen=True, slots=True)
class ScaleLink:
    """A link ``factor`` times as fast.

    ``link`` is ``network`` (all of them), ``network:NAME``, ``fabric:CHIP`` (the links among the
    chips of a node) or ``host:CHIP`` (PCIe).
    """

    link: str
    factor: float

    @property
    def text(self) -> str:
        """``link network x2``."""
        return f"link {self.link} x{self.factor:g}"


@dataclass(frozen=True, slots=True)
class SetLink:
    """A link of so many bytes/s, one way: a node's whole rate for networks, a chip's for others."""

    link: str
    bytes_per_s: int

    @property
    def text(self) -> str:
        """``link network = 200 Gb/s``."""
        return f"link {self.link} = {self.bytes_per_s / GBIT:g} Gb/s"


@dataclass(frozen=True, slots=True)
class SetLinkEfficiency:
    """The share of a link's nominal rate that arrives."""

    link: str
    fraction: float

    @property
    def text(self) -> str:
        """``link network efficiency = 0.7``."""
        return f"link {self.link} efficiency = {self.fraction:g}"


@dataclass(frozen=True, slots=True)
class SetNodes:
    """So many nodes that hold a kind of chip (or are called ``of``); 0 takes them away."""

    of: str
    count: int

    @property
    def text(self) -> str:
        """``nodes v100 = 4``."""
        return f"nodes {self.of} = {self.count}"


@dataclass(frozen=True, slots=True)
class AddNodes:
    """More nodes like those that are there, or fewer of them."""

    of: str
    count: int

    @property
    def text(self) -> str:
        """``nodes v100 +1``."""
        return f"nodes {self.of} {self.count:+d}"


@dataclass(frozen=True, slots=True)
class AddChips:
    """More chips in one node that has them, or fewer."""

    of: str
    count: int

    @property
    def text(self) -> str:
        """``chips v100 -1``."""
        return f"chips {self.of} {self.count:+d}"


@dataclass(frozen=True, slots=True)
class SetModel:
    """Another model: a file or a shipped name."""

    model: str

    @property
    def text(self) -> str:
        """``model = llama-2-70b``."""
        return f"model = {self.model}"


@dataclass(frozen=True, slots=True)
class SetField:
    """One field of an input, by its path: ``job.seq_len``, ``cluster.nodes.0.count``."""

    root: str
    path: tuple[str, ...]
    value: JsonValue
    shown: str

    @property
    def text(self) -> str:
        """``seq_len = 8192``."""
        where = ".".join(self.path) if self.root == "job" else ".".join((self.root, *self.path))
        return f"{where} = {self.shown}"


@dataclass(frozen=True, slots=True)
class SetTechnique:
    """A technique allowed or forbidden."""

    name: str
    allowed: bool

    @property
    def text(self) -> str:
        """``forbid zero1``."""
        return f"{'allow' if self.allowed else 'forbid'} {self.name}"


@dataclass(frozen=True, slots=True)
class ScaleMemory:
    """Chips of a kind with ``factor`` times the memory."""

    chip: str
    factor: float

    @property
    def text(self) -> str:
        """``memory v100 x1.5``."""
        return f"memory {self.chip} x{self.factor:g}"


@dataclass(frozen=True, slots=True)
class ScaleSpeed:
    """Chips of a kind that compute ``factor`` times as fast (their derate)."""

    chip: str
    factor: float

    @property
    def text(self) -> str:
        """``speed v100 x0.9``."""
        return f"speed {self.chip} x{self.factor:g}"


@dataclass(frozen=True, slots=True)
class ScaleEfficiency:
    """Chips of a kind whose best matrix product reaches ``factor`` times its share of the peak."""

    chip: str
    factor: float

    @property
    def text(self) -> str:
        """``efficiency v100 x0.9``."""
        return f"efficiency {self.chip} x{self.factor:g}"


@dataclass(frozen=True, slots=True)
class SetPrice:
    """What an hour of a chip costs."""

    chip: str
    usd_per_hour: float

    @property
    def text(self) -> str:
        """``price v100 = 0.8 USD/h``."""
        return f"price {self.chip} = {self.usd_per_hour:g} USD/h"


@dataclass(frozen=True, slots=True)
class SetPower:
    """What a chip draws while it trains."""

    chip: str
    watts: float

    @property
    def text(self) -> str:
        """``power v100 = 300 W``."""
        return f"power {self.chip} = {self.watts:g} W"


PlanChange: TypeAlias = (
    ReplaceChip
    | ScaleLink
    | SetLink
    | SetLinkEfficiency
    | SetNodes
    | AddNodes
    | AddChips
    | SetModel
    | SetField
    | SetTechnique
    | ScaleMemory
    | ScaleSpeed
    | ScaleEfficiency
)
"""Changes that may lead to another plan."""

RateChange: TypeAlias = SetPrice | SetPower
"""Changes of what a plan costs; the plan stays."""

Change: TypeAlias = PlanChange | RateChange
