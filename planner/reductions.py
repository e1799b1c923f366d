"""What happens between the replicas after the last backward: who sums what, and how long it takes.

Every run of layers that all pipelines hold in a single stage is one reduction over its replicas;
a weight that two layers share is summed in every pipeline first. Copies of a layer inside a stage
count as replicas on its island.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from costmodels.catalog import Fabric
from costmodels.collectives import SyncHost, all_reduce_s, gradient_sync_s
from costmodels.memory import StateBytes
from planner.costing import picoseconds
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.mesh import Part, StageMesh

if TYPE_CHECKING:
    from planner.layout import LayoutPipeline, LayoutStage

Parts = Callable[["LayoutStage", int, int, int], list[tuple[int, Part]]]
"""Parameters with gradients of layers on one device: of a stage, at so many rows, from, to."""


@dataclass(frozen=True)
class SyncPrice:
    """Gradient reduction of layers ``[first, end)`` over ``(pipeline, stage)`` members."""

    first: int
    end: int
    kind: str
    members: tuple[tuple[int, int], ...]
    time_ps: int


@dataclass(frozen=True, slots=True)
class _Held:
    """Copies of some layers on one island: how many, on how many chips, bytes of the largest
    shard and of all shards, and the ranks of the widest copy.

    Experts that lie on devices of their own are counted apart: ``expert_*``.
    """

    island: Island
    replicas: int = 0
    chips: int = 0
    shard: int = 0
    full: int = 0
    lanes: int = 0
    expert_replicas: int = 0
    expert_shard: int = 0
    expert_full: int = 0

    def inside_s(self, fabric: Fabric) -> float:
        """Seconds to sum these layers over the copies of the island."""
        return all_reduce_s(self.shard, self.replicas, fabric) + self.experts_s(fabric)

    def experts_s(self, fabric: Fabric) -> float:
        """Seconds of it that go to experts."""
        if not self.expert_shard:
            return 0.0
        return all_reduce_s(self.expert_shard, self.expert_replicas, fabric)


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers that are reduced together, and what the islands hold of them."""

    first: int
    end: int
    kind: str
    members: tuple[tuple[int, int], ...]
    held: tuple[_Held, ...]


