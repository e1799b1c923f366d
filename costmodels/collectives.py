"""Time of collectives among equal chips, and of gradient synchronisation over hosts.

The α–β model: a collective of ``bytes_`` over k ranks takes

    launch + steps · α + wire · bytes_ / B,      B = group bandwidth of the fabric

with wire = 2(k−1)/k for an all-reduce and (k−1)/k for the others (ring and tree move the same
bytes), and ⌈log2 k⌉ steps each way. The constant part is what makes small messages slow: the
effective bandwidth is B·bytes/(bytes + b_half) with b_half = B·(launch + steps·α)/wire.

Eight H200 measured: all-reduce of 32 KiB about 40 µs, 1 MiB 48 µs, 16 MiB 133 µs, 512 MiB 2.1 ms
(with in-switch reduction, which is not modelled); the form below gives 41, 45, 120 and 2,600 µs.
Sources of the figures: notes of links.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from costmodels.catalog import Fabric

LAUNCH_S = 20e-6
"""Launch of one collective from the framework, seconds: 32 KiB on 8 H200 less its hops."""

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


def all_reduce_s(bytes_: float, ranks: int, fabric: Fabric) -> float:
    """Seconds to sum ``bytes_`` held by each of ``ranks`` chips, result on all."""
    if ranks <= 1:
        return 0.0
    wire = 2 * (ranks - 1) / ranks * bytes_ / fabric.group_bandwidth(ranks)
    return LAUNCH_S + 2 * _steps(ranks) * fabric.latency_s + wire


def reduce_scatter_s(bytes_: float, ranks: int, fabric: Fabric) -> float:
    """Seconds to sum ``bytes_`` held by each chip, 1/k of the result on each."""
    return _one_way(bytes_, ranks, fabric)


def all_gather_s(bytes_: float, ranks: int, fabric: Fabric) -> float:
    """Seconds until every chip holds the ``bytes_`` of which each had 1/k."""
    return _one_way(bytes_, ranks, fabric)


def all_to_all_s(bytes_: float, ranks: int, fabric: Fabric) -> float:
    """Seconds for each chip to send 1/k of its ``bytes_`` to every other; all links at once."""
    if ranks <= 1:
        return 0.0
    wire = (ranks - 1) / ranks * bytes_ / fabric.group_bandwidth(ranks)
    return LAUNCH_S + fabric.latency_s + wire


@dataclass(frozen=True, slots=True)
class Links:
    """What joins the chips of a group that may be larger than one fabric.

    ``island`` chips share a ``fabric`` (0: it joins any group). ``port`` is one chip's share of
    its host's way out: achievable bytes/s, one way; ``latency_s`` is one hop over it.
    """

    fabric: Fabric
    island: int = 0
    port: float = 0.0
    latency_s: float = 0.0

    def inside(self, ranks: int, stride: int) -> int:
        """How many of ``ranks`` chips, ``stride`` apart, one fabric holds."""
        if self.island <= 0:
            return ranks
        return max(1, min(ranks, self.island // stride))


def hosts_reached(hosts: float, copies: int, groups: tuple[int, int] = (1, 1)) -> float:
    """How many other hosts the ``copies`` of a token reach, expected: they fall evenly on all.

    Of all ``groups`` of experts, equal parts of the hosts, those of a token come from the second
    number alone (node-limited routing): its copies fall evenly on the hosts of these. Groups that
    share a host are taken for groups apart, so that no more hosts are spared than must be.
    """
    every, chosen = groups
    if chosen >= every:
        return (hosts - 1) * (1 - (1 - 1 / hosts) ** copies)
    near = min(hosts, chosen * max(1.0, hosts / every))
    return (hosts - 1) / hosts * near * (1 - (1 - 1 / near) ** copies)


def group_s(
    kind: Kind,
    bytes_: float,
    ranks: int,
    links: Links,
    stride: int = 1,
    copies: int = 1,
    groups: tuple[int, int] = (1, 1),
) -> float:
    """Seconds of a collective among chips that are ``stride`` apart in the order of the chips.

    Inside one fabric as above. Across fabrics a ring passes every fabric's way out once in each
    direction and the chips of the group that it holds share it: the slower of the two tiers
    counts. All-to-all sends each chip's own part over its own share of the way out; where that is
    ``copies`` of every token, one of them goes to each fabric that is reached and is copied there;
    ``groups`` as in :func:`hosts_reached`.
    ValueError if the group needs a way out and there is none.
    """
    inside = links.inside(ranks, stride)
    if ranks <= inside:
        return _FLAT[kind](bytes_, ranks, links.fabric)
    if links.port <= 0:
        raise ValueError(f"{ranks} chips do not share a fabric, and no network joins them")
    latency = _steps(-(-ranks // inside)) * links.latency_s
    if kind == "all_to_all":
        near = (inside - 1) / ranks * bytes_ / links.fabric.group_bandwidth(max(inside, 2))
        far = hosts_reached(ranks / inside, copies, groups) / copies * bytes_ / links.port
        return LAUNCH_S + links.latency_s + max(near, far)
    twice = 2 if kind == "all_reduce" else 1
    hosts = ranks / inside
    near = (ranks - 1) / ranks * bytes_ / links.fabric.group_bandwidth(max(inside, 2))
    far = (hosts - 1) / hosts * bytes_ / (links.port * inside)
    wire = twice * max(near if inside > 1 else 0.0, far)
    return LAUNCH_S + twice * (latency + _steps(inside) * links.fabric.latency_s) + wire


def point_to_point_s(bytes_: float, bandwidth: float, latency_s: float) -> float:
    """Seconds for ``bytes_`` over a way of achievable ``bandwidth`` bytes/s."""
    return latency_s + bytes_ / bandwidth


class SyncHost(NamedTuple):
    """What one host takes part with in the synchronisation of one group of layers.

    ``replicas``: copies of the layers inside this host. ``shard_bytes``: gradient bytes that one
    chip holds (already divided by tensor parallelism). ``fabric``: joins the chips of the host.
    ``exchanged_bytes``: distinct gradient bytes that this host exchanges with others at the same
    time over its port, all chips and all groups together. ``port_bytes_per_s``: achievable, one
    way; None for a host without a network, which is legal only in a group of one host.
    ``extra_s``: what its chips reduce inside the host beside this group, before they are done.
    """

    replicas: int
    shard_bytes: int
    fabric: Fabric
    exchanged_bytes: int
    port_bytes_per_s: float | None
    extra_s: float = 0.0


def gradient_sync_s(
    hosts: Sequence[SyncHost], *, latency_s: float = 0.0, count: int | None = None
) -> float:
    """Seconds to sum the gradients of one group of layers over all its replicas.

    Two tiers: a reduce-scatter and an all-gather among the k replicas inside each host, and a ring
    over the n hosts in between, in which all chips of a host share its port:

        max over hosts (2(k−1)/k · shard/B + 2(n−1)/n · exchanged/port) + launches + 2⌈log2 n⌉·α

    The latency is the lesser of ring and tree, which is the tree's. ``latency_s`` is one hop
    between hosts. ``count`` is the number of hosts where ``hosts`` lists only the different
    ones. ZeRO level 1 moves the same bytes (gradients scattered, parameters gathered).
    ValueError if several hosts must talk and one has no port.
    """
    n = len(hosts) if count is None else count
    slowest = 0.0
    for host in hosts:
        inside = all_reduce_s(host.shard_bytes, host.replicas, host.fabric) + host.extra_s
        if n > 1:
            if host.port_bytes_per_s is None:
                raise ValueError("a group over several hosts needs a network port on each of them")
            inside += 2 * (n - 1) / n * host.exchanged_bytes / host.port_bytes_per_s
        slowest = max(slowest, inside)
    if n <= 1:
        return slowest
    return slowest + LAUNCH_S + 2 * _steps(n) * latency_s


def _one_way(bytes_: float, ranks: int, fabric: Fabric) -> float:
    if ranks <= 1:
        return 0.0
    wire = (ranks - 1) / ranks * bytes_ / fabric.group_bandwidth(ranks)
    return LAUNCH_S + _steps(ranks) * fabric.latency_s + wire


_FLAT = {
    "all_reduce": all_reduce_s,
    "all_gather": all_gather_s,
    "reduce_scatter": reduce_scatter_s,
    "all_to_all": all_to_all_s,
}


def _steps(ranks: int) -> int:
    """⌈log2 k⌉."""
    return (ranks - 1).bit_length() if ranks > 1 else 0
