"""Re-derives times and memory of a plan from the chips, the layers and the routes.

Built on :mod:`costmodels` alone, so that an error of the planner's own tables shows here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, islice, product

from costmodels.memory import boundary_buffer_bytes, device_overhead, stage_memory
from costmodels.offload import OFFLOAD_BUFFER_BYTES
from costmodels.price import WAYS, LayerPrice
from costmodels.units import PS_PER_S
from planner.errors import Problem
from planner.graphs.topology import IslandClass
from planner.plan import Pipeline, Plan, Replica, Stage, StageTime
from planner.restore import Restored
from planner.verify.hops import crossing_bytes, hops_ps
from planner.verify.meshes import dense, experts
from planner.verify.parts import held
from planner.verify.prices import Prices
from planner.verify.schedule import Scheduled, in_flight, scheduled
from planner.verify.times import Times, layer_times, waiting


@dataclass
class Costs:
    """What the plan's parts cost by this module's own account, and what differs.

    ``backward_ends[p][s]`` is the exact end of stage s's last backward in picoseconds,
    ``formula_ps[p]`` the pipeline's formula time raised to its exact time.
    """

    problems: list[Problem] = field(default_factory=list)
    backward_ends: list[tuple[int, ...]] = field(default_factory=list)
    formula_ps: list[int] = field(default_factory=list)
    fill_ps: list[int] = field(default_factory=list)
    leads_ps: list[tuple[int, ...]] = field(default_factory=list)
    """Backward time of the stages before each stage: what its synchronisation hides behind."""


def check_costs(plan: Plan, world: Restored, prices: Prices) -> Costs:
    """Re-derive every pipeline. Call it on plans whose layout is consistent only."""
    audit = _Audit(plan, world, prices)
    for p in range(len(plan.pipelines)):
        audit.pipeline(p)
    return audit.costs


class _Audit:
    """One pass over a plan; equal stages are derived once."""

    def __init__(self, plan: Plan, world: Restored, prices: Prices) -> None:
        self.plan, self.world = plan, world
        self.costs = Costs()
        self.prices = prices
        self.times: dict[tuple[object, ...], list[Times]] = {}
        self.memories: dict[tuple[object, ...], dict[str, int]] = {}
        self.schedules: dict[tuple[object, ...], Scheduled] = {}
        self.copies = Counter(
            layer
            for pipeline in plan.pipelines
            for stage in pipeline.stages
            for layer in held(stage, len(world.model.layers))
            for _ in stage.replicas
        )

    def pipeline(self, p: int) -> None:
        """Stages, hops, formula and exact time of one pipeline."""
        pipeline = self.plan.pipelines[p]
        where = f"pipelines[{p}]"
        hops, busy = self._hops(pipeline, where)
        forward, backward = [], []
        for s, stage in enumerate(pipeline.stages):
            times = [
                self.replica(pipeline, s, replica, busy[s], f"{where}.stages[{s}].replicas[{r}]")
                for r, replica in enumerate(stage.replicas)
            ]
            forward.append([max(t["forward_total"] for t in own) for own in zip(*times)])
            backward.append([max(t["backward_total"] for t in own) for own in zip(*times)])
        each = (tuple(map(tuple, forward)), tuple(map(tuple, backward)))
        depths = tuple(stage.in_flight for stage in pipeline.stages)
        key = (pipeline.schedule, *each, hops, depths, pipeline.micro_batches)
        if key not in self.schedules:
            self.schedules[key] = scheduled(pipeline, *each, hops)
        found = self.schedules[key]
        raised = max(found.formula, *found.ends)
        self._equal(f"{where}.formula_time_s", pipeline.formula_time_s, raised)
        self._equal(f"{where}.exact_time_s", pipeline.exact_time_s, max(found.ends))
        self.costs.backward_ends.append(found.ends)
        self.costs.formula_ps.append(raised)
        self.costs.fill_ps.append(found.fill)
        # the step ends with the backward of one chunk of several: by their mean
        last = [sum(own) // len(own) for own in backward[:-1]]
        self.costs.leads_ps.append(tuple(accumulate(last, initial=0)))

    def _hops(
        self, pipeline: Pipeline, where: str
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """Hops that delay, and picoseconds of every chunk of every stage that wait for one."""
        stages = pipeline.stages
        hops = []
        for s, hop in enumerate(hops_ps(pipeline, self.world)):
            if hop is None:
                at = f"{where}.stages[{s}].hop_to_next_s"
                self._report(at, "no network joins the two stages")
            hops.append(hop or 0)
        busy = [[0] * len(stage.parts) for stage in stages]
        if self.world.topology.blocking_transfers:
            # the later side of every cut waits for the way there and for the way back
            for s, c in product(range(len(stages)), range(len(busy[0]))):
                busy[s][c] = hops[s - 1] if s or c else 0
            hops = [0] * len(hops)
        for s, hop in enumerate(hops):
            stated = stages[s].hop_to_next_s or 0.0
            self._equal(f"{where}.stages[{s}].hop_to_next_s", stated, hop)
        return tuple(hops), [tuple(own) for own in busy]

    def replica(
        self, pipeline: Pipeline, s: int, replica: Replica, busy: Sequence[int], where: str
    ) -> list[Times]:
        """Times of one replica in picoseconds, by chunk and then by the names of ``StageTime``.

        Checks its memory. ``busy`` picoseconds of each pass of a chunk go to blocking transfers.
        """
        stage = pipeline.stages[s]
        cls = self._class(replica)
        way = self.prices.way(replica.devices)
        every = self.prices.layers(cls, replica.mesh, replica.rows, way)
        policies = _policies(stage)
        kind = (cls.index, replica.mesh, replica.rows, stage.parts, policies, way)
        if kind not in self.times:
            scale = self.prices.scale(cls, replica.rows // replica.mesh.data_parallel)
            each = iter(policies)
            self.times[kind] = [
                layer_times(
                    every[first:end],
                    tuple(islice(each, end - first)),
                    scale,
                    replica.mesh,
                    cls,
                    self.world.job,
                )
                for first, end in stage.parts
            ]
        times = [waiting(own, wait) for own, wait in zip(self.times[kind], busy, strict=True)]
        for name in StageTime.model_fields:
            whole = sum(own[name] for own in times)
            self._equal(f"{where}.time_s.{name}", getattr(replica.time_s, name), whole)
        for c, (own, stated) in enumerate(zip(times, replica.chunk_time_s)):
            for k, name in enumerate(("forward_total", "backward_total")):
                self._equal(f"{where}.chunk_time_s[{c}][{k}]", stated[k], own[name])
        layers = tuple(every[layer] for layer in held(stage, len(every)))
        self._check_memory(pipeline, s, replica, layers, (kind, stage.zero.level), where)
        return times

    def _check_memory(
        self,
        pipeline: Pipeline,
        s: int,
        replica: Replica,
        layers: tuple[LayerPrice, ...],
        kind: tuple[object, ...],
        where: str,
    ) -> None:
        """Whether the bytes of a replica are those that its layers need, and fit."""
        stage, cls = pipeline.stages[s], self._class(replica)
        own = held(stage, len(self.world.model.layers))
        copies = tuple(self.copies[layer] for layer in own)
        depth = (stage.in_flight, pipeline.micro_batches, len(pipeline.stages))
        key = (*kind, *depth, stage.offload, copies)
        if key not in self.memories:
            self.memories[key] = self._memory(cls, pipeline, stage, replica, layers, copies)
        for name, value in self.memories[key].items():
            stated = getattr(replica.memory_bytes, name)
            if stated != value:
                message = f"says {stated} bytes, the layers need {value}"
                self._report(f"{where}.memory_bytes.{name}", message)
        if replica.memory_bytes.peak > cls.usable_memory_bytes:
            message = f"needs {replica.memory_bytes.peak} bytes of {cls.usable_memory_bytes} usable"
            self._report(f"{where}.memory_bytes.peak", message)
        if replica.memory_bytes.host > _host_share(cls):
            message = (
                f"offloads {replica.memory_bytes.host} bytes, its share of the host's memory is "
                f"{_host_share(cls)}"
            )
            self._report(f"{where}.memory_bytes.host", message)

    def _class(self, replica: Replica) -> IslandClass:
        island = self.world.island_of[replica.devices[0]]
        return self.world.topology.classes[island.class_index]

    def _memory(
        self,
        cls: IslandClass,
        pipeline: Pipeline,
        stage: Stage,
        replica: Replica,
        layers: Sequence[LayerPrice],
        copies: tuple[int, ...],
    ) -> dict[str, int]:
        whole, apart = dense(replica.mesh), experts(replica.mesh)
        policies = _policies(stage)
        kept, hosted = in_flight(pipeline, stage, layers, policies)
        items = stage_memory(
            layers,
            policies,
            state=self.world.job.state_bytes,
            overhead=device_overhead(cls.chip, cls.usable_memory_bytes),
            in_flight=kept,
            hosted_in_flight=hosted,
            micro_batches=pipeline.micro_batches,
            zero_level=stage.zero.level,
            replicas=tuple(n * whole.copies for n in copies),
            expert_replicas=copies[0] * apart.copies,
            inner=(whole.shares, apart.shares),
            boundary_bytes=boundary_buffer_bytes(
                max(crossing_bytes(a, replica.rows, self.world) for a, _ in stage.parts),
                max(crossing_bytes(b, replica.rows, self.world) for _, b in stage.parts),
                tp=replica.mesh.tensor_parallel,
                sequence_parallel=self.world.job.sequence_parallel,
                copies=whole.copies,
            ),
            offload_buffer=OFFLOAD_BUFFER_BYTES if stage.offload == "optimizer" else None,
        )
        found = {f.name: getattr(items, f.name) for f in fields(items)}
        on_host = _host_share(cls) if items.host else 0
        return found | {"usable": cls.usable_memory_bytes, "host_usable": on_host}

    def _equal(self, where: str, stated_s: float, derived_ps: int) -> None:
        """Times agree to the picosecond."""
        if _picoseconds(stated_s) != derived_ps and stated_s != derived_ps / PS_PER_S:
            message = f"says {stated_s!r} s, re-derived {derived_ps / PS_PER_S!r} s"
            self._report(where, message)

    def _report(self, where: str, message: str) -> None:
        self.costs.problems.append(Problem(where, message))


def _host_share(cls: IslandClass) -> int:
    """Bytes of its host's memory that a device may fill; none where the host is not known."""
    return 0 if cls.host is None or cls.host.memory_bytes is None else cls.host.memory_bytes


def _policies(stage: Stage) -> tuple[int, ...]:
    return tuple(WAYS.index(part.policy) for part in stage.recompute for _ in range(*part.layers))


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)
