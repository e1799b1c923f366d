"""Pipelines that run alike, joined: a plan of hundreds is read as a handful."""

from __future__ import annotations

from dataclasses import dataclass

from planner.plan import Pipeline, Plan, Replica, Stage


@dataclass(frozen=True, slots=True)
class StageGroup:
    """The same stage of all pipelines of a group; ``stages`` has one entry per pipeline."""

    number: int
    stages: tuple[Stage, ...]

    @property
    def first(self) -> Stage:
        """The stage of the group's first pipeline: all agree in everything but the devices."""
        return self.stages[0]

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of the stage in all pipelines."""
        return tuple(d for s in self.stages for r in s.replicas for d in r.devices)

    @property
    def forward_s(self) -> float:
        """Seconds per micro-batch of the slowest replica of the slowest pipeline."""
        return max(r.time_s.forward_total for s in self.stages for r in s.replicas)

    @property
    def backward_s(self) -> float:
        """Seconds per micro-batch of the slowest replica, recomputation included."""
        return max(r.time_s.backward_total for s in self.stages for r in s.replicas)

    @property
    def tightest(self) -> Replica:
        """The replica with the least memory left."""
        replicas = [r for s in self.stages for r in s.replicas]
        return min(replicas, key=lambda r: r.memory_bytes.usable - r.memory_bytes.peak)


@dataclass(frozen=True, slots=True)
class PipelineGroup:
    """Pipelines that differ in nothing but the devices and the number of micro-batches."""

    numbers: tuple[int, ...]
    pipelines: tuple[Pipeline, ...]

    @property
    def first(self) -> Pipeline:
        """The pipeline that stands for the group."""
        return self.pipelines[0]

    @property
    def chips(self) -> int:
        """Chips of one pipeline."""
        return sum(len(r.devices) for s in self.first.stages for r in s.replicas)

    @property
    def interleaved(self) -> bool:
        """Whether its stages hold several chunks of layers."""
        return any(s.chunks for s in self.first.stages)

    @property
    def schedule(self) -> str:
        """``1f1b``, or ``interleaved, 2 chunks per stage``."""
        if not self.interleaved:
            return self.first.schedule
        return f"{self.first.schedule}, {len(self.first.stages[0].parts)} chunks per stage"

    @property
    def stages(self) -> tuple[StageGroup, ...]:
        """The stages, each over all pipelines of the group."""
        columns = zip(*(p.stages for p in self.pipelines), strict=True)
        return tuple(StageGroup(n, tuple(column)) for n, column in enumerate(columns, start=1))


def pipeline_groups(plan: Plan) -> tuple[PipelineGroup, ...]:
    """Groups in the order of their first pipeline."""
    found: dict[object, list[int]] = {}
    for number, pipeline in enumerate(plan.pipelines):
        found.setdefault(_likeness(pipeline), []).append(number)
    return tuple(
        PipelineGroup(tuple(numbers), tuple(plan.pipelines[n] for n in numbers))
        for numbers in found.values()
    )


def _likeness(pipeline: Pipeline) -> object:
    return (
        pipeline.micro_batch_rows,
        pipeline.schedule,
        tuple(
            (
                s.parts,
                s.in_flight,
                s.recompute,
                s.zero,
                s.offload,
                tuple((r.rows, r.chip, r.mesh, len(r.devices)) for r in s.replicas),
            )
            for s in pipeline.stages
        ),
    )
