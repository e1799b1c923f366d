"""Event-driven replay of a plan, from the plan file alone.

What is replayed: forward and backward of every micro-batch on every stage, in the order that the
schedule prescribes; every transfer between stages over the real routes of the cluster; gradient
synchronisation and the optimizer update. Which operation a stage runs next is data
(:func:`costmodels.schedules.stage_order`, :func:`costmodels.interleaved.orders`); the timing is
:mod:`planner.replay`'s own.

How the network is shared: the plan gives every transfer a static share of the way, enough to
carry it in ``hop_to_next_s``; that share is reserved for it and it goes no faster even where
nobody else is on the way. So it asks for ``bytes / (hop_to_next_s - latency)`` on every resource
of its route. As long as the transfers that are on a resource at one moment ask for no more than its
capacity, they take their planned time; when they ask for more, all of them slow down in
proportion. An uncontended plan therefore replays in exactly its ``exact_time_s``, a contended one
takes longer, never less.

A last micro-batch with fewer rows is replayed as a full one: small batches do not run
proportionally faster, and the plan's own times say nothing about them.

Reductions are replayed in their planned time: it counts the other reductions on the same ports, but
not the last activations and gradients of pipelines that are still running.

Pipelines that share no contended resource are replayed apart, and those that are alike once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from costmodels.interleaved import orders as interleaved_orders
from costmodels.schedules import Op, stage_order
from costmodels.units import PS_PER_S
from planner.callable_module import make_callable
from planner.errors import InputError, Problem
from planner.graphs.across import legs
from planner.graphs.topology import Island
from planner.plan import Pipeline, Plan, Replica, Stage
from planner.replay import ROUNDING, Channel, DeadlockError, Lane, replay
from planner.restore import Restored, restore
from planner.timeline import FinishSlice, PipelineRun, StageTrack, Timeline

Demands = dict[str, float]
"""Bytes/s by name of resource."""


def simulate(plan: Plan, restored: Restored | None = None) -> Timeline:
    """Replay one training step.

    ``restored`` is what ``restore(plan)`` gives, for callers that have it already. Raises
    :class:`InputError` for a plan whose inputs cannot be restored, that names unknown devices,
    joins stages where no route leads, or deadlocks.
    """
    world = restore(plan) if restored is None else restored
    drafts = [_draft(plan, index, world) for index in range(len(plan.pipelines))]
    runs = _replay_all(drafts, world.topology.capacity)
    return Timeline(runs, tuple(map(_tracks, plan.pipelines)), _finish(plan, runs))


@dataclass(frozen=True)
class _Draft:
    """A pipeline before resources are numbered: its lane's data and demands by name."""

    orders: tuple[tuple[Op, ...], ...]
    chunks: tuple[tuple[int, ...], ...]
    forward_ps: tuple[tuple[int, ...], ...]
    backward_ps: tuple[tuple[int, ...], ...]
    hops: tuple[tuple[int, int, Demands], ...]
    """Down s -> s + 1 for every s, then up: time, latency, demands. See :class:`Lane`."""

    def lane(self, numbers: Mapping[str, int]) -> Lane:
        """The pipeline with the resources in ``numbers``; the others are never contended."""
        channels = tuple(
            Channel(time, latency, tuple((numbers[r], d) for r, d in asks.items() if r in numbers))
            for time, latency, asks in self.hops
        )
        half = len(channels) // 2
        return Lane(
            self.orders,
            self.forward_ps,
            self.backward_ps,
            channels[:half],
            channels[half:],
            self.chunks,
        )


def _draft(plan: Plan, index: int, world: Restored) -> _Draft:
    pipeline = plan.pipelines[index]
    stages = pipeline.stages
    where = f"pipelines[{index}]"
    interleaved = pipeline.schedule == "interleaved"
    if interleaved:
        _check_chunks(pipeline, where)
    hops = range(len(stages) if interleaved else len(stages) - 1)
    orders, chunks = _orders(pipeline)
    return _Draft(
        orders=orders,
        chunks=chunks,
        forward_ps=tuple(_slowest(stage, 0) for stage in stages),
        backward_ps=tuple(_slowest(stage, 1) for stage in stages),
        hops=(
            *(_hop(pipeline, s, world, where, reverse=False) for s in hops),
            *(_hop(pipeline, s, world, where, reverse=True) for s in hops),
        ),
    )


