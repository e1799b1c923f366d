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
    pipelines = [engine.add(lane) for lane in lanes]
    engine.run()
    return tuple(pipeline.result() for pipeline in pipelines)


@dataclass(slots=True)
class _Task:
    """What a stage does of one kind, forward or backward, for one chunk.

    ``arrives``: by micro-batch when its input is at hand. Its output goes to the task ``feeds``,
    over the channel ``sends`` if that is not the stage's own.
    """

    duration: int
    arrives: dict[int, int] = field(default_factory=dict)
    sends: _Transfer | None = None
    feeds: _Task | None = None


@dataclass(slots=True)
class _Stage:
    """A stage while it runs: its tasks by chunk, its operations, and when those known so far run.

    ``free``: when the last of these ends. ``awake``: an input has come since it was followed.
    """

    forward: list[_Task]
    backward: list[_Task]
    order: list[tuple[_Task, int]]
    spans: list[Span] = field(default_factory=list)
    free: int = 0
    awake: bool = True


@dataclass(slots=True)
class _Transfer:
    """A channel while it runs. If it shares nothing, ``free`` is all its state.

    Else what waits to be sent (since when, to which task, which micro-batch), and the state of the
    flowing transfer.
    """

    channel: Channel
    target: _Stage
    spans: list[Span] = field(default_factory=list)
    free: int = 0
    waiting: deque[tuple[int, _Task, int]] = field(default_factory=deque)
    flowing: tuple[_Task, int] | None = None
    started: int = 0
    remaining: float = 0.0
    since: int = 0
    ratio: float = 0.0
    version: int = 0


@dataclass(slots=True)
class _Pipeline:
    """A lane while it runs, with its channels down and up."""

    lane: Lane
    stages: list[_Stage]
    down: list[_Transfer] = field(default_factory=list)
    up: list[_Transfer] = field(default_factory=list)

    def join(self, s: int, down: Channel, up: Channel) -> None:
        """Lead from stage s to the next one, and back; from the last one to the first one's next
        chunks."""
        rounds, following = divmod(s + 1, len(self.stages))
        here, there = self.stages[s], self.stages[following]
        self.down.append(_Transfer(down, there))
        self.up.append(_Transfer(up, here))
        for ahead, further in zip(here.forward, there.forward[rounds:]):
            ahead.sends, ahead.feeds = self.down[-1], further
        for back, nearer in zip(there.backward[rounds:], here.backward):
            back.sends, back.feeds = self.up[-1], nearer

    def result(self) -> PipelineRun:
        """What was recorded."""
        return PipelineRun(
            orders=self.lane.orders,
            operations=tuple(tuple(stage.spans) for stage in self.stages),
            activations=tuple(tuple(sent.spans) for sent in self.down),
            gradients=tuple(tuple(sent.spans) for sent in self.up),
            chunks=self.lane.chunks,
        )


_OFFERED = -1
"""In place of a version: something waits to be sent."""


