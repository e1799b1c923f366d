"""What a cluster file may say: chips, hosts, ports, switches, links.

Every field carries its unit: in its name (``reserved_gib``, ``latency_us``) or, for bandwidths,
in the value (``"100 Gb/s"``), with the direction in the name (``…_one_way``). Nodes are objects
with their own device lists; ``count`` repeats a node, so a fleet of thousands stays a few lines.
The model is structural; :mod:`planner.inputs.cluster_checks` checks what spans several fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from planner.inputs.quantities import Bandwidth, MemorySize
from planner.inputs.reading import field_error

T = TypeVar("T")

NetworkKindName = Literal["tcp", "roce", "ib", "efa"]

Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=100)
]
"""A name that can stand in ``node3/0`` and ``host:NAME:NETWORK:out``."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[Number, Field(gt=0.0, le=1.0)]
LatencyUs = Annotated[Number, Field(ge=0.0, le=1_000_000.0)]
Count = Annotated[int, Field(strict=True, ge=1)]


def _not_empty(items: tuple[T, ...]) -> tuple[T, ...]:
    # Not min_length: pydantic counts only the valid items and adds a false error to the true one.
    if not items:
        raise field_error("the list is empty", "give at least one item")
    return items


class Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FabricSpec(Strict):
    """Links among the chips of a device group, where they differ from the catalogue.

    ``bandwidth_one_way`` is the nominal total of all links of one chip; without it the figures of
    the card's bridge in the catalogue hold. ``pair_bandwidth_one_way`` is what one pair of chips
    can use of it (equal to the total on switched fabrics). ``joins`` is how many chips one fabric
    connects: 2 for an NVLink bridge.
    """

    kind: str = Field(min_length=1, max_length=60)
    bandwidth_one_way: Bandwidth | None = None
    pair_bandwidth_one_way: Bandwidth | None = None
    joins: Count | None = Field(default=None, ge=2, le=1024)
    efficiency: Fraction | None = None
    latency_us: LatencyUs | None = None
    full_mesh: bool = False


class HostLinkSpec(Strict):
    """The link from each chip to its host, where it differs from the catalogue's PCIe figure.

    ``total_bandwidth_one_way`` bounds all chips of the host together (a shared root complex).
    """

    kind: str = Field(default="pcie", min_length=1, max_length=60)
    bandwidth_one_way: Bandwidth
    total_bandwidth_one_way: Bandwidth | None = None
    efficiency: Fraction | None = None
    latency_us: LatencyUs | None = None


class DeviceGroup(Strict):
    """Equal chips of one node.

    ``derate`` multiplies the chip's speed (0.8: power-capped or a straggler). ``reserved_gib`` is
    memory that somebody else uses (a display, another job). ``memory_label`` is what the owner
    says the card has; it is compared with the catalogue and never planned with.
    ``measured_rows_per_s`` is the measured rate of the whole model on one such device, forward
    and backward, and replaces the layer formulas.
    """

    chip: str = Field(min_length=1, max_length=100)
    count: Count = Field(default=1, le=1024)
    memory_label: MemorySize | None = None
    reserved_gib: Number = Field(default=0.0, ge=0.0, le=1024.0)
    derate: Number = Field(default=1.0, ge=0.01, le=1.5)
    measured_rows_per_s: Number | None = Field(default=None, gt=0.0, le=1e9)
    fabric: FabricSpec | None = None


class NicSpec(Strict):
    """``count`` equal network ports of a host.

    ``bandwidth_one_way`` is the nominal rate of one port; ``measured_bandwidth_one_way`` is what
    one port was seen to carry and replaces the assumed fraction, as ``efficiency`` does.
    """

    network: Name
    switch: Name | None = None
    bandwidth_one_way: Bandwidth
    count: Count = Field(default=1, le=256)
    kind: NetworkKindName | None = None
    efficiency: Fraction | None = None
    measured_bandwidth_one_way: Bandwidth | None = None
    latency_us: LatencyUs | None = None


class NodeSpec(Strict):
    """One host (``name``), or ``count`` equal hosts (``name_prefix`` and a running index).

    ``host_memory_gib`` and ``host_memory_bandwidth`` (what all its cores together read and write,
    as a STREAM benchmark measures it) bound an optimizer that is offloaded to the host.
    """

    name: Name | None = None
    name_prefix: Name | None = None
    count: Count = Field(default=1, le=1_000_000)
    first_index: int = Field(default=0, strict=True, ge=0)
    devices: Annotated[tuple[DeviceGroup, ...], AfterValidator(_not_empty)]
    host_memory_gib: Number | None = Field(default=None, gt=0.0, le=65_536.0)
    host_memory_bandwidth: Bandwidth | None = None
    nics: tuple[NicSpec, ...] = ()
    host_link: HostLinkSpec | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # a younger field is named only where it is given: older clusters keep their digest
        value: dict[str, Any] = handler(self)
        if self.host_memory_bandwidth is None:
            del value["host_memory_bandwidth"]
        return value

    @property
    def host_names(self) -> tuple[str, ...]:
        """The hosts that this entry stands for, in order."""
        if self.name is not None:
            return (self.name,)
        end = self.first_index + self.count
        return tuple(f"{self.name_prefix}{i}" for i in range(self.first_index, end))

    @property
    def chips_per_host(self) -> int:
        """Devices of one host."""
        return sum(g.count for g in self.devices)


class UplinkSpec(Strict):
    """A full-duplex cable bundle to another switch; ``bandwidth_one_way`` is that of one cable."""

    to: Name
    bandwidth_one_way: Bandwidth | None = None
    count: Count = Field(default=1, le=1024)
    latency_us: LatencyUs = 0.0


class SwitchSpec(Strict):
    """A switch that does not block among its own ports.

    ``oversubscription`` 4 means that the hosts below have together four times the bandwidth of
    the uplinks; it stands in for the bandwidth of the uplinks, which then state none.
    """

    name: Name
    uplinks: tuple[UplinkSpec, ...] = ()
    oversubscription: Number | None = Field(default=None, ge=1.0, le=100.0)


class NetworkSpec(Strict):
    """A network: one non-blocking switch, or the switches that it lists."""

    name: Name
    kind: NetworkKindName | None = None
    efficiency: Fraction | None = None
    latency_us: LatencyUs | None = None
    switches: tuple[SwitchSpec, ...] = ()


class ClusterSpec(Strict):
    """A cluster as written: node counts are not expanded.

    ``chips`` are records of the catalogue's own format (``inherit: ID`` starts from a known chip)
    for chips that it lacks or whose figures the user knows better.
    ``cross_vendor_collectives``: "none" (no gradient is reduced between vendors), "cpu-staged"
    (through host memory) or the name of a library that spans vendors.
    ``cross_vendor_transfers``: how a pipeline edge crosses vendors; by default as that library
    does, else through host memory.
    """

    name: str = Field(default="cluster", min_length=1, max_length=200)
    chips: tuple[dict[str, Any], ...] = ()
    nodes: Annotated[tuple[NodeSpec, ...], AfterValidator(_not_empty)]
    networks: tuple[NetworkSpec, ...] = ()
    cross_vendor_collectives: str = Field(default="none", min_length=1, max_length=60)
    cross_vendor_transfers: str | None = Field(default=None, min_length=1, max_length=60)

    @property
    def hosts(self) -> int:
        """Hosts of all entries."""
        return sum(n.count for n in self.nodes)

    @property
    def device_count(self) -> int:
        """Chips of all hosts."""
        return sum(n.count * n.chips_per_host for n in self.nodes)
