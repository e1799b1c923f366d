"""The inputs of a plan as one value that can be changed, compared, hashed and sent away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from costmodels.catalog import load_catalog
from costmodels.units import PS_PER_S, bytes_of
from planner.errors import InputError
from planner.inputs.cluster import ClusterInput, cluster_from_document, load_cluster
from planner.inputs.document import Document
from planner.inputs.goal import GIVEN, Goal
from planner.inputs.job import JobInput, JobSpec, load_job, state_bytes
from planner.inputs.job_spec import TECHNIQUES
from planner.inputs.model import ModelInput, load_model, model_from_resolved
from planner.inputs.overrides import Override
from planner.inputs.profile import ProfileInput, load_profile, profile_from_resolved
from planner.inputs.reading import problems_from_validation
from planner.plan import Plan, digest
from planner.restore import restore


@dataclass(frozen=True)
class PlanInputs:
    """What :func:`planner.solve` takes."""

    model: ModelInput
    cluster: ClusterInput
    job: JobInput
    profile: ProfileInput | None = None

    @property
    def chips(self) -> tuple[str, ...]:
        """Catalogue ids of the chips in the cluster, in the order of its nodes."""
        found = (g.chip for node in self.cluster.spec.nodes for g in node.devices)
        return tuple(dict.fromkeys(found))

    @property
    def chip_counts(self) -> dict[str, int]:
        """How many chips of each kind the cluster has."""
        counts: dict[str, int] = {}
        for node in self.cluster.spec.nodes:
            for group in node.devices:
                counts[group.chip] = counts.get(group.chip, 0) + group.count * node.count
        return counts

    def as_json(self) -> dict[str, Any]:
        """Plain JSON from which :func:`inputs_from_json` makes equal inputs anywhere."""
        stated = self.job.spec.model_dump(mode="json", exclude_unset=True)
        return {
            "model": {
                "name": self.model.name,
                "resolved": self.model.resolved,
                "notes": list(self.model.notes),
            },
            "cluster": self.cluster.resolved,
            "cluster_notes": list(self.cluster.notes),
            "catalogue": self.cluster.catalog.excerpt(self.chips),
            "job": {"name": self.job.name, "spec": stated},
            "profile": self.profile and {"name": self.profile.name, "spec": self._measured},
        }

    @property
    def _measured(self) -> dict[str, Any] | None:
        return None if self.profile is None else self.profile.spec.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the plan; names of files play no part."""
        return digest(
            {
                "model": self.model.resolved,
                "cluster": self.cluster.resolved,
                "catalogue": self.cluster.catalog.excerpt(self.chips),
                "job": self.job.spec.model_dump(mode="json"),
                "profile": self._measured,
            }
        )


def load_plan_inputs(
    model: str,
    cluster: str,
    job: str | None = None,
    overrides: Sequence[Override] = (),
    profile: str | None = None,
) -> PlanInputs:
    """Reads all by file, shipped name or shorthand. InputError as the single loaders."""
    return PlanInputs(
        load_model(model, overrides),
        load_cluster(cluster, load_catalog(), overrides),
        load_job(job, overrides),
        load_profile(profile) if profile is not None else None,
    )


def inputs_from_json(value: Mapping[str, Any]) -> PlanInputs:
    """The inputs of :meth:`PlanInputs.as_json`. InputError if it is not one."""
    catalog = load_catalog(value["catalogue"])
    resolved = value["model"]["resolved"]
    name = str(value["model"]["name"])
    notes = tuple(value["model"]["notes"])
    cluster = cluster_from_document(Document("cluster", value["cluster"]), catalog)
    return PlanInputs(
        ModelInput(name, name, dict(resolved), model_from_resolved(resolved), notes),
        replace(cluster, notes=tuple(value["cluster_notes"])),
        JobInput(str(value["job"]["name"]), "", job_spec(value["job"]["spec"])),
        _profile(value["profile"]["name"], value["profile"]["spec"]) if value["profile"] else None,
    )


def _profile(name: str, resolved: Mapping[str, Any]) -> ProfileInput:
    """A profile from plain JSON that was checked before."""
    spec = profile_from_resolved(resolved)
    return ProfileInput(name, name, spec, Document("profile", dict(resolved)))


def job_spec(value: Mapping[str, Any]) -> JobSpec:
    """A job from plain JSON. InputError with every problem."""
    document = Document("job", dict(value))
    try:
        return JobSpec.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, JobSpec)) from None


def inputs_of(plan: Plan) -> PlanInputs:
    """The inputs that a plan was made for, with the figures that its chips had that day.

    Raises InputError where the plan does not hold them.
    """
    world = restore(plan)  # names the input that is damaged
    inputs = plan.inputs
    excerpt = inputs.catalogue.resolved
    catalog = load_catalog(excerpt) if "chips" in excerpt else load_catalog()
    model, measured = inputs.model, inputs.profile
    return PlanInputs(
        ModelInput(
            model.name, model.name, dict(model.resolved), model_from_resolved(model.resolved), ()
        ),
        cluster_from_document(Document("cluster", inputs.cluster.resolved), catalog),
        JobInput(inputs.job.name, "", _job_of(inputs.job.resolved, world.model.has_experts)),
        None if measured is None else _profile(measured.name, measured.resolved),
    )


def _job_of(resolved: Mapping[str, Any], has_experts: bool) -> JobSpec:
    """The job file that resolves to this job: every value stated, none left to the planner.

    The optimizer's bytes are stated only where they are not its own, so that another optimizer
    brings its own.
    """
    fields = {name: resolved[name] for name in JobSpec.model_fields if name in resolved}
    state = resolved["state_bytes"]
    same = state["gradient"] == bytes_of(str(resolved["precision"]))
    fields["gradient_dtype"] = "same" if same else "fp32"
    fields["techniques"] = {name: resolved[name] for name in TECHNIQUES if name in resolved}
    # left out where they are off: stated where the planner would turn them on by itself
    if has_experts and resolved["precision"] == "bf16":
        fields["techniques"]["grouped_experts"] = bool(resolved.get("grouped_experts"))
    fields["techniques"]["interleaved"] = bool(resolved.get("interleaved"))
    fields |= _ruled_out(resolved.get("constraints"))
    fields |= _objective(resolved.get("goal"))
    spec = job_spec(fields)
    if state_bytes(spec, str(resolved["precision"])).optimizer == state["optimizer"]:
        return spec
    return job_spec({**fields, "optimizer_state_bytes_per_parameter": state["optimizer"]})


def _ruled_out(resolved: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a job file that become these constraints."""
    if resolved is None:
        return {}
    pins = [
        {
            "layers": [pin["first"], pin["end"]],
            "only_on": list(pin["only_on"]),
            "never_on": list(pin["never_on"]),
        }
        for pin in resolved["pinned_layers"]
    ]
    return {
        "forbidden_chips": list(resolved["forbidden_chips"]),
        "forbidden_nodes": list(resolved["forbidden_nodes"]),
        "pinned_layers": pins,
    }


def _objective(resolved: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a job file that become this goal; the catalogue's figures stay its own."""
    if resolved is None:
        return {}
    goal = Goal.from_json(resolved)
    field = "prices_usd_per_hour" if goal.kind == "cost" else "power_watt"
    return {
        "objective": goal.kind,
        "max_step_time_s": goal.latest_ps / PS_PER_S,
        field: {rate.chip: rate.figure for rate in goal.rates if rate.source == GIVEN},
    }
