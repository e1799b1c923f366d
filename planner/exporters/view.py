"""A plan as exporters read it: its inputs, machines, model facts, and the grid if it has one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from planner.errors import ExportError
from planner.exporters.grid import Grid, grid_of
from planner.exporters.hosts import Device, Host, cluster_hosts
from planner.exporters.model_facts import ModelFacts, model_facts
from planner.inputs.cluster import cluster_from_resolved
from planner.inputs.job import ResolvedJob
from planner.plan import Interval, Plan, Recompute
from planner.restore import restore


@dataclass(frozen=True)
class View:
    """Everything that an exporter may use. ``hosts`` are those that the plan uses."""

    plan: Plan
    job: ResolvedJob
    model: ModelFacts
    hosts: tuple[Host, ...]
    grid: Grid | None
    has_experts: bool = False

    @property
    def short_id(self) -> str:
        """The plan's id as people write it."""
        return self.plan.plan_id[:12]

    @property
    def even_grid(self) -> Grid:
        """The grid of a plan that has one; the capability of the target is checked before."""
        if self.grid is None:
            raise ExportError("the pipelines of this plan differ, so it is no grid")
        return self.grid

    @property
    def devices(self) -> dict[str, Device]:
        """The devices of the plan's hosts by name, used or not."""
        return {device.name: device for host in self.hosts for device in host.devices}

    @property
    def used(self) -> tuple[str, ...]:
        """Devices of the plan by pipeline, stage, replica and place in the mesh."""
        return tuple(
            device
            for pipeline in self.plan.pipelines
            for stage in pipeline.stages
            for replica in stage.replicas
            for device in replica.devices
        )

    @property
    def grouped_experts(self) -> frozenset[bool]:
        """How the chips in use multiply their experts, by one call or not; empty: no experts."""
        if not self.has_experts:
            return frozenset()
        devices = self.devices
        return frozenset(self.job.groups_experts(devices[name].chip) for name in self.used)

    @property
    def header(self) -> str:
        """What every file says of where it comes from."""
        made = f"planner {self.plan.planner_version} from plan {self.short_id}"
        return f"{made}: {self.model.name} on {self.plan.inputs.cluster.name}"


def view_of(plan: Plan) -> View:
    """Restore what a plan says about itself. Raises InputError where it cannot be restored."""
    world = restore(plan)
    spec = cluster_from_resolved(plan.inputs.cluster.resolved)
    used = {
        device.rpartition("/")[0]
        for pipeline in plan.pipelines
        for stage in pipeline.stages
        for replica in stage.replicas
        for device in replica.devices
    }
    hosts = tuple(h for h in cluster_hosts(world.fleet, spec) if h.name in used)
    facts = model_facts(plan, world.model)
    return View(plan, world.job, facts, hosts, grid_of(plan), world.model.has_experts)


@dataclass(frozen=True, slots=True)
class Recomputed:
    """How many blocks of one stage run under each policy."""

    none: int
    selective: int
    full: int

    @property
    def kinds(self) -> tuple[Recompute, ...]:
        """The policies that occur."""
        counts: list[tuple[Recompute, int]] = [
            ("none", self.none),
            ("selective", self.selective),
            ("full", self.full),
        ]
        return tuple(kind for kind, count in counts if count)


def recomputed(view: View) -> tuple[Recomputed, ...]:
    """Per stage of the grid, or per chunk in order of the layers where stages hold several.

    The embedding and the head hold nothing that could be recomputed.
    """
    found = []
    for (first, end), policies in _parts(view):
        a, b = view.model.blocks_in(first, end)
        offset = a + (1 if view.model.is_decoder else 0) - first
        counts = Counter(policies[offset : offset + (b - a)]) if b > a else Counter()
        found.append(Recomputed(counts["none"], counts["selective"], counts["full"]))
    return tuple(found)


def _parts(view: View) -> list[tuple[Interval, tuple[Recompute, ...]]]:
    """Layers and policies of every part of every stage, in order of the layers.

    Chunks are dealt out in turn: the first ones of all stages, then the second ones.
    """
    stages = [list(zip(s.parts, s.policies_by_part)) for s in view.even_grid.stages]
    return [stage[c] for c in range(view.even_grid.chunks) for stage in stages]


def common_recompute(view: View) -> tuple[Recompute, int | None]:
    """The one kind of recomputation of a job, and K where only K blocks of each stage have it.

    K is None where every block has it. Holds for plans that the capability let through.
    """
    stages = recomputed(view)
    kinds = {kind for stage in stages for kind in stage.kinds}
    for kind in ("selective", "full"):
        if kind in kinds:
            every = "none" not in kinds
            return kind, None if every else max(stage.full for stage in stages)
    return "none", None


def block_counts(view: View) -> tuple[int, ...]:
    """Blocks per stage of the grid, or per chunk in order of the layers."""
    spans = (view.model.blocks_in(first, end) for (first, end), _ in _parts(view))
    return tuple(b - a for a, b in spans)
