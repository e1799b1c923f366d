"""Price one explicit layout: named devices, real routes, real replicas. Used by every caller.

The search hands its solution here after placement, ``estimate`` hands what the user wrote. Both
get the same integers from the same per-layer function (``costing.layer_cost``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from costmodels.catalog import Fabric
from costmodels.collectives import SyncHost, all_reduce_s, gradient_sync_s
from costmodels.memory import MemoryItems, boundary_buffer_bytes, device_overhead, stage_memory
from costmodels.price import POLICIES
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
    LayerCost,
    blocked_ps,
    measured_scale,
    model_costs,
    picoseconds,
    pipeline_hops_ps,
    split_parameters,
    update_s,
)
from planner.errors import InputError, Problem
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.inputs.job import ResolvedJob
from planner.mesh import Part, StageMesh


@dataclass(frozen=True, slots=True)
class LayoutStage:
    """Layers ``[first, end)`` on named devices of one island, in the order of their mesh.

    ``policies`` names the recomputation of each layer (index in ``POLICIES``); ``in_flight`` is
    None where the depth rule decides within memory.
    """

    island: Island
    devices: tuple[str, ...]
    first: int
    end: int
    mesh: StageMesh
    policies: tuple[int, ...]
    in_flight: int | None = None

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


@dataclass(frozen=True)
class PricedPipeline:
    """A pipeline with formula and exact times (without synchronisation and update)."""

    pipeline: LayoutPipeline
    stages: tuple[PricedStage, ...]
    fill_ps: int
    formula_ps: int
    exact: ExactTimes


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
        self._layers: dict[tuple[int, StageMesh, int], tuple[LayerCost, ...]] = {}
        self._pipelines: dict[object, PricedPipeline] = {}
        self._host_chips = topology.host_chips

    def costs(self, class_index: int, mesh: StageMesh, rows: int) -> tuple[LayerCost, ...]:
        """Costs of all layers under one way to run them."""
        key = (class_index, mesh, rows)
        if key not in self._layers:
            cls = self.topology.classes[class_index]
            scale = measured_scale(self.model, cls, self.job, rows // mesh.dp)
            try:
                self._layers[key] = model_costs(self.model, cls, mesh, rows, self.job, scale)
            except LookupError as gap:
                remedy = "measure this way too, or choose one that was measured"
                raise InputError([Problem("profile", str(gap.args[0]), remedy)]) from None
        return self._layers[key]

    def price(self, pipelines: Sequence[LayoutPipeline], zero_level: int) -> PricedLayout:
        """Price the layout; what does not fit or connect is listed, not raised."""
        problems: list[str] = []
        priced = tuple(
            self._pipeline(p, pipe, zero_level, len(pipelines), problems)
            for p, pipe in enumerate(pipelines)
        )
        syncs = self._syncs(pipelines, zero_level, problems)
        update_ps = self._update_ps(pipelines, zero_level)
        ends = [list(p.exact.stage_last_backward_end) for p in priced]
        exact = 0
        finish = [0] * len(priced)
        synced: dict[tuple[int, int], int] = {}
        shared: dict[tuple[int, int], int] = {}
        for sync in syncs:
            if sync.kind == "tied":
                end = max(ends[p][s] for p, s in sync.members) + sync.time_ps
                for p, s in sync.members:
                    ends[p][s] = end
                    shared[p, s] = shared.get((p, s), 0) + sync.time_ps
                    finish[p] = max(finish[p], shared[p, s])
        for sync in syncs:
            if sync.kind == "tied":
                continue
            start = max(ends[p][s] for p, s in sync.members)
            for member in sync.members:
                synced[member] = max(synced.get(member, 0), start + sync.time_ps)
                # earlier stages run their last backwards while this one synchronises
                p, s = member
                lead = sum(stage.backward_ps for stage in priced[p].stages[:s])
                after = sync.time_ps - lead
                if member in shared:  # both ends wait for the first stage
                    after = sync.time_ps + shared[member]
                finish[p] = max(finish[p], after)
        for p, pipe in enumerate(priced):
            for s in range(len(pipe.stages)):
                exact = max(exact, synced.get((p, s), ends[p][s]))
        exact += update_ps
        totals = [pipe.formula_ps + finish[p] for p, pipe in enumerate(priced)]
        critical = max(range(len(totals)), key=lambda p: (totals[p], -p))
        return PricedLayout(
            pipelines=priced,
            syncs=tuple(syncs),
            sync_ps=max((s.time_ps for s in syncs), default=0),
            update_ps=update_ps,
            formula_ps=max(totals[critical] + update_ps, exact),
            exact_ps=exact,
            critical=critical,
            problems=tuple(problems),
        )

    def alone_ps(self, pipe: LayoutPipeline, zero_level: int, replicas: int) -> int:
        """When a pipeline's last backward ends: no layout that holds it is faster."""
        priced = self._pipeline(0, pipe, zero_level, replicas, [])
        return max(priced.exact.stage_last_backward_end)

    # -- pipelines --------------------------------------------------------------------------

    def _pipeline(
        self,
        index: int,
        pipe: LayoutPipeline,
        zero_level: int,
        replicas: int,
        problems: list[str],
    ) -> PricedPipeline:
        hops = self._hops(index, pipe, problems)
        key = (
            pipe.schedule,
            pipe.rows,
            pipe.micro_batches,
            zero_level,
            replicas,
            hops,
            tuple(
                (s.island.class_index, s.mesh, s.first, s.end, s.policies, s.in_flight)
                for s in pipe.stages
            ),
        )
        if key not in self._pipelines:
            self._pipelines[key] = self._price_alone(pipe, hops, zero_level, replicas)
        known = self._pipelines[key]
        stages = []
        for s, (stage, priced) in enumerate(zip(pipe.stages, known.stages, strict=True)):
            if priced.memory.peak > priced.usable_bytes:
                chip = self.topology.classes[stage.island.class_index].chip
                short = (priced.memory.peak - priced.usable_bytes) / GIB
                problems.append(
                    f"pipeline {index} stage {s} on {stage.devices[0]} ({chip.name}): needs "
                    f"{priced.memory.peak / GIB:.2f} GiB of {priced.usable_bytes / GIB:.2f} GiB "
                    f"usable, {short:.2f} GiB too much per device"
                )
            stages.append(replace(priced, stage=stage))
        return replace(known, pipeline=pipe, stages=tuple(stages))

    def _price_alone(
        self, pipe: LayoutPipeline, hops: tuple[int, ...], zero_level: int, replicas: int
    ) -> PricedPipeline:
        """Times and memory of a pipeline; the same for all whose classes and hops are equal."""
        costs = [
            self.costs(s.island.class_index, s.mesh, pipe.rows)[s.first : s.end]
            for s in pipe.stages
        ]
        forward = [sum(c.forward_total_ps for c in own) for own in costs]
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
            )
            for s, stage in enumerate(pipe.stages)
        )
        fill = sum(forward) + sum(backward) + 2 * sum(hops)
        # the formula is an upper bound wherever slow forwards and slow backwards fit its period;
        # elsewhere it is raised to what the recurrence gives
        return PricedPipeline(pipe, stages, fill, max(formula, exact.total), exact)

    def _boundary(self, rows: int, cut: int) -> int:
        if cut in (0, len(self.model.layers)):
            return 0
        return self.model.boundary_bytes(cut, rows, self.job.seq_len, self.job.element_bytes)

    def _hops(self, index: int, pipe: LayoutPipeline, problems: list[str]) -> tuple[int, ...]:
        places = [(s.island, s.chips) for s in pipe.stages]
        sizes = [self._boundary(pipe.rows, s.first) for s in pipe.stages[1:]]
        hops = []
        for s, hop in enumerate(pipeline_hops_ps(self.topology, places, sizes)):
            if hop is None:
                here, there = pipe.stages[s].island.name, pipe.stages[s + 1].island.name
                problems.append(f"pipeline {index}: no network joins {here} and {there}")
            hops.append(hop or 0)
        return tuple(hops)

    def _memory(
        self,
        pipe: LayoutPipeline,
        s: int,
        costs: tuple[LayerCost, ...],
        depth: int,
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
            in_flight=depth,
            micro_batches=pipe.micro_batches,
            zero_level=zero_level,
            replicas=replicas * mesh.dense.copies,
            expert_replicas=replicas * mesh.expert.copies,
            inner=(mesh.dense.shards, mesh.expert.shards),
            boundary_bytes=boundary_buffer_bytes(
                self._boundary(pipe.rows, stage.first),
                self._boundary(pipe.rows, stage.end),
                tp=stage.tp,
                sequence_parallel=self.job.sequence_parallel,
                copies=mesh.copies,
            ),
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
            usable = self.topology.classes[stage.island.class_index].usable_memory_bytes
            ceiling = depths[s - 1] - 1 if s else depths[s]
            depths[s] = max(min(depths[s], ceiling), count - s)
            while depths[s] > count - s:
                items = self._memory(pipe, s, costs[s], depths[s], zero_level, replicas)
                if items.peak <= usable or min(depths[s], pipe.micro_batches) <= 1:
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
                key = (stage.island.class_index, stage.mesh, stage.first, stage.end)
                if key in seen:
                    continue
                seen.add(key)
                cls = self.topology.classes[stage.island.class_index]
                update = update_s(
                    self._parts(stage, pipe.rows, stage.first, stage.end),
                    len(pipelines),
                    zero_level,
                    self.job.state_bytes,
                    cls.chip,
                    cls.derate,
                )
                worst = max(worst, update * cls.update_scale)
        return picoseconds(worst)

    def _parts(self, stage: LayoutStage, rows: int, first: int, end: int) -> list[tuple[int, Part]]:
        """Parameters with gradients of some layers on one device of a stage."""
        costs = self.costs(stage.island.class_index, stage.mesh, rows)[first:end]
        return split_parameters([c.price for c in costs], stage.mesh)

    def _syncs(
        self, pipelines: Sequence[LayoutPipeline], zero_level: int, problems: list[str]
    ) -> list[SyncPrice]:
        """Reductions per run of layers that every pipeline holds in a single stage, and of
        weights that two layers share where these lie on different stages.

        Every chip has an even share of its host's port, and exchanges over it all the layers
        that it holds; inside an island it reduces one run of layers after the other: each group
        of a stage ends with the last of them. Shared weights are summed before that.
        """
        state = self.job.state_bytes
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
            by_island = {h.island.name: h for h in group.held}
            for p, s in group.members:
                here = by_island[pipelines[p].stages[s].island.name]
                if group.kind == "tied":
                    continue
                if len(group.held) > 1:
                    loads[p, s] = loads.get((p, s), 0) + self._exchanged(here)
                reduced[p, s] = reduced.get((p, s), 0.0) + here.inside_s(self._fabric(here))
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
        for p, s in group.members:
            name = pipelines[p].stages[s].island.name
            load = loads.get((p, s), 0)
            if group.kind == "tied":
                load = next(self._exchanged(h) for h in held if h.island.name == name)
            busiest[name] = max(busiest.get(name, 0), load)
            longest[name] = max(longest.get(name, 0.0), reduced.get((p, s), 0.0))
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
                senders = max(1, h.lanes * self._host_chips[host] // h.chips)
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
        return -(-whole * self._host_chips[held.island.host] // held.chips)

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
        held: dict[str, _Held] = {}
        known: dict[tuple[int, StageMesh, int], list[tuple[int, Part]]] = {}
        for p, s in members:
            stage = pipelines[p].stages[s]
            key = (stage.island.class_index, stage.mesh, pipelines[p].rows)
            if key not in known:
                known[key] = self._parts(stage, pipelines[p].rows, first, end)
            before = held.get(stage.island.name, _Held(stage.island))
            held[stage.island.name] = _with_copies(before, stage, known[key], per_parameter, shards)
        return tuple(held[name] for name in sorted(held))


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
    stage: LayoutStage,
    parts: Sequence[tuple[int, Part]],
    per_parameter: int,
    shards: int,
) -> _Held:
    """An island's copies with those of one more stage."""
    (own, dense), *rest = parts
    experts, expert = rest[0] if rest else (0, stage.mesh.expert)
    shard = -(-per_parameter * dense.own(own) // shards)
    expert_shard = -(-per_parameter * expert.own(experts) // shards)
    return _Held(
        held.island,
        held.replicas + dense.summed,
        held.chips + stage.chips,
        max(held.shard, shard),
        max(held.full, shard * dense.lanes * dense.shards),
        max(held.lanes, dense.lanes * dense.shards),
        held.expert_replicas + expert.summed,
        max(held.expert_shard, expert_shard),
        max(held.expert_full, expert_shard * expert.lanes * expert.shards),
    )


__all__ = ["POLICIES", "LayoutPipeline", "LayoutPricer", "LayoutStage", "PricedLayout"]
