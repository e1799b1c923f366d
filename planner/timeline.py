"""When every stage does what: the result of a replay, and its Chrome/Perfetto trace.

All times are integer picoseconds after the step began. Pipelines that run alike share one
:class:`PipelineRun`, so that thousands of devices cost no more memory than their distinct runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TextIO

from costmodels.schedules import Op
from costmodels.units import PS_PER_S

Span = tuple[int, int]
"""Start and end in picoseconds."""


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """One pipeline's operations and transfers, before synchronisation.

    ``operations[s][k]`` is the span of ``orders[s][k]``. ``activations[s][i]`` is the transfer of
    micro-batch i from stage s to s + 1, ``gradients[s][i]`` the one from s + 1 back to s, both
    from the moment the channel takes it up.
    """

    orders: tuple[tuple[Op, ...], ...]
    operations: tuple[tuple[Span, ...], ...]
    activations: tuple[tuple[Span, ...], ...]
    gradients: tuple[tuple[Span, ...], ...]

    @property
    def end_ps(self) -> int:
        """When the last backward of the pipeline ends."""
        return max(spans[-1][1] for spans in self.operations)

    def bubble_fraction(self, stage: int) -> float:
        """Part of the time until the pipeline's last backward in which a stage computes nothing."""
        busy = sum(end - start for start, end in self.operations[stage])
        return 1.0 - busy / self.end_ps if self.end_ps else 0.0


@dataclass(frozen=True, slots=True)
class StageTrack:
    """Who runs a stage: the devices of all its replicas, and what to call them."""

    name: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FinishSlice:
    """A synchronisation or an update of one stage, after its last backward."""

    pipeline: int
    stage: int
    category: Literal["sync", "update"]
    name: str
    start_ps: int
    end_ps: int


@dataclass(frozen=True)
class Timeline:
    """The replay of a whole step: ``runs[p]`` on ``tracks[p]``, then ``finish``."""

    runs: tuple[PipelineRun, ...]
    tracks: tuple[tuple[StageTrack, ...], ...]
    finish: tuple[FinishSlice, ...]

    @property
    def step_time_ps(self) -> int:
        """When the last operation, synchronisation or update ends."""
        return max(
            max((run.end_ps for run in self.runs), default=0),
            max((piece.end_ps for piece in self.finish), default=0),
        )

    @property
    def step_time_s(self) -> float:
        """:attr:`step_time_ps` in seconds."""
        return self.step_time_ps / PS_PER_S

    @property
    def bubble_fractions(self) -> tuple[tuple[float, ...], ...]:
        """Per pipeline and stage: :meth:`PipelineRun.bubble_fraction`."""
        return tuple(
            tuple(run.bubble_fraction(s) for s in range(len(run.orders))) for run in self.runs
        )

    def to_chrome_trace(self) -> Iterator[str]:
        """The trace as chunks of JSON text, one event per line; load it in Perfetto.

        A process is a pipeline, a thread is a device; threads after the devices are the channels
        between stages. Arrows lead from the operation that sends to the one that receives.
        """
        yield '{"displayTimeUnit":"ms","traceEvents":[\n'
        separator = ""
        for event in self._events():
            yield separator + event
            separator = ",\n"
        yield "\n]}\n"

    def _events(self) -> Iterator[str]:
        arrow = 0
        finish: dict[tuple[int, int], list[FinishSlice]] = {}
        for piece in self.finish:
            finish.setdefault((piece.pipeline, piece.stage), []).append(piece)
        for p, (run, tracks) in enumerate(zip(self.runs, self.tracks)):
            yield _named("process_name", p, 0, f"pipeline {p}")
            yield _sorted("process_sort_index", p, 0, p)
            threads: list[range] = []
            first = 0
            for s, track in enumerate(tracks):
                threads.append(range(first, first + len(track.devices)))
                first = threads[-1].stop
                for thread, device in zip(threads[-1], track.devices):
                    yield _named("thread_name", p, thread, f"{device} {track.name}")
                    yield _sorted("thread_sort_index", p, thread, thread)
                    yield from _operations(run, p, s, thread)
                    for piece in finish.get((p, s), ()):
                        span = (piece.start_ps, piece.end_ps)
                        yield _slice(piece.name, piece.category, p, thread, span)
            starts = _starts(run)
            for s in range(len(tracks) - 1):
                for down in (True, False):
                    yield from _channel(run, p, s, first, down=down)
                    sender, receiver = (s, s + 1) if down else (s + 1, s)
                    pair = (threads[sender].start, threads[receiver].start)
                    for begin, end in _arrows(run, starts, s, down=down):
                        yield _arrow("s", p, pair[0], begin, arrow)
                        yield _arrow("f", p, pair[1], end, arrow)
                        arrow += 1
                    first += 1


