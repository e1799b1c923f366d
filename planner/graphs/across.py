"""Stages over whole islands: which numbers of them, and what a chip has of the way between them.

A stage that needs more chips than an island has takes k whole islands of one class, k a power of
two. Islands of a class are alike and any k of them will do, so that counting them is enough
(:attr:`planner.search.problem.Problem.packing_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.graphs.topology import Island, IslandClass, Topology

MAX_HOSTS = 8
"""Most islands of a stage: 64 chips of hosts of eight, as DeepSeek-V3 was trained."""


@dataclass(frozen=True, slots=True)
class Port:
    """One chip's share of the way out of its island: achievable bytes/s, seconds of a hop."""

    bandwidth: float
    latency_s: float


def islands_of(chips: int, cls: IslandClass) -> int:
    """How many islands of the class a stage of so many chips lies on."""
    return -(-chips // cls.size)


def class_port(topology: Topology, cls: IslandClass) -> Port | None:
    """The best that chips of two islands of the class have anywhere; None without a network."""
    route = topology.class_routes.get((cls.index, cls.index))
    if route is None:
        return None
    return Port(route.bandwidth / cls.size, route.latency_s)


def islands_port(topology: Topology, islands: Sequence[Island]) -> Port | None:
    """What chips of these islands have between any two of them; None where a way is missing."""
    size = topology.classes[islands[0].class_index].size
    routes = [topology.route(a, b) for a in islands for b in islands if a.name != b.name]
    bandwidths = [r.bandwidth for r in routes if r is not None]
    if len(bandwidths) < len(routes):
        return None
    return Port(min(bandwidths) / size, max(r.latency_s for r in routes if r is not None))


def numbers_of_islands(topology: Topology, cls: IslandClass) -> tuple[int, ...]:
    """How many islands of the class a stage may span: 2, 4, … as far as they go.

    Empty where its islands have no power of two of chips (groups would not pack), where a host has
    several islands (they share its port, and a stage would not have it alone), or where no network
    joins them.
    """
    whole = cls.size & (cls.size - 1) == 0
    hosts = topology.host_chips
    own_port = all(hosts[island.host] == cls.size for island in cls.islands)
    if not whole or not own_port or class_port(topology, cls) is None:
        return ()
    numbers = []
    k = 2
    while k <= min(MAX_HOSTS, cls.count):
        numbers.append(k)
        k *= 2
    return tuple(numbers)


def legs(here: Sequence[Island], there: Sequence[Island]) -> list[tuple[Island, Island]]:
    """Which island of a stage sends to which of the next one: in turn, all of both sides."""
    count = max(len(here), len(there))
    return [(here[n % len(here)], there[n % len(there)]) for n in range(count)]
