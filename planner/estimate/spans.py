"""Tensor parallelism across islands, which the search never tries and people sometimes run.

Such a group becomes an island of its own whose fabric is the slowest way around the group: a ring
over all its chips passes every host's port once in each direction, so each chip reaches the lesser
of its fabric's bandwidth and of the group's fair share of a port. What the group exchanges with
others leaves by the ports of all its hosts. Everything else is priced as inside an island.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from costmodels.catalog import Fabric
from planner.errors import InputError, Problem
from planner.estimate.sketch import Sketch, StageSketch
from planner.graphs.across import numbers_of_islands
from planner.graphs.topology import Island, IslandClass, Route, Topology
from planner.layout import LayoutPipeline, LayoutStage


@dataclass(frozen=True, slots=True)
class Span:
    """A group over several islands: how many of its chips each island holds, in ring order."""

    parts: tuple[tuple[Island, int], ...]
    fabric: Fabric
    inside: Fabric

    @property
    def describe(self) -> str:
        """What it costs, for a warning."""
        chips = sum(n for _, n in self.parts)
        most = max(n for _, n in self.parts)
        within = self.inside.group_bandwidth(max(2, most))
        return (
            f"tp {chips} spans {len(self.parts)} islands: its collectives run at "
            f"{self.fabric.total_bandwidth / 1e9:.3g} GB/s per chip instead of {within / 1e9:.3g}"
        )


@dataclass(frozen=True)
class Ground:
    """The cluster with an island for every group that spans several, and the layout on it."""

    topology: Topology
    layouts: tuple[LayoutPipeline, ...]
    spans: tuple[Span, ...]


def settle(sketch: Sketch, topology: Topology) -> Ground:
    """Put the sketch on the cluster. Raises InputError for groups that cannot work together."""
    builder = _Builder(topology)
    problems: list[Problem] = []
    pipelines = []
    for pipe in sketch.pipelines:
        stages = []
        for stage in pipe.stages:
            found: Island | Problem
            more: tuple[Island, ...] = ()
            whole = builder.whole_islands(stage)
            found, more = (whole[0], whole[1:]) if whole else (builder.island(stage), ())
            if isinstance(found, Problem):
                problems.append(found)
                continue
            stages.append(
                LayoutStage(
                    island=found,
                    devices=stage.devices,
                    first=stage.first,
                    end=stage.end,
                    mesh=stage.degrees,
                    policies=stage.policies,
                    in_flight=stage.in_flight,
                    more=more,
                    chunks=stage.chunks,
                )
            )
        pipelines.append(
            LayoutPipeline(
                stages=tuple(stages),
                rows=pipe.rows,
                micro_batches=pipe.micro_batches,
                last_rows=pipe.last_rows,
                schedule=pipe.schedule,
            )
        )
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return Ground(builder.topology(), tuple(pipelines), tuple(builder.spans.values()))


class _Builder:
    """Finds the island of a group, and makes one where there is none."""

    def __init__(self, topology: Topology) -> None:
        self.base = topology
        self.home = {d: i for cls in topology.classes for i in cls.islands for d in i.devices}
        self.spans: dict[str, Span] = {}
        self.kinds: dict[IslandClass, list[Island]] = {}

    def whole_islands(self, stage: StageSketch) -> tuple[Island, ...]:
        """The islands of a mesh that lies on several whole ones, as the search places them."""
        mesh, islands = (
            stage.degrees,
            tuple({self.home[d].name: self.home[d] for d in stage.devices}.values()),
        )
        cls = self.base.classes[islands[0].class_index]
        whole = stage.devices == tuple(d for i in islands for d in i.devices)
        numbers = numbers_of_islands(self.base, cls)
        if mesh.tensor_alone or not whole or len(islands) not in numbers:
            return ()
        alike = all(i.class_index == cls.index for i in islands)
        return islands if alike and mesh.tp <= cls.size and not mesh.zero3 else ()

    def island(self, stage: StageSketch) -> Island | Problem:
        """The island of a stage's devices, or why they cannot be one group."""
        counts: dict[str, int] = {}
        islands: dict[str, Island] = {}
        for device in stage.devices:
            island = self.home[device]
            islands[island.name] = island
            counts[island.name] = counts.get(island.name, 0) + 1
        if len(islands) == 1:
            return next(iter(islands.values()))
        classes = [self.base.classes[c] for c in sorted({i.class_index for i in islands.values()})]
        if len({(c.chip.id, c.measured_rows_per_s) for c in classes}) > 1:
            names = " and ".join(c.name for c in classes)
            message = f"a tensor-parallel group cannot mix islands of {names}"
            return Problem(stage.where, message, "give each stage chips of one kind")
        parts = tuple((islands[name], n) for name, n in counts.items())
        fabric = self._fabric(parts)
        if fabric is None:
            names = " and ".join(list(islands)[:2])
            message = f"tp {len(stage.devices)} cannot be priced: no network joins {names}"
            return Problem(stage.where, message, f"tp {classes[0].size} stays inside an island")
        return self._joined(parts, fabric, classes, stage.devices)

    def _fabric(self, parts: Sequence[tuple[Island, int]]) -> Fabric | None:
        """The fabric that a ring around the parts has; None where some are not joined."""
        bus, latency = math.inf, 0.0
        kinds: dict[str, None] = {}
        for (here, count), (there, _) in zip(parts, (*parts[1:], parts[0])):
            cls = self.base.classes[here.class_index]
            route = self.base.route(here, there)
            if route is None:
                return None
            inside = cls.fabric.group_bandwidth(count) if count > 1 else math.inf
            bus = min(bus, inside, route.bandwidth * count / cls.size)
            latency = max(latency, cls.fabric.latency_s, route.latency_s)
            kinds |= {cls.fabric.kind: None, route.kind: None}
        return Fabric(" over ".join(kinds), bus, bus, 1.0, latency, full_mesh=False)

    def _joined(
        self,
        parts: tuple[tuple[Island, int], ...],
        fabric: Fabric,
        classes: Sequence[IslandClass],
        devices: tuple[str, ...],
    ) -> Island:
        """The island of a span; groups of equal make share a class, that of their weakest chip."""
        kind = replace(
            classes[0],
            index=0,
            name=f"{classes[0].name}, {len(devices)} together",
            size=len(devices),
            fabric=fabric,
            islands=(),
            derate=min(c.derate for c in classes),
            usable_memory_bytes=min(c.usable_memory_bytes for c in classes),
        )
        group = self.kinds.setdefault(kind, [])
        index = len(self.base.classes) + list(self.kinds).index(kind)
        name = f"{devices[0]} and {len(devices) - 1} more"
        island = Island(name, name, index, devices)
        group.append(island)
        self.spans[name] = Span(parts, fabric, classes[0].fabric)
        return island

    def topology(self) -> Topology:
        """The cluster with the spans as classes after its own."""
        if not self.spans:
            return self.base
        own = self.base.classes
        added = [
            replace(kind, index=len(own) + n, islands=tuple(islands))
            for n, (kind, islands) in enumerate(self.kinds.items())
        ]
        finder = _Ways(self.base, self.spans)
        # ways between spans depend on which islands these are: none is like another
        return replace(self.base, classes=(*own, *added), route=finder, cells={})


