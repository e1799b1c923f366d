"""A layer-graph file: any layers and the tensors between them, for models that are no decoder.

    name: small-encoder-decoder
    tokens_per_row: 512
    layers:
      - name: encoder.0
        forward_flops_per_row: 7.3e9
        parameters: 7_079_424
        activation_bytes_per_row: 26_738_688
        tensor_parallel: true
    edges:
      - {from: encoder.0, to: decoder.0, elements_per_token: 768}

Encoders-decoders and multimodal models are graphs; they are cut along one topological order, here
the one in which ties follow the file (`layer_order` looks for a better one). A layer has one output
tensor: all edges that leave it are the same size, and a tensor crosses a cut once, however many
layers read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from costmodels.shapes import GenericWork, LayerShape
from planner.errors import InputError, Problem
from planner.graphs.model_graph import Layer, ModelGraph, TensorEdge
from planner.inputs.document import Document, JsonValue
from planner.inputs.problems import field_error, nearest, problems_from_validation

if TYPE_CHECKING:
    import networkx as nx

FORMAT = "layer-graph"


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise field_error("should be a number")
    return value


_Int = Annotated[int, BeforeValidator(_number), Field(ge=0, le=10**18)]
_Float = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e24)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GraphLayer(_Strict):
    """One layer by its totals for one row (one sequence or sample) of the batch."""

    name: str = Field(min_length=1, description="Unique; the module path where one exists.")
    forward_flops_per_row: _Float = Field(
        description="FLOP of the forward pass; a multiply-add is 2. The backward pass is twice it."
    )
    parameters: _Int = Field(description="Trainable weights.")
    activation_bytes_per_row: _Int = Field(
        description="Bytes kept for the backward pass when nothing is recomputed."
    )
    forward_bytes_moved_per_row: _Float = Field(
        default=0.0, description="Device memory traffic of the forward pass, 0 if unknown."
    )
    tensor_parallel: bool = Field(
        default=False, strict=True, description="Whether the layer may be sharded evenly."
    )


class GraphEdge(_Strict):
    """The output of ``from`` is an input of ``to``; its size is the sum of both parts."""

    source: str = Field(alias="from", description="Name of the layer that makes the tensor.")
    target: str = Field(alias="to", description="Name of the layer that reads it.")
    elements_per_token: _Int = Field(default=0, description="Elements for each token of a row.")
    elements_per_row: _Int = Field(default=0, description="Elements for each row, any length.")


class LayerGraph(_Strict):
    """A model as layers and edges in any order."""

    name: str = Field(min_length=1)
    tokens_per_row: Annotated[int, BeforeValidator(_number)] = Field(
        default=1,
        ge=1,
        le=10**9,
        description="Tokens of a row for which the figures hold; 1 when rows are not sequences.",
    )
    layers: tuple[GraphLayer, ...] = Field(min_length=1, max_length=100_000)
    edges: tuple[GraphEdge, ...] = ()
    keep_order: bool = Field(
        default=False,
        strict=True,
        description="Cut along the order of this file wherever the edges allow it, instead of "
        "the order whose splits promise the shortest steps.",
    )


def read_layer_graph(document: Document) -> tuple[LayerGraph, ModelGraph]:
    """Validates a layer-graph file and puts its layers and edges into topological order.

    Raises InputError with all problems; a cycle is named layer by layer.
    """
    import networkx as nx  # loaded where a graph is read: most models are none

    try:
        spec = LayerGraph.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, LayerGraph)) from None
    problems = [*_bad_names(spec, document), *_bad_edges(spec, document)]
    if problems:
        raise InputError(problems)
    graph: nx.DiGraph = nx.DiGraph()
    index = {layer.name: i for i, layer in enumerate(spec.layers)}
    graph.add_nodes_from(range(len(spec.layers)))
    graph.add_edges_from((index[e.source], index[e.target]) for e in spec.edges)
    problems = [*_cycle(spec, graph, document), *_islands(spec, graph, document)]
    if problems:
        raise InputError(problems)
    order = list(nx.lexicographical_topological_sort(graph))
    place = {old: new for new, old in enumerate(order)}
    ordered = LayerGraph(
        name=spec.name,
        tokens_per_row=spec.tokens_per_row,
        layers=tuple(spec.layers[i] for i in order),
        edges=tuple(
            sorted(spec.edges, key=lambda e: (place[index[e.source]], place[index[e.target]]))
        ),
        keep_order=spec.keep_order,
    )
    return ordered, model_graph_of(ordered)


def layer_graph_resolved(spec: LayerGraph) -> dict[str, JsonValue]:
    """Plain JSON from which :func:`layer_graph_from_resolved` rebuilds the same graph."""
    return {"format": FORMAT, **spec.model_dump(mode="json", by_alias=True)}


def layer_graph_from_resolved(resolved: Mapping[str, JsonValue]) -> ModelGraph:
    """The graph of :func:`layer_graph_resolved`. Raises InputError for anything else."""
    data = {k: v for k, v in resolved.items() if k != "format"}
    return read_layer_graph(Document("model", data))[1]


def _bad_names(spec: LayerGraph, document: Document) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, layer in enumerate(spec.layers):
        if layer.name in first:
            line = document.line(("layers", first[layer.name], "name"))
            at = f" on line {line}" if line else f" as layers[{first[layer.name]}]"
            message = f"'{layer.name}' is already used{at}"
            yield Problem(document.where(("layers", i, "name")), message, "names are unique")
        first.setdefault(layer.name, i)


def _bad_edges(spec: LayerGraph, document: Document) -> Iterator[Problem]:
    names = {layer.name for layer in spec.layers}
    sizes: dict[str, tuple[int, int]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for i, edge in enumerate(spec.edges):
        where = document.where(("edges", i))
        for end, name in (("from", edge.source), ("to", edge.target)):
            if name not in names:
                close = nearest(name, names)
                remedy = f"did you mean {close[0]}?" if close else "name a layer of this file"
                yield Problem(document.where(("edges", i, end)), f"no layer '{name}'", remedy)
        size = (edge.elements_per_token, edge.elements_per_row)
        if not any(size):
            yield Problem(where, "carries nothing", "give elements_per_token or elements_per_row")
        elif sizes.setdefault(edge.source, size) != size:
            message = f"'{edge.source}' has another edge of a different size"
            remedy = "a layer has one output tensor: describe a layer with two outputs as two"
            yield Problem(where, message, remedy)
        seen[edge.source, edge.target] += 1
        if seen[edge.source, edge.target] == 2:
            message = f"'{edge.source}' to '{edge.target}' is given twice"
            yield Problem(where, message, "keep one of the two")


def _cycle(spec: LayerGraph, graph: nx.DiGraph, document: Document) -> Iterator[Problem]:
    import networkx as nx

    try:
        cycle = nx.find_cycle(graph)
    except nx.NetworkXNoCycle:
        return
    walk = [spec.layers[edge[0]].name for edge in cycle]
    message = f"the layers form a cycle: {' -> '.join([*walk, walk[0]])}"
    yield Problem(document.where(("edges",)), message, "remove one of these edges")


def _islands(spec: LayerGraph, graph: nx.DiGraph, document: Document) -> Iterator[Problem]:
    import networkx as nx

    parts = sorted(min(part) for part in nx.weakly_connected_components(graph))
    for start in parts[1:]:
        message = f"'{spec.layers[start].name}' is not connected to '{spec.layers[0].name}'"
        yield Problem(document.where(("layers", start)), message, "add the edges between them")


def model_graph_of(spec: LayerGraph) -> ModelGraph:
    """The graph of a spec whose layers are in topological order."""
    index = {layer.name: i for i, layer in enumerate(spec.layers)}
    incoming: Counter[str] = Counter()
    for e in spec.edges:
        incoming[e.target] += e.elements_per_token + -(-e.elements_per_row // spec.tokens_per_row)
    parameters = sum(layer.parameters for layer in spec.layers)
    return ModelGraph(
        name=spec.name,
        family=FORMAT,
        layers=tuple(Layer(s.name, _shape(s, incoming[s.name])) for s in spec.layers),
        edges=tuple(
            TensorEdge(index[e.source], index[e.target], e.elements_per_token, e.elements_per_row)
            for e in spec.edges
        ),
        tied=(),
        parameters=parameters,
        active_parameters=parameters,
        max_seq_len=spec.tokens_per_row,
    )


def _shape(layer: GraphLayer, hidden: int) -> LayerShape:
    """``hidden`` is the width of the layer's input for one token: what recomputation keeps."""
    work = GenericWork(
        forward_flops_per_row=layer.forward_flops_per_row,
        activation_bytes_per_row=layer.activation_bytes_per_row,
        forward_bytes_moved_per_row=layer.forward_bytes_moved_per_row,
        tensor_parallel=layer.tensor_parallel,
    )
    return LayerShape("generic", hidden, generic=work, generic_parameters=layer.parameters)
