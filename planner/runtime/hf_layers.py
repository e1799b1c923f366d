"""Embedding, block and head of a Hugging Face decoder as layers of the runtime."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.pytorch_utils import Conv1D

from planner.runtime.hf_families import Family
from planner.runtime.regions import Region, enter, leave
from planner.runtime.vocabulary import VocabularyEmbedding, VocabularyHead

SELECTIVE = "planner_recomputed_sdpa"
"""Name of the attention that keeps its inputs only and runs again in the backward pass."""


def _recomputed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401 - whatever the library hands its attention
) -> tuple[Tensor, None]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0]
        return out

    out = checkpoint(attend, query, key, value, use_reentrant=False)
    return out, None


AttentionInterface.register(SELECTIVE, _recomputed_attention)


class EmbeddingLayer(nn.Module):
    """Token table, and learned positions where the family has them."""

    def __init__(
        self,
        tokens: VocabularyEmbedding,
        positions: nn.Embedding | None,
        dropout: nn.Module | None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.positions = positions
        self.dropout = dropout
        self.region: Region | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """(rows, sequence) to (rows, sequence or its part, hidden)."""
        hidden: Tensor = self.tokens(ids)
        if self.positions is not None:
            length = hidden.shape[1]
            shard = self.region.shard if self.region is not None else 0
            first = shard * length if length < ids.shape[1] else 0
            places = torch.arange(first, first + length, device=ids.device)
            hidden = hidden + self.positions(places)
        return hidden if self.dropout is None else self.dropout(hidden)


class Positions(nn.Module):
    """Rotary tables of a sequence length, computed once; None for families without them."""

    def __init__(self, rotary: nn.Module | None) -> None:
        super().__init__()
        self.rotary = rotary
        self.known: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, hidden: Tensor, length: int) -> tuple[Tensor, Tensor] | None:
        """cos and sin for positions 0 to ``length``."""
        if self.rotary is None:
            return None
        key = (length, hidden.dtype, hidden.device)
        if key not in self.known:
            with torch.no_grad():
                self.known[key] = self.rotary(hidden, position_ids=_places(length, hidden))
        return self.known[key]


class BlockLayer(nn.Module):
    """One decoder block with the library's own module inside."""

    def __init__(self, block: nn.Module, positions: Positions, window: int | None) -> None:
        super().__init__()
        self.block = block
        self.positions = positions
        self.window = window
        self.region: Region | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, sequence or its part, hidden) to the same."""
        length = hidden.shape[1]
        if self.region is not None and self.region.split_sequence:
            length *= self.region.shards
        extra: dict[str, Any] = {"attention_mask": self._mask(length, hidden)}
        tables = self.positions(hidden, length)
        if tables is not None:
            extra["position_embeddings"] = tables
        out: Tensor | tuple[Tensor, ...] = self.block(hidden, **extra)
        return out[0] if isinstance(out, tuple) else out

    def _mask(self, length: int, hidden: Tensor) -> Tensor | None:
        """None where plain causal attention does; else what a sliding window lets through."""
        if self.window is None or length <= self.window:
            return None
        places = torch.arange(length, device=hidden.device)
        distance = places.unsqueeze(1) - places.unsqueeze(0)
        return ((distance >= 0) & (distance < self.window)).view(1, 1, length, length)


class HeadLayer(nn.Module):
    """Final norm and the product with the vocabulary."""

    def __init__(self, norm: nn.Module, logits: VocabularyHead) -> None:
        super().__init__()
        self.norm = norm
        self.logits = logits

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, sequence or its part, hidden) to (rows, sequence, words of this member)."""
        out: Tensor = self.logits(self.norm(hidden))
        return out


class LeavingLinear(nn.Module):
    """A product whose inputs are cut: results are added up over the group, then the bias."""

    def __init__(self, linear: nn.Module, region: Region) -> None:
        super().__init__()
        weight, bias = linear.weight, linear.bias
        if not isinstance(weight, nn.Parameter):
            raise TypeError("a product needs a weight")
        self.weight = weight
        self.bias = bias if isinstance(bias, nn.Parameter) else None
        self.transposed = isinstance(linear, Conv1D)
        self.region = region

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, sequence, inputs of this member) to (rows, sequence or its part, outputs)."""
        weight = self.weight if self.transposed else self.weight.t()
        out = leave(inputs @ weight, self.region)
        return out if self.bias is None else out + self.bias


def install_block(
    layer: BlockLayer, family: Family, region: Region, *, heads: int, kv_heads: int
) -> None:
    """Turn a block, whose weights have been cut, into this member's part of the region."""
    layer.region = region
    if region.shards == 1:
        return
    attention = layer.block.get_submodule(family.attention)
    _scale_heads(attention, region.shards, heads, kv_heads)
    for name in family.leaving:
        parent, _, child = name.rpartition(".")
        owner = layer.block.get_submodule(parent)
        setattr(owner, child, LeavingLinear(getattr(owner, child), region))
    for module in layer.block.modules():
        if isinstance(module, Conv1D):
            module.nf = module.weight.shape[1]

    def into(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        if "hidden_states" in kwargs:
            kwargs = {**kwargs, "hidden_states": enter(kwargs["hidden_states"], region)}
            return args, kwargs
        return (enter(args[0], region), *args[1:]), kwargs

    for name in (family.attention, family.mlp):
        layer.block.get_submodule(name).register_forward_pre_hook(into, with_kwargs=True)


def recompute_attention(layer: BlockLayer, family: Family) -> None:
    """Keep only queries, keys and values of the attention; it runs again in the backward."""
    attention = layer.block.get_submodule(family.attention)
    config: Any = copy.copy(attention.config)
    config._attn_implementation = SELECTIVE
    attention.config = config


def _scale_heads(attention: Any, shards: int, heads: int, kv_heads: int) -> None:  # noqa: ANN401
    """The numbers of heads that the library's attention keeps beside its weights."""
    own, own_kv = heads // shards, max(1, kv_heads // shards)
    attention.num_key_value_groups = own // own_kv
    if hasattr(attention, "num_heads"):
        attention.num_heads = own
    if hasattr(attention, "split_size"):
        attention.split_size = attention.split_size // shards


def _places(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device).unsqueeze(0)
