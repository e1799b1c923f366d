"""Changes applied: new inputs from old ones, checked like any file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterSpec, cluster_from_document
from planner.inputs.document import Document, JsonValue
from planner.inputs.hf_config import FORMAT as HF_FORMAT
from planner.inputs.job import JobInput, JobSpec
from planner.inputs.job_spec import TECHNIQUES
from planner.inputs.model import ModelInput, load_model, model_from_resolved
from planner.inputs.overrides import Override, apply_overrides
from planner.inputs.problems import nearest
from planner.scenario import changes as c
from planner.scenario import chips, links, measured, nodes
from planner.scenario.inputs import PlanInputs, job_spec

ClusterData = dict[str, Any]


def apply_all(inputs: PlanInputs, changes: Iterable[c.Change]) -> PlanInputs:
    """The inputs with every change made, in order; changes of prices change no input.

    Raises InputError that names the change.
    """
    for change in changes:
        inputs = apply_change(inputs, change)
    return inputs


def apply_change(inputs: PlanInputs, change: c.Change) -> PlanInputs:
    """The inputs with one change made. Raises InputError that names the change."""
    try:
        return _applied(inputs, change)
    except InputError as error:
        where = f"change '{change.text}'"
        found = [
            p if p.where.startswith(where) else replace(p, where=f"{where}: {p.where}".rstrip(": "))
            for p in error.problems
        ]
        raise InputError(found) from None


def _applied(inputs: PlanInputs, change: c.Change) -> PlanInputs:
    if isinstance(change, c.SetPrice | c.SetPower):
        chips.chip_in(inputs.cluster, change.chip)
        return inputs
    if inputs.profile is not None:
        measured.check_change(inputs.profile, inputs.cluster, change)
    match change:
        case c.SetModel():
            return replace(inputs, model=load_model(change.model))
        case c.SetField() if change.root == "model":
            return replace(inputs, model=_model_with(inputs, change))
        case c.SetField() if change.root == "job":
            return replace(inputs, job=_job_with(inputs.job, change.path, change.value))
        case c.SetTechnique():
            _check_technique(change.name)
            path = ("techniques", change.name)
            return replace(inputs, job=_job_with(inputs.job, path, change.allowed))
        case c.ScaleLink():
            return _scaled_link(inputs, change)
        case _:
            return _cluster_with(inputs, _cluster_edit(inputs, change))


def _scaled_link(inputs: PlanInputs, change: c.ScaleLink) -> PlanInputs:
    """The link of the cluster, and what was measured on it."""
    changed = _cluster_with(inputs, _cluster_edit(inputs, change))
    if inputs.profile is None:
        return changed
    link, factor = change.link, change.factor
    scaled = measured.scaled_links(inputs.profile, inputs.cluster, link, factor)
    return replace(changed, profile=scaled)


def _cluster_edit(inputs: PlanInputs, change: c.Change) -> Callable[[ClusterData], ClusterData]:
    """How a change edits the plain data of a cluster."""
    cluster = inputs.cluster
    match change:
        case c.SetField():
            override = Override(change.root, change.path, change.value, change.text)

            def edit(data: ClusterData) -> ClusterData:
                document = Document("cluster", data)
                changed = apply_overrides(document, [override], "cluster", ClusterSpec).data
                return dict(changed) if isinstance(changed, dict) else {}

            return edit
        case c.ReplaceChip():
            return lambda data: chips.replaced(data, cluster, change.old, change.new)
        case c.ScaleMemory():
            return lambda data: chips.with_memory(data, cluster, change.chip, change.factor)
        case c.ScaleEfficiency():
            return lambda data: chips.with_efficiency(data, cluster, change.chip, change.factor)
        case c.ScaleSpeed():
            return lambda data: chips.with_speed(data, cluster, change.chip, change.factor)
        case c.ScaleLink():
            return lambda data: links.scaled(data, cluster, change.link, change.factor)
        case c.SetLink():
            return lambda data: links.with_rate(data, cluster, change.link, change.bytes_per_s)
        case c.SetLinkEfficiency():
            return lambda data: links.with_share(data, cluster, change.link, change.fraction)
        case c.SetNodes():
            return lambda data: nodes.with_count(data, cluster, change.of, change.count)
        case c.AddNodes():
            return lambda data: nodes.with_more(data, cluster, change.of, change.count)
        case c.AddChips():
            return lambda data: nodes.with_more_chips(data, cluster, change.of, change.count)
    raise TypeError(f"not a change: {change!r}")


def _cluster_with(inputs: PlanInputs, edit: Callable[[ClusterData], ClusterData]) -> PlanInputs:
    document = Document("cluster", edit(inputs.cluster.resolved))
    changed = cluster_from_document(document, inputs.cluster.catalog)
    notes = tuple(dict.fromkeys((*inputs.cluster.notes, *changed.notes)))
    return replace(inputs, cluster=replace(changed, source=inputs.cluster.source, notes=notes))


def _model_with(inputs: PlanInputs, change: c.SetField) -> ModelInput:
    """The model with one value of its configuration changed, whatever file it came from."""
    resolved = inputs.model.resolved
    override = Override("model", change.path, change.value, change.text)
    if resolved.get("format") == HF_FORMAT:
        config = apply_overrides(Document("model", resolved["config"]), [override], "model").data
        changed: dict[str, JsonValue] = {**resolved, "config": config}
    else:
        layers = {k: v for k, v in resolved.items() if k != "format"}
        data = apply_overrides(Document("model", layers), [override], "model").data
        changed = {**(data if isinstance(data, dict) else {}), "format": resolved["format"]}
    graph = model_from_resolved(changed)
    return replace(
        inputs.model, resolved=changed, graph=graph, notes=(*inputs.model.notes, change.text)
    )


def _job_with(job: JobInput, path: tuple[str, ...], value: Any) -> JobInput:  # noqa: ANN401
    """The job with one field changed, and nothing else stated that was not before."""
    stated = job.spec.model_dump(mode="json", exclude_unset=True)
    override = Override("job", path, value, f"job.{'.'.join(path)}={value}")
    document = apply_overrides(Document("job", stated), [override], "job", JobSpec)
    data = document.data if isinstance(document.data, dict) else {}
    return replace(job, spec=job_spec(data))


def _check_technique(name: str) -> None:
    if name not in TECHNIQUES:
        close = nearest(name, TECHNIQUES)
        remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(TECHNIQUES)}"
        raise InputError([Problem("", f"no technique is called {name!r}", remedy)])
