"""A model as layers in a topological order and the tensors between them."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.shapes import LayerShape


@dataclass(frozen=True, slots=True)
class Layer:
    """One schedulable layer. ``name`` is the module path in the source model where one exists."""

    name: str
    shape: LayerShape


@dataclass(frozen=True, slots=True)
class TensorEdge:
    """A tensor from one layer to another, by index in ``ModelGraph.layers``.

    Its size for a micro-batch is
    ``rows * (elements_per_token * seq_len + elements_per_row) * bytes of the job's precision``.
    """

    source: int
    target: int
    elements_per_token: int
    elements_per_row: int = 0


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """Layers in topological order (every edge goes forward), edges, and shared weights.

    ``tied`` pairs layer indices that share one weight (embedding, head).
    ``parameters`` counts tied weights once; ``active_parameters`` is what one token uses.
    ``max_seq_len`` is the longest sequence that the configuration declares, 0 if it says nothing.
    ``family`` is the Hugging Face ``model_type`` or "layer-graph".
    """

    name: str
    family: str
    layers: tuple[Layer, ...]
    edges: tuple[TensorEdge, ...]
    tied: tuple[tuple[int, int], ...]
    parameters: int
    active_parameters: int
    max_seq_len: int = 0

    @property
    def has_experts(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(layer.shape.is_moe for layer in self.layers)

    def boundary_bytes(self, cut: int, rows: int, seq_len: int, bytes_per_element: int) -> int:
        """Bytes that cross the cut before layer ``cut``: each tensor once, however many readers."""
        widest: dict[int, int] = {}
        for e in self.edges:
            if e.source < cut <= e.target:
                size = e.elements_per_token * seq_len + e.elements_per_row
                widest[e.source] = max(widest.get(e.source, 0), size)
        return rows * sum(widest.values()) * bytes_per_element
