"""What exporters need to know of a model: its blocks by number, and its own configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.graphs.model_graph import ModelGraph
from planner.inputs.hf_config import FORMAT
from planner.plan import Plan


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its exporters see it.

    ``config`` is the validated Hugging Face configuration, empty for a layer graph. A decoder is
    one embedding (layer 0), ``blocks`` equal-numbered blocks from layer 1 on, and one head.
    """

    name: str
    family: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    blocks: int
    parameters: int
    tied: bool

    @property
    def is_decoder(self) -> bool:
        """Whether the model is a Hugging Face decoder, not a layer graph."""
        return bool(self.config)

    def size(self, key: str) -> int:
        """A whole number of the configuration. KeyError if the family does not have it."""
        return int(self.config[key])

    def blocks_in(self, first: int, end: int) -> tuple[int, int]:
        """Blocks ``[a, b)``, counted from 0, among layers ``[first, end)``."""
        low, high = (1, 1 + self.blocks) if self.is_decoder else (0, len(self.layers))
        return max(first, low) - low, max(min(end, high), low) - low


def model_facts(plan: Plan, graph: ModelGraph) -> ModelFacts:
    """The facts of the model that a plan was made for."""
    resolved = plan.inputs.model.resolved
    decoder = resolved.get("format") == FORMAT
    return ModelFacts(
        name=plan.inputs.model.name,
        family=graph.family,
        config=dict(resolved["config"]) if decoder else {},
        layers=plan.layer_order,
        blocks=len(plan.layer_order) - 2 if decoder else len(plan.layer_order),
        parameters=graph.parameters,
        tied=bool(graph.tied),
    )