@dataclass(frozen=True)
class _Ways:
    """Routes of a cluster in which some islands are joined."""

    base: Topology
    spans: dict[str, Span]

    def __call__(self, source: Island, target: Island) -> Route | None:
        """All hosts of a span send at once, each with the share of its chips of the group."""
        if source.name not in self.spans and target.name not in self.spans:
            return self.base.route(source, target)
        ends = [self._parts(source), self._parts(target)]
        lanes = max(map(len, ends))
        bandwidth = [0.0, 0.0]
        latency, kinds, resources = 0.0, dict[str, None](), dict[str, None]()
        for n in range(lanes):
            here, there = (parts[n % len(parts)] for parts in ends)
            route = self._leg(here[0], there[0])
            if route is None:
                return None
            for end, (island, count) in enumerate((here, there)):
                if n < len(ends[end]):
                    size = self.base.classes[island.class_index].size
                    bandwidth[end] += route.bandwidth * count / size
            latency = max(latency, route.latency_s)
            kinds[route.kind] = None
            resources.update(dict.fromkeys(route.resources))
        return Route(min(bandwidth), latency, " and ".join(kinds), tuple(resources))

    def _parts(self, island: Island) -> tuple[tuple[Island, int], ...]:
        """Where the chips are; an island that is no span counts whole."""
        span = self.spans.get(island.name)
        return span.parts if span is not None else ((island, len(island.devices)),)

    def _leg(self, here: Island, there: Island) -> Route | None:
        """The real way; between chips of one island it is the fabric."""
        if here.name != there.name:
            return self.base.route(here, there)
        cls = self.base.classes[here.class_index]
        whole = cls.fabric.pair_bandwidth * cls.fabric.efficiency * cls.size
        return Route(whole, cls.fabric.latency_s, cls.fabric.kind)