def _check_chunks(pipeline: Pipeline, where: str) -> None:
    counts = {len(r.chunk_time_s) for stage in pipeline.stages for r in stage.replicas}
    counts |= {len(stage.chunks) for stage in pipeline.stages}
    if len(counts) != 1 or min(counts) < 1:
        message = f"{' or '.join(map(str, sorted(counts)))} chunks and times per stage"
        raise InputError(message, where=f"{where}.stages")


def _orders(
    pipeline: Pipeline,
) -> tuple[tuple[tuple[Op, ...], ...], tuple[tuple[int, ...], ...]]:
    """Operations of every stage, and their chunks where it has several."""
    stages, m = pipeline.stages, pipeline.micro_batches
    if pipeline.schedule != "interleaved":
        return tuple(_order(pipeline.schedule, stage.in_flight, m) for stage in stages), ()
    depths = tuple(stage.in_flight for stage in stages)
    return _interleaved(depths, len(stages[0].chunks), m)


@lru_cache(maxsize=1024)
def _interleaved(
    depths: tuple[int, ...], chunks: int, micro_batches: int
) -> tuple[tuple[tuple[Op, ...], ...], tuple[tuple[int, ...], ...]]:
    every = interleaved_orders(depths, chunks, micro_batches)
    return (
        tuple(tuple((op.kind, op.micro_batch) for op in own) for own in every),
        tuple(tuple(op.chunk for op in own) for own in every),
    )


_order = lru_cache(maxsize=4096)(stage_order)


def _slowest(stage: Stage, way: int) -> tuple[int, ...]:
    """Picoseconds of every chunk of a stage, of its slowest replica, forward (0) or backward."""
    each = [
        replica.chunk_time_s or ((replica.time_s.forward_total, replica.time_s.backward_total),)
        for replica in stage.replicas
    ]
    return tuple(max(_picoseconds(time[way]) for time in own) for own in zip(*each, strict=True))


