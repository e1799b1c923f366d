"""What a chip and the links among chips are, in base units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SUSTAINED: Final = 0.86
"""Sustained over best rate of a product: the best is of one shape for a moment, training runs at
the power limit and in many shapes."""


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links among the chips of one island.

    Bandwidths are nominal, in bytes/s, one way. ``total_bandwidth`` is all links of one chip,
    ``pair_bandwidth`` what two chips alone have between them: the same behind a switch, one link
    of several on a full mesh. ``efficiency`` is the achieved share as bus bandwidth of large
    collectives; ``latency_s`` is the time of one hop.
    """

    kind: str
    total_bandwidth: float
    pair_bandwidth: float
    efficiency: float
    latency_s: float
    full_mesh: bool

    def group_bandwidth(self, ranks: int) -> float:
        """Achievable bytes/s one way of each of ``ranks`` chips that talk only to one another.

        Behind a switch a chip reaches its total with one partner; where chips are wired pair by
        pair, a group of k reaches k - 1 links.
        """
        reach = max(ranks - 1, 1) * self.pair_bandwidth
        return min(self.total_bandwidth, reach) * self.efficiency


@dataclass(frozen=True, slots=True)
class Chip:
    """One entry of the catalogue in base units: FLOP/s (dense), bytes, bytes/s.

    ``peak_flops`` holds the supported precisions only. ``memory_bytes`` is the label (GiB),
    ``usable_memory_bytes`` what the device reports. ``gemm_fraction`` is the best measured matrix
    product over the dense peak. ``fabric`` is None for cards that only have their host link;
    ``bridge`` is then an optional fabric of some servers, to be used where the owner states it.
    ``fabric_domain`` is how many chips one fabric can join. ``architecture`` names the silicon
    generation. ``devices_per_package`` is 2 where software sees two devices in one package.
    ``sustained_shares`` are measured shares of the peak that products sustain in training, by
    precision; a precision without one falls back to ``gemm_fraction`` less :data:`SUSTAINED`.
    ``attention`` is the rate of fused attention over that of the reference chips. ``cores`` is how
    many tiles of a product run at once (streaming multiprocessors), 0 where that is not known.
    ``silicon`` names the die at its power: chips that share it compute alike.
    ``grouped_gemm``: a runtime may multiply all experts of a chip by one call.
    ``assumed`` lists, as sentences, every figure that was judged and not read.
    """

    id: str
    name: str
    vendor: str
    peak_flops: tuple[tuple[str, float], ...]
    memory_bytes: int
    usable_memory_bytes: int
    memory_bandwidth: float
    gemm_fraction: float
    fabric: Fabric | None
    host_fabric: Fabric
    fabric_domain: int
    nic_bytes_per_s: float | None
    torch_device: str
    dist_backend: str
    flash_attention: bool
    price_usd_per_hour: float | None
    confidence: str
    architecture: str = ""
    bridge: Fabric | None = None
    devices_per_package: int = 1
    sustained_shares: tuple[tuple[str, float], ...] = ()
    attention: float = 1.0
    cores: int = 0
    silicon: str = ""
    grouped_gemm: bool = False
    assumed: tuple[str, ...] = ()

    def sustained(self, precision: str) -> float:
        """Share of the dense peak that products sustain in a training run."""
        for name, share in self.sustained_shares:
            if name == precision:
                return share
        return self.gemm_fraction * SUSTAINED

    def peak(self, precision: str) -> float:
        """Dense FLOP/s in a precision. LookupError if the chip does not have it."""
        for name, flops in self.peak_flops:
            if name == precision:
                return flops
        known = ", ".join(name for name, _ in self.peak_flops) or "none published"
        raise LookupError(f"{self.id} has no {precision} matrix rate (it has: {known})")

    def supports(self, precision: str) -> bool:
        """Whether the chip multiplies matrices in this precision."""
        return any(name == precision for name, _ in self.peak_flops)
