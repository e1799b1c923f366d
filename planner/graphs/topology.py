"""The cluster as islands, classes of interchangeable islands, and routes between them.

An *island* is a set of equal chips of one host on one fast fabric. Islands that cannot be told
apart (same chip, size, fabric, network, memory, derate) form a *class*. The search only counts
islands of a class; placement names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from costmodels.catalog import Chip, Fabric
from costmodels.link_points import LinkPoints
from costmodels.offload import HostShare
from costmodels.profiles import LayerProfile


@dataclass(frozen=True, slots=True)
class Island:
    """Equal chips of one host on one fabric. ``devices`` are named ``host/index``."""

    name: str
    host: str
    class_index: int
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IslandClass:
    """Interchangeable islands. ``derate`` multiplies the chip's speed (1.0 = catalogue speed).

    ``usable_memory_bytes`` per device is what the framework can allocate after the driver's own
    share and the user's reservation. ``measured_rows_per_s`` replaces the layer formulas by the
    measured rate of the whole model on one device (rows per second, forward and backward).
    ``profile`` holds measured layer times, which replace both; ``update_scale`` is the measured
    optimizer step over the formula's. ``host`` is one device's share of its host, None where
    nothing is known of it.
    """

    index: int
    name: str
    chip: Chip
    size: int
    fabric: Fabric
    islands: tuple[Island, ...]
    derate: float
    reserved_bytes: int
    usable_memory_bytes: int
    host_memory_bytes: int | None
    measured_rows_per_s: float | None = None
    profile: LayerProfile | None = None
    update_scale: float = 1.0
    host: HostShare | None = None

    @property
    def count(self) -> int:
        """Number of islands."""
        return len(self.islands)

    @property
    def chips(self) -> int:
        """Number of chips in the class."""
        return self.size * len(self.islands)

    @property
    def host_known(self) -> bool:
        """Whether the memory of its hosts is known, so that anything may be left in it."""
        return self.host is not None and self.host.memory_bytes is not None


@dataclass(frozen=True, slots=True)
class Route:
    """The way from one island to another, one direction, as a whole island may use it alone.

    ``bandwidth`` in bytes/s is already multiplied by the achievable fraction of its kind.
    ``resources`` names the shared things on the way (a host's network port in its direction, a
    switch uplink); all traffic on a resource shares ``Topology.capacity[resource]`` bytes/s.
    ``points`` are measured messages by the number of chips that sent at once, fewest first; their
    times replace ``bandwidth`` and ``latency_s``, which are then their best rate and the latency of
    the smallest message.
    """

    bandwidth: float
    latency_s: float
    kind: str
    resources: tuple[str, ...] = ()
    points: tuple[LinkPoints, ...] = ()

    def seconds(self, bytes_: float, share: float = 1.0) -> float:
        """Seconds of a message that may count on ``share`` of the way; no bytes take no time.

        Whoever has a share of a measured way takes as long as a message that much larger would
        take alone: the others send the like of it meanwhile.
        """
        if bytes_ <= 0:
            return 0.0
        if self.points:
            return self.points[-1].seconds(bytes_ / share)
        return bytes_ / (self.bandwidth * share) + self.latency_s

    def rate(self, bytes_: float, senders: int) -> float:
        """Bytes/s of ``senders`` chips together that send messages of ``bytes_`` one by one.

        A way that was measured with other numbers of chips has the rate of the next fewer.
        """
        if not self.points or bytes_ <= 0:
            return self.bandwidth
        fitting = [p for p in self.points if p.chips <= senders]
        return (fitting[-1] if fitting else self.points[0]).rate(bytes_)


class RouteFinder(Protocol):
    """How a topology answers questions about ways between islands."""

    def __call__(self, source: Island, target: Island) -> Route | None:
        """The way from one island to another; None where no network joins them."""


@dataclass(frozen=True)
class Topology:
    """Classes of islands and the routes between them.

    ``class_routes[a, b]`` is the best (optimistic) route between two *different* islands of
    classes a and b, None where no network joins them or the class has a single island.
    ``route(i, j)`` is the real one between two named islands.
    ``capacity`` in bytes/s is achievable, not nominal.
    ``blocking_transfers``: a stage computes nothing while it exchanges activations and gradients
    with the stage before it, as in engines that work off transfers and computation in one order.
    ``cross_vendor_collectives``: "none", "cpu-staged" or the name of a library.
    """

    name: str
    classes: tuple[IslandClass, ...]
    class_routes: dict[tuple[int, int], Route | None]
    route: RouteFinder
    capacity: dict[str, float]
    cross_vendor_collectives: str
    assumptions: tuple[str, ...] = field(default=())
    blocking_transfers: bool = False
    cells: Mapping[str, int] = field(default_factory=dict)
    """By name: islands with equal numbers have the same ways but for the names on them.

    Of an island that is not listed, nothing of the kind is known.
    """

    @cached_property
    def host_chips(self) -> dict[str, int]:
        """Chips of every host, over all its islands; they share its network port evenly."""
        out: dict[str, int] = {}
        for cls in self.classes:
            for island in cls.islands:
                out[island.host] = out.get(island.host, 0) + len(island.devices)
        return out

    @cached_property
    def chips(self) -> int:
        """All chips of the cluster."""
        return sum(c.chips for c in self.classes)
