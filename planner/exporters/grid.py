"""The plan as a grid: stages times replicas, where all pipelines are alike.

Every stock runtime has one such grid. A plan whose pipelines differ has none, and
:func:`differences` says in words why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from planner.plan import Interval, Pipeline, Plan, Recompute, Stage
from planner.plan_mesh import stage_mesh


@dataclass(frozen=True, slots=True)
class GridStage:
    """One stage of all pipelines. ``devices[d]`` are those of replica d, tensor parallel fastest.

    Devices of a stage that share the rows of a micro-batch count as replicas here, one after the
    other: that is what data parallelism is where all pipelines are alike. Experts lie over
    ``expert_parallel`` times ``expert_slices`` devices in a row.

    ``rows`` are the rows of a micro-batch that one replica computes, ``policies`` one per layer,
    ``in_flight`` the most micro-batches that any pipeline holds here. ``parts`` are the chunks of
    an interleaved stage, of which ``in_flight`` then counts pairs; else all layers.
    """

    first: int
    end: int
    tensor_parallel: int
    context_parallel: int
    expert_parallel: int
    expert_slices: int
    rows: int
    in_flight: int
    least_in_flight: int
    zero: int
    offload: bool
    policies: tuple[Recompute, ...]
    chips: tuple[str, ...]
    devices: tuple[tuple[str, ...], ...]
    parts: tuple[Interval, ...]

    @property
    def policies_by_part(self) -> tuple[tuple[Recompute, ...], ...]:
        """The policies of the layers of every part."""
        rest = iter(self.policies)
        return tuple(tuple(islice(rest, end - first)) for first, end in self.parts)

    @property
    def data_parallel(self) -> int:
        """Replicas of the stage."""
        return len(self.devices)

    @property
    def width(self) -> int:
        """Devices of one replica."""
        return len(self.devices[0])


@dataclass(frozen=True, slots=True)
class Grid:
    """Stages with equal pipelines; ``micro_batches`` and ``schedule`` hold for each of them."""

    stages: tuple[GridStage, ...]
    pipelines: int
    micro_batches: int
    schedule: str

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return len(self.stages)

    @property
    def chunks(self) -> int:
        """Chunks of layers per stage; more than one if the schedule is interleaved."""
        return len(self.stages[0].parts)

    @property
    def tp(self) -> int:
        """Tensor-parallel degree of the first stage, of all where the grid is rectangular."""
        return self.stages[0].tensor_parallel

    @property
    def cp(self) -> int:
        """Context-parallel degree, as :attr:`tp`."""
        return self.stages[0].context_parallel

    @property
    def ep(self) -> int:
        """Expert-parallel degree, as :attr:`tp`."""
        return self.stages[0].expert_parallel

    @property
    def dp(self) -> int:
        """Replicas, as :attr:`tp`."""
        return self.stages[0].data_parallel

    @property
    def rows(self) -> int:
        """Rows of one micro-batch on one replica, as :attr:`tp`."""
        return self.stages[0].rows

    @property
    def zero(self) -> int:
        """The highest ZeRO level of any stage."""
        return max(stage.zero for stage in self.stages)

    @property
    def offload(self) -> bool:
        """Whether any stage keeps its optimizer's state in the host's memory."""
        return any(stage.offload for stage in self.stages)

    @property
    def world(self) -> int:
        """Devices of the whole grid."""
        return sum(stage.width * stage.data_parallel for stage in self.stages)

    @property
    def global_batch(self) -> int:
        """Rows per step."""
        return self.stages[0].rows * self.dp * self.micro_batches

    @property
    def rectangular(self) -> bool:
        """Whether all stages have the same degrees."""
        return not list(uneven_degrees(self))


def grid_of(plan: Plan) -> Grid | None:
    """The grid of a plan, or None where its pipelines or the replicas of a stage differ."""
    if list(differences(plan)):
        return None
    first = plan.pipelines[0]
    stages = tuple(_stage(plan, s, stage) for s, stage in enumerate(first.stages))
    return Grid(stages, len(plan.pipelines), first.micro_batches, first.schedule)


def differences(plan: Plan) -> Iterator[str]:
    """How the pipelines of a plan differ, in the words of the plan."""
    first = plan.pipelines[0]
    for p, other in enumerate(plan.pipelines):
        if other.last_micro_batch_rows != other.micro_batch_rows:
            yield (
                f"the last micro-batch of pipeline {p} has {other.last_micro_batch_rows} rows, "
                f"the others {other.micro_batch_rows}"
            )
            break
    yield from _unequal_rows(plan)
    for p, other in enumerate(plan.pipelines[1:], start=1):
        unlike = list(_unlike(first, other))
        if unlike:
            what, here, there = unlike[0]
            yield f"pipelines differ in their {what}: {here} in pipeline 0, {there} in pipeline {p}"
            break


def uneven_degrees(grid: Grid) -> Iterator[str]:
    """How the stages of a grid differ in their degrees."""
    degrees = {
        "tensor-parallel degree": [s.tensor_parallel for s in grid.stages],
        "context-parallel degree": [s.context_parallel for s in grid.stages],
        "expert-parallel degree": [s.expert_parallel for s in grid.stages],
        "number of replicas": [s.data_parallel for s in grid.stages],
        "rows per replica": [s.rows for s in grid.stages],
    }
    if len(set(degrees["tensor-parallel degree"])) == 1:  # else they differ for that reason
        degrees["slices of an expert"] = [s.expert_slices for s in grid.stages]
    for what, values in degrees.items():
        if len(set(values)) > 1:
            verb = "differ" if what.startswith("slices") else "differs"
            yield f"the {what} {verb} by stage: {', '.join(map(str, values))}"


def _unequal_rows(plan: Plan) -> Iterator[str]:
    for p, pipeline in enumerate(plan.pipelines):
        for s, stage in enumerate(pipeline.stages):
            rows = [r.rows for r in stage.replicas]
            meshes = {r.mesh for r in stage.replicas}
            if len(set(rows)) > 1:
                shares = ", ".join(map(str, rows))
                yield f"replicas of stage {s} of pipeline {p} take unequal rows: {shares}"
                return
            if len(meshes) > 1:
                yield f"replicas of stage {s} of pipeline {p} have unequal degrees"
                return


def _unlike(a: Pipeline, b: Pipeline) -> Iterator[tuple[str, object, object]]:
    pairs: list[tuple[str, object, object]] = [
        ("number of stages", len(a.stages), len(b.stages)),
        ("layer split", _split(a), _split(b)),
        ("tensor-parallel degrees", _degrees(a), _degrees(b)),
        ("replicas per stage", _replicas(a), _replicas(b)),
        ("micro-batches", a.micro_batches, b.micro_batches),
        ("rows per micro-batch", a.micro_batch_rows, b.micro_batch_rows),
        ("schedule", a.schedule, b.schedule),
        ("recomputation", _policies(a), _policies(b)),
        ("ZeRO level", _zero(a), _zero(b)),
        ("offload", _offload(a), _offload(b)),
    ]
    yield from ((what, x, y) for what, x, y in pairs if x != y)


def _split(p: Pipeline) -> str:
    return "/".join("+".join(str(b - a) for a, b in s.parts) for s in p.stages)


def _degrees(p: Pipeline) -> str:
    return "/".join(str(s.replicas[0].mesh.tensor_parallel) for s in p.stages)


def _replicas(p: Pipeline) -> str:
    return "/".join(str(len(s.replicas)) for s in p.stages)


def _policies(p: Pipeline) -> str:
    return "/".join(_policy(s) for s in p.stages)


def _zero(p: Pipeline) -> str:
    return "/".join(str(s.zero.level) for s in p.stages)


def _offload(p: Pipeline) -> str:
    return "/".join(s.offload for s in p.stages)


def _policy(stage: Stage) -> str:
    return "+".join(f"{r.layers[1] - r.layers[0]} {r.policy}" for r in stage.recompute)


def _stage(plan: Plan, s: int, stage: Stage) -> GridStage:
    alike = [p.stages[s] for p in plan.pipelines]
    replicas = [r for other in alike for r in other.replicas]
    mesh = replicas[0].mesh
    width = mesh.tensor_parallel * mesh.context_parallel
    shared = stage_mesh(mesh)
    return GridStage(
        first=stage.layers[0],
        end=stage.layers[1],
        tensor_parallel=mesh.tensor_parallel,
        context_parallel=mesh.context_parallel,
        expert_parallel=mesh.expert_parallel,
        expert_slices=shared.expert_tp,
        rows=replicas[0].rows // mesh.data_parallel,
        in_flight=max(other.in_flight for other in alike),
        least_in_flight=min(other.in_flight for other in alike),
        zero=stage.zero.level,
        offload=stage.offload == "optimizer",
        policies=tuple(
            part.policy for part in stage.recompute for _ in range(part.layers[0], part.layers[1])
        ),
        chips=tuple(dict.fromkeys(r.chip for r in replicas)),
        devices=tuple(
            r.devices[k : k + width] for r in replicas for k in range(0, len(r.devices), width)
        ),
        parts=stage.parts,
    )
