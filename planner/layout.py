"""Price one explicit layout: named devices, real routes, real replicas. Used by every caller.

The search hands its solution here after placement, ``estimate`` hands what the user wrote. Both
get the same integers from the same per-layer function (``costing.layer_cost``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, islice, product

import numpy as np

from costmodels import interleaved
from costmodels.compression import compression_of
from costmodels.memory import MemoryItems, boundary_buffer_bytes, device_overhead, stage_memory
from costmodels.price import WAYS, LayerPrice, hosted
from costmodels.schedules import (
    ExactTimes,
    ScheduleName,
    depth_rule,
    exact_time,
    formula_time,
    takt,
)
from costmodels.units import GIB
from planner.costing import (
    Ints,
    LayerCost,
    blocked_ps,
    host_limit,
    measured_scale,
    model_costs,
    offload_buffer,
    picoseconds,
    pipeline_hops_ps,
    split_parameters,
    update_s,
)
from planner.errors import InputError, Problem
from planner.graphs.across import Port, islands_port
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.inputs.job import ResolvedJob
from planner.mesh import Part, StageMesh
from planner.reductions import Reductions, SyncPrice


@dataclass(frozen=True, slots=True)
class LayoutStage:
    """Layers ``[first, end)`` on named devices of one island, in the order of their mesh.

    A stage of more chips than an island has lies on ``more`` whole ones as well, in that order.

    ``policies`` says what each layer does with what it keeps (index in ``WAYS``); ``in_flight`` is
    None where the depth rule decides within memory. An interleaved stage holds its ``chunks`` only,
    the first of which begins at ``first`` and the last ends at ``end``; it has a policy for each of
    their layers, and counts pairs of a chunk and a micro-batch in flight.
    """

    island: Island
    devices: tuple[str, ...]
    first: int
    end: int
    mesh: StageMesh
    policies: tuple[int, ...]
    in_flight: int | None = None
    more: tuple[Island, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The stage's intervals of layers in order."""
        return self.chunks or ((self.first, self.end),)

    @property
    def islands(self) -> tuple[Island, ...]:
        """All islands of the stage."""
        return (self.island, *self.more)

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""
        return self.mesh.tp

    @property
    def chips(self) -> int:
        """Chips of the stage."""
        return len(self.devices)


@dataclass(frozen=True, slots=True)
class LayoutPipeline:
    """One stream of micro-batches through its stages."""

    stages: tuple[LayoutStage, ...]
    rows: int
    micro_batches: int
    last_rows: int
    schedule: ScheduleName = "1f1b"


@dataclass(frozen=True)
class PricedStage:
    """A stage with its costs: picoseconds per micro-batch and itemised bytes.

    ``forward_ps`` and ``backward_ps`` include ``transfer_ps`` each, where transfers block.
    ``host_bytes`` of its host's memory are there for what each device offloads. ``chunk_ps``:
    forward and backward of each chunk of an interleaved stage. What leaves its last stage goes back
    to the first one, ``hop_to_next_ps`` as well.
    """

    stage: LayoutStage
    costs: tuple[LayerCost, ...]
    forward_ps: int
    backward_ps: int
    in_flight: int
    memory: MemoryItems
    usable_bytes: int
    hop_to_next_ps: int | None
    transfer_ps: int = 0
    host_bytes: int = 0
    chunk_ps: tuple[tuple[int, int], ...] = ()

    @property
    def last_backward_ps(self) -> int:
        """Backward that the step ends with: of one chunk of several, by their mean."""
        return self.backward_ps // max(1, len(self.chunk_ps))


@dataclass(frozen=True)
class PricedPipeline:
    """A pipeline with formula and exact times (without synchronisation and update).

    ``alike``: its stages as they were priced, maybe on other devices of the same kind.
    """

    pipeline: LayoutPipeline
    alike: tuple[PricedStage, ...]
    fill_ps: int
    formula_ps: int
    exact: ExactTimes

    @cached_property
    def stages(self) -> tuple[PricedStage, ...]:
        """Its stages on its own devices."""
        pairs = zip(self.alike, self.pipeline.stages, strict=True)
        return tuple(replace(priced, stage=stage) for priced, stage in pairs)


