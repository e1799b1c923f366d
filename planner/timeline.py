"""When every stage does what: the result of a replay. :mod:`planner.trace` writes it down.

All times are integer picoseconds after the step began. Pipelines that run alike share one
:class:`PipelineRun`, so that thousands of devices cost no more memory than their distinct runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TextIO

from costmodels.schedules import Op
from costmodels.units import PS_PER_S
from planner.trace import chrome_trace

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


def write_trace(timeline: Timeline, file: TextIO, *, every_pipeline: bool = False) -> None:
    """Stream the Chrome trace of a timeline into an open text file."""
    for chunk in timeline.to_chrome_trace(every_pipeline=every_pipeline):
        file.write(chunk)
