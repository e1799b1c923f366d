"""Inputs resolved against one another, without the solver: for saying them back and comparing."""

from __future__ import annotations

from planner.checks import check_inputs
from planner.commands.loading import Loaded
from planner.errors import InputError
from planner.graphs.build_topology import build_topology
from planner.inputs.job import resolve_job
from planner.plan import digest
from planner.restore import Restored


def world_of(loaded: Loaded) -> Restored:
    """Model, topology and resolved job. Raises InputError where they contradict one another."""
    topology = build_topology(loaded.cluster.spec, loaded.cluster.catalog)
    job = resolve_job(loaded.job, loaded.model.graph, topology)
    problems, _ = check_inputs(loaded.model, loaded.cluster, job, topology)
    if problems:
        raise InputError(problems)
    return Restored(loaded.model.graph, topology, job)


def digests_of(loaded: Loaded) -> dict[str, str]:
    """Digests by input, as a plan made for these inputs carries them."""
    return {
        "model": digest(loaded.model.resolved),
        "cluster": digest(loaded.cluster.resolved),
        "job": digest(world_of(loaded).job.as_json()),
    }
