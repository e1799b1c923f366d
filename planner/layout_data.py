"""What a layout is, and what it is once it is priced: data without behaviour.

A layout says which devices run which layers how; :mod:`planner.layout` prices it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from costmodels.memory import MemoryItems
from costmodels.schedules import ExactTimes, ScheduleName
from planner.costing import LayerCost
from planner.graphs.topology import Island
from planner.mesh import StageMesh
from planner.reductions import SyncPrice


@dataclass(frozen=True, slots=True)
class LayoutStage:
    """Layers ``[first, end)`` on named devices of one island, in the order of their mesh.

    A stage of more chips than an island has lies on ``more`` whole ones as well, in that order.

    ``policies`` says what each layer does with what it keeps (index in ``WAYS``); ``in_flight`` is
    None where the depth rule decides within memory. An interleaved stage holds its ``chunks`` only,
    the first of which begins at ``first`` and the last ends at ``end``; it has a policy for each of
    their layers, and counts pairs of a chunk and a micro-batch in flight.
    """

    island: Island
    devices: tuple[str, ...]
    first: int
    end: int
    mesh: StageMesh
    policies: tuple[int, ...]
    in_flight: int | None = None
    more: tuple[Island, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """The stage's intervals of layers in order."""
        return self.chunks or ((self.first, self.end),)

    @property
    def islands(self) -> tuple[Island, ...]:
        """All islands of the stage."""
        return (self.island, *self.more)

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
    ``host_bytes`` of its host's memory are there for what each device offloads. ``chunk_ps``:
    forward and backward of each chunk of an interleaved stage. What leaves its last stage goes back
    to the first one, ``hop_to_next_ps`` as well.
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
    host_bytes: int = 0
    chunk_ps: tuple[tuple[int, int], ...] = ()

    @property
    def last_backward_ps(self) -> int:
        """Backward that the step ends with: of one chunk of several, by their mean."""
        return self.backward_ps // max(1, len(self.chunk_ps))


@dataclass(frozen=True)
class PricedPipeline:
    """A pipeline with formula and exact times (without synchronisation and update).

    ``alike``: its stages as they were priced, maybe on other devices of the same kind.
    """

    pipeline: LayoutPipeline
    alike: tuple[PricedStage, ...]
    fill_ps: int
    formula_ps: int
    exact: ExactTimes

    @cached_property
    def stages(self) -> tuple[PricedStage, ...]:
        """Its stages on its own devices."""
        pairs = zip(self.alike, self.pipeline.stages, strict=True)
        return tuple(replace(priced, stage=stage) for priced, stage in pairs)


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


def free_turns(pipe: LayoutPipeline) -> LayoutPipeline:
    """An interleaved pipeline with its depths left to the rule; others as they are.

    Of another number of micro-batches a group may be larger, for which given depths are too few.
    """
    if pipe.schedule != "interleaved":
        return pipe
    return replace(pipe, stages=tuple(replace(s, in_flight=None) for s in pipe.stages))
