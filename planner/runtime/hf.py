"""Hugging Face causal language models as layers: Llama, Mistral, Qwen and GPT-2 styles.

The library's own modules compute; what is ours is how their weights are cut and joined. Weights
come from the given model, or, if it lies on the meta device, from the library's initialisation
with a seed per layer, so that every plan starts from the same model and no process ever holds all
of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from planner.errors import InputError, Problem
from planner.plan import Interval, Recompute
from planner.runtime.hf_families import FAMILIES, Family, block_cut
from planner.runtime.hf_layers import (
    BlockLayer,
    EmbeddingLayer,
    HeadLayer,
    Positions,
    install_block,
    recompute_attention,
)
from planner.runtime.model import State
from planner.runtime.regions import Region
from planner.runtime.shards import Cut, equal, whole
from planner.runtime.vocabulary import (
    VocabularyEmbedding,
    VocabularyHead,
    vocabulary_cross_entropy,
)


def model_of_config(config: Mapping[str, Any], *, seed: int = 0) -> HfCausalLM:
    """The model that a ``config.json`` describes, with fresh weights; nothing is downloaded.

    Raises InputError for a model type that cannot run.
    """
    kind = str(config.get("model_type"))
    _family(kind)
    keys = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    resolved = AutoConfig.for_model(kind, **keys)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(resolved, attn_implementation="sdpa")
    return HfCausalLM(model, seed=seed)


class HfCausalLM:
    """A :class:`~planner.runtime.model.LayeredModel` over a ``…ForCausalLM`` module.

    Layers are the embedding, the blocks, and the final norm with the head. The model itself is
    not changed. ``seed`` matters on the meta device only.
    """

    sequence_parallel = True

    def __init__(self, model: PreTrainedModel, *, seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        self.config = copy.deepcopy(model.config)
        self.config._attn_implementation = "sdpa"
        self.family: Family = _family(self.config.model_type)
        self.base: nn.Module = getattr(model, self.family.base)
        self.heads: int = self.config.num_attention_heads
        self.kv_heads: int = getattr(self.config, "num_key_value_heads", None) or self.heads
        count = len(self._blocks())
        f = self.family
        self.names = (
            f"{f.base}.{f.embedding}",
            *(f"{f.base}.{f.blocks}.{i}" for i in range(count)),
            "lm_head",
        )
        self._rotary: dict[torch.dtype, Positions] = {}

    def alike(self) -> tuple[Interval, ...]:
        """The embedding, runs of blocks with the same attention window, the head."""
        last = len(self.names) - 1
        runs: list[Interval] = [(0, 1)]
        for layer in range(1, last):
            first, end = runs[-1]
            if first and self._window(first - 1) == self._window(layer - 1):
                runs[-1] = (first, end + 1)
            else:
                runs.append((layer, layer + 1))
        return (*runs, (last, last + 1))

    def weights(self, layer: int) -> Mapping[str, str]:
        """Names of the library's own ``state_dict``; a tied head has the embedding's name."""
        f = self.family
        table = f"{f.base}.{f.embedding}.weight"
        if layer == 0:
            found = {"tokens.weight": table}
            if f.positions is not None:
                found["positions.weight"] = f"{f.base}.{f.positions}.weight"
            return found
        if layer == len(self.names) - 1:
            norm = getattr(self.base, f.final_norm)
            found = {
                f"norm.{name}": f"{f.base}.{f.final_norm}.{name}"
                for name, _ in norm.named_parameters()
            }
            tied = self.config.tie_word_embeddings
            return found | {"logits.weight": table if tied else "lm_head.weight"}
        block = self._blocks()[layer - 1]
        return {
            f"block.{name}": f"{self.names[layer]}.{name}" for name, _ in block.named_parameters()
        }

    def cuts(self, layer: int, shards: int, shard: int, *, split: bool) -> Mapping[str, Cut]:
        """Whole heads and words per member. Raises InputError where the heads do not divide."""
        self._check_heads(shards)
        f = self.family
        if layer == 0:
            table = tuple(getattr(self.base, f.embedding).weight.shape)
            found = {"tokens.weight": _vocabulary(table, shards, shard)}
            if f.positions is not None:
                shape = tuple(getattr(self.base, f.positions).weight.shape)
                found["positions.weight"] = whole(shape, partial=split)
            return found
        if layer == len(self.names) - 1:
            norm = getattr(self.base, f.final_norm)
            vectors = {
                f"norm.{name}": whole(tuple(p.shape), partial=split)
                for name, p in norm.named_parameters()
            }
            shape = (self.config.vocab_size, self.config.hidden_size)
            return vectors | {"logits.weight": _vocabulary(shape, shards, shard)}
        return {
            f"block.{name}": self._block_cut(name, tuple(p.shape), shards, shard, split=split)
            for name, p in self._blocks()[layer - 1].named_parameters()
        }

    def full(self, layer: int, dtype: torch.dtype) -> nn.Module:
        """A copy of the layer on the CPU with its weights, fresh or the model's own."""
        f = self.family
        if layer == 0:
            table = self._copy(getattr(self.base, f.embedding), layer, dtype)
            positions = getattr(self.base, f.positions) if f.positions else None
            return EmbeddingLayer(
                VocabularyEmbedding(table.weight.detach(), table.padding_idx),
                None if positions is None else self._copy(positions, layer, dtype),
                copy.deepcopy(getattr(self.base, f.dropout)) if f.dropout else None,
            )
        if layer == len(self.names) - 1:
            tied = self.config.tie_word_embeddings
            source = getattr(self.base, f.embedding) if tied else self.model.lm_head
            head = self._copy(source, 0 if tied else layer, dtype)
            norm = self._copy(getattr(self.base, f.final_norm), layer, dtype)
            return HeadLayer(norm, VocabularyHead(head.weight.detach()))
        block = self._copy(self._blocks()[layer - 1], layer, dtype)
        block.get_submodule(f.attention).config = self.config
        return BlockLayer(block, self._positions(dtype), self._window(layer - 1))

    def install(self, layer: int, module: nn.Module, region: Region, policy: Recompute) -> None:
        """Set the borders of the region; "selective" runs the attention core again."""
        if isinstance(module, EmbeddingLayer):
            module.region = region
            module.tokens.set_region(region, self._first_word(region))
        elif isinstance(module, HeadLayer):
            module.logits.set_region(region)
        elif isinstance(module, BlockLayer):
            install_block(module, self.family, region, heads=self.heads, kv_heads=self.kv_heads)
            if policy == "selective":
                recompute_attention(module, self.family)

    def loss(self, outputs: State, targets: Tensor, region: Region) -> tuple[Tensor, Tensor | int]:
        """Cross entropy of next tokens; ``targets`` are already shifted."""
        return vocabulary_cross_entropy(outputs[0], targets, region, self._first_word(region))

    def _blocks(self) -> nn.ModuleList:
        blocks = getattr(self.base, self.family.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise TypeError(f"{self.family.base}.{self.family.blocks} is not a list of blocks")
        return blocks

    def _copy(self, module: nn.Module, layer: int, dtype: torch.dtype) -> Any:  # noqa: ANN401
        own = copy.deepcopy(module)
        if any(p.is_meta for p in own.parameters()):
            own = own.to_empty(device="cpu")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed * 1_000_003 + layer)
                for part in own.modules():
                    self.model._init_weights(part)
        return own.to(device="cpu", dtype=dtype)

    def _positions(self, dtype: torch.dtype) -> Positions:
        """One table for all blocks of the process; its frequencies stay in fp32."""
        if dtype not in self._rotary:
            rotary = None
            if self.family.rotary is not None:
                rotary = type(getattr(self.base, self.family.rotary))(config=self.config)
            self._rotary[dtype] = Positions(rotary)
        return self._rotary[dtype]

    def _window(self, index: int) -> int | None:
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        sliding = kinds is None or kinds[index] == "sliding_attention"
        return int(window) if window is not None and sliding else None

    def _first_word(self, region: Region) -> int:
        return int(self.config.vocab_size) * region.shard // region.shards

    def _block_cut(
        self, name: str, shape: tuple[int, ...], shards: int, shard: int, *, split: bool
    ) -> Cut:
        try:
            return block_cut(
                self.family,
                name,
                shape,
                kv_heads=self.kv_heads,
                shards=shards,
                shard=shard,
                split=split,
            )
        except LookupError:
            message = f"{self.config.model_type} has a parameter {name} that cannot be placed"
            raise InputError([Problem("model", message, "run another model")]) from None

    def _check_heads(self, shards: int) -> None:
        if self.heads % shards or (self.kv_heads % shards and shards % self.kv_heads):
            message = f"{self.heads} heads ({self.kv_heads} key/value) do not divide by {shards}"
            raise InputError([Problem("tensor_parallel", message, "use another degree")])


def _vocabulary(shape: tuple[int, ...], shards: int, shard: int) -> Cut:
    return whole(shape) if shards == 1 else equal(shape, 0, shards, shard)


def _family(kind: str) -> Family:
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        message = f"{kind!r} cannot run: the runtime knows {known}"
        remedy = "give the model as a list of blocks, see docs/guides/run-a-plan.md"
        raise InputError([Problem("model_type", message, remedy)])
    return FAMILIES[kind]