def write_trace(timeline: Timeline, file: TextIO) -> None:
    """Stream the Chrome trace of a timeline into an open text file."""
    for chunk in timeline.to_chrome_trace():
        file.write(chunk)


def _operations(run: PipelineRun, pipeline: int, stage: int, thread: int) -> Iterator[str]:
    for (kind, i), span in zip(run.orders[stage], run.operations[stage]):
        category = "forward" if kind == "F" else "backward"
        yield _slice(f"{kind}{i}", category, pipeline, thread, span, micro_batch=i)


def _channel(run: PipelineRun, pipeline: int, s: int, thread: int, *, down: bool) -> Iterator[str]:
    what, way = ("activations", f"{s} to {s + 1}") if down else ("gradients", f"{s + 1} to {s}")
    yield _named("thread_name", pipeline, thread, f"{what} {way}")
    yield _sorted("thread_sort_index", pipeline, thread, thread)
    spans = run.activations[s] if down else run.gradients[s]
    for i, span in enumerate(spans):
        yield _slice(f"{what} {i}", "transfer", pipeline, thread, span, micro_batch=i)


def _starts(run: PipelineRun) -> list[dict[Op, Span]]:
    return [dict(zip(order, spans)) for order, spans in zip(run.orders, run.operations)]


def _arrows(run: PipelineRun, spans: list[dict[Op, Span]], s: int, *, down: bool) -> Iterator[Span]:
    """Last picosecond of the sending operation, so that it encloses it, and start of the other."""
    sender, receiver = (s, s + 1) if down else (s + 1, s)
    kind: Literal["F", "B"] = "F" if down else "B"
    for i in range(len(run.orders[s]) // 2):
        start, end = spans[sender][kind, i]
        yield max(start, end - 1), spans[receiver][kind, i][0]


def _micros(ps: int) -> str:
    """Picoseconds as the format's microseconds, exactly."""
    return f"{ps // 1_000_000}.{ps % 1_000_000:06d}"


def _named(what: str, pipeline: int, thread: int, name: str) -> str:
    args = json.dumps({"name": name}, ensure_ascii=False)
    return f'{{"ph":"M","name":"{what}","pid":{pipeline},"tid":{thread},"args":{args}}}'


def _sorted(what: str, pipeline: int, thread: int, index: int) -> str:
    args = f'{{"sort_index":{index}}}'
    return f'{{"ph":"M","name":"{what}","pid":{pipeline},"tid":{thread},"args":{args}}}'


def _slice(
    name: str,
    category: str,
    pipeline: int,
    thread: int,
    span: Span,
    micro_batch: int | None = None,
) -> str:
    text = (
        f'{{"ph":"X","name":{json.dumps(name)},"cat":"{category}","pid":{pipeline},"tid":{thread},'
        f'"ts":{_micros(span[0])},"dur":{_micros(span[1] - span[0])}'
    )
    return text + (f',"args":{{"micro_batch":{micro_batch}}}}}' if micro_batch is not None else "}")


def _arrow(phase: Literal["s", "f"], pipeline: int, thread: int, at: int, identity: int) -> str:
    bind = ',"bp":"e"' if phase == "f" else ""
    return (
        f'{{"ph":"{phase}","name":"micro-batch","cat":"transfer","id":{identity},'
        f'"pid":{pipeline},"tid":{thread},"ts":{_micros(at)}{bind}}}'
    )