def _with_copies(
    held: _Held,
    mesh: StageMesh,
    stages: int,
    parts: Sequence[tuple[int, Part]],
    per_parameter: int,
    shards: int,
) -> _Held:
    """An island's copies with those of so many more stages of one mesh."""
    (own, dense), *rest = parts
    experts, expert = rest[0] if rest else (0, mesh.expert)
    shard = -(-per_parameter * dense.own(own) // shards)
    expert_shard = -(-per_parameter * expert.own(experts) // shards)
    return _Held(
        held.island,
        held.replicas + stages * dense.summed,
        held.chips + stages * mesh.chips,
        max(held.shard, shard),
        max(held.full, shard * dense.lanes * dense.shards),
        max(held.lanes, dense.lanes * dense.shards),
        held.expert_replicas + stages * expert.summed,
        max(held.expert_shard, expert_shard),
        max(held.expert_full, expert_shard * expert.lanes * expert.shards),
    )


@dataclass(frozen=True)
class Reductions:
    """Prices the reductions of layouts of one model on one cluster.

    ``state``: bytes per parameter. ``parts``: what a device of a stage holds.
    """

    model: ModelGraph
    topology: Topology
    state: StateBytes
    parts: Parts

    @cached_property
    def host_chips(self) -> dict[str, int]:
        """Chips of every host."""
        return self.topology.host_chips

    def price(
        self, pipelines: Sequence[LayoutPipeline], zero_level: int, problems: list[str]
    ) -> list[SyncPrice]:
        """Reductions per run of layers that every pipeline holds in a single stage, and of
        weights that two layers share where these lie on different stages.

        Every chip has an even share of its host's port, and exchanges over it all the layers
        that it holds; inside an island it reduces one run of layers after the other: each group
        of a stage ends with the last of them. Shared weights are summed before that.
        """
        state = self.state
        # a ring carries 2(n-1)/n of this: gradients scattered, then parameters gathered (ZeRO-1),
        # or gradients reduced to everybody
        per_parameter = (
            -(-(state.gradient + state.parameter) // 2) if zero_level else state.gradient
        )
        # a replica needs of a shared weight only what it updates
        own = len(pipelines) if zero_level else 1
        groups = []
        for first, end, kind, members in self._groups(pipelines):
            shards = own if kind == "tied" else 1
            held = self._held(pipelines, first, end, members, per_parameter, shards)
            groups.append(_Group(first, end, kind, members, held))
        loads: dict[tuple[int, int], int] = {}
        reduced: dict[tuple[int, int], float] = {}
        for group in groups:
            if group.kind == "tied":
                continue
            several = len(group.held) > 1
            by_island = {
                h.island.name: (self._exchanged(h), h.inside_s(self._fabric(h))) for h in group.held
            }
            for p, s in group.members:
                exchanged, inside_s = by_island[pipelines[p].stages[s].island.name]
                if several:
                    loads[p, s] = loads.get((p, s), 0) + exchanged
                reduced[p, s] = reduced.get((p, s), 0.0) + inside_s
        return [
            SyncPrice(
                group.first,
                group.end,
                group.kind,
                group.members,
                self._ring_ps(group, pipelines, loads, reduced, problems),
            )
            for group in groups
        ]

    def _fabric(self, held: _Held) -> Fabric:
        return self.topology.classes[held.island.class_index].fabric

    def _ring_ps(
        self,
        group: _Group,
        pipelines: Sequence[LayoutPipeline],
        loads: dict[tuple[int, int], int],
        reduced: dict[tuple[int, int], float],
        problems: list[str],
    ) -> int:
        """Picoseconds until the last stage of a group is through with all that it reduces."""
        held = group.held
        busiest: dict[str, int] = {}
        longest: dict[str, float] = {}
        if group.kind == "tied":
            busiest = {h.island.name: self._exchanged(h) for h in held}
        else:
            for p, s in group.members:
                name = pipelines[p].stages[s].island.name
                busiest[name] = max(busiest.get(name, 0), loads.get((p, s), 0))
                longest[name] = max(longest.get(name, 0.0), reduced[p, s])
        hosts = []
        latency = 0.0
        for at, h in enumerate(held):
            port = None
            if len(held) > 1:
                other = held[(at + 1) % len(held)].island
                route = self.topology.route(h.island, other)
                if route is None:
                    problems.append(
                        f"layers [{group.first}, {group.end}): no network joins {h.island.name} "
                        f"and {other.name}, whose gradients must be summed"
                    )
                    continue
                # every ring leaves a host by one chip of each tensor-parallel rank
                host = h.island.host
                senders = max(1, h.lanes * self.host_chips[host] // h.chips)
                port = route.rate(busiest[h.island.name] / len(held), senders)
                latency = max(latency, route.latency_s)
            fabric = self._fabric(h)
            # the other runs of layers that the busiest stage of the island reduces, and experts
            others = 0.0
            if group.kind == "gradients":
                others = max(0.0, longest[h.island.name] - h.inside_s(fabric))
            hosts.append(
                SyncHost(
                    replicas=h.replicas,
                    shard_bytes=h.shard,
                    fabric=fabric,
                    exchanged_bytes=busiest[h.island.name],
                    port_bytes_per_s=port,
                    extra_s=h.experts_s(fabric) + others,
                )
            )
        return picoseconds(gradient_sync_s(hosts, latency_s=latency))

    def _groups(
        self, pipelines: Sequence[LayoutPipeline]
    ) -> list[tuple[int, int, str, tuple[tuple[int, int], ...]]]:
        """``(first, end, kind, members)`` of every reduction."""

        def holders(layer: int) -> tuple[tuple[int, int], ...]:
            return tuple(
                (p, next(s for s, stage in enumerate(pipe.stages) if stage.end > layer))
                for p, pipe in enumerate(pipelines)
            )

        def several(members: tuple[tuple[int, int], ...]) -> bool:
            meshes = [pipelines[p].stages[s].mesh for p, s in members]
            return len(meshes) > 1 or any(m.dense.summed > 1 or m.expert.summed > 1 for m in meshes)

        out = []
        cuts = sorted({s.first for p in pipelines for s in p.stages} | {len(self.model.layers)})
        runs = [(a, b, holders(a)) for a, b in pairwise(cuts)]
        out += [(a, b, "gradients", members) for a, b, members in runs if several(members)]
        for first, second in self.model.tied:
            # every pipeline sums what its two ends hold, then its replicas reduce the sum
            for one, two in zip(holders(first), holders(second), strict=True):
                if one != two:
                    out.append((first, first + 1, "tied", (one, two)))
        return out

    def _exchanged(self, held: _Held) -> int:
        """Bytes that the host would exchange if all its chips held as much: the group's share."""
        whole = held.full + held.expert_full
        return -(-whole * self.host_chips[held.island.host] // held.chips)

    def _held(
        self,
        pipelines: Sequence[LayoutPipeline],
        first: int,
        end: int,
        members: Sequence[tuple[int, int]],
        per_parameter: int,
        shards: int,
    ) -> tuple[_Held, ...]:
        """What each island exchanges of a group, in order of name; one of so many shards."""
        alike: dict[tuple[str, StageMesh, int], int] = {}
        first_of: dict[tuple[str, StageMesh, int], LayoutStage] = {}
        for p, s in members:
            stage = pipelines[p].stages[s]
            key = (stage.island.name, stage.mesh, pipelines[p].rows)
            if key not in alike:
                alike[key], first_of[key] = 0, stage
            alike[key] += 1
        held: dict[str, _Held] = {}
        known: dict[tuple[int, StageMesh, int], list[tuple[int, Part]]] = {}
        for (name, mesh, rows), stages in alike.items():
            stage = first_of[name, mesh, rows]
            kind = (stage.island.class_index, mesh, rows)
            if kind not in known:
                known[kind] = self.parts(stage, rows, first, end)
            before = held.get(name, _Held(stage.island))
            held[name] = _with_copies(before, mesh, stages, known[kind], per_parameter, shards)
        return tuple(held[name] for name in sorted(held))
