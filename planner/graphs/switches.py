"""The switches of one network: widest ways between them and what each uplink can carry."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from costmodels.catalog.links import NetworkKind
from costmodels.units import US_PER_S
from planner.inputs.cluster_spec import NetworkSpec, SwitchSpec, UplinkSpec


@dataclass(frozen=True, slots=True)
class SwitchWay:
    """A way through the switches, one direction.

    ``bandwidth`` is what one sender alone can push through in bytes/s (None: unbounded),
    ``fair_share`` the fraction of its own port that every host keeps when all send at once.
    """

    bandwidth: float | None
    fair_share: float
    latency_s: float
    links: tuple[tuple[str, str], ...]


INSIDE = SwitchWay(None, 1.0, 0.0, ())
"""Between two ports of one switch."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """One direction of the cables between two switches.

    Achievable bytes/s, the bytes/s that all hosts behind its sending (going up) or receiving
    (going down) switch can ask of it, and its latency.
    """

    bandwidth: float
    demand: float
    latency_s: float

    @property
    def fair_share(self) -> float:
        """What every host keeps of its own rate when all use the uplink at once."""
        return min(1.0, self.bandwidth / self.demand) if self.demand else 1.0


@dataclass(frozen=True)
class SwitchGraph:
    """The directed uplinks of one network. A switch itself never blocks."""

    network: str
    uplinks: Mapping[tuple[str, str], Uplink]
    _ways: dict[str, dict[str, SwitchWay]] = field(default_factory=dict, compare=False)

    def way(self, source: str, target: str) -> SwitchWay | None:
        """The widest way (then the one with fewest uplinks, then by name); None if there is none.

        Traffic takes one way: parallel spines are described as one switch with their summed
        uplinks.
        """
        if source == target:
            return INSIDE
        if source not in self._ways:
            self._ways[source] = self._ways_from(source)
        return self._ways[source].get(target)

    def _ways_from(self, source: str) -> dict[str, SwitchWay]:
        neighbours: dict[str, list[tuple[str, Uplink]]] = {}
        for (a, b), link in sorted(self.uplinks.items()):
            neighbours.setdefault(a, []).append((b, link))
        best: dict[str, SwitchWay] = {}
        done = {source}
        queue: list[tuple[float, int, tuple[str, ...]]] = []
        for b, link in neighbours.get(source, ()):
            heapq.heappush(queue, (-link.bandwidth, 1, (source, b)))
        while queue:
            width, hops, path = heapq.heappop(queue)
            here = path[-1]
            if here in done:
                continue
            done.add(here)
            best[here] = self._along(path)
            for b, link in neighbours.get(here, ()):
                if b not in done:
                    heapq.heappush(queue, (max(width, -link.bandwidth), hops + 1, (*path, b)))
        return best

    def _along(self, path: tuple[str, ...]) -> SwitchWay:
        keys = tuple(pairwise(path))
        links = [self.uplinks[k] for k in keys]
        return SwitchWay(
            bandwidth=min(link.bandwidth for link in links),
            fair_share=min(link.fair_share for link in links),
            latency_s=sum(link.latency_s for link in links),
            links=keys,
        )


@dataclass(frozen=True, slots=True)
class Attached:
    """All host ports of one switch in bytes/s: oversubscription divides their nominal rate."""

    nominal: float = 0.0
    achievable: float = 0.0


def switch_graph(
    network: NetworkSpec, attached: Mapping[str, Attached], kind: NetworkKind
) -> SwitchGraph:
    """Builds the graph of a network whose switches are declared.

    ``attached`` is what all host ports on each switch carry together. ``kind`` says what share of
    a cable's rate arrives: pass the RDMA kind for TCP networks too, because TCP's own loss is in
    the hosts and not in the switches.
    """
    below = _Below({s.name: s for s in network.switches}, attached)
    uplinks: dict[tuple[str, str], Uplink] = {}
    for switch in network.switches:
        demand = below.hosts(switch.name)
        for uplink in switch.uplinks:
            nominal = below.nominal(switch, uplink)
            rate = nominal * kind.efficiency(nominal, uplink.count) if nominal else 0.0
            for pair in ((switch.name, uplink.to), (uplink.to, switch.name)):
                known = uplinks.get(pair)
                rate_both = rate + (known.bandwidth if known else 0.0)
                uplinks[pair] = Uplink(rate_both, demand, uplink.latency_us / US_PER_S)
    return SwitchGraph(network.name, uplinks)


class _Below:
    """What is below a switch: hosts, and the switches whose uplinks lead to it."""

    def __init__(
        self, switches: Mapping[str, SwitchSpec], attached: Mapping[str, Attached]
    ) -> None:
        self._switches = switches
        self._attached = attached
        self._lower: dict[str, list[str]] = {}
        for switch in switches.values():
            for uplink in switch.uplinks:
                lower = self._lower.setdefault(uplink.to, [])
                if switch.name not in lower:
                    lower.append(switch.name)
        self._open: set[str] = set()

    def hosts(self, name: str) -> float:
        """Achievable bytes/s of all hosts in the subtree of a switch, each counted once."""
        seen: set[str] = set()
        stack = [name]
        while stack:
            here = stack.pop()
            if here not in seen:
                seen.add(here)
                stack += self._lower.get(here, [])
        return sum(self._attached[n].achievable for n in sorted(seen) if n in self._attached)

    def nominal(self, switch: SwitchSpec, uplink: UplinkSpec) -> float:
        """Nominal bytes/s of one uplink: as stated, or by the switch's oversubscription."""
        if uplink.bandwidth_one_way is not None:
            return float(uplink.bandwidth_one_way) * uplink.count
        share = uplink.count / sum(u.count for u in switch.uplinks)
        return self._arriving(switch.name) / (switch.oversubscription or 1.0) * share

    def _arriving(self, name: str) -> float:
        """Nominal bytes/s of a switch's own hosts and of the uplinks that lead to it.

        In a ring of uplinks a switch that is already being summed adds nothing.
        """
        if name in self._open:
            return 0.0
        self._open.add(name)
        total = self._attached[name].nominal if name in self._attached else 0.0
        for lower in self._lower.get(name, []):
            switch = self._switches[lower]
            total += sum(self.nominal(switch, u) for u in switch.uplinks if u.to == name)
        self._open.discard(name)
        return total