@dataclass(frozen=True)
class PricedLayout:
    """The whole step, in picoseconds."""

    pipelines: tuple[PricedPipeline, ...]
    syncs: tuple[SyncPrice, ...]
    sync_ps: int
    update_ps: int
    formula_ps: int
    exact_ps: int
    critical: int
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether every stage fits its devices and every transfer has a route."""
        return not self.problems


class LayoutPricer:
    """Prices layouts of one model on one cluster for one job; caches layers and routes."""

    def __init__(self, model: ModelGraph, topology: Topology, job: ResolvedJob) -> None:
        self.model = model
        self.topology = topology
        self.job = job
        self._layers: dict[tuple[int, StageMesh, int, Port | None], tuple[LayerCost, ...]] = {}
        self._ports: dict[tuple[str, ...], Port | None] = {}
        self._pipelines: dict[object, PricedPipeline] = {}
        self._boundaries: dict[tuple[int, int], int] = {}
        self._reductions = Reductions(model, topology, job.state_bytes, self._parts)

    def costs(
        self, class_index: int, mesh: StageMesh, rows: int, port: Port | None = None
    ) -> tuple[LayerCost, ...]:
        """Costs of all layers under one way to run them; ``port`` joins its islands."""
        key = (class_index, mesh, rows, port)
        if key not in self._layers:
            cls = self.topology.classes[class_index]
            scale = measured_scale(self.model, cls, self.job, rows // mesh.dp)
            try:
                self._layers[key] = model_costs(self.model, cls, mesh, rows, self.job, scale, port)
            except LookupError as gap:
                remedy = "measure this way too, or choose one that was measured"
                raise InputError([Problem("profile", str(gap.args[0]), remedy)]) from None
        return self._layers[key]

    def port(self, stage: LayoutStage) -> Port | None:
        """What joins the islands of a stage; None where it lies on one, or no network does."""
        if not stage.more:
            return None
        names = tuple(island.name for island in stage.islands)
        if names not in self._ports:
            self._ports[names] = islands_port(self.topology, stage.islands)
        return self._ports[names]

    def price(self, pipelines: Sequence[LayoutPipeline], zero_level: int) -> PricedLayout:
        """Price the layout; what does not fit or connect is listed, not raised."""
        problems: list[str] = []
        priced = self._each(pipelines, zero_level, problems)
        update_ps = self._update_ps(pipelines, zero_level)
        syncs = self._reductions.price(pipelines, zero_level, problems)
        found = self._joined(priced, syncs, update_ps)
        packed = compression_of(self.job.gradient_compression, self.job.state_bytes, zero_level)
        if packed is not None:
            syncs = self._reductions.price(pipelines, zero_level, [], packed)
            smaller = self._joined(priced, syncs, update_ps)
            if (smaller.formula_ps, smaller.exact_ps) < (found.formula_ps, found.exact_ps):
                found = smaller
        return replace(found, problems=tuple(problems))

    def _joined(
        self, priced: tuple[PricedPipeline, ...], syncs: Sequence[SyncPrice], update_ps: int
    ) -> PricedLayout:
        """The step of pipelines whose reductions take so long."""
        first, leads = _first_and_leads(priced)
        ends = np.array([end for p in priced for end in p.exact.stage_last_backward_end])
        finish = np.zeros(len(priced), dtype=np.int64)
        shared = np.full(len(ends), -1)  # -1: no shared weight is summed there
        for sync in syncs:
            if sync.kind == "tied":
                pipes, own = _members(sync, first)
                ends[own] = ends[own].max() + sync.time_ps
                shared[own] = np.maximum(shared[own], 0) + sync.time_ps
                np.maximum.at(finish, pipes, shared[own])
        synced = ends.copy()
        for sync in syncs:
            if sync.kind == "tied":
                continue
            pipes, own = _members(sync, first)
            synced[own] = np.maximum(synced[own], ends[own].max() + sync.time_ps)
            # both ends of a shared weight wait for the first stage
            tied = shared[own]
            after = sync.time_ps + np.where(tied >= 0, tied, -leads[own])
            np.maximum.at(finish, pipes, after)
        exact = int(synced.max()) + update_ps
        totals = np.array([pipe.formula_ps for pipe in priced]) + finish
        critical = int(totals.argmax())
        return PricedLayout(
            pipelines=priced,
            syncs=tuple(syncs),
            sync_ps=max((s.time_ps for s in syncs), default=0),
            update_ps=update_ps,
            formula_ps=max(int(totals[critical]) + update_ps, exact),
            exact_ps=exact,
            critical=critical,
            problems=(),
        )

    def alone_ps(self, pipe: LayoutPipeline, zero_level: int, replicas: int) -> int:
        """When a pipeline's last backward ends: no layout that holds it is faster."""
        hops = tuple(hop or 0 for hop in self._hops(pipe))
        priced = self._pipeline(pipe, hops, zero_level, replicas)
        return max(priced.exact.stage_last_backward_end)

    # -- pipelines --------------------------------------------------------------------------

    def _each(
        self, pipelines: Sequence[LayoutPipeline], zero_level: int, problems: list[str]
    ) -> tuple[PricedPipeline, ...]:
        """Prices of all pipelines; those that differ in names alone are priced once."""
        met: dict[object, tuple[PricedPipeline, list[int | None], bool]] = {}
        out = []
        for index, pipe in enumerate(pipelines):
            pattern = self._pattern(pipe)
            if pattern not in met:
                hops = self._hops(pipe)
                real = tuple(hop or 0 for hop in hops)
                priced = self._pipeline(pipe, real, zero_level, len(pipelines))
                joined = all(self.port(s) is not None for s in pipe.stages if s.more)
                flawless = joined and None not in hops and all(map(_fits, priced.alike))
                met[pattern] = (priced, hops, flawless)
            priced, hops, flawless = met[pattern]
            named = replace(priced, pipeline=pipe)
            if not flawless:
                problems += self._problems(index, named, hops)
            out.append(named)
        return tuple(out)

    def _pattern(self, pipe: LayoutPipeline) -> tuple[object, ...]:
        """What a pipeline's price depends on: everything but the names of hosts and devices.

        Meshes and policies by identity: it holds as long as the pipelines exist.
        """
        cells = self.topology.cells
        hosts: dict[str, int] = {}
        islands: dict[str, int] = {}

        def place(island: Island) -> tuple[object, ...]:
            cell = cells.get(island.name, island.name)
            host = hosts.setdefault(island.host, len(hosts))
            return cell, host, islands.setdefault(island.name, len(islands))

        stages = tuple(
            (
                *place(s.island),
                tuple(map(place, s.more)),
                id(s.mesh),
                id(s.policies),
                s.parts,
                s.in_flight,
                len(s.devices),
            )
            for s in pipe.stages
        )
        return (pipe.schedule, pipe.rows, pipe.micro_batches, stages)

    def _pipeline(
        self, pipe: LayoutPipeline, hops: tuple[int, ...], zero_level: int, replicas: int
    ) -> PricedPipeline:
        key = (
            pipe.schedule,
            pipe.rows,
            pipe.micro_batches,
            zero_level,
            replicas,
            hops,
            tuple(
                (
                    s.island.class_index,
                    s.mesh,
                    s.parts,
                    s.policies,
                    s.in_flight,
                    self.port(s),
                )
                for s in pipe.stages
            ),
        )
        if key not in self._pipelines:
            self._pipelines[key] = self._price_alone(pipe, hops, zero_level, replicas)
        return self._pipelines[key]

    def _problems(self, index: int, named: PricedPipeline, hops: Sequence[int | None]) -> list[str]:
        """What of a pipeline does not connect or does not fit, in words."""
        problems = []
        pipe = named.pipeline
        for s, hop in enumerate(hops):
            if hop is None:
                following = (s + 1) % len(pipe.stages)
                here, there = pipe.stages[s].island.name, pipe.stages[following].island.name
                problems.append(f"pipeline {index}: no network joins {here} and {there}")
        for s, (stage, priced) in enumerate(zip(pipe.stages, named.alike, strict=True)):
            if stage.more and self.port(stage) is None:
                problems.append(
                    f"pipeline {index} stage {s} lies on {len(stage.islands)} islands from "
                    f"{stage.island.name} on, which no network joins"
                )
            if priced.memory.peak > priced.usable_bytes:
                chip = self.topology.classes[stage.island.class_index].chip
                short = (priced.memory.peak - priced.usable_bytes) / GIB
                problems.append(
                    f"pipeline {index} stage {s} on {stage.devices[0]} ({chip.name}): needs "
                    f"{priced.memory.peak / GIB:.2f} GiB of {priced.usable_bytes / GIB:.2f} GiB "
                    f"usable, {short:.2f} GiB too much per device"
                )
            if priced.memory.host > priced.host_bytes:
                problems.append(
                    f"pipeline {index} stage {s} on {stage.devices[0]}: offloads "
                    f"{priced.memory.host / GIB:.2f} GiB per device, and its share of the host's "
                    f"memory is {priced.host_bytes / GIB:.2f} GiB"
                )
        return problems

    def _price_alone(
        self, pipe: LayoutPipeline, hops: tuple[int, ...], zero_level: int, replicas: int
    ) -> PricedPipeline:
        """Times and memory of a pipeline; the same for all whose classes and hops are equal."""
        if pipe.schedule == "interleaved":
            return self._price_interleaved(pipe, hops, zero_level, replicas)
        costs = self._stage_costs(pipe)
        forward = [
            sum(c.forward_total_ps(p) for c, p in zip(own, s.policies, strict=True))
            for own, s in zip(costs, pipe.stages, strict=True)
        ]
        backward = [
            sum(c.backward_total_ps(p) for c, p in zip(own, s.policies, strict=True))
            for own, s in zip(costs, pipe.stages, strict=True)
        ]
        blocked = [0] * len(forward)
        if self.topology.blocking_transfers:
            blocked, hops = blocked_ps(hops), (0,) * len(hops)
            forward = [f + b for f, b in zip(forward, blocked)]
            backward = [f + b for f, b in zip(backward, blocked)]
        depths = self._depths(pipe, costs, forward, backward, hops, zero_level, replicas)
        m = pipe.micro_batches
        formula = formula_time(forward, backward, hops, m, depths, pipe.schedule)
        exact = exact_time(pipe.schedule, forward, backward, hops, depths, m)
        stages = tuple(
            PricedStage(
                stage=stage,
                costs=costs[s],
                forward_ps=forward[s],
                backward_ps=backward[s],
                in_flight=depths[s],
                memory=self._memory(pipe, s, costs[s], depths[s], zero_level, replicas),
                usable_bytes=self.topology.classes[stage.island.class_index].usable_memory_bytes,
                hop_to_next_ps=hops[s] if s < len(hops) else None,
                transfer_ps=blocked[s],
                host_bytes=host_limit(self.topology.classes[stage.island.class_index]),
            )
            for s, stage in enumerate(pipe.stages)
        )
        fill = sum(forward) + sum(backward) + 2 * sum(hops)
        # the formula is an upper bound wherever slow forwards and slow backwards fit its period;
        # elsewhere it is raised to what the recurrence gives
        return PricedPipeline(pipe, stages, fill, max(formula, exact.total), exact)

    def _price_interleaved(
        self, pipe: LayoutPipeline, hops: tuple[int, ...], zero_level: int, replicas: int
    ) -> PricedPipeline:
        """As :meth:`_price_alone`, of stages that hold several chunks each."""
        count, m = len(pipe.stages), pipe.micro_batches
        (chunks,) = {len(s.parts) for s in pipe.stages}
        costs = self._stage_costs(pipe)
        forward, backward = [], []
        for own, stage in zip(costs, pipe.stages, strict=True):
            each = iter(list(zip(own, stage.policies, strict=True)))
            spans = [list(islice(each, end - first)) for first, end in stage.parts]
            forward.append([sum(c.forward_total_ps(p) for c, p in span) for span in spans])
            backward.append([sum(c.backward_total_ps(p) for c, p in span) for span in spans])
        blocked = [0] * count
        if self.topology.blocking_transfers:
            for s, c in product(range(count), range(chunks)):
                waits = hops[s - 1] if s or c else 0  # the first chunk of all has no chunk before
                forward[s][c] += waits
                backward[s][c] += waits
                blocked[s] += waits
            hops = (0,) * count
        usual = interleaved.classic_depths(count, chunks, m)
        depths = tuple(
            d if s.in_flight is None else s.in_flight
            for d, s in zip(usual, pipe.stages, strict=True)
        )
        exact = interleaved.exact_time(forward, backward, hops, depths, m)
        whole = [sum(f) for f in forward], [sum(b) for b in backward]
        formula = interleaved.formula_time(*whole, hops, m, chunks)
        orders = interleaved.orders(depths, chunks, m)
        stages = tuple(
            PricedStage(
                stage=stage,
                costs=costs[s],
                forward_ps=whole[0][s],
                backward_ps=whole[1][s],
                in_flight=depths[s],
                memory=self._memory(
                    pipe,
                    s,
                    costs[s],
                    _held_by_layer(stage, costs[s], orders[s], LayerPrice.kept),
                    zero_level,
                    replicas,
                    _held_by_layer(stage, costs[s], orders[s], LayerPrice.on_host),
                ),
                usable_bytes=self.topology.classes[stage.island.class_index].usable_memory_bytes,
                hop_to_next_ps=hops[s],
                transfer_ps=blocked[s],
                host_bytes=host_limit(self.topology.classes[stage.island.class_index]),
                chunk_ps=tuple(zip(forward[s], backward[s], strict=True)),
            )
            for s, stage in enumerate(pipe.stages)
        )
        fill = interleaved.fill_time(*whole, hops, chunks)
        return PricedPipeline(pipe, stages, fill, max(formula, exact.total), exact)

    def _stage_costs(self, pipe: LayoutPipeline) -> list[tuple[LayerCost, ...]]:
        """Costs of the layers of every stage, in order."""
        found = []
        for stage in pipe.stages:
            every = self.costs(stage.island.class_index, stage.mesh, pipe.rows, self.port(stage))
            found.append(tuple(c for first, end in stage.parts for c in every[first:end]))
        return found

    def _boundary(self, rows: int, cut: int) -> int:
        if cut in (0, len(self.model.layers)):
            return 0
        if (rows, cut) not in self._boundaries:
            element = self.job.element_bytes
            found = self.model.boundary_bytes(cut, rows, self.job.seq_len, element)
            self._boundaries[rows, cut] = found
        return self._boundaries[rows, cut]

    def _hops(self, pipe: LayoutPipeline) -> list[int | None]:
        places = [(s.islands, s.chips) for s in pipe.stages]
        if pipe.schedule == "interleaved":
            # a ring in which every stage has two neighbours; the largest cut counts for all
            every = [end for s in pipe.stages for _, end in s.parts]
            largest = max(self._boundary(pipe.rows, cut) for cut in every)
            ring = [places[-1], *places, places[0], places[1 % len(places)]]
            return pipeline_hops_ps(self.topology, ring, [largest] * (len(ring) - 1))[1:-1]
        sizes = [self._boundary(pipe.rows, s.first) for s in pipe.stages[1:]]
        return pipeline_hops_ps(self.topology, places, sizes)

    def _memory(
        self,
        pipe: LayoutPipeline,
        s: int,
        costs: tuple[LayerCost, ...],
        depth: int | Sequence[int],
        zero_level: int,
        replicas: int,
        hosted_depth: Sequence[int] | None = None,
    ) -> MemoryItems:
        stage, mesh = pipe.stages[s], pipe.stages[s].mesh
        cls = self.topology.classes[stage.island.class_index]
        return stage_memory(
            [c.price for c in costs],
            stage.policies,
            state=self.job.state_bytes,
            overhead=device_overhead(cls.chip, cls.usable_memory_bytes),
            in_flight=depth,
            hosted_in_flight=hosted_depth,
            micro_batches=pipe.micro_batches,
            zero_level=zero_level,
            replicas=replicas * mesh.dense.copies,
            expert_replicas=replicas * mesh.expert.copies,
            inner=(mesh.dense.shards, mesh.expert.shards),
            boundary_bytes=boundary_buffer_bytes(
                max(self._boundary(pipe.rows, first) for first, _ in stage.parts),
                max(self._boundary(pipe.rows, end) for _, end in stage.parts),
                tp=stage.tp,
                sequence_parallel=self.job.sequence_parallel,
                copies=mesh.copies,
            ),
            offload_buffer=offload_buffer(mesh),
        )

    def _depths(
        self,
        pipe: LayoutPipeline,
        costs: Sequence[tuple[LayerCost, ...]],
        forward: Sequence[int],
        backward: Sequence[int],
        hops: Sequence[int],
        zero_level: int,
        replicas: int,
    ) -> tuple[int, ...]:
        """The depths asked for, or the depth rule within memory (never below classic 1F1B)."""
        count = len(pipe.stages)
        if pipe.schedule == "gpipe":
            return (pipe.micro_batches,) * count
        wanted = depth_rule(forward, backward, hops, takt(forward, backward, hops))
        depths = list(wanted)
        for s, stage in enumerate(pipe.stages):
            if stage.in_flight is not None:
                depths[s] = stage.in_flight
                continue
            cls = self.topology.classes[stage.island.class_index]
            usable = cls.usable_memory_bytes
            ceiling = depths[s - 1] - 1 if s else depths[s]
            depths[s] = max(min(depths[s], ceiling), count - s)
            while depths[s] > count - s:
                items = self._memory(pipe, s, costs[s], depths[s], zero_level, replicas)
                if min(depths[s], pipe.micro_batches) <= 1:
                    break
                if any(map(hosted, stage.policies)) and items.host > host_limit(cls):
                    depths[s] = max(count - s, min(depths[s], pipe.micro_batches) - 1)
                    continue
                if items.peak <= usable:
                    break
                each = max(1, items.activations // max(1, min(depths[s], pipe.micro_batches)))
                over = -(-(items.peak - usable) // each)
                if depths[s] > pipe.micro_batches:
                    depths[s] = max(count - s, min(depths[s] - 1, pipe.micro_batches - over))
                else:
                    depths[s] = max(count - s, depths[s] - max(1, over))
        return tuple(depths)

    # -- after the last backward --------------------------------------------------------------

    def _update_ps(self, pipelines: Sequence[LayoutPipeline], zero_level: int) -> int:
        worst = 0.0
        seen = set()
        for pipe in pipelines:
            for stage in pipe.stages:
                key = (stage.island.class_index, stage.mesh, stage.parts)
                if key in seen:
                    continue
                seen.add(key)
                cls = self.topology.classes[stage.island.class_index]
                held = [self._parts(stage, pipe.rows, *part) for part in stage.parts]
                update = update_s(
                    [part for own in held for part in own],
                    len(pipelines),
                    zero_level,
                    self.job.state_bytes,
                    cls,
                    offload=stage.mesh.offload,
                )
                worst = max(worst, update)
        return picoseconds(worst)

    def _parts(self, stage: LayoutStage, rows: int, first: int, end: int) -> list[tuple[int, Part]]:
        """Parameters with gradients of some layers on one device of a stage."""
        port = self.port(stage)
        costs = self.costs(stage.island.class_index, stage.mesh, rows, port)[first:end]
        return split_parameters([c.price for c in costs], stage.mesh)


def _fits(stage: PricedStage) -> bool:
    return stage.memory.peak <= stage.usable_bytes and stage.memory.host <= stage.host_bytes


def _held_by_layer(
    stage: LayoutStage,
    costs: Sequence[LayerCost],
    order: interleaved.Order,
    bytes_: Callable[[LayerPrice, int], int],
) -> list[int]:
    """Micro-batches that each layer of an interleaved stage holds when they take most bytes."""
    lengths = [end - first for first, end in stage.parts]
    each = iter([bytes_(c.price, p) for c, p in zip(costs, stage.policies, strict=True)])
    held = interleaved.most_held(order, [sum(islice(each, n)) for n in lengths])
    return [count for count, n in zip(held, lengths, strict=True) for _ in range(n)]


def _first_and_leads(priced: Sequence[PricedPipeline]) -> tuple[Ints, Ints]:
    """Of all stages in one row: where every pipeline begins, and each stage's lead.

    Earlier stages run their last backwards while a later one synchronises.
    """
    known: dict[int, list[int]] = {}
    leads: list[int] = []
    first = [0]
    for pipe in priced:
        if id(pipe.alike) not in known:
            before = (stage.last_backward_ps for stage in pipe.alike[:-1])
            known[id(pipe.alike)] = list(accumulate(before, initial=0))
        leads += known[id(pipe.alike)]
        first.append(len(leads))
    return np.array(first[:-1], dtype=np.int64), np.array(leads, dtype=np.int64)


def _members(sync: SyncPrice, first: Ints) -> tuple[Ints, Ints]:
    """Pipelines and stages (in one row) that a reduction joins."""
    pipes, positions = np.array(sync.members, dtype=np.int64).T
    return pipes, first[pipes] + positions


def free_turns(pipe: LayoutPipeline) -> LayoutPipeline:
    """An interleaved pipeline with its depths left to the rule; others as they are.

    Of another number of micro-batches a group may be larger, for which given depths are too few.
    """
    if pipe.schedule != "interleaved":
        return pipe
    return replace(pipe, stages=tuple(replace(s, in_flight=None) for s in pipe.stages))


__all__ = ["WAYS", "LayoutPipeline", "LayoutPricer", "LayoutStage", "PricedLayout"]
