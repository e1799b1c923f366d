"""The model of a job: a Hugging Face ``config.json``, a layer graph, or a shipped preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from planner.errors import InputError, Problem
from planner.graphs.model_graph import ModelGraph
from planner.inputs import hf_config, layer_graph
from planner.inputs.document import JsonValue
from planner.inputs.hf_families import FAMILIES
from planner.inputs.layer_order import with_best_order
from planner.inputs.overrides import Override, apply_overrides
from planner.inputs.problems import nearest
from planner.inputs.reading import read_document
from planner.inputs.resources import SUFFIXES, fixture, fixture_names
from planner.inputs.size_names import check_size

_HF_KEYS = frozenset({"model_type", "architectures", "hidden_size", "n_embd"})


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A model as it was understood.

    ``name`` is what to call it, ``source`` the file or preset that was read, ``resolved`` plain
    JSON that holds the model alone (not where it was found), ``notes`` the assumed defaults.
    """

    name: str
    source: str
    resolved: dict[str, JsonValue]
    graph: ModelGraph
    notes: tuple[str, ...]


def load_model(spec: str | Path, overrides: Sequence[Override] = ()) -> ModelInput:
    """Reads a preset by its name, a ``config.json``, a folder with one, or a layer-graph file.

    A bare name is a preset even where a folder has that name; write ``./name`` for the folder.
    ``overrides`` of the input "model" replace values of the file before it is checked.
    Raises InputError with all problems, also when the parameter count contradicts the name.
    """
    path, preset = _find(spec)
    document = read_document(path)
    if preset:
        document = replace(document, source=preset)
    changes = [o for o in overrides if o.root == "model"]
    if changes:
        document = apply_overrides(document, changes, "model", _schema(document.data))
    data = document.data
    if isinstance(data, dict) and not _HF_KEYS.isdisjoint(data):
        hf = hf_config.read_hf(document, data)
        graph, resolved, notes = hf.graph, hf.resolved, hf.notes
    elif isinstance(data, dict) and "layers" in data:
        layers, graph, notes = with_best_order(layer_graph.read_layer_graph(document)[0])
        resolved = layer_graph.layer_graph_resolved(layers)
    else:
        message = "is neither a Hugging Face config.json (model_type) nor a layer graph (layers)"
        remedy = "see `planner schema model` for layer graphs"
        raise InputError([Problem(document.source, message, remedy)])
    called = preset or _called(path)
    if changes:
        size_notes = ["changed by hand, so the size in the name was not checked"]
    else:
        names = [graph.name, called]
        total, active = graph.parameters, graph.active_parameters
        problems, size_notes = check_size(names, total, active, document.source)
        if problems:
            raise InputError(problems)
    return ModelInput(
        name=called,
        source=preset or str(spec),
        resolved=resolved,
        graph=graph,
        notes=(*notes, *size_notes),
    )


def model_from_resolved(resolved: Mapping[str, JsonValue]) -> ModelGraph:
    """The graph that ``ModelInput.resolved`` was made with. Raises InputError for other values."""
    form = resolved.get("format")
    if form == hf_config.FORMAT:
        return hf_config.hf_from_resolved(resolved)
    if form == layer_graph.FORMAT:
        return layer_graph.layer_graph_from_resolved(resolved)
    known = f"{hf_config.FORMAT} or {layer_graph.FORMAT}"
    raise InputError([Problem("model", f"unknown format {form!r}", f"the format is {known}")])


def model_json_schema() -> dict[str, JsonValue]:
    """The JSON Schema of layer-graph files."""
    return layer_graph.LayerGraph.model_json_schema(by_alias=True)


def _find(spec: str | Path) -> tuple[Path, str]:
    """The file to read, and the preset's name if it is one."""
    text = str(spec)
    path = Path(spec)
    bare = path.suffix.lower() not in SUFFIXES and path.name == text
    if bare:
        shipped = fixture("models", text)
        if shipped is not None:
            return shipped, shipped.stem
    if path.is_dir():
        if (path / "config.json").is_file():
            return path / "config.json", ""
        message = "the folder holds no config.json"
        raise InputError([Problem(text, message, "give the folder of a model or a file")])
    if path.exists() or (not bare and path.suffix.lower() in SUFFIXES):
        return path, ""
    presets = fixture_names("models")
    close = nearest(path.name, presets)
    start = f"did you mean {' or '.join(close)}? " if close else ""
    message = "no such file and no preset of that name (nothing is downloaded)"
    remedy = (
        f"{start}give the path of a config.json or one of {', '.join(presets)} "
        "(planner models list)"
    )
    raise InputError([Problem(text, message, remedy)])


def _called(path: Path) -> str:
    """The file's own name, or its folder's when the file is called config.json."""
    full = path.resolve()
    if full.stem != "config":
        return full.stem
    # Hub caches keep files in models--ORG--NAME/snapshots/REVISION/.
    if full.parent.parent.name == "snapshots":
        return full.parent.parent.parent.name.rpartition("--")[2]
    return full.parent.name


def _schema(data: JsonValue) -> type[BaseModel]:
    """The keys that an override may add to a file."""
    model_type = data.get("model_type") if isinstance(data, dict) else None
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type].config
    return layer_graph.LayerGraph
