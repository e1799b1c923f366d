"""Links inside hosts, network kinds between hosts, and ways between vendors, from links.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import cast

from costmodels.units import GB, US_PER_S


@dataclass(frozen=True, slots=True)
class Link:
    """One kind of link: nominal bytes/s one way, achieved share (None if unpublished), hop time."""

    id: str
    name: str
    bandwidth: float
    efficiency: float | None
    latency_s: float
    sources: tuple[tuple[str, str], ...]
    notes: str


@dataclass(frozen=True, slots=True)
class NetworkKind:
    """A network between hosts: what share of its nominal rate arrives, and its latency.

    ``points`` are (bytes/s of one port, achieved share), rising in rate, each from one link of
    ``links`` in the catalogue data.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    latency_s: float
    links: tuple[str, ...]

    def efficiency(self, rate: float, ports: int = 1) -> float:
        """Achieved share of ``rate`` bytes/s that a host sends over ``ports`` equal ports.

        Linear in the logarithm of one port's rate between the known points, the nearest point
        outside of them.
        """
        port = rate / ports
        first, last = self.points[0], self.points[-1]
        if port <= first[0]:
            return first[1]
        if port >= last[0]:
            return last[1]
        for (low, at_low), (high, at_high) in zip(self.points, self.points[1:]):
            if port <= high:
                share = math.log(port / low) / math.log(high / low)
                return at_low + share * (at_high - at_low)
        return last[1]

    def achievable(self, rate: float, ports: int = 1) -> float:
        """Bytes/s that really arrive of a nominal ``rate`` bytes/s."""
        return rate * self.efficiency(rate, ports)


@dataclass(frozen=True, slots=True)
class CrossVendor:
    """A way of moving data between chips of two vendors.

    ``efficiency`` is the share of the network's nominal rate; ``process_bytes_per_s`` caps one
    sending process where host memory copies limit it. None of these shares was ever measured
    publicly.
    """

    name: str
    efficiency: float
    latency_s: float
    process_bytes_per_s: float | None
    unsupported_backends: tuple[str, ...] = ()


# Link ids by kind, slowest port first. InfiniBand of several generations, one port each.
_NETWORKS = {
    "tcp": ("eth-tcp-10", "eth-tcp-25", "eth-tcp-100"),
    "roce": ("roce-25", "roce-100", "roce-200", "roce-400"),
    "ib": ("ib-edr", "ib-hdr", "ib-ndr", "ib-xdr"),
    "efa": ("efa-400",),
}
_CROSS_VENDOR = {
    "cpu-staged": "cross-gloo-cpu-staged",
    "cpu-staged-rdma": "cross-cpu-staged-rdma",
    "flagcx": "cross-flagcx",
    "dicomm": "cross-dicomm-ddr",
}
# "min(NIC, PCIe, ~2-3 GB/s per process)" in links.json, middle of the range.
_GLOO_PROCESS_BYTES_PER_S = 2.5 * GB

Json = dict[str, object]


@lru_cache(maxsize=1)
def links_data() -> dict[str, Json]:
    """The rows of links.json (links and cross-vendor ways) by id, as stored."""
    text = (files("costmodels.catalog") / "data" / "links.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return {row["id"]: row for row in [*data["links"], *data["cross_vendor"]]}


@lru_cache(maxsize=1)
def load_links() -> dict[str, Link]:
    """All links by id."""
    return {i: _link(row) for i, row in links_data().items() if "kind" in row}


def _link(row: Json) -> Link:
    nominal = cast(float, row["per_dir_gbs"])
    achieved = cast("float | None", row["achieved_busbw_gbs"])
    share = cast("float | None", row["achieved_fraction_of_per_dir"])
    return Link(
        id=str(row["id"]),
        name=str(row["name"]),
        bandwidth=nominal * GB,
        efficiency=round(achieved / nominal, 4) if achieved is not None else share,
        latency_s=cast(float, row["alpha_us"]) / US_PER_S,
        sources=tuple(sorted(cast("dict[str, str]", row["sources"]).items())),
        notes=str(row.get("notes", "")),
    )


@lru_cache(maxsize=1)
def network_kinds() -> dict[str, NetworkKind]:
    """tcp, roce, ib and efa."""
    links = load_links()
    kinds = {}
    for name, ids in _NETWORKS.items():
        rows = sorted((links[i] for i in ids), key=lambda link: link.bandwidth)
        points = tuple((r.bandwidth, r.efficiency) for r in rows if r.efficiency is not None)
        kinds[name] = NetworkKind(name, points, rows[0].latency_s, tuple(r.id for r in rows))
    return kinds


def network_kind(name: str) -> NetworkKind:
    """One kind by name. LookupError naming the known ones."""
    try:
        return network_kinds()[name]
    except KeyError:
        known = ", ".join(network_kinds())
        raise LookupError(f"unknown network kind {name!r}; known: {known}") from None


def cross_vendor(name: str) -> CrossVendor:
    """One cross-vendor way by name (cpu-staged, cpu-staged-rdma, flagcx, dicomm). LookupError."""
    if name not in _CROSS_VENDOR:
        raise LookupError(f"unknown cross-vendor way {name!r}; known: {', '.join(_CROSS_VENDOR)}")
    row = links_data()[_CROSS_VENDOR[name]]
    return CrossVendor(
        name=name,
        efficiency=cast(float, row["achieved_fraction"]),
        latency_s=cast(float, row["alpha_us"]) / US_PER_S,
        process_bytes_per_s=_GLOO_PROCESS_BYTES_PER_S if name == "cpu-staged" else None,
        # No cross-vendor library covers Ascend's HCCL: only copies through host memory do.
        unsupported_backends=("hccl",) if name == "flagcx" else (),
    )
