"""From a plan back to what it was made for: model, cluster and job, without their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ValidationError

from costmodels.catalog import CatalogError, load_catalog
from planner.errors import InputError, Problem
from planner.graphs.build_topology import build_topology
from planner.graphs.measured import with_profile
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Island, Topology
from planner.inputs.cluster import cluster_from_resolved
from planner.inputs.constraints import forbidden_devices
from planner.inputs.job import ResolvedJob
from planner.inputs.model import model_from_resolved
from planner.inputs.profile import profile_from_resolved
from planner.plan import Plan


@dataclass(frozen=True)
class Restored:
    """The inputs of a plan as graphs.

    ``topology`` holds the chips that the job may use; ``forbidden`` names the others by device,
    each with the field of the job that rules it out.
    """

    model: ModelGraph
    topology: Topology
    job: ResolvedJob
    whole: Topology | None = None
    forbidden: Mapping[str, str] = field(default_factory=dict)

    @property
    def fleet(self) -> Topology:
        """The cluster with the chips that the job must not use."""
        return self.topology if self.whole is None else self.whole

    def boundary_bytes(self, cut: int, rows: int) -> int:
        """Bytes of the activations of some rows at a cut of the model, as the job runs it."""
        if (cut, rows) not in self._boundaries:
            size = self.model.boundary_bytes(cut, rows, self.job.seq_len, self.job.element_bytes)
            self._boundaries[cut, rows] = size
        return self._boundaries[cut, rows]

    @cached_property
    def _boundaries(self) -> dict[tuple[int, int], int]:
        return {}

    @cached_property
    def island_of(self) -> dict[str, Island]:
        """The island of every device of the cluster, by the device's name."""
        return {
            device: island
            for cls in self.topology.classes
            for island in cls.islands
            for device in island.devices
        }


def restore(plan: Plan) -> Restored:
    """Rebuild model, topology and job from ``plan.inputs``, with the chips' figures of that day.

    Raises :class:`InputError` naming the input that cannot be restored.
    """
    inputs = plan.inputs
    where = "inputs.model.resolved"
    try:
        model = model_from_resolved(inputs.model.resolved)
        where = "inputs.catalogue.resolved"
        excerpt = inputs.catalogue.resolved
        catalog = load_catalog(excerpt) if "chips" in excerpt else load_catalog()
        where = "inputs.job.resolved"
        job = ResolvedJob.from_json(inputs.job.resolved)
        where = "inputs.cluster.resolved"
        spec = cluster_from_resolved(inputs.cluster.resolved)
        topology = build_topology(spec, catalog, job.constraints)
        forbidden = forbidden_devices(spec, job.constraints)
        whole = build_topology(spec, catalog) if forbidden else None
        if inputs.profile is not None:
            where = "inputs.profile.resolved"
            profile = profile_from_resolved(inputs.profile.resolved)
            topology = with_profile(topology, profile, model, job.state_bytes)
    except (ValidationError, CatalogError, LookupError, TypeError, ValueError) as exc:
        remedy = "the plan was damaged or made by another version; plan again"
        message = f"cannot be restored: {str(exc).splitlines()[0]}"
        raise InputError([Problem(where, message, remedy)]) from exc
    return Restored(model, topology, job, whole, forbidden)
