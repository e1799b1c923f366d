"""The order along which a layer graph is cut: the one whose splits promise the shortest steps.

Which order is best depends on the chips and the job, which a model file does not know. It is
chosen for stated ratios of work to traffic (`planner.partition.order`), so that one model has one
order on every cluster, and what its takt may lose is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.graphs.model_graph import ModelGraph
from planner.inputs.layer_graph import GraphEdge, LayerGraph, model_graph_of

if TYPE_CHECKING:
    from planner.partition.order import OrderChoice

REFERENCE_FLOPS = 150e12
"""FLOP/s of a stage: half of the dense 16-bit peak of an A100."""

REFERENCE_BANDWIDTHS = (20e9, 1e9)
"""Bytes/s between two stages: a 200 Gb/s port at 80 %, and a 10 Gb/s port."""

BYTES_PER_ELEMENT = 2
"""Activations and their gradients in 16 bits."""

PASSES = 3
"""Forward, and a backward of twice the work."""

ORDER_NOTE = "layers are cut along"
"""How the sentence about the order begins."""

MAX_LAYERS = 400
"""Orders of longer graphs are not compared: half a second is all that reading may take."""


def with_best_order(spec: LayerGraph) -> tuple[LayerGraph, ModelGraph, tuple[str, ...]]:
    """The same layers in the order along which they will be cut, and what to say about it.

    ``spec`` is in a topological order already, which stays where ``keep_order`` says so.
    """
    if len(spec.layers) > MAX_LAYERS:
        note = f"{ORDER_NOTE} the order of the file: more than {MAX_LAYERS} to compare"
        return spec, model_graph_of(spec), (note,)
    choice = None if spec.keep_order else _choice(spec)
    if choice is None:
        return spec, model_graph_of(spec), ()
    ordered = LayerGraph(
        name=spec.name,
        tokens_per_row=spec.tokens_per_row,
        layers=tuple(spec.layers[v] for v in choice.order),
        edges=_sorted_edges(spec, choice),
    )
    return ordered, model_graph_of(ordered), (_note(choice),)


def _choice(spec: LayerGraph) -> OrderChoice | None:
    from planner.partition.order import choose_order  # late: numpy, which few inputs need

    index = {layer.name: i for i, layer in enumerate(spec.layers)}
    sent = [0] * len(spec.layers)
    for edge in spec.edges:
        elements = edge.elements_per_token * spec.tokens_per_row + edge.elements_per_row
        # activations forward, their gradients back
        sent[index[edge.source]] = 2 * elements * BYTES_PER_ELEMENT
    return choose_order(
        [PASSES * layer.forward_flops_per_row / REFERENCE_FLOPS for layer in spec.layers],
        [(index[e.source], index[e.target]) for e in spec.edges],
        [[size / rate for size in sent] for rate in REFERENCE_BANDWIDTHS],
    )


def _sorted_edges(spec: LayerGraph, choice: OrderChoice) -> tuple[GraphEdge, ...]:
    place = {spec.layers[v].name: i for i, v in enumerate(choice.order)}
    return tuple(sorted(spec.edges, key=lambda e: (place[e.source], place[e.target])))


def _note(choice: OrderChoice) -> str:
    """One sentence for the plan."""
    order = "another order than the file's" if choice.changed else "the order of the file"
    span = f"2 to {choice.stages} equal stages"
    how = f"proved over {choice.cuts} cuts" if choice.exact else "against work alone"
    if choice.loss <= 1e-9:
        return f"{ORDER_NOTE} {order}; no split of the graph into {span} has a shorter takt ({how})"
    lost = f"the takt of {span} is at most {choice.loss:.1%} above that of any split ({how})"
    return f"{ORDER_NOTE} {order}; {lost}"
