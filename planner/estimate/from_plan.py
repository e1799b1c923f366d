"""From a whole plan to a sketch: what it says to do, and nothing of what it says it costs.

The plan may have been edited by hand: its figures and its hash are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from costmodels.catalog import Catalog
from costmodels.price import HOSTED, WAYS
from planner.chunks import chunk_problems
from planner.errors import InputError, Problem
from planner.estimate.sketch import PipelineSketch, Sketch, StageSketch
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.inputs.document import DataPath, Document
from planner.inputs.job import ResolvedJob
from planner.inputs.reading import read_document, render_path
from planner.mesh import StageMesh
from planner.meshes import mesh_problem
from planner.options import tensor_parallel_problem
from planner.plan import Pipeline, Plan, Stage
from planner.plan_mesh import stage_mesh


@dataclass(frozen=True, slots=True)
class PlanLayout:
    """A plan whose layout is to be priced. ``source`` is its file."""

    name: str
    source: str
    plan: Plan


def sketch_plan(
    layout: PlanLayout, model: ModelGraph, topology: Topology, job: ResolvedJob
) -> Sketch:
    """The plan's pipelines. Raises InputError with everything that these inputs do not allow."""
    reader = _Reader(layout, model, topology, job)
    foreign = list(reader.foreign())
    if foreign:
        raise InputError(_with_lines(foreign, layout.source))
    pipelines = tuple(reader.pipeline(p) for p in range(len(layout.plan.pipelines)))
    reader.whole()
    if reader.problems:
        raise InputError(_with_lines(reader.problems, layout.source))
    levels = {s.zero.level for p in layout.plan.pipelines for s in p.stages}
    return Sketch(pipelines=pipelines, zero_level=max(levels))


@dataclass(frozen=True, slots=True)
class _Found:
    """A problem whose line is looked up only if it is told: large plans read slowly by line."""

    path: DataPath
    message: str
    remedy: str = ""


def _with_lines(found: list[_Found], source: str) -> list[Problem]:
    # a plan that was made in memory has no file, and so no lines
    document = read_document(source) if Path(source).is_file() else Document(source, None)
    return [Problem(document.where(f.path), f.message, f.remedy) for f in found]


def _named(stage: Stage) -> tuple[int, ...]:
    """The layers that a stage's ranges of recomputation name."""
    return tuple(layer for part in stage.recompute for layer in range(*part.layers))


