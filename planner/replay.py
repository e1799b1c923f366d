"""Event-driven replay of pipelines whose transfers share network resources.

A stage runs its operations in their given order, each as soon as its input has arrived. A channel
carries one transfer at a time, first in first out; the chunks of an interleaved stage share it. A
transfer first waits for its latency, then flows. Each flow asks for a rate on every resource on its
way (its planned share, which carries it in its planned time). While the flows on a resource ask for
no more than its capacity, they get what they ask for; otherwise all of them slow down in the ratio
of capacity to demand, and a flow goes at the worst ratio on its way. What a flow that is held up
elsewhere leaves unused is not given to others, so contention is never understated.

Times are integers, and a flow that was never slowed takes its planned time to the picosecond.
This module knows nothing of plans, and shares no timing code with the recurrence of
:mod:`costmodels.schedules`; it only reads the order of operations.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from costmodels.schedules import Op
from planner.timeline import PipelineRun, Span

ROUNDING = 1e-6
"""Excess of demand over capacity that is rounding of planned times, not contention."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One direction of a hop: planned time, the part of it that is latency, and what it asks for.

    ``demands`` are pairs (resource, bytes/s); empty where the transfer shares nothing.
    """

    time_ps: int
    latency_ps: int = 0
    demands: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Lane:
    """One pipeline to replay. ``down[s]`` leads from stage s to s + 1, ``up[s]`` back.

    ``forward_ps[s][c]`` and ``backward_ps[s][c]`` are those of chunk c of stage s, and
    ``chunks[s][k]`` is the chunk of ``orders[s][k]``. Where stages have several, one more channel
    leads from the last stage to the first, and one back. Without ``chunks`` all of them have one.
    """

    orders: tuple[tuple[Op, ...], ...]
    forward_ps: tuple[tuple[int, ...], ...]
    backward_ps: tuple[tuple[int, ...], ...]
    down: tuple[Channel, ...]
    up: tuple[Channel, ...]
    chunks: tuple[tuple[int, ...], ...] = ()


class DeadlockError(ValueError):
    """Stages wait for one another and nothing can run."""


def replay(lanes: Sequence[Lane], capacity: Sequence[float]) -> tuple[PipelineRun, ...]:
    """Run all lanes together; ``capacity[r]`` in bytes/s. One run per lane, in their order.

    Raises :class:`DeadlockError` when the orders of operations cannot be carried out.
    """
    engine = _Engine(capacity)
    stages = [engine.add(lane) for lane in lanes]
    engine.run()
    return tuple(engine.result(lane, nodes) for lane, nodes in zip(lanes, stages))


_Work = tuple[str, int, int]
"""Kind, chunk and micro-batch of an operation."""


@dataclass(slots=True)
class _Stage:
    """A stage while it runs. ``arrived`` holds the operations whose inputs are at hand.

    ``first`` and ``last``: its chunk that is the first of the pipeline, and the last one, if any.
    """

    order: tuple[_Work, ...]
    duration: dict[str, tuple[int, ...]]
    first: int | None = None
    last: int | None = None
    arrived: set[_Work] = field(default_factory=set)
    sends: dict[str, _Transfer] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    busy: bool = False


@dataclass(slots=True)
class _Transfer:
    """A channel while it runs: what waits to be sent, and the state of the flowing transfer.

    What it brings belongs to the chunk ``step`` further on the target.
    """

    channel: Channel
    target: _Stage
    step: int
    spans: list[Span] = field(default_factory=list)
    waiting: deque[_Work] = field(default_factory=deque)
    flowing: _Work | None = None
    started: int = 0
    remaining: float = 0.0
    since: int = 0
    ratio: float = 0.0
    version: int = 0


class _Engine:
    """Heap of events; all events of one instant are handled before rates are set anew."""

    def __init__(self, capacity: Sequence[float]) -> None:
        self.capacity = capacity
        self.flows: list[dict[int, tuple[_Transfer, float]]] = [{} for _ in capacity]
        self.changed: dict[int, None] = {}
        self.heap: list[tuple[int, int, _Stage | _Transfer, int]] = []
        self.serial = 0
        self.stages: list[_Stage] = []

    def add(self, lane: Lane) -> list[_Stage]:
        """Register a pipeline."""
        count = len(lane.orders)
        chunks = lane.chunks or tuple((0,) * len(order) for order in lane.orders)
        nodes = [
            _Stage(
                tuple((kind, c, i) for (kind, i), c in zip(order, own, strict=True)),
                {"F": forward, "B": backward},
            )
            for order, own, forward, backward in zip(
                lane.orders, chunks, lane.forward_ps, lane.backward_ps, strict=True
            )
        ]
        nodes[0].first, nodes[-1].last = 0, len(lane.forward_ps[-1]) - 1
        for s, (down, up) in enumerate(zip(lane.down, lane.up, strict=True)):
            sender, receiver = nodes[s], nodes[(s + 1) % count]
            sender.sends["F"] = _Transfer(down, receiver, (s + 1) // count)
            receiver.sends["B"] = _Transfer(up, sender, -((s + 1) // count))
        self.stages += nodes
        return nodes

    def run(self) -> None:
        """Handle events until none is left."""
        for stage in self.stages:
            self._start_operation(stage, 0)
        while self.heap:
            now = self.heap[0][0]
            while self.heap and self.heap[0][0] == now:
                _, _, what, version = heapq.heappop(self.heap)
                if isinstance(what, _Stage):
                    self._end_operation(what, now)
                elif version == what.version:
                    self._advance_transfer(what, now)
            if self.changed:
                self._share(now)
        stuck = sum(len(s.spans) < len(s.order) for s in self.stages)
        if stuck:
            raise DeadlockError(f"{stuck} stages wait for one another and never finish")

    def result(self, lane: Lane, nodes: Sequence[_Stage]) -> PipelineRun:
        """What was recorded for one lane."""
        hops = [(nodes[s], nodes[(s + 1) % len(nodes)]) for s in range(len(lane.down))]
        return PipelineRun(
            orders=lane.orders,
            operations=tuple(tuple(n.spans) for n in nodes),
            activations=tuple(tuple(sender.sends["F"].spans) for sender, _ in hops),
            gradients=tuple(tuple(receiver.sends["B"].spans) for _, receiver in hops),
            chunks=lane.chunks,
        )

    def _push(self, at: int, what: _Stage | _Transfer, version: int = 0) -> None:
        self.serial += 1  # ties are handled in the order in which they were planned
        heapq.heappush(self.heap, (at, self.serial, what, version))

    def _start_operation(self, stage: _Stage, now: int) -> None:
        done = len(stage.spans)
        if stage.busy or done == len(stage.order):
            return
        work = stage.order[done]
        kind, chunk, _ = work
        # the first chunk of all has its inputs from the start, the last one as soon as its own
        # forward has ended
        if work in stage.arrived or (chunk == stage.first and kind == "F"):
            stage.busy = True
            self._push(now + stage.duration[kind][chunk], stage)

    def _end_operation(self, stage: _Stage, now: int) -> None:
        work = stage.order[len(stage.spans)]
        kind, chunk, micro_batch = work
        stage.spans.append((now - stage.duration[kind][chunk], now))
        stage.busy = False
        if kind == "F" and chunk == stage.last:
            stage.arrived.add(("B", chunk, micro_batch))
        elif kind == "F" or chunk != stage.first:
            transfer = stage.sends[kind]
            transfer.waiting.append(work)
            self._start_transfer(transfer, now)
        self._start_operation(stage, now)

    def _start_transfer(self, transfer: _Transfer, now: int) -> None:
        if transfer.flowing is not None or not transfer.waiting:
            return
        channel = transfer.channel
        transfer.flowing = transfer.waiting.popleft()
        transfer.started = now
        transfer.version += 1
        transfer.ratio = 0.0
        if channel.demands:
            transfer.remaining = channel.time_ps - channel.latency_ps
            self._push(now + channel.latency_ps, transfer, transfer.version)
        else:
            transfer.remaining = 0.0
            self._push(now + channel.time_ps, transfer, transfer.version)

    def _advance_transfer(self, transfer: _Transfer, now: int) -> None:
        """Its latency is over, or all of its bytes have arrived."""
        if transfer.remaining and not transfer.ratio:
            transfer.since = now
            self._mark(transfer, flowing=True)
            return
        if transfer.ratio:
            self._mark(transfer, flowing=False)
        transfer.spans.append((transfer.started, now))
        if transfer.flowing is not None:
            kind, chunk, micro_batch = transfer.flowing
            transfer.target.arrived.add((kind, chunk + transfer.step, micro_batch))
        transfer.flowing = None
        self._start_operation(transfer.target, now)
        self._start_transfer(transfer, now)

    def _mark(self, transfer: _Transfer, *, flowing: bool) -> None:
        for resource, rate in transfer.channel.demands:
            if flowing:
                self.flows[resource][id(transfer)] = (transfer, rate)
            else:
                del self.flows[resource][id(transfer)]
            self.changed[resource] = None

    def _share(self, now: int) -> None:
        """Set the rates of all flows that touch a resource whose flows have changed."""
        ratios = {r: self._ratio(r) for r in self.changed}
        touched = {key: flow for r in self.changed for key, (flow, _) in self.flows[r].items()}
        self.changed.clear()
        for flow in touched.values():
            ratio = 1.0
            for resource, _ in flow.channel.demands:
                if resource not in ratios:
                    ratios[resource] = self._ratio(resource)
                ratio = min(ratio, ratios[resource])
            if ratio == flow.ratio:
                continue
            flow.remaining = max(0.0, flow.remaining - (now - flow.since) * flow.ratio)
            flow.since = now
            flow.ratio = ratio
            flow.version += 1
            self._push(now + math.ceil(flow.remaining / ratio), flow, flow.version)

    def _ratio(self, resource: int) -> float:
        """Part of what they ask for that the flows on a resource get."""
        wanted = math.fsum(rate for _, rate in self.flows[resource].values())
        available = self.capacity[resource]
        return 1.0 if wanted <= available * (1 + ROUNDING) else available / wanted
