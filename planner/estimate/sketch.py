"""A layout in the planner's own terms before it is known what it runs on: who holds which layers.

Both kinds of layout, the short file and a whole plan, become a :class:`Sketch`; everything after
that is the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.schedules import ScheduleName
from planner.errors import Problem
from planner.mesh import StageMesh


@dataclass(frozen=True, slots=True)
class StageSketch:
    """Layers ``[first, end)`` on the devices of one stage. ``where`` is how a problem cites it.

    Without a ``mesh`` they are one tensor-parallel group. An interleaved stage holds its ``chunks``
    only, of which the first begins at ``first`` and the last ends at ``end``.
    """

    where: str
    first: int
    end: int
    policies: tuple[int, ...]
    devices: tuple[str, ...]
    in_flight: int | None
    mesh: StageMesh | None = None
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The stage's intervals of layers in order."""
        return self.chunks or ((self.first, self.end),)

    @property
    def degrees(self) -> StageMesh:
        """How the devices share the layers."""
        return self.mesh or StageMesh(len(self.devices))


@dataclass(frozen=True, slots=True)
class PipelineSketch:
    """One stream of micro-batches; ``last_rows`` is the size of the last one."""

    stages: tuple[StageSketch, ...]
    rows: int
    micro_batches: int
    last_rows: int
    schedule: ScheduleName


@dataclass(frozen=True, slots=True)
class Sketch:
    """All pipelines. ``notes`` are defaults that were filled in, ``warnings`` what looks wrong.

    ``batches`` are the global batches near the job's at which all pipelines would run the same
    micro-batches; empty where they do already.
    """

    pipelines: tuple[PipelineSketch, ...]
    zero_level: int
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    batches: tuple[int, ...] = ()


def share_rows(batch: int, pipelines: int, rows: int) -> list[tuple[int, int]]:
    """``(micro-batches, rows of the last one)`` of every pipeline, rows as even as can be."""
    base, extra = divmod(batch, pipelines)
    shares = [base + (1 if p < extra else 0) for p in range(pipelines)]
    return [(-(-own // rows), own - (-(-own // rows) - 1) * rows) for own in shares]


def even_batches(batch: int, step: int) -> tuple[int, ...]:
    """The multiples of ``step`` just below and above a batch that is none; zero is not one."""
    low = batch // step * step
    return tuple(b for b in (low, low + step) if b) if low != batch else ()


def counted(number: int, noun: str) -> str:
    """``1 pipeline``, ``7 pipelines``."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
