"""What one layer of a model is made of, before anybody decides how to run it.

A layer is a list of matrix products of one token, an optional attention core, lookup tables and
small vectors. That is enough for GQA, MLA, gated MLPs, mixtures of experts and tied embeddings,
and it makes the parameter count exact by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Split = Literal["column", "row", "replicated"]
LayerKind = Literal["embedding", "block", "head", "generic"]


@dataclass(frozen=True, slots=True)
class Matmul:
    """One weight matrix applied to every token (or to a share of the tokens, for experts).

    ``inputs`` is k and ``outputs`` is n of the product ``[tokens, k] x [k, n]``. Tensor
    parallelism divides n (``column``), k (``row``) or nothing (``replicated``).
    ``experts`` counts the stored copies, ``active_experts`` those that each token passes.
    ``expert_groups``: how many groups they lie in, and from how many of them the experts of a token
    may come (a router that is limited).
    """

    name: str
    inputs: int
    outputs: int
    split: Split
    experts: int = 1
    active_experts: int = 1
    expert_groups: tuple[int, int] = (1, 1)

    @property
    def parameters(self) -> int:
        """Stored weights over all experts."""
        return self.inputs * self.outputs * self.experts

    @property
    def active_parameters(self) -> int:
        """Weights that one token is multiplied with."""
        return self.inputs * self.outputs * self.active_experts


@dataclass(frozen=True, slots=True)
class AttentionCore:
    """Softmax(QK^T)V without its projections. Dimensions are per head.

    ``window`` keys at most are seen by a query, 0 all of them.
    """

    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    causal: bool = True
    window: int = 0

    def pairs(self, seq_len: int, *, causal: bool | None = None) -> float:
        """Pairs of query and key in one sequence; ``causal`` None is as the layer says."""
        triangle = self.causal if causal is None else causal
        reach = min(seq_len, self.window) if self.window else seq_len
        if not triangle:
            return float(seq_len) * reach
        return float(seq_len) * reach - reach * reach / 2


@dataclass(frozen=True, slots=True)
class GenericWork:
    """A layer that the user describes by its totals, for one row (one sequence) of the batch."""

    forward_flops_per_row: float
    activation_bytes_per_row: int
    forward_bytes_moved_per_row: float = 0.0
    tensor_parallel: bool = False
    """Whether the layer may be sharded; its work then divides evenly."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A block's matrices by part. ``mlp_width`` is the MLP's inner width per token, all active
    experts together; ``routed`` is how many experts each token passes.

    ``attention_inputs`` and ``mlp_inputs`` are the widths of the tensors that feed the part's
    column-parallel and replicated matrices outside of experts, each once. ``regions`` parts end
    in a row-parallel matrix, ``dense_regions`` in one that is not an expert's.
    """

    attention: tuple[Matmul, ...]
    mlp: tuple[Matmul, ...]
    mlp_width: int
    routed: int
    attention_inputs: tuple[int, ...]
    mlp_inputs: tuple[int, ...]
    regions: int
    dense_regions: int


@dataclass(frozen=True)
class LayerShape:
    """The immutable description of one layer.

    ``vector_parameters`` are norms and biases; ``table_parameters`` are lookup tables (embedding,
    learned positions), which cost memory and no matrix product. ``tied_to`` of a head means that
    its matrix is the embedding table of another layer and is not counted twice in the model.
    """

    kind: LayerKind
    hidden: int
    # Not hashed: it takes long, and the few shapes of a model differ elsewhere, or are compared.
    matmuls: tuple[Matmul, ...] = field(default=(), hash=False)
    attention: AttentionCore | None = None
    gated: bool = False
    vector_parameters: int = 0
    table_parameters: int = 0
    vocab: int = 0
    generic: GenericWork | None = None
    generic_parameters: int = 0

    @cached_property
    def parameters(self) -> int:
        """Stored parameters of the layer, all experts included."""
        return (
            sum(m.parameters for m in self.matmuls)
            + self.vector_parameters
            + self.table_parameters
            + self.generic_parameters
        )

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token uses; lookup tables count whole, as model cards do."""
        return (
            sum(m.active_parameters for m in self.matmuls)
            + self.vector_parameters
            + self.table_parameters
            + self.generic_parameters
        )

    @cached_property
    def is_moe(self) -> bool:
        """Whether any matrix is one of several experts."""
        return any(m.experts > 1 for m in self.matmuls)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where attention ends and the MLP begins."""
        split = 0
        if self.attention is not None:
            ends = [i for i, m in enumerate(self.matmuls) if m.split == "row" and m.experts == 1]
            split = ends[0] + 1 if ends else len(self.matmuls)
        parts = attention, mlp = self.matmuls[:split], self.matmuls[split:]
        rows = [[m for m in part if m.split == "row"] for part in parts]
        return Anatomy(
            attention=attention,
            mlp=mlp,
            mlp_width=sum(m.inputs * m.active_experts for m in rows[1]),
            routed=max((m.active_experts for m in mlp if m.experts > 1), default=0),
            attention_inputs=_input_widths(attention),
            mlp_inputs=_input_widths(mlp),
            regions=sum(map(bool, rows)),
            dense_regions=sum(any(m.experts == 1 for m in part) for part in rows),
        )


def _input_widths(matmuls: tuple[Matmul, ...]) -> tuple[int, ...]:
    return tuple(sorted({m.inputs for m in matmuls if m.split != "row" and m.experts == 1}))