@dataclass
class _Reader:
    """One pass over a plan."""

    layout: PlanLayout
    model: ModelGraph
    topology: Topology
    job: ResolvedJob
    problems: list[_Found] = field(default_factory=list)
    unknown: list[tuple[DataPath, str]] = field(default_factory=list)
    users: dict[str, DataPath] = field(default_factory=dict)
    home: dict[str, Island] = field(init=False)

    def __post_init__(self) -> None:
        self.home = {d: i for cls in self.topology.classes for i in cls.islands for d in i.devices}

    def foreign(self) -> Iterator[_Found]:
        """Another model: what else is wrong is noise then."""
        plan = self.layout.plan
        names = tuple(layer.name for layer in self.model.layers)
        if plan.layer_order != names:
            message = (
                f"the plan is for {plan.inputs.model.name} with {len(plan.layer_order)} layers, "
                f"not for the {len(names)} layers of {self.model.name}"
            )
            yield _Found(("layer_order",), message, "give the plan's own model")

    def whole(self) -> None:
        """What no pipeline shows alone."""
        plan, job = self.layout.plan, self.job
        if self.unknown:
            (path, device), others = self.unknown[0], len({d for _, d in self.unknown}) - 1
            message = f"no device is called {device}" + (f", nor {others} more" if others else "")
            remedy = f"the cluster {self.topology.name} has {next(iter(self.home))} and others"
            self.problems.append(_Found(path, message, remedy))
        rows = sum(
            (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows
            for p in plan.pipelines
        )
        if rows != job.global_batch:
            message = f"the pipelines run {rows} rows per step, not {job.global_batch}"
            remedy = f"--global-batch {rows}, or change micro_batches"
            self.problems.append(_Found(("pipelines",), message, remedy))
        if len({s.zero.level for p in plan.pipelines for s in p.stages}) > 1:
            message = "the stages run different levels of ZeRO"
            self.problems.append(_Found(("pipelines",), message, "one level for all of them"))

    def pipeline(self, p: int) -> PipelineSketch:
        """One pipeline; its problems are kept."""
        pipe = self.layout.plan.pipelines[p]
        at: DataPath = ("pipelines", p)
        self.problems += self._shape(pipe, at)
        return PipelineSketch(
            stages=tuple(self._stage(s, (*at, "stages", n)) for n, s in enumerate(pipe.stages)),
            rows=pipe.micro_batch_rows,
            micro_batches=pipe.micro_batches,
            last_rows=pipe.last_micro_batch_rows,
            schedule=pipe.schedule,
        )

    def _shape(self, pipe: Pipeline, at: DataPath) -> Iterator[_Found]:
        """Layers once and in order, depths that do not deadlock, sensible micro-batches."""
        rows, last = pipe.micro_batch_rows, pipe.last_micro_batch_rows
        if pipe.micro_batches < 1 or not 1 <= last <= rows:
            message = f"{pipe.micro_batches} micro-batches of {rows} rows, the last of {last}"
            yield _Found((*at, "micro_batches"), message, "at least one, the last no larger")
        if pipe.schedule == "interleaved" or any(s.chunks for s in pipe.stages):
            for where, message, remedy in chunk_problems(
                pipe, len(self.model.layers), self.model.name
            ):
                yield _Found((*at, *where), message, remedy)
            return
        done = 0
        for s, stage in enumerate(pipe.stages):
            first, end = stage.layers
            here = (*at, "stages", s)
            if first != done or end <= first:
                message = f"[{first}, {end}) does not follow layer {done - 1}"
                if s == 0:
                    message = f"[{first}, {end}) does not start at layer 0"
                remedy = f"[{done}, {max(end, done + 1)}]"
                yield _Found((*here, "layers"), message, remedy)
            done = end
            before = pipe.stages[s - 1].in_flight if s else stage.in_flight
            if not 1 <= stage.in_flight <= before:
                message = f"{stage.in_flight} micro-batches in flight, {before} on the stage before"
                remedy = "depths are at least 1 and must not increase: the schedule would deadlock"
                yield _Found((*here, "in_flight"), message, remedy)
        if done != len(self.model.layers):
            message = f"end at layer {done}, but {self.model.name} has {len(self.model.layers)}"
            yield _Found((*at, "stages"), message, "cover every layer once")

    def _stage(self, stage: Stage, at: DataPath) -> StageSketch:
        first, end = stage.layers
        policies: list[int] = []
        for part in stage.recompute:
            policies += [WAYS.index(part.policy)] * (part.layers[1] - part.layers[0])
        count = max(0, stage.layer_count)
        if len(policies) != count:
            message = f"covers {len(policies)} layers of {count}"
            self.problems.append(_Found((*at, "recompute"), message, "name every layer once"))
        elif stage.chunks and _named(stage) != stage.held_layers:
            message = "names layers that are in none of the stage's chunks"
            remedy = "cut the ranges where the chunks end, and write them in their order"
            self.problems.append(_Found((*at, "recompute"), message, remedy))
        devices: tuple[str, ...] = ()
        mesh: StageMesh | None = None
        if len(stage.replicas) != 1:
            message = f"{len(stage.replicas)} replicas share the stage: not priced by this version"
            remedy = "give every replica a pipeline of its own"
            self.problems.append(_Found((*at, "replicas"), message, remedy))
        else:
            devices = stage.replicas[0].devices
            mesh = stage_mesh(stage.replicas[0].mesh, stage.offload)
            if mesh.tensor_alone:  # a hand may have changed the devices alone
                mesh = StageMesh(len(devices), offload=mesh.offload)
            mesh = None if mesh.plain else mesh
            self._check_devices(stage, (*at, "replicas", 0))
        return StageSketch(
            render_path((*at, "replicas", 0, "devices")),
            first,
            end,
            tuple(policies),
            devices,
            stage.in_flight,
            mesh,
            stage.chunks,
        )

    def _check_devices(self, stage: Stage, at: DataPath) -> None:
        """Known, used once, of the kind that the plan says, and as many as the layers divide by."""
        (replica,) = stage.replicas
        path = (*at, "devices")
        unknown = [d for d in replica.devices if d not in self.home]
        self.unknown += [(path, device) for device in unknown]
        if not replica.devices:
            remedy = f"the cluster {self.topology.name} has {next(iter(self.home))} and others"
            self.problems.append(_Found(path, "names no device", remedy))
        if unknown or not replica.devices:
            return
        for device in replica.devices:
            if device in self.users:
                message = f"{device} is used already by {render_path(self.users[device])}"
                self.problems.append(_Found(path, message, "a device runs one stage"))
                break
            self.users[device] = at
        chip = self.topology.classes[self.home[replica.devices[0]].class_index].chip
        if chip.id != replica.chip:
            message = f"says {Catalog.alias(replica.chip)}, but {replica.devices[0]} is a "
            remedy = "give the plan's own cluster, or change the chip"
            found = _Found((*at, "chip"), message + Catalog.alias(chip.id), remedy)
            self.problems.append(found)
        mesh = stage_mesh(replica.mesh)
        if mesh.tensor_alone:
            mesh = StageMesh(len(replica.devices))
        elif mesh.chips != len(replica.devices):
            message = f"names {len(replica.devices)} devices for {mesh.describe()}"
            self.problems.append(_Found(path, message, f"name {mesh.chips} devices"))
            return
        job, tp = self.job, mesh.tp
        why = tensor_parallel_problem(self.model, tp, job.seq_len, job.sequence_parallel)
        if why is not None:
            self.problems.append(_Found(path, f"tp {tp} is not possible: {why}"))
        _, why = mesh_problem(self.model, mesh, replica.rows, job)
        if why is not None:
            self.problems.append(_Found((*at, "mesh"), f"{mesh.describe()} is not possible: {why}"))
        host = self.topology.classes[self.home[replica.devices[0]].class_index].host
        leaves = any(part.policy in HOSTED for part in stage.recompute)
        if (stage.offload != "none" or leaves) and (host is None or host.memory_bytes is None):
            message = f"offloads to the host of {replica.devices[0]}, whose memory is not known"
            self.problems.append(_Found(at, message, "give host_memory_gib in the cluster"))