class _Engine:
    """Follows every stage as far as its inputs are known to come.

    Transfers that share a resource need a clock: their events are on a heap, and all of one
    instant are handled before rates are set anew.
    """

    def __init__(self, capacity: Sequence[float]) -> None:
        self.capacity = capacity
        self.flows: list[dict[int, tuple[_Transfer, float]]] = [{} for _ in capacity]
        self.changed: dict[int, None] = {}
        self.heap: list[tuple[int, int, _Transfer, int]] = []
        self.serial = 0
        self.stages: list[_Stage] = []
        self.awake: deque[_Stage] = deque()

    def add(self, lane: Lane) -> _Pipeline:
        """Register a pipeline."""
        chunks = lane.chunks or tuple((0,) * len(order) for order in lane.orders)
        stages = []
        for order, own, ahead, back in zip(
            lane.orders, chunks, lane.forward_ps, lane.backward_ps, strict=True
        ):
            tasks = {"F": [*map(_Task, ahead)], "B": [*map(_Task, back)]}
            work = [(tasks[kind][c], i) for (kind, i), c in zip(order, own, strict=True)]
            stages.append(_Stage(tasks["F"], tasks["B"], work))
        pipeline = _Pipeline(lane, stages)
        for s, (down, up) in enumerate(zip(lane.down, lane.up, strict=True)):
            pipeline.join(s, down, up)
        # the first chunk of all has its inputs from the start, the last one turns around
        source, sink = stages[0].forward[0], stages[-1]
        source.arrives = {i: 0 for task, i in stages[0].order if task is source}
        sink.forward[-1].feeds = sink.backward[-1]
        self.stages += stages
        return pipeline

    def run(self) -> None:
        """Run all stages to their ends."""
        self.awake.extend(self.stages)
        self._follow_all()
        while self.heap:
            now = self.heap[0][0]
            while self.heap and self.heap[0][0] == now:
                _, _, transfer, version = heapq.heappop(self.heap)
                if version == _OFFERED:
                    self._start_transfer(transfer, now)
                elif version == transfer.version:
                    self._advance_transfer(transfer, now)
                self._follow_all()
            if self.changed:
                self._share(now)
        stuck = sum(len(s.spans) < len(s.order) for s in self.stages)
        if stuck:
            raise DeadlockError(f"{stuck} stages wait for one another and never finish")

    def _push(self, at: int, transfer: _Transfer, version: int) -> None:
        self.serial += 1  # ties are handled in the order in which they were planned
        heapq.heappush(self.heap, (at, self.serial, transfer, version))

    def _follow_all(self) -> None:
        while self.awake:
            self._follow(self.awake.popleft())

    def _follow(self, stage: _Stage) -> None:
        """Run the next operations for as long as their inputs are known to come."""
        stage.awake = False
        order, spans = stage.order, stage.spans
        for k in range(len(spans), len(order)):
            task, i = order[k]
            ready = task.arrives.get(i)
            if ready is None:
                break
            begin = ready if ready > stage.free else stage.free
            stage.free = end = begin + task.duration
            spans.append((begin, end))
            if task.feeds is None:
                continue
            if task.sends is None:
                task.feeds.arrives[i] = end
            else:
                self._send(task.sends, task.feeds, i, end)

    def _send(self, transfer: _Transfer, task: _Task, micro_batch: int, now: int) -> None:
        if transfer.channel.demands:
            transfer.waiting.append((now, task, micro_batch))
            self._push(now, transfer, _OFFERED)
            return
        begin = now if now > transfer.free else transfer.free
        transfer.free = end = begin + transfer.channel.time_ps
        self._bring(transfer, task, micro_batch, (begin, end))

    def _bring(self, transfer: _Transfer, task: _Task, micro_batch: int, span: Span) -> None:
        """What arrives at the end of the span."""
        transfer.spans.append(span)
        task.arrives[micro_batch] = span[1]
        if not transfer.target.awake:
            transfer.target.awake = True
            self.awake.append(transfer.target)

    def _start_transfer(self, transfer: _Transfer, now: int) -> None:
        waiting = transfer.waiting
        if transfer.flowing is not None or not waiting or waiting[0][0] > now:
            return
        _, task, micro_batch = waiting.popleft()
        transfer.flowing = (task, micro_batch)
        channel = transfer.channel
        transfer.started = now
        transfer.version += 1
        transfer.ratio = 0.0
        transfer.remaining = channel.time_ps - channel.latency_ps
        self._push(now + channel.latency_ps, transfer, transfer.version)

    def _advance_transfer(self, transfer: _Transfer, now: int) -> None:
        """Its latency is over, or all of its bytes have arrived."""
        if transfer.remaining and not transfer.ratio:
            transfer.since = now
            self._mark(transfer, flowing=True)
            return
        if transfer.ratio:
            self._mark(transfer, flowing=False)
        if transfer.flowing is not None:
            self._bring(transfer, *transfer.flowing, (transfer.started, now))
        transfer.flowing = None
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
