"""Gradients in fewer bits between hosts: what crosses the network, and what packing takes.

As in ZeRO++ (qgZ, Wang et al., 2023, arXiv:2306.10209): a device packs the gradients that it is to
exchange once, everybody sends packed parts to everybody, and sums them unpacked and in full. So
no error grows with the number of hosts. PyTorch's ``fp16_compress_hook`` does the same at 16 bits.
Sums inside a host, and weights that are gathered after an update (ZeRO-1), keep their width.

    bytes between hosts   · (c + w) / (g + w)   under ZeRO-1: gradients scattered, weights gathered
                          · c / g               in an all-reduce
    packing               passes · 2 · n · (g + c) / memory rate + launches,
                          n gradients of a device; one pass, or two in an all-reduce

with g, w bytes per gradient and weight, and c those of a packed gradient. The memory rate is the
chip's, times the achieved share of it: packing and unpacking each read one form and write the
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from costmodels.catalog import Chip
from costmodels.constants import Constants, shipped_constants
from costmodels.memory import StateBytes

CompressionName = Literal["none", "fp16", "fp8", "int4"]

BLOCK = 256
"""Packed gradients that share a scale of 32 bits; fp16 needs none. Assumed: runtimes take 128 to
2,048."""

_BITS = {"fp16": 16, "fp8": 8, "int4": 4}


@dataclass(frozen=True, slots=True)
class Compression:
    """A packed form of gradients, and the reductions that it is for."""

    name: CompressionName
    state: StateBytes
    zero_level: int

    @property
    def packed(self) -> Fraction:
        """Bytes of a packed gradient, its part of a scale included."""
        bits = _BITS[self.name]
        return Fraction(bits, 8) + (Fraction(4, BLOCK) if bits < 16 else 0)

    @property
    def ratio(self) -> Fraction:
        """Bytes that cross between hosts, packed over plain; above 1 where packing widens."""
        gradient, weight = self.state.gradient, self.state.parameter if self.zero_level else 0
        return (self.packed + weight) / (gradient + weight)

    def exchanged_bytes(self, plain: int) -> int:
        """What is left of so many bytes between hosts, rounded up."""
        scaled = self.ratio * plain
        return -(-scaled.numerator // scaled.denominator)

    def packing_s(
        self,
        gradients: float,
        chip: Chip,
        *,
        derate: float = 1.0,
        constants: Constants | None = None,
    ) -> float:
        """Seconds in which one device packs and unpacks so many gradients."""
        c = constants or shipped_constants()
        passes = 1 if self.zero_level else 2
        moved = 2 * gradients * float(self.state.gradient + self.packed)
        each = moved / (chip.memory_bandwidth * c.stream) + 2 * c.launch_s
        return passes * each / derate


def compression_of(name: CompressionName, state: StateBytes, zero_level: int) -> Compression | None:
    """The packed form of this name; None for none, and where it saves nothing."""
    if name == "none":
        return None
    found = Compression(name, state, zero_level)
    return found if found.ratio < 1 else None
