"""When every stage does what: the result of a replay. :mod:`planner.trace` writes it down.

All times are integer picoseconds after the step began. Pipelines that run alike share one
:class:`PipelineRun`, so that thousands of devices cost no more memory than their distinct runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TextIO

from costmodels.schedules import Op
from costmodels.units import PS_PER_S
from planner.trace import chrome_trace

Span = tuple[int, int]
"""Start and end in picoseconds."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One micro-batch on its way: from which stage to which, and their operations at both ends.

    ``operations`` are positions in ``PipelineRun.orders`` of the two stages.
    """

    stages: tuple[int, int]
    operations: tuple[int, int]
    span: Span
    micro_batch: int


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """One pipeline's operations and transfers, before synchronisation.

    ``operations[s][k]`` is the span of ``orders[s][k]``. ``activations[s][i]`` is the i-th transfer
    from stage s to s + 1, ``gradients[s][i]`` the one from s + 1 back to s, both from the moment
    the channel takes it up: that of micro-batch i, where stages hold one chunk. Interleaved ones
    hold several: ``chunks[s][k]`` is that of ``orders[s][k]``, and one channel more joins the last
    stage to the first. See :meth:`transfers`.
    """

    orders: tuple[tuple[Op, ...], ...]
    operations: tuple[tuple[Span, ...], ...]
    activations: tuple[tuple[Span, ...], ...]
    gradients: tuple[tuple[Span, ...], ...]
    chunks: tuple[tuple[int, ...], ...] = ()

    def chunk_of(self, stage: int, k: int) -> int | None:
        """The chunk of a stage's k-th operation; None where stages hold one only."""
        return self.chunks[stage][k] if self.chunks else None

    def transfers(self, s: int, *, down: bool) -> tuple[Transfer, ...]:
        """All transfers from stage s to the next one (``down``), or from that one back to s."""
        count = len(self.orders)
        following = (s + 1) % count
        kind: Literal["F", "B"] = "F" if down else "B"
        round_ = (s + 1) // count if down else -((s + 1) // count)
        ends = (s, following) if down else (following, s)
        sends, receives = (self._positions(stage, kind) for stage in ends)
        # from the last chunk of all no activations leave, from the first one no gradients
        pairs = [
            (k, receives[chunk + round_, i])
            for (chunk, i), k in sends.items()
            if (chunk + round_, i) in receives
        ]
        spans = self.activations[s] if down else self.gradients[s]
        return tuple(
            Transfer(ends, pair, span, self.orders[ends[0]][pair[0]][1])
            for pair, span in zip(pairs, spans, strict=True)
        )

    def _positions(self, stage: int, kind: Literal["F", "B"]) -> dict[tuple[int, int], int]:
        """Where chunk and micro-batch come among a stage's operations of one kind, in order."""
        return {
            (self.chunk_of(stage, k) or 0, i): k
            for k, (own, i) in enumerate(self.orders[stage])
            if own == kind
        }

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

    def finish_ps(self) -> dict[tuple[int, int, str], int]:
        """How long each stage synchronises and updates, by pipeline, stage and category.

        Reductions of a stage that run at the same time count once: this is time that passes.
        """
        spans: dict[tuple[int, int, str], list[Span]] = {}
        for piece in self.finish:
            key = (piece.pipeline, piece.stage, piece.category)
            spans.setdefault(key, []).append((piece.start_ps, piece.end_ps))
        return {key: covered_ps(own) for key, own in spans.items()}

    @property
    def bubble_fractions(self) -> tuple[tuple[float, ...], ...]:
        """Per pipeline and stage: :meth:`PipelineRun.bubble_fraction`."""
        return tuple(
            tuple(run.bubble_fraction(s) for s in range(len(run.orders))) for run in self.runs
        )

    def to_chrome_trace(self, *, every_pipeline: bool = False) -> Iterator[str]:
        """The trace as chunks of JSON text; see :func:`planner.trace.chrome_trace`."""
        return chrome_trace(self, every_pipeline=every_pipeline)

    def to_pandas(self) -> Any:  # noqa: ANN401 - pandas ships no types
        """Every operation, transfer, synchronisation and update as a data frame, in seconds.

        Raises InputError where pandas is not installed.
        """
        # Shown by modules that build on timelines, so they are named and not imported.
        tables = import_module("planner.report.tables")
        return tables.to_pandas(tables.operation_rows(self))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = import_module("planner.report.notebook").timeline_html(self)
        return shown


def covered_ps(spans: Iterable[Span]) -> int:
    """Length of the union of some spans."""
    total = reached = 0
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total


def write_trace(timeline: Timeline, file: TextIO, *, every_pipeline: bool = False) -> None:
    """Stream the Chrome trace of a timeline into an open text file."""
    for chunk in timeline.to_chrome_trace(every_pipeline=every_pipeline):
        file.write(chunk)
