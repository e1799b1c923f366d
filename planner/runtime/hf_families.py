"""Which Hugging Face model types run, and how their blocks are cut for tensor parallelism.

Cuts follow Megatron-LM: what leads into a region is cut by its outputs (whole heads), what leads
out of it by its inputs. Names are those of the library's modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from planner.runtime.shards import Cut, equal, fused, grouped, whole

How = Literal["outputs", "inputs", "groups", "fused", "heads", "vector"]
"""outputs, inputs: the axis that is cut · groups: key/value heads · fused: query, key and value
side by side · heads: whole, but each member sees its own heads only · vector: whole."""


@dataclass(frozen=True, slots=True)
class Family:
    """Module names of one kind of decoder. ``transposed``: weights are (inputs, outputs)."""

    base: str
    embedding: str
    blocks: str
    final_norm: str
    attention: str
    mlp: str
    leaving: tuple[str, ...]
    """Products that lead out of a region: their bias is added once, after the sum."""
    rules: tuple[tuple[str, How], ...]
    positions: str | None = None
    dropout: str | None = None
    rotary: str | None = "rotary_emb"
    transposed: bool = False


_MODERN = Family(
    base="model",
    embedding="embed_tokens",
    blocks="layers",
    final_norm="norm",
    attention="self_attn",
    mlp="mlp",
    leaving=("self_attn.o_proj", "mlp.down_proj"),
    rules=(
        ("self_attn.q_proj", "outputs"),
        ("self_attn.k_proj", "groups"),
        ("self_attn.v_proj", "groups"),
        ("self_attn.o_proj", "inputs"),
        ("self_attn.q_norm", "heads"),
        ("self_attn.k_norm", "heads"),
        ("mlp.gate_proj", "outputs"),
        ("mlp.up_proj", "outputs"),
        ("mlp.down_proj", "inputs"),
        ("input_layernorm", "vector"),
        ("post_attention_layernorm", "vector"),
    ),
)

FAMILIES: dict[str, Family] = {
    "llama": _MODERN,
    "mistral": _MODERN,
    "qwen2": _MODERN,
    "qwen3": _MODERN,
    "gpt2": Family(
        base="transformer",
        embedding="wte",
        blocks="h",
        final_norm="ln_f",
        attention="attn",
        mlp="mlp",
        leaving=("attn.c_proj", "mlp.c_proj"),
        rules=(
            ("attn.c_attn", "fused"),
            ("attn.c_proj", "inputs"),
            ("mlp.c_fc", "outputs"),
            ("mlp.c_proj", "inputs"),
            ("ln_1", "vector"),
            ("ln_2", "vector"),
        ),
        positions="wpe",
        dropout="drop",
        rotary=None,
        transposed=True,
    ),
}
"""By ``model_type``."""


def block_cut(
    family: Family,
    parameter: str,
    shape: tuple[int, ...],
    *,
    kv_heads: int,
    shards: int,
    shard: int,
    split: bool,
) -> Cut:
    """A member's part of one parameter of a block, such as ``self_attn.q_proj.weight``.

    Raises ``LookupError`` for a parameter that no rule knows.
    """
    module, _, kind = parameter.rpartition(".")
    how = dict(family.rules).get(module)
    if how is None:
        raise LookupError(parameter)
    if shards == 1:
        return whole(shape)
    if how in ("vector", "heads"):
        return whole(shape, partial=split or how == "heads")
    if how == "inputs" and kind == "bias":
        return whole(shape, partial=split)
    axis = _axis(family, how, kind)
    cuts: dict[str, Callable[[], Cut]] = {
        "outputs": lambda: equal(shape, axis, shards, shard),
        "inputs": lambda: equal(shape, axis, shards, shard),
        "groups": lambda: grouped(shape, axis, kv_heads, shards, shard),
        "fused": lambda: fused(shape, axis, 3, shards, shard),
    }
    return cuts[how]()


def _axis(family: Family, how: How, kind: str) -> int:
    if kind == "bias":
        return 0
    outputs = 1 if family.transposed else 0
    return 1 - outputs if how == "inputs" else outputs
