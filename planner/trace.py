"""A replay as a Chrome trace: JSON that Perfetto and chrome://tracing open.

A process is a pipeline, a thread is a device. On it lie operations, the waiting between them
(category ``bubble``, with what is waited for), synchronisation and update. Threads after the
devices are the channels between stages with their transfers; arrows lead from the operation that
sends through the transfer to the one that receives. A counter per stage shows the micro-batches
that it holds.

Times are whole nanoseconds, written as the format's microseconds, and every slice ends a nanosecond
early: viewers read times as floating point, and Perfetto drops a slice that overlaps the one before
it, if only by rounding (google/perfetto issue 5012).

Pipelines that run alike to the nanosecond are written once, with a label that says how many there
are: thousands of devices would otherwise be thousands of equal tracks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.timeline import FinishSlice, PipelineRun, Span, StageTrack, Timeline, Transfer

PS_PER_NS = 1000


@dataclass(frozen=True)
class _Process:
    """One pipeline of the trace, and the numbers of all that run like it."""

    pipelines: tuple[int, ...]
    run: PipelineRun
    tracks: tuple[StageTrack, ...]
    finish: tuple[tuple[FinishSlice, ...], ...]
    """Per stage, in order of their start."""

    @property
    def pid(self) -> int:
        """The number of the pipeline that stands for all of them."""
        return self.pipelines[0]


def chrome_trace(timeline: Timeline, *, every_pipeline: bool = False) -> Iterator[str]:
    """The trace as chunks of JSON text, one event per line.

    ``every_pipeline`` writes pipelines that run alike one by one.
    """
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    separator = ""
    arrows = 0
    for process in _processes(timeline, every_pipeline=every_pipeline):
        for event in _events(process, timeline.step_time_ps, arrows):
            yield separator + event
            separator = ",\n"
        arrows += sum(len(spans) for spans in (*process.run.activations, *process.run.gradients))
    yield "\n]}\n"


def _processes(timeline: Timeline, *, every_pipeline: bool) -> list[_Process]:
    finish: dict[tuple[int, int], list[FinishSlice]] = {}
    for piece in timeline.finish:
        finish.setdefault((piece.pipeline, piece.stage), []).append(piece)
    alike: dict[object, list[int]] = {}
    # most equal runs are one object: their values are compared once and not once per pipeline
    shared = {id(run): run for run in timeline.runs}
    numbers = {run: n for n, run in enumerate(dict.fromkeys(shared.values()))}
    number_of = {identity: numbers[run] for identity, run in shared.items()}
    pieces: list[tuple[tuple[FinishSlice, ...], ...]] = []
    for p, tracks in enumerate(timeline.tracks):
        after = tuple(
            tuple(sorted(finish.get((p, s), ()), key=lambda f: (f.start_ps, f.end_ps)))
            for s in range(len(tracks))
        )
        pieces.append(after)
        key: object = p
        if not every_pipeline:
            ends = tuple(tuple((f.name, f.start_ps, f.end_ps) for f in part) for part in after)
            names = tuple((track.name, len(track.devices)) for track in tracks)
            key = (number_of[id(timeline.runs[p])], names, ends)
        alike.setdefault(key, []).append(p)
    return [
        _Process(tuple(n), timeline.runs[n[0]], timeline.tracks[n[0]], pieces[n[0]])
        for n in alike.values()
    ]


def _events(process: _Process, end_ps: int, first_arrow: int) -> Iterator[str]:
    pid, run = process.pid, process.run
    yield _named("process_name", pid, 0, _process_name(process.pipelines))
    yield _sorted("process_sort_index", pid, 0, pid)
    if len(process.pipelines) > 1:
        label = f"{len(process.pipelines)} pipelines run alike; one is shown"
        yield _meta("process_labels", pid, 0, {"labels": label})
    heads: list[int] = []
    thread = 0
    for s, track in enumerate(process.tracks):
        heads.append(thread)
        slices = list(_stage(process, s, end_ps))
        for device in track.devices:
            yield _named("thread_name", pid, thread, f"{device} {track.name}")
            yield _sorted("thread_sort_index", pid, thread, thread)
            yield from (_slice(*piece, pid=pid, tid=thread) for piece in slices)
            thread += 1
        yield from _held(run, s, pid)
    arrow = first_arrow
    for s in range(len(run.activations)):
        for down in (True, False):
            sent = run.transfers(s, down=down)
            yield from _channel(run, sent, pid, thread, down=down)
            for transfer in sent:
                begin, end = (heads[stage] for stage in transfer.stages)
                yield from _arrow(_stops(run, transfer), (begin, thread, end), pid, arrow)
                arrow += 1
            thread += 1


def _process_name(pipelines: Sequence[int]) -> str:
    if len(pipelines) == 1:
        return f"pipeline {pipelines[0]}"
    return f"pipeline {pipelines[0]} and {len(pipelines) - 1} like it"


_Piece = tuple[str, str, "Span", dict[str, object]]
"""Name, category, span in picoseconds, arguments."""


def _stage(process: _Process, s: int, end_ps: int) -> Iterator[_Piece]:
    """All slices of a stage from the start of the step to its end, without gaps."""
    reached = 0
    run = process.run
    for k, ((kind, i), span) in enumerate(zip(run.orders[s], run.operations[s])):
        what = "activations" if kind == "F" else "gradients"
        chunk = run.chunk_of(s, k)
        of = "" if chunk is None else f", chunk {chunk}"
        yield from _wait(reached, span[0], f"{what} of micro-batch {i}{of}")
        category = "forward" if kind == "F" else "backward"
        yield f"{kind}{i}{of}", category, span, _arguments(i, chunk)
        reached = span[1]
    for start, stop, names, category in _joined(process.finish[s]):
        yield from _wait(reached, start, "the other replicas of these layers")
        yield " + ".join(names), category, (start, stop), {}
        reached = stop
    yield from _wait(reached, end_ps, "the end of the step")


def _wait(start: int, end: int, reason: str) -> Iterator[_Piece]:
    if end // PS_PER_NS > start // PS_PER_NS:
        yield "bubble", "bubble", (start, end), {"waits_for": reason}


def _joined(pieces: Sequence[FinishSlice]) -> list[tuple[int, int, list[str], str]]:
    """Reductions that overlap as one slice: a track cannot hold both."""
    found: list[tuple[int, int, list[str], str]] = []
    for piece in pieces:
        start, end, names, category = found[-1] if found else (0, 0, [], "")
        if found and piece.start_ps < end and piece.category == category:
            found[-1] = (start, max(end, piece.end_ps), [*names, piece.name], category)
        else:
            found.append((piece.start_ps, piece.end_ps, [piece.name], piece.category))
    return found


def _held(run: PipelineRun, s: int, pid: int) -> Iterator[str]:
    """Micro-batches whose activations the stage holds: up with a forward, down after a backward."""
    held = 0
    for (kind, _), (start, end) in zip(run.orders[s], run.operations[s]):
        held += 1 if kind == "F" else -1
        at = start if kind == "F" else end
        yield (
            f'{{"ph":"C","name":"micro-batches held by stage {s}","pid":{pid},"tid":0,'
            f'"ts":{_micros(at // PS_PER_NS)},"args":{{"held":{held}}}}}'
        )


def _channel(
    run: PipelineRun, sent: Sequence[Transfer], pid: int, tid: int, *, down: bool
) -> Iterator[str]:
    """Transfers between two stages one way."""
    what = "activations" if down else "gradients"
    here, there = sent[0].stages
    yield _named("thread_name", pid, tid, f"{what} {here} to {there}")
    yield _sorted("thread_sort_index", pid, tid, tid)
    for transfer in sent:
        chunk = run.chunk_of(there, transfer.operations[1])
        of = "" if chunk is None else f" to chunk {chunk}"
        name = f"{what} {transfer.micro_batch}{of}"
        arguments = _arguments(transfer.micro_batch, chunk)
        yield _slice(name, "transfer", transfer.span, arguments, pid=pid, tid=tid)


def _arguments(micro_batch: int, chunk: int | None) -> dict[str, object]:
    named: dict[str, object] = {"micro_batch": micro_batch}
    return named if chunk is None else named | {"chunk": chunk}


def _stops(run: PipelineRun, transfer: Transfer) -> tuple[Span, Span, Span]:
    """The sending operation, the transfer, the receiving operation."""
    ends = [
        run.operations[stage][k]
        for stage, k in zip(transfer.stages, transfer.operations, strict=True)
    ]
    return ends[0], transfer.span, ends[1]


def _arrow(
    stops: tuple[Span, Span, Span], threads: tuple[int, int, int], pid: int, identity: int
) -> Iterator[str]:
    """Each stop lies inside its slice: at the end of the first, at the start of the others."""
    first = max(stops[0][0] // PS_PER_NS, stops[0][1] // PS_PER_NS - 2)
    times = (first, *(start // PS_PER_NS for start, _ in stops[1:]))
    for phase, tid, at in zip("stf", threads, times):
        bind = ',"bp":"e"' if phase == "f" else ""
        yield (
            f'{{"ph":"{phase}","name":"micro-batch","cat":"transfer","id":{identity},'
            f'"pid":{pid},"tid":{tid},"ts":{_micros(at)}{bind}}}'
        )


def _slice(
    name: str, category: str, span: Span, arguments: dict[str, object], *, pid: int, tid: int
) -> str:
    start, end = span[0] // PS_PER_NS, span[1] // PS_PER_NS
    args = f',"args":{json.dumps(arguments, separators=(",", ":"))}' if arguments else ""
    return (
        f'{{"ph":"X","name":{json.dumps(name)},"cat":"{category}","pid":{pid},"tid":{tid},'
        f'"ts":{_micros(start)},"dur":{_micros(max(0, end - start - 1))}{args}}}'
    )


def _micros(ns: int) -> str:
    """Nanoseconds as the format's microseconds, exactly."""
    return f"{ns // 1000}.{ns % 1000:03d}"


def _named(what: str, pid: int, tid: int, name: str) -> str:
    return _meta(what, pid, tid, {"name": name})


def _sorted(what: str, pid: int, tid: int, index: int) -> str:
    return _meta(what, pid, tid, {"sort_index": index})


def _meta(what: str, pid: int, tid: int, arguments: dict[str, object]) -> str:
    args = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return f'{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{args}}}'
