"""Inputs resolved against one another, without the solver: for saying them back and comparing."""

from __future__ import annotations

from planner.commands.loading import Loaded
from planner.plan import digest
from planner.resolve import resolve_inputs
from planner.restore import Restored


def world_of(loaded: Loaded) -> Restored:
    """Model, topology and resolved job. Raises InputError where they contradict one another."""
    found = resolve_inputs(loaded.model, loaded.cluster, loaded.job, loaded.profile)
    return Restored(loaded.model.graph, found.topology, found.job)


def digests_of(loaded: Loaded) -> dict[str, str]:
    """Digests by input, as a plan made for these inputs carries them."""
    found = resolve_inputs(loaded.model, loaded.cluster, loaded.job, loaded.profile)
    digests = {
        "model": digest(loaded.model.resolved),
        "cluster": digest(loaded.cluster.resolved),
        "job": digest(found.job.as_json()),
    }
    if found.profile is not None:
        digests["profile"] = digest(found.profile.resolved)
    return digests
