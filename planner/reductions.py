"""What happens between the replicas after the last backward: who sums what, and how long it takes.

Every run of layers that all pipelines hold in a single stage is one reduction over its replicas;
a weight that two layers share is summed in every pipeline first. Copies of a layer inside a stage
count as replicas on its island. A stage on several islands counts on each of them: all hold its
dense weights, and each a part of the experts that lie on all of its chips.

A layout may have thousands of pipelines, but few kinds of stages and of hosts: all stages lie in
one row of arrays, and what is alike is priced once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costmodels.catalog import Fabric
from costmodels.collectives import SyncHost, all_reduce_s, gradient_sync_s
from costmodels.compression import Compression, CompressionName
from costmodels.memory import StateBytes
from planner.costing import Ints, picoseconds
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Route, Topology
from planner.mesh import Part

if TYPE_CHECKING:
    from planner.layout_data import LayoutPipeline, LayoutStage

Floats = NDArray[np.float64]
Parts = Callable[["LayoutStage", int, int, int], list[tuple[int, Part]]]
"""Parameters with gradients of layers on one device: of a stage, at so many rows, from, to."""


@dataclass(frozen=True)
class SyncPrice:
    """Gradient reduction of layers ``[first, end)`` over ``(pipeline, stage)`` members.

    ``compression``: how gradients are packed between hosts.
    """

    first: int
    end: int
    kind: str
    members: tuple[tuple[int, int], ...]
    time_ps: int
    compression: CompressionName = "none"


class _Stages:
    """All stages of a layout in one row: on which island each lies, and of what shape it is.

    ``island`` and ``shape`` are numbers in ``islands``, in order of name, and ``shapes``, stages
    with their rows per micro-batch that differ in class, mesh or rows. ``island`` is the first one
    of a stage; ``seats`` names a stage once for each of its islands, which are ``seat_island``.
    """

    def __init__(
        self,
        pipelines: Sequence[LayoutPipeline],
        host_chips: Mapping[str, int],
        cells: Mapping[str, int],
    ) -> None:
        self.pipelines = pipelines
        every = [stage for pipe in pipelines for stage in pipe.stages]
        rows = [pipe.rows for pipe in pipelines for _ in pipe.stages]
        named = {island.name: island for stage in every for island in stage.islands}
        self.islands: tuple[Island, ...] = tuple(named[name] for name in sorted(named))
        number = {island.name: k for k, island in enumerate(self.islands)}
        self.island: Ints = np.array([number[stage.island.name] for stage in every], dtype=np.int64)
        self.host_chips: Ints = np.array([host_chips[i.host] for i in self.islands], dtype=np.int64)
        self.classes: Ints = np.array([i.class_index for i in self.islands], dtype=np.int64)
        self.cells = [cells.get(i.name, i.name) for i in self.islands]
        shapes: dict[object, int] = {}
        quick: dict[tuple[int, int, int], int] = {}
        self.shapes: list[tuple[LayoutStage, int]] = []
        shape = []
        for stage, size in zip(every, rows, strict=True):
            # most stages share the very mesh of another one: no need to compare meshes
            near = (stage.island.class_index, id(stage.mesh), size)
            if near not in quick:
                key = (stage.island.class_index, stage.mesh, size)
                if key not in shapes:
                    shapes[key] = len(shapes)
                    self.shapes.append((stage, size))
                quick[near] = shapes[key]
            shape.append(quick[near])
        self.shape: Ints = np.array(shape, dtype=np.int64)
        spread = [len(stage.islands) for stage in every]
        self.count: Ints = np.array(spread, dtype=np.int64)
        self.seat: Ints = np.cumsum([0, *spread[:-1]], dtype=np.int64)
        self.seat_island: Ints = np.array(
            [number[island.name] for stage in every for island in stage.islands], dtype=np.int64
        )
        counts = [len(pipe.stages) for pipe in pipelines]
        self.start: Ints = np.cumsum([0, *counts[:-1]], dtype=np.int64)
        templates: dict[tuple[int, tuple[tuple[tuple[int, int], ...], ...]], int] = {}
        self._of = np.array(
            [
                templates.setdefault(
                    (len(pipe.stages), tuple(s.parts for s in pipe.stages)), len(templates)
                )
                for pipe in pipelines
            ]
        )
        # chunks are dealt out in turn: the k-th one lies on stage k modulo their number
        self._ends = [
            (np.array(sorted(end for parts in every for _, end in parts)), count)
            for count, every in templates
        ]

    def seats(self, own: Ints) -> tuple[Ints, Ints]:
        """Some stages, each as often as it has islands, and these islands."""
        count = self.count[own]
        each = np.repeat(own, count)
        nth = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count)
        return each, self.seat_island[self.seat[each] + nth]

    def holding(self, layer: int) -> Ints:
        """Position in its pipeline of the stage that holds the layer, by pipeline."""
        at = [int(np.searchsorted(ends, layer, side="right")) % n for ends, n in self._ends]
        out: Ints = np.array(at, dtype=np.int64)[self._of]
        return out


@dataclass(frozen=True, slots=True)
class _Held:
    """Copies of some layers by island: how many, on how many chips, bytes of the largest shard
    and of all shards, and the ranks of the widest copy.

    Experts that lie on devices of their own are counted apart: ``expert_*``; an island has one of
    ``expert_parts`` of them. ``of`` says on which of the islands each member lies, on all of them
    one after the other.
    """

    island: Ints
    of: Ints
    replicas: Ints
    chips: Ints
    shard: Ints
    full: Ints
    lanes: Ints
    expert_replicas: Ints
    expert_shard: Ints
    expert_full: Ints
    expert_parts: Ints


@dataclass(frozen=True)
class _Group:
    """Layers that are reduced together: stages by pipeline, once for each of their islands.

    And what the islands hold of them.
    """

    first: int
    end: int
    stages: Ints
    members: tuple[tuple[int, int], ...]
    held: _Held
    exchanged: Ints
    inside_s: Floats


@dataclass
class _Prices:
    """One pricing of one layout: the stages, and what was found out about them so far.

    Per stage: ``loads`` bytes that its host exchanges, ``reduced`` seconds inside its island.
    """

    stages: _Stages
    problems: list[str]
    loads: Ints
    reduced: Floats
    routes: list[Route | None] = field(default_factory=list)
    packed: Compression | None = None
    per_parameter: int = 1
    number_of: dict[object, int] = field(default_factory=dict)
    route_of: dict[tuple[int | str, int | str, bool], int] = field(default_factory=dict)
    rates: dict[tuple[int, float, int], float] = field(default_factory=dict)
    inside: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reductions:
    """Prices the reductions of layouts of one model on one cluster.

    ``state``: bytes per parameter. ``parts``: what a device of a stage holds.
    """

    model: ModelGraph
    topology: Topology
    state: StateBytes
    parts: Parts

    def price(
        self,
        pipelines: Sequence[LayoutPipeline],
        zero_level: int,
        problems: list[str],
        packed: Compression | None = None,
    ) -> list[SyncPrice]:
        """Reductions per run of layers that every pipeline holds in a single stage, and of
        weights that two layers share where these lie on different stages.

        Every chip has an even share of its host's port, and exchanges over it all the layers
        that it holds; inside an island it reduces one run of layers after the other: each group
        of a stage ends with the last of them. Shared weights are summed before that, never packed.
        """
        state = self.state
        # a ring carries 2(n-1)/n of this: gradients scattered, then parameters gathered (ZeRO-1),
        # or gradients reduced to everybody
        per_parameter = (
            -(-(state.gradient + state.parameter) // 2) if zero_level else state.gradient
        )
        stages = _Stages(pipelines, self.topology.host_chips, self.topology.cells)
        size = len(stages.island)
        prices = _Prices(
            stages,
            problems,
            np.zeros(size, dtype=np.int64),
            np.zeros(size),
            packed=packed,
            per_parameter=per_parameter,
        )
        groups = list(self._runs(prices, per_parameter))
        for group in groups:
            if len(group.held.island) > 1:
                prices.loads[group.stages] += group.exchanged[group.held.of]
            prices.reduced[group.stages] += group.inside_s[group.held.of]
        found = [
            SyncPrice(
                g.first,
                g.end,
                "gradients",
                g.members,
                self._ring_ps(g, prices),
                packed.name if packed is not None and len(g.held.island) > 1 else "none",
            )
            for g in groups
        ]
        # a replica needs of a shared weight only what it updates
        return [*found, *self._tied(prices, per_parameter, len(pipelines) if zero_level else 1)]

    def _runs(self, prices: _Prices, per_parameter: int) -> Iterator[_Group]:
        """Runs of layers that every pipeline holds in one stage, where there is anything to sum."""
        stages = prices.stages
        meshes = [stage.mesh for stage, _ in stages.shapes]
        copied = np.array([m.dense.summed > 1 or m.expert.summed > 1 for m in meshes])
        firsts = {first for p in stages.pipelines for s in p.stages for first, _ in s.parts}
        for first, end in pairwise(sorted(firsts | {len(self.model.layers)})):
            position = stages.holding(first)
            own = stages.start + position
            if len(own) > 1 or copied[stages.shape[own]].any():
                members = tuple(enumerate(position.tolist()))
                yield self._group(prices, (first, end), own, members, per_parameter, 1)

    def _tied(self, prices: _Prices, per_parameter: int, shards: int) -> Iterator[SyncPrice]:
        """Every pipeline sums what the two ends of a shared weight hold; then replicas do."""
        stages = prices.stages
        known: dict[tuple[int, ...], int] = {}
        for first, second in self.model.tied:
            ends = zip(stages.holding(first), stages.holding(second), strict=True)
            for p, (one, two) in enumerate(ends):
                if one == two:
                    continue
                own = stages.start[p] + np.array([one, two])
                a, b = stages.island[own].tolist()
                ways = (self._route(prices, a, b), self._route(prices, b, a))
                chips = stages.host_chips[[a, b]].tolist()
                key = (first, *stages.shape[own].tolist(), int(a == b), *ways, *chips)
                wide = int(stages.count[own].sum()) > 2  # other ways than these two count as well
                missing = None in (prices.routes[w] for w in ways if a != b)
                if key not in known or wide or missing:
                    members = ((p, int(one)), (p, int(two)))
                    run = (first, first + 1)
                    group = self._group(prices, run, own, members, per_parameter, shards)
                    known[key] = self._ring_ps(group, prices, tied=True)
                members = ((p, int(one)), (p, int(two)))
                yield SyncPrice(first, first + 1, "tied", members, known[key])

    def _group(
        self,
        prices: _Prices,
        run: tuple[int, int],
        own: Ints,
        members: tuple[tuple[int, int], ...],
        per_parameter: int,
        shards: int,
    ) -> _Group:
        """What the islands of some stages hold of a run of layers; one of so many shards."""
        stages = prices.stages
        held = self._held(stages, run, own, per_parameter, shards)
        # bytes that the host would exchange if all its chips held as much: the group's share
        whole = (held.full + _expert_ring(held)) * stages.host_chips[held.island]
        exchanged: Ints = -(-whole // held.chips)
        inside = [s for s, _ in self._inside(prices, held)]
        return _Group(*run, stages.seats(own)[0], members, held, exchanged, np.array(inside))

    def _held(
        self, stages: _Stages, run: tuple[int, int], own: Ints, per_parameter: int, shards: int
    ) -> _Held:
        seated, lying = stages.seats(own)
        kinds, counts = np.unique(
            lying * len(stages.shapes) + stages.shape[seated], return_counts=True
        )
        island, shape = np.divmod(kinds, len(stages.shapes))
        heads = np.flatnonzero(np.concatenate([[True], island[1:] != island[:-1]]))
        each = np.zeros((9, len(stages.shapes)), dtype=np.int64)
        for k in set(shape.tolist()):
            stage, rows = stages.shapes[k]
            each[:, k] = self._of_one(stage, rows, run, per_parameter, shards)
        own_of = each[:, shape]
        replicas, chips, experts = np.add.reduceat(counts * own_of[:3], heads, axis=1)
        largest = np.maximum.reduceat(own_of[3:], heads, axis=1)
        shard, full, lanes, expert_shard, expert_full, expert_parts = largest
        where = island[heads]
        return _Held(
            island=where,
            of=np.searchsorted(where, lying),
            replicas=replicas,
            chips=chips,
            shard=shard,
            full=full,
            lanes=lanes,
            expert_replicas=experts,
            expert_shard=expert_shard,
            expert_full=expert_full,
            expert_parts=expert_parts,
        )

    def _of_one(
        self,
        stage: LayoutStage,
        rows: int,
        run: tuple[int, int],
        per_parameter: int,
        shards: int,
    ) -> tuple[int, ...]:
        """What one stage adds to each of its islands: copies, chips, copies of experts; largest
        shards, and how many islands hold the experts together.
        """
        (own, dense), *rest = self.parts(stage, rows, *run)
        experts, expert = rest[0] if rest else (0, stage.mesh.expert)
        shard = -(-per_parameter * dense.own(own) // shards)
        expert_shard = -(-per_parameter * expert.own(experts) // shards)
        lanes = dense.lanes * dense.shards
        wide, islands = expert.lanes * expert.shards, len(stage.islands)
        size = stage.chips // islands
        parts = -(-wide // size)
        counted = (dense.summed // islands, size, max(1, expert.summed // islands))
        largest = (shard, shard * lanes, lanes)
        return (*counted, *largest, expert_shard, expert_shard * min(wide, size), parts)

    def _fabric(self, class_index: int) -> Fabric:
        return self.topology.classes[class_index].fabric

    def _inside(self, prices: _Prices, held: _Held) -> list[tuple[float, float]]:
        """By island: seconds to sum the layers over its copies, and what experts take of it."""
        kinds = zip(
            prices.stages.classes[held.island].tolist(),
            held.shard.tolist(),
            held.replicas.tolist(),
            held.expert_shard.tolist(),
            held.expert_replicas.tolist(),
            strict=True,
        )
        out = []
        for kind in kinds:
            if kind not in prices.inside:
                class_index, shard, replicas, expert_shard, expert_replicas = kind
                fabric = self._fabric(class_index)
                experts = (
                    all_reduce_s(expert_shard, expert_replicas, fabric) if expert_shard else 0.0
                )
                prices.inside[kind] = (all_reduce_s(shard, replicas, fabric) + experts, experts)
            out.append(prices.inside[kind])
        return out

    def _route(self, prices: _Prices, source: int, target: int) -> int:
        """Number of the way between two islands; ways with equal times share one."""
        stages = prices.stages
        islands = stages.islands
        same_host = islands[source].host == islands[target].host
        pair = (stages.cells[source], stages.cells[target], same_host)
        if pair not in prices.route_of:
            route = self.topology.route(islands[source], islands[target])
            times = None if route is None else (route.bandwidth, route.latency_s, route.points)
            if times not in prices.number_of:
                prices.number_of[times] = len(prices.routes)
                prices.routes.append(route)
            prices.route_of[pair] = prices.number_of[times]
        return prices.route_of[pair]

    def _rate(self, prices: _Prices, way: int, bytes_: float, senders: int) -> float:
        key = (way, bytes_, senders)
        if key not in prices.rates:
            route = prices.routes[way]
            prices.rates[key] = route.rate(bytes_, senders) if route is not None else 0.0
        return prices.rates[key]

    def _ring_ps(self, group: _Group, prices: _Prices, *, tied: bool = False) -> int:
        """Picoseconds until the last stage of a group is through with all that it reduces."""
        held, stages = group.held, prices.stages
        size = len(held.island)
        busiest = group.exchanged if tied else np.zeros(size, dtype=np.int64)
        # the other runs of layers that the busiest stage of the island reduces, and experts
        others = np.zeros(size)
        if not tied:
            np.maximum.at(busiest, held.of, prices.loads[group.stages])
            longest = np.zeros(size)
            np.maximum.at(longest, held.of, prices.reduced[group.stages])
            others = np.maximum(0.0, longest - group.inside_s)
        names = held.island.tolist()
        ways = [-1] * size
        if size > 1:
            ring = zip(names, [*names[1:], names[0]], strict=True)
            ways = [self._route(prices, a, b) for a, b in ring]
        # every ring leaves a host by one chip of each tensor-parallel rank
        senders = np.maximum(1, held.lanes * stages.host_chips[held.island] // held.chips)
        alike = zip(
            stages.classes[held.island].tolist(),
            held.replicas.tolist(),
            held.shard.tolist(),
            busiest.tolist(),
            others.tolist(),
            [experts for _, experts in self._inside(prices, held)],
            ways,
            senders.tolist(),
            stages.host_chips[held.island].tolist(),
            strict=True,
        )
        packed = None if tied or size == 1 else prices.packed
        hosts = {}
        latency, missing = 0.0, 0
        for at, kind in enumerate(alike):
            class_index, replicas, shard, load, other, experts, way, sending, on_host = kind
            if way >= 0 and prices.routes[way] is None:
                here, there = stages.islands[names[at]], stages.islands[names[(at + 1) % size]]
                prices.problems.append(
                    f"layers [{group.first}, {group.end}): no network joins {here.name} "
                    f"and {there.name}, whose gradients must be summed"
                )
                missing += 1
                continue
            if kind in hosts:
                continue
            port = None
            if packed is not None:
                gradients = -(-load // (on_host * prices.per_parameter))
                cls = self.topology.classes[class_index]
                other += packed.packing_s(gradients, cls.chip, derate=cls.derate)
                load = packed.exchanged_bytes(load)
            if way >= 0:
                port = self._rate(prices, way, load / size, sending)
                latency = max(latency, getattr(prices.routes[way], "latency_s", 0.0))
            hosts[kind] = SyncHost(
                replicas=replicas,
                shard_bytes=shard,
                fabric=self._fabric(class_index),
                exchanged_bytes=load,
                port_bytes_per_s=port,
                extra_s=experts + other,
            )
        return picoseconds(
            gradient_sync_s(list(hosts.values()), latency_s=latency, count=size - missing)
        )


def _expert_ring(held: _Held) -> Ints:
    """Bytes of experts that an island exchanges, as a ring over all the islands would carry them.

    Where an island holds all experts that is what it holds. Where it holds one part of several,
    those of the same part form rings of their own over n of the N islands: (n − 1)/n of the bytes,
    where the rest of the layers takes (N − 1)/N.
    """
    islands = len(held.island)
    if islands == 1 or int(held.expert_parts.max()) == 1:
        return held.expert_full
    # every stage has whole sets of parts: the sum is a whole number
    sets = round(float((1 / held.expert_parts).sum()))
    scaled: Ints = -(-held.expert_full * (sets - 1) * islands // (sets * (islands - 1)))
    return scaled
