"""Price one explicit layout: named devices, real routes, real replicas. Used by every caller.

The search hands its solution here after placement, ``estimate`` hands what the user wrote. Both
get the same integers from the same per-layer function (``costing.layer_cost``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, product

import numpy as np

from costmodels import interleaved
from costmodels.compression import compression_of
from costmodels.memory import MemoryItems, boundary_buffer_bytes, device_overhead, stage_memory
from costmodels.price import WAYS, LayerPrice, hosted
from costmodels.schedules import (
    ExactTimes,
    best_depths,
    depth_rule,
    exact_time,
    fill,
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
from planner.layout_data import (
    LayoutPipeline,
    LayoutStage,
    PricedLayout,
    PricedPipeline,
    PricedStage,
    free_turns,
)
from planner.mesh import Part, StageMesh
from planner.reductions import Reductions, SyncPrice

Held = tuple[int | Sequence[int], Sequence[int] | None]
"""Micro-batches in flight of a stage, or of each of its layers; and, if at another moment, those
that its host holds for each layer."""


@dataclass(frozen=True)
class _Run:
    """How a pipeline runs: picoseconds and depths by stage, ``chunks`` by chunk as well."""

    forward: Sequence[int]
    backward: Sequence[int]
    hops: tuple[int, ...]
    blocked: Sequence[int]
    depths: tuple[int, ...]
    fill: int
    formula: int
    exact: ExactTimes
    held: Callable[[int], Held]
    chunks: Sequence[tuple[tuple[int, int], ...]] = ()


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
        costs = self._stage_costs(pipe)
        if pipe.schedule == "interleaved":
            run = self._chunked(pipe, costs, hops)
        else:
            run = self._plain(pipe, costs, hops, zero_level, replicas)
        stages = tuple(
            PricedStage(
                stage=stage,
                costs=costs[s],
                forward_ps=run.forward[s],
                backward_ps=run.backward[s],
                in_flight=run.depths[s],
                memory=self._memory(pipe, s, costs[s], run.held(s), zero_level, replicas),
                usable_bytes=self.topology.classes[stage.island.class_index].usable_memory_bytes,
                hop_to_next_ps=run.hops[s] if s < len(run.hops) else None,
                transfer_ps=run.blocked[s],
                host_bytes=host_limit(self.topology.classes[stage.island.class_index]),
                chunk_ps=run.chunks[s] if run.chunks else (),
            )
            for s, stage in enumerate(pipe.stages)
        )
        # the formula is an upper bound wherever slow forwards and slow backwards fit its period;
        # elsewhere it is raised to what the recurrence gives
        return PricedPipeline(pipe, stages, run.fill, max(run.formula, run.exact.total), run.exact)

    def _plain(
        self,
        pipe: LayoutPipeline,
        costs: Sequence[tuple[LayerCost, ...]],
        hops: tuple[int, ...],
        zero_level: int,
        replicas: int,
    ) -> _Run:
        """Stages with their layers in a row: 1F1B or GPipe."""
        forward, backward = ([own for (own,) in each] for each in _chunk_times(pipe, costs))
        blocked = [0] * len(forward)
        if self.topology.blocking_transfers:
            blocked, hops = blocked_ps(hops), (0,) * len(hops)
            forward = [f + b for f, b in zip(forward, blocked)]
            backward = [f + b for f, b in zip(backward, blocked)]
        m = pipe.micro_batches

        def run(depths: tuple[int, ...]) -> _Run:
            return _Run(
                forward=forward,
                backward=backward,
                hops=hops,
                blocked=blocked,
                depths=depths,
                fill=fill(forward, backward, hops),
                formula=formula_time(forward, backward, hops, m, depths, pipe.schedule),
                exact=exact_time(pipe.schedule, forward, backward, hops, depths, m),
                held=lambda s: (depths[s], None),
            )

        found = self._depths(pipe, costs, forward, backward, hops, zero_level, replicas)
        return min(map(run, found), key=lambda r: (max(r.formula, r.exact.total), r.exact.total))

    def _chunked(
        self,
        pipe: LayoutPipeline,
        costs: Sequence[tuple[LayerCost, ...]],
        hops: tuple[int, ...],
    ) -> _Run:
        """Interleaved stages, which hold several chunks each; at the usual depths, fit or not."""
        count, m = len(pipe.stages), pipe.micro_batches
        (chunks,) = {len(s.parts) for s in pipe.stages}
        forward, backward = _chunk_times(pipe, costs)
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
        orders = interleaved.orders(depths, chunks, m)
        whole = [sum(f) for f in forward], [sum(b) for b in backward]

        def held(s: int) -> tuple[list[int], list[int]]:
            stage, own, order = pipe.stages[s], costs[s], orders[s]
            return (
                _held_by_layer(stage, own, order, LayerPrice.kept),
                _held_by_layer(stage, own, order, LayerPrice.on_host),
            )

        return _Run(
            forward=whole[0],
            backward=whole[1],
            hops=hops,
            blocked=blocked,
            depths=depths,
            fill=interleaved.fill_time(*whole, hops, chunks),
            formula=interleaved.formula_time(*whole, hops, m, chunks),
            exact=interleaved.exact_time(forward, backward, hops, depths, m),
            held=held,
            chunks=[tuple(zip(f, b, strict=True)) for f, b in zip(forward, backward, strict=True)],
        )

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
        depth: Held,
        zero_level: int,
        replicas: int,
    ) -> MemoryItems:
        stage, mesh = pipe.stages[s], pipe.stages[s].mesh
        cls = self.topology.classes[stage.island.class_index]
        return stage_memory(
            [c.price for c in costs],
            stage.policies,
            state=self.job.state_bytes,
            overhead=device_overhead(cls.chip, cls.usable_memory_bytes),
            in_flight=depth[0],
            hosted_in_flight=depth[1],
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
    ) -> list[tuple[int, ...]]:
        """The depths asked for, or the depth rule within memory (never below classic 1F1B).

        Where memory cuts some of them short there are two ways: every stage as deep as it can be,
        or no deeper than what the shallowest ones sustain. A stage that runs ahead of others is
        not always for the better.
        """
        count = len(pipe.stages)
        if pipe.schedule == "gpipe":
            return [(pipe.micro_batches,) * count]
        wanted = depth_rule(forward, backward, hops, takt(forward, backward, hops))

        def within(s: int, depth: int) -> int:
            return self._within(pipe, s, costs[s], depth, zero_level, replicas)

        depths = list(wanted)
        for s, stage in enumerate(pipe.stages):
            if stage.in_flight is not None:
                depths[s] = stage.in_flight
                continue
            ceiling = depths[s - 1] - 1 if s else depths[s]
            depths[s] = within(s, max(min(depths[s], ceiling), count - s))
        greedy = tuple(depths)
        if greedy == wanted or any(stage.in_flight is not None for stage in pipe.stages):
            return [greedy]
        limits = [within(s, depth) for s, depth in enumerate(wanted)]
        even = best_depths(forward, backward, hops, limits, wanted)
        return [greedy] if even in (None, greedy) else [greedy, even]

    def _within(
        self,
        pipe: LayoutPipeline,
        s: int,
        costs: tuple[LayerCost, ...],
        depth: int,
        zero_level: int,
        replicas: int,
    ) -> int:
        """How many micro-batches stage s has room for, of so many (never below classic 1F1B)."""
        cls = self.topology.classes[pipe.stages[s].island.class_index]
        usable, classic = cls.usable_memory_bytes, len(pipe.stages) - s
        while depth > classic:
            items = self._memory(pipe, s, costs, (depth, None), zero_level, replicas)
            if min(depth, pipe.micro_batches) <= 1:
                break
            if any(map(hosted, pipe.stages[s].policies)) and items.host > host_limit(cls):
                depth = max(classic, min(depth, pipe.micro_batches) - 1)
                continue
            if items.peak <= usable:
                break
            each = max(1, items.activations // max(1, min(depth, pipe.micro_batches)))
            over = -(-(items.peak - usable) // each)
            if depth > pipe.micro_batches:
                depth = max(classic, min(depth - 1, pipe.micro_batches - over))
            else:
                depth = max(classic, depth - max(1, over))
        return depth

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


def _chunk_times(
    pipe: LayoutPipeline, costs: Sequence[tuple[LayerCost, ...]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Forward and backward picoseconds ``[stage][chunk]``."""
    forward, backward = [], []
    for own, stage in zip(costs, pipe.stages, strict=True):
        each = iter(list(zip(own, stage.policies, strict=True)))
        spans = [list(islice(each, end - first)) for first, end in stage.parts]
        forward.append([sum(c.forward_total_ps(p) for c, p in span) for span in spans])
        backward.append([sum(c.backward_total_ps(p) for c, p in span) for span in spans])
    return forward, backward


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


__all__ = [
    "WAYS",
    "LayoutPipeline",
    "LayoutPricer",
    "LayoutStage",
    "PricedLayout",
    "PricedPipeline",
    "PricedStage",
    "free_turns",
]
