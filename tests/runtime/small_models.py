"""Tiny models in fp64: Hugging Face ones from their configuration, and lists of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from planner.runtime.hf import HfCausalLM
from planner.runtime.model import Blocks, LayeredModel, token_cross_entropy
from tests.runtime.small_blocks import WORDS, blocks

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": WORDS,
        "max_position_embeddings": 64,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_head": 4,
        "n_layer": 3,
        "n_positions": 16,
        "vocab_size": WORDS,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
SIZES["tied"] = SIZES["llama"] | {"tie_word_embeddings": True, "num_hidden_layers": 2}
SIZES["qwen2"] = SIZES["llama"] | {"model_type": "qwen2"}
SIZES["qwen3"] = SIZES["llama"] | {"model_type": "qwen3", "head_dim": 8}
SIZES["mistral"] = SIZES["llama"] | {"model_type": "mistral", "sliding_window": 4}


def _norm_in_full(self: Any, hidden: Tensor) -> Tensor:
    """The library's norm without its detour over fp32, where the last bit of a sum decides."""
    variance = hidden.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)


for _kind in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm):
    _kind.forward = _norm_in_full


@cache
def model(kind: str) -> LayeredModel:
    """One of the models above, or ``blocks``."""
    torch.manual_seed(7)
    if kind == "blocks":
        return Blocks(
            [block.double() for block in blocks()],
            token_cross_entropy,
            tied={(5, "weight"): (0, "table.weight")},
        )
    config = AutoConfig.for_model(**SIZES[kind])
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double()
    with torch.no_grad():
        for parameter in hf.parameters():  # biases and norms as well, so that nothing is zero
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return HfCausalLM(hf)


def reference(
    kind: str, batches: Sequence[tuple[Tensor, Tensor]], *, rate: float = 1e-2
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """A single process on the same batches: losses, first gradients, final weights by name."""
    layered = model(kind)
    network, names = _whole(layered)
    named = {names[n]: p for n, p in network.named_parameters()}
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}]
    if vectors:
        groups.append({"params": vectors, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.1)
    losses, gradients = [], {}
    for inputs, targets in batches:
        optimizer.zero_grad()
        logits = network(inputs)
        summed, terms = token_cross_entropy(getattr(logits, "logits", logits), targets)
        loss = summed / terms
        loss.backward()
        losses.append(loss.item())
        if not gradients:
            gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        optimizer.step()
    return losses, gradients, {name: p.detach().clone() for name, p in named.items()}


def _whole(layered: LayeredModel) -> tuple[nn.Module, Mapping[str, str]]:
    """The model as one module, and its parameters' model-wide names."""
    import copy

    if isinstance(layered, HfCausalLM):
        network = copy.deepcopy(layered.model)
        return network, {name: name for name, _ in network.named_parameters()}
    if not isinstance(layered, Blocks):
        raise TypeError("no such model")
    blocks = copy.deepcopy(list(layered.blocks))
    blocks[5].weight = blocks[0].table.weight
    names = {
        f"blocks.{k}.{inner}": weight
        for k in range(len(blocks))
        for inner, weight in layered.weights(k).items()
    }
    return Chain(blocks), names


class Chain(nn.Module):
    """Blocks one after the other."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, inputs: Tensor) -> Tensor:
        state: tuple[Tensor, ...] = (inputs,)
        for block in self.blocks:
            out = block(*state)
            state = out if isinstance(out, tuple) else (out,)
        return state[0]