def _hop(
    pipeline: Pipeline, s: int, world: Restored, where: str, *, reverse: bool
) -> tuple[int, int, Demands]:
    """Time and latency in picoseconds and demands of the transfers s -> s + 1, or back."""
    source, target = pipeline.stages[s], pipeline.stages[(s + 1) % len(pipeline.stages)]
    # hops of a ring are planned for the largest of its cuts
    cuts = [source.layers[1]]
    if pipeline.schedule == "interleaved":
        ends = {end for stage in pipeline.stages for _, end in stage.chunks}
        cuts = sorted(ends - {len(world.model.layers)})
    planned = source.hop_to_next_s
    if planned is None:
        raise InputError("a stage that sends to another has no hop", where=f"{where}.stages[{s}]")
    latency, loads = 0.0, dict[str, int]()
    for sender, receiver, rows in _legs(source, target):
        size = max(world.boundary_bytes(cut, rows) for cut in cuts)
        ways = legs(_islands(sender, world, where), _islands(receiver, world, where))
        for here, there in ways:
            if here.name == there.name:
                continue
            route = world.topology.route(*((there, here) if reverse else (here, there)))
            if route is None:
                message = f"no network joins {here.name} and {there.name}"
                raise InputError(message, where=f"{where}.stages[{s}].hop_to_next_s")
            latency = max(latency, route.latency_s)
            for resource in route.resources:
                loads[resource] = loads.get(resource, 0) + -(-size // len(ways))
    wait = min(latency, planned)
    flowing = planned - wait
    demands = {r: size / flowing for r, size in loads.items()} if flowing > 0 else {}
    return _picoseconds(planned), _picoseconds(wait), demands


def _legs(source: Stage, target: Stage) -> list[tuple[Replica, Replica, int]]:
    """Which replica sends how many rows to which: both sides hold the rows in order."""
    legs = []
    begin = 0
    for sender in source.replicas:
        first = 0
        for receiver in target.replicas:
            rows = min(begin + sender.rows, first + receiver.rows) - max(begin, first)
            if rows > 0:
                legs.append((sender, receiver, rows))
            first += receiver.rows
        begin += sender.rows
    return legs


def _islands(replica: Replica, world: Restored, where: str) -> tuple[Island, ...]:
    """The islands of a replica in the order of its devices."""
    found: dict[str, Island] = {}
    for device in replica.devices:
        island = world.island_of.get(device)
        if island is None:
            remedy = "re-plan for this cluster"
            message = f"device {device} is not in the cluster"
            raise InputError([Problem(where, message, remedy)])
        found[island.name] = island
    return tuple(found.values())


def _replay_all(drafts: Sequence[_Draft], capacity: Mapping[str, float]) -> tuple[PipelineRun, ...]:
    """Replay group by group; groups that are alike up to the names of resources only once."""
    contended = _contended(drafts, capacity)
    runs: dict[int, PipelineRun] = {}
    seen: dict[tuple[tuple[Lane, ...], tuple[float, ...]], tuple[PipelineRun, ...]] = {}
    for group in _groups(drafts, contended):
        numbers: dict[str, int] = {}
        for index in group:
            for _, _, demands in drafts[index].hops:
                for resource in demands:
                    if resource in contended:
                        numbers.setdefault(resource, len(numbers))
        lanes = tuple(drafts[index].lane(numbers) for index in group)
        key = (lanes, tuple(capacity[r] for r in numbers))
        if key not in seen:
            try:
                seen[key] = replay(*key)
            except DeadlockError as exc:
                names = ", ".join(f"pipelines[{index}]" for index in group)
                remedy = "in_flight must not increase along a pipeline"
                if any(drafts[index].chunks for index in group):
                    remedy = "raise in_flight: stages of several chunks need it higher"
                raise InputError([Problem(names, str(exc), remedy)]) from exc
        runs.update(zip(group, seen[key]))
    return tuple(runs[index] for index in range(len(drafts)))


def _contended(drafts: Sequence[_Draft], capacity: Mapping[str, float]) -> dict[str, None]:
    """Resources that would be short if all channels over them were busy at once."""
    total: Demands = {}
    for draft in drafts:
        for _, _, demands in draft.hops:
            for resource, rate in demands.items():
                total[resource] = total.get(resource, 0.0) + rate
    return {
        resource: None
        for resource, rate in total.items()
        if resource in capacity and rate > capacity[resource] * (1 + ROUNDING)
    }


def _groups(drafts: Sequence[_Draft], contended: Mapping[str, None]) -> list[list[int]]:
    """Pipelines that are joined by contended resources, in order of their first member."""
    parent = list(range(len(drafts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    user: dict[str, int] = {}
    for index, draft in enumerate(drafts):
        for _, _, demands in draft.hops:
            for resource in demands:
                if resource in contended:
                    other = root(user.setdefault(resource, index))
                    mine = root(index)
                    parent[max(mine, other)] = min(mine, other)
    groups: dict[int, list[int]] = {}
    for index in range(len(drafts)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _finish(plan: Plan, runs: Sequence[PipelineRun]) -> tuple[FinishSlice, ...]:
    """Synchronisation and update of every stage.

    A group starts when the last backwards of all its members have ended, and shared weights of
    theirs are summed; its planned time counts what the other groups send over the same ports at
    the same time. The update follows a stage's last group.
    """
    ready = {
        (p, s): spans[-1][1] for p, run in enumerate(runs) for s, spans in enumerate(run.operations)
    }
    synced = dict(ready)
    pieces = []
    order = sorted(enumerate(plan.sync_groups), key=lambda entry: entry[1].kind != "tied")
    for index, group in order:
        members = list(dict.fromkeys((m.pipeline, m.stage) for m in group.members))
        unknown = [m for m in members if m not in ready]
        if unknown:
            p, s = unknown[0]
            message = f"pipeline {p} has no stage {s}"
            raise InputError(message, where=f"sync_groups[{index}].members")
        start = max(ready[m] for m in members)
        end = start + _picoseconds(group.time_s)
        first, last = group.layers
        for p, s in members:
            synced[p, s] = max(synced[p, s], end)
            if group.kind == "tied":
                ready[p, s] = end
            name = f"{group.kind} of layers {first}-{last - 1}"
            pieces.append(FinishSlice(p, s, "sync", name, start, end))
    update = _picoseconds(plan.estimate.breakdown_s.update)
    for (p, s), start in synced.items():
        pieces.append(FinishSlice(p, s, "update", "optimizer update", start, start + update))
    return tuple(pieces)


def _tracks(pipeline: Pipeline) -> tuple[StageTrack, ...]:
    tracks = []
    for s, stage in enumerate(pipeline.stages):
        chips = "+".join(dict.fromkeys(replica.chip for replica in stage.replicas))
        devices = tuple(device for replica in stage.replicas for device in replica.devices)
        held = ", ".join(f"{a}-{b - 1}" for a, b in stage.chunks or (stage.layers,))
        tracks.append(StageTrack(f"stage {s} layers {held} {chips}", devices))
    return tuple(tracks)


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)


make_callable(__name__, simulate)
