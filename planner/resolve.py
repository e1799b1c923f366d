"""Inputs resolved against one another: topology, job and profile, or everything that is wrong.

Everybody starts here: the search, the estimate, and the commands that only say inputs back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from planner.checks import check_inputs
from planner.errors import InputError, Problem
from planner.graphs.build_topology import build_topology
from planner.graphs.measured import excerpt, with_profile
from planner.graphs.topology import Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.constraints import constraints_of
from planner.inputs.goal import goal_of
from planner.inputs.job import JobInput, ResolvedJob, resolve_job
from planner.inputs.model import ModelInput
from planner.inputs.profile import ProfileInput, check_layers, job_for_profile
from planner.inputs.profile_spec import ProfileSpec


@dataclass(frozen=True, slots=True)
class ResolvedProfile:
    """The part of a profile that speaks of the cluster's chips, as plain JSON."""

    name: str
    resolved: dict[str, Any]


@dataclass(frozen=True)
class ResolvedInputs:
    """What the inputs mean together. ``warnings`` are what a person should know."""

    topology: Topology
    job: ResolvedJob
    warnings: tuple[str, ...]
    profile: ResolvedProfile | None


def resolve_inputs(
    model: ModelInput, cluster: ClusterInput, job: JobInput, profile: ProfileInput | None = None
) -> ResolvedInputs:
    """Topology and job, with what was measured in place. Raises InputError with all problems."""
    topology, resolved = topology_and_job(model, cluster, job)
    if profile is None:
        return ResolvedInputs(
            topology, resolved, _checked(model, cluster, resolved, topology), None
        )
    if problems := check_layers(profile, model.graph):
        raise InputError(problems)
    part = _part(profile, topology, cluster)
    job, notes = job_for_profile(job, profile.name, part)
    constraints = resolved.constraints
    resolved = resolve_job(job, model.graph, topology)
    goal = goal_of(job.spec, cluster, constraints, resolved.seq_len)
    resolved = replace(
        resolved, notes=(*notes, *resolved.notes), constraints=constraints, goal=goal
    )
    measured = with_profile(topology, part, model.graph, resolved.state_bytes)
    without = [c.chip.name for c in measured.classes if c.profile is None]
    warnings = [
        *_checked(model, cluster, resolved, measured),
        *map(_unmeasured, dict.fromkeys(without)),
    ]
    record = ResolvedProfile(profile.name, part.model_dump(mode="json"))
    return ResolvedInputs(measured, resolved, tuple(warnings), record)


def topology_and_job(
    model: ModelInput, cluster: ClusterInput, job: JobInput
) -> tuple[Topology, ResolvedJob]:
    """The chips that the job may use, and the job.

    Raises InputError for constraints that name what is not there.
    """
    constraints = constraints_of(job.spec, cluster, len(model.graph.layers))
    topology = build_topology(cluster.spec, cluster.catalog, constraints)
    resolved = resolve_job(job, model.graph, topology)
    goal = goal_of(job.spec, cluster, constraints, resolved.seq_len)
    return topology, replace(resolved, constraints=constraints, goal=goal)


def _checked(
    model: ModelInput, cluster: ClusterInput, job: ResolvedJob, topology: Topology
) -> tuple[str, ...]:
    """What a person should know. Raises InputError with what cannot be planned with."""
    found, warnings = check_inputs(model, cluster, job, topology)
    if found:
        raise InputError(found)
    return tuple(warnings)


def _unmeasured(name: str) -> str:
    message = f"{name} was not measured; it is priced by the formulas"
    return str(Problem("profile", message, "measure it too, or leave it out of the cluster"))


def _part(profile: ProfileInput, topology: Topology, cluster: ClusterInput) -> ProfileSpec:
    try:
        return excerpt(profile.spec, topology, cluster.catalog)
    except LookupError as error:
        own = ", ".join(dict.fromkeys(c.chip.id for c in topology.classes))
        message = f"speaks of {error.args[0]}, none of which is in the cluster (it has {own})"
        remedy = "name chips as in the cluster or the catalogue"
        raise InputError([Problem(profile.where("chips"), message, remedy)]) from None
