"""A Hugging Face ``config.json`` as a model graph with an exact parameter count."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import AliasChoices, ValidationError

from costmodels.shapes import LayerShape
from planner.errors import InputError, Problem
from planner.graphs.model_graph import Layer, ModelGraph, TensorEdge
from planner.inputs import hf_keys
from planner.inputs.document import Document, JsonValue
from planner.inputs.hf_families import FAMILIES, Network
from planner.inputs.problems import nearest, problems_from_validation
from planner.inputs.size_names import size_text

FORMAT = "hugging-face"
HEAD_NAME = "lm_head"
"""The last layer: the final norm and the product with the vocabulary, in every family."""


@dataclass(frozen=True, slots=True)
class HfModel:
    """A validated configuration, every default filled in."""

    name: str
    config: hf_keys.HfConfig
    graph: ModelGraph
    notes: tuple[str, ...]

    @property
    def resolved(self) -> dict[str, JsonValue]:
        """Plain JSON from which :func:`hf_from_resolved` rebuilds the same graph."""
        config = self.config.model_dump(mode="json")
        return {"format": FORMAT, "name": self.name, "config": config}


def read_hf(document: Document, data: Mapping[str, JsonValue]) -> HfModel:
    """Validates the values of a ``config.json``.

    Raises InputError with everything that is wrong, and for a model type that is not known.
    """
    family = FAMILIES[_model_type(document, data)]
    known = _spellings(family.config)
    problems = list(_conflicts(document, data, known)) + list(_typos(document, data, known))
    try:
        config = family.config.model_validate(dict(data))
    except ValidationError as error:
        raise InputError([*problems, *problems_from_validation(error, document)]) from None
    problems += [
        Problem(document.where((_spelled(data, known, field),)), message, remedy)
        for field, message, remedy in _impossible(config)
    ]
    problems += _outside(document, data)
    if problems:
        raise InputError(problems)
    network = family.build(config)
    graph = _graph(_last_part(data.get("_name_or_path")), config, network)
    return HfModel(graph.name, config, graph, tuple(_notes(config, data)))


def hf_from_resolved(resolved: Mapping[str, JsonValue]) -> ModelGraph:
    """The graph of :attr:`HfModel.resolved`. Raises InputError for anything else."""
    document = Document("model", dict(resolved))
    data = resolved.get("config")
    name = resolved.get("name")
    if not isinstance(data, dict) or not isinstance(name, str):
        raise InputError([Problem("model", "needs a name and a config")])
    model = read_hf(Document(document.source, data), {**data, "_name_or_path": name})
    return model.graph


def _last_part(name_or_path: JsonValue) -> str:
    parts = str(name_or_path or "").replace("\\", "/").split("/")
    return next((p for p in reversed(parts) if p not in ("", ".", "..")), "")


def _model_type(document: Document, data: Mapping[str, JsonValue]) -> str:
    given = data.get("model_type")
    if given is None:
        remedy = f"give one of {', '.join(sorted(FAMILIES))}"
        raise InputError([Problem(document.where(("model_type",)), "is missing", remedy)])
    if isinstance(given, str) and given in FAMILIES:
        return given
    close = nearest(str(given), FAMILIES)
    start = f"did you mean {close[0]}? or " if close else ""
    remedy = f"{start}describe the model as a layer graph"
    message = f"{_plain(given)} is not supported; supported: {', '.join(sorted(FAMILIES))}"
    raise InputError([Problem(document.where(("model_type",)), message, remedy)])


def _spellings(config: type[hf_keys.HfConfig]) -> dict[str, tuple[str, ...]]:
    """Each field and the keys that a file may write it with."""
    known: dict[str, tuple[str, ...]] = {}
    for field, info in config.model_fields.items():
        alias = info.validation_alias
        names = [str(a) for a in alias.choices] if isinstance(alias, AliasChoices) else []
        known[field] = tuple(dict.fromkeys([*names, field]))
    return known


def _spelled(
    data: Mapping[str, JsonValue], known: Mapping[str, tuple[str, ...]], field: str
) -> str:
    return next((k for k in known[field] if data.get(k) is not None), field)


def _conflicts(
    document: Document, data: Mapping[str, JsonValue], known: Mapping[str, tuple[str, ...]]
) -> Iterator[Problem]:
    for names in known.values():
        given = [n for n in names if data.get(n) is not None]
        for other in given[1:]:
            if data[other] != data[given[0]]:
                message = f"{data[other]} contradicts {given[0]}: {data[given[0]]}"
                yield Problem(document.where((other,)), message, "keep one of the two")


def _typos(
    document: Document, data: Mapping[str, JsonValue], known: Mapping[str, tuple[str, ...]]
) -> Iterator[Problem]:
    """Files carry many keys that do not matter here, so only near misses are errors."""
    absent = {
        spelling: field
        for field, names in known.items()
        if not any(n in data for n in names)
        for spelling in names
    }
    everything = {n for names in known.values() for n in names}
    for key in data:
        close = difflib.get_close_matches(key, sorted(absent), n=1, cutoff=0.92)
        if key not in everything and close:
            where = document.where((key,))
            yield Problem(where, "unknown key", f"did you mean {close[0]}?")


def _impossible(c: hf_keys.HfConfig) -> Iterator[tuple[str, str, str]]:
    """Sizes that contradict one another: field, message, remedy."""
    given = c.model_fields_set
    kv_heads = getattr(c, "num_key_value_heads", None)
    if kv_heads is not None and c.num_attention_heads % kv_heads:
        message = f"{kv_heads} does not divide num_attention_heads {c.num_attention_heads}"
        yield "num_key_value_heads", message, "each key-value head serves as many query heads"
    needs_division = "head_dim" not in given and not isinstance(
        c, (hf_keys.DeepSeek, hf_keys.Qwen3, hf_keys.Glm)
    )
    if needs_division and c.hidden_size % c.num_attention_heads:
        message = f"{c.num_attention_heads} does not divide hidden_size {c.hidden_size}"
        has_dim = "head_dim" in type(c).model_fields
        remedy = "correct one of the two" + (" or give head_dim" if has_dim else "")
        yield "num_attention_heads", message, remedy
    experts = next((f for f in _EXPERTS if f in type(c).model_fields), None)
    if experts is not None:
        count, active = getattr(c, experts), getattr(c, "num_experts_per_tok", 0)
        if count and active > count:
            message = f"{active} is more than {experts} {count}"
            yield "num_experts_per_tok", message, "a token passes at most all experts"
    dense = getattr(c, "first_k_dense_replace", 0)
    if dense > c.num_hidden_layers:
        message = f"{dense} is more than num_hidden_layers {c.num_hidden_layers}"
        yield "first_k_dense_replace", message, "give at most the number of layers"
    stray = [i for i in getattr(c, "mlp_only_layers", ()) if i >= c.num_hidden_layers]
    if stray:
        message = f"names layer {stray[0]} of {c.num_hidden_layers}"
        yield "mlp_only_layers", message, "layers count from 0"


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def _outside(document: Document, data: Mapping[str, JsonValue]) -> Iterator[Problem]:
    """Switches that change the architecture into one that is not described here."""
    for key in ("is_encoder_decoder", "add_cross_attention"):
        if data.get(key) is True:
            message = "true is not supported: only decoders are read from config.json"
            yield Problem(document.where((key,)), message, "describe the model as a layer graph")
    name = data.get("_name_or_path")
    if name is not None and not isinstance(name, str):
        yield Problem(document.where(("_name_or_path",)), f"{name} should be text")


def _graph(name: str, c: hf_keys.HfConfig, network: Network) -> ModelGraph:
    layers = (
        Layer(network.embedding_name, network.embedding),
        *(Layer(f"{network.block_prefix}.{i}", b) for i, b in enumerate(network.blocks)),
        Layer(HEAD_NAME, network.head),
    )
    last = len(layers) - 1
    shared = _head_matrix(network.head) if c.tie_word_embeddings else 0
    parameters = sum(layer.shape.parameters for layer in layers) - shared
    return ModelGraph(
        name=name or f"{c.model_type} {size_text(parameters)}",
        family=c.model_type,
        layers=layers,
        edges=tuple(TensorEdge(i, i + 1, c.hidden_size) for i in range(last)),
        tied=((0, last),) if c.tie_word_embeddings else (),
        parameters=parameters,
        active_parameters=sum(layer.shape.active_parameters for layer in layers) - shared,
        max_seq_len=c.max_position_embeddings,
    )


def _head_matrix(head: LayerShape) -> int:
    return sum(m.parameters for m in head.matmuls if m.name == HEAD_NAME)


def _notes(c: hf_keys.HfConfig, data: Mapping[str, JsonValue]) -> Iterator[str]:
    """What was assumed or left out."""
    defaults = [
        f"{field}={_plain(getattr(c, field))}"
        for field in type(c).model_fields
        if field not in c.model_fields_set and field != "max_position_embeddings"
    ]
    if not c.max_position_embeddings:
        yield "no max_position_embeddings in the file: any sequence length is taken"
    if defaults:
        yield f"not in the file, so as {c.model_type} has it by default: {', '.join(defaults)}"
    extra = getattr(c, "num_nextn_predict_layers", 0)
    if extra:
        yield f"num_nextn_predict_layers={extra}: multi-token prediction layers are left out"
    window = data.get("sliding_window")
    used = data.get("use_sliding_window", c.model_type in ("mistral", "mixtral", "phi3"))
    longest = c.max_position_embeddings
    if used is True and isinstance(window, int) and 0 < window < longest:
        yield f"sliding_window={window}: attention is priced over the whole sequence"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
