"""How each Hugging Face model type is built from its configuration.

Every function turns one validated configuration into a :class:`Network` whose parameter count
is exactly that of the library's ``…ForCausalLM`` module. Adding a family is one class of keys
(``hf_keys``), one function here and one line in ``FAMILIES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from costmodels.shapes import LayerShape
from planner.inputs import hf_keys
from planner.inputs import layer_parts as parts
from planner.inputs.layer_parts import Part


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder: an embedding, blocks named ``<block_prefix>.0`` and on, and a head."""

    embedding_name: str
    embedding: LayerShape
    block_prefix: str
    blocks: tuple[LayerShape, ...]
    head: LayerShape


@dataclass(frozen=True, slots=True)
class Family:
    """The keys of one model type and the function that builds its layers."""

    config: type[hf_keys.HfConfig]
    build: Callable[[hf_keys.HfConfig], Network]


def _modern(c: hf_keys.HfConfig, bodies: Sequence[Part], *, norms_per_block: int = 2) -> Network:
    """RMS norms, rotary positions, module names as in Llama."""
    norm = parts.norms(c.hidden_size, count=norms_per_block)
    shapes: dict[int, LayerShape] = {}
    for body in bodies:
        if id(body) not in shapes:
            shapes[id(body)] = parts.block(c.hidden_size, body + norm)
    return Network(
        "model.embed_tokens",
        parts.embedding(c.hidden_size, c.vocab_size),
        "model.layers",
        tuple(shapes[id(body)] for body in bodies),
        parts.head(c.hidden_size, c.vocab_size, parts.norms(c.hidden_size, count=1)),
    )


def _attention(
    c: hf_keys.GroupedHeads | hf_keys.Glm4Moe,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
) -> Part:
    return parts.grouped_attention(
        c.hidden_size,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.head_dim,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
    )


def _llama(c: hf_keys.Llama) -> Network:
    attention = _attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias)
    mlp = parts.gated_mlp(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
    return _modern(c, [attention + mlp] * c.num_hidden_layers)


def _mistral(c: hf_keys.Mistral) -> Network:
    body = _attention(c) + parts.gated_mlp(c.hidden_size, c.intermediate_size)
    return _modern(c, [body] * c.num_hidden_layers)


def _qwen2(c: hf_keys.Qwen2) -> Network:
    body = _attention(c, qkv_bias=True) + parts.gated_mlp(c.hidden_size, c.intermediate_size)
    return _modern(c, [body] * c.num_hidden_layers)


def _qwen3(c: hf_keys.Qwen3) -> Network:
    attention = _attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=True)
    body = attention + parts.gated_mlp(c.hidden_size, c.intermediate_size)
    return _modern(c, [body] * c.num_hidden_layers)


def _glm(c: hf_keys.Glm) -> Network:
    body = _attention(c, qkv_bias=c.attention_bias) + parts.fused_gated_mlp(
        c.hidden_size, c.intermediate_size
    )
    # GLM-4-0414 norms the output of attention and of the MLP as well.
    count = 4 if c.model_type == "glm4" else 2
    return _modern(c, [body] * c.num_hidden_layers, norms_per_block=count)


def _phi3(c: hf_keys.Phi3) -> Network:
    attention = parts.fused_attention(
        c.hidden_size,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.head_dim,
        qkv_name="self_attn.qkv_proj",
        out_name="self_attn.o_proj",
        bias=False,
    )
    body = attention + parts.fused_gated_mlp(c.hidden_size, c.intermediate_size)
    return _modern(c, [body] * c.num_hidden_layers)


def _mixtral(c: hf_keys.Mixtral) -> Network:
    moe = parts.routed_experts(
        c.hidden_size,
        c.intermediate_size,
        experts=c.num_local_experts,
        active=c.num_experts_per_tok,
        router="block_sparse_moe.gate",
        gate="block_sparse_moe.experts.w1",
        up="block_sparse_moe.experts.w3",
        down="block_sparse_moe.experts.w2",
    )
    return _modern(c, [_attention(c) + moe] * c.num_hidden_layers)


def _qwen_moe(c: hf_keys.QwenMoe, attention: Part, shared: Part) -> Network:
    dense = attention + parts.gated_mlp(c.hidden_size, c.intermediate_size)
    sparse = attention + shared
    if c.num_experts:
        sparse += parts.routed_experts(
            c.hidden_size,
            c.moe_intermediate_size,
            experts=c.num_experts,
            active=c.num_experts_per_tok,
        )

    def body(index: int) -> Part:
        stepped = (index + 1) % c.decoder_sparse_step == 0
        routed = stepped and c.num_experts > 0 and index not in c.mlp_only_layers
        return sparse if routed else dense

    return _modern(c, [body(i) for i in range(c.num_hidden_layers)])


def _qwen2_moe(c: hf_keys.Qwen2Moe) -> Network:
    shared = parts.gated_mlp(
        c.hidden_size, c.shared_expert_intermediate_size, prefix="mlp.shared_expert"
    ) + parts.linear("mlp.shared_expert_gate", c.hidden_size, 1, "replicated")
    return _qwen_moe(c, _attention(c, qkv_bias=c.qkv_bias), shared)


def _qwen3_moe(c: hf_keys.Qwen3Moe) -> Network:
    attention = _attention(c, qkv_bias=c.attention_bias, out_bias=c.attention_bias, qk_norm=True)
    return _qwen_moe(c, attention, Part())


def _shared_experts(c: hf_keys.SharedExperts, attention: Part) -> Network:
    dense = attention + parts.gated_mlp(c.hidden_size, c.intermediate_size)
    sparse = attention + parts.routed_experts(
        c.hidden_size,
        c.moe_intermediate_size,
        experts=c.n_routed_experts,
        active=c.num_experts_per_tok,
        groups=(c.n_group or 1, c.topk_group or c.n_group or 1),
    )
    if c.n_shared_experts:
        width = c.n_shared_experts * c.moe_intermediate_size
        sparse += parts.gated_mlp(c.hidden_size, width, prefix="mlp.shared_experts")

    def body(index: int) -> Part:
        routed = index >= c.first_k_dense_replace and index % c.moe_layer_freq == 0
        return sparse if routed else dense

    return _modern(c, [body(i) for i in range(c.num_hidden_layers)])


def _deepseek(c: hf_keys.DeepSeek) -> Network:
    attention = parts.latent_attention(
        c.hidden_size,
        c.num_attention_heads,
        q_rank=c.q_lora_rank,
        kv_rank=c.kv_lora_rank,
        nope_dim=c.qk_nope_head_dim,
        rope_dim=c.qk_rope_head_dim,
        v_dim=c.v_head_dim,
        bias=c.attention_bias,
    )
    return _shared_experts(c, attention)


def _glm4_moe(c: hf_keys.Glm4Moe) -> Network:
    attention = _attention(c, qkv_bias=c.attention_bias, qk_norm=c.use_qk_norm)
    return _shared_experts(c, attention)


def _classic(
    c: hf_keys.HfConfig, body: Part, *, embedding_name: str, embedding: LayerShape, prefix: str
) -> Network:
    """Layer norms with biases, two per block and one at the end."""
    norm = parts.norms(c.hidden_size, count=2, bias=True)
    shape = parts.block(c.hidden_size, body + norm)
    final = parts.norms(c.hidden_size, count=1, bias=True)
    return Network(
        embedding_name,
        embedding,
        prefix,
        (shape,) * c.num_hidden_layers,
        parts.head(c.hidden_size, c.vocab_size, final),
    )


def _fused(c: hf_keys.HfConfig, qkv_name: str, out_name: str, *, bias: bool = True) -> Part:
    return parts.fused_attention(
        c.hidden_size,
        c.num_attention_heads,
        c.num_attention_heads,
        c.hidden_size // c.num_attention_heads,
        qkv_name=qkv_name,
        out_name=out_name,
        bias=bias,
    )


def _gpt2(c: hf_keys.Gpt2) -> Network:
    body = _fused(c, "attn.c_attn", "attn.c_proj") + parts.plain_mlp(
        c.hidden_size, c.n_inner, up="mlp.c_fc", down="mlp.c_proj"
    )
    table = parts.embedding(c.hidden_size, c.vocab_size, positions=c.max_position_embeddings)
    return _classic(
        c, body, embedding_name="transformer.wte", embedding=table, prefix="transformer.h"
    )


def _bloom(c: hf_keys.Bloom) -> Network:
    body = _fused(c, "self_attention.query_key_value", "self_attention.dense") + parts.plain_mlp(
        c.hidden_size, 4 * c.hidden_size, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"
    )
    norm = parts.norms(c.hidden_size, count=1, bias=True)
    return _classic(
        c,
        body,
        embedding_name="transformer.word_embeddings",
        embedding=parts.embedding(c.hidden_size, c.vocab_size, extra=norm),
        prefix="transformer.h",
    )


def _gpt_neox(c: hf_keys.GptNeoX) -> Network:
    attention = _fused(c, "attention.query_key_value", "attention.dense", bias=c.attention_bias)
    body = attention + parts.plain_mlp(
        c.hidden_size, c.intermediate_size, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h"
    )
    return _classic(
        c,
        body,
        embedding_name="gpt_neox.embed_in",
        embedding=parts.embedding(c.hidden_size, c.vocab_size),
        prefix="gpt_neox.layers",
    )


def _opt(c: hf_keys.Opt) -> Network:
    heads = c.num_attention_heads
    attention = parts.grouped_attention(
        c.hidden_size,
        heads,
        heads,
        c.hidden_size // heads,
        qkv_bias=c.enable_bias,
        out_bias=c.enable_bias,
        out_name="self_attn.out_proj",
    )
    mlp = parts.plain_mlp(c.hidden_size, c.ffn_dim, up="fc1", down="fc2", bias=c.enable_bias)
    affine = c.layer_norm_elementwise_affine
    block_norms = parts.norms(c.hidden_size, count=2 if affine else 0, bias=True)
    has_final = affine and c.do_layer_norm_before and not c.remove_final_layer_norm
    final = parts.norms(c.hidden_size, count=1 if has_final else 0, bias=True)
    width, project = c.word_embed_proj_dim, Part()
    if width != c.hidden_size:
        project = parts.linear("model.decoder.project_in", width, c.hidden_size, "replicated")
        final += parts.linear("model.decoder.project_out", c.hidden_size, width, "replicated")
    table = parts.embedding(
        c.hidden_size,
        c.vocab_size,
        width=width,
        positions=c.max_position_embeddings + 2,
        extra=project,
    )
    return Network(
        "model.decoder.embed_tokens",
        table,
        "model.decoder.layers",
        (parts.block(c.hidden_size, attention + mlp + block_norms),) * c.num_hidden_layers,
        parts.head(c.hidden_size, c.vocab_size, final, width=width),
    )


_Keys = TypeVar("_Keys", bound=hf_keys.HfConfig)


def _family(config: type[_Keys], build: Callable[[_Keys], Network]) -> Family:
    # The pairing below is what makes the cast true: ``build`` only ever meets its own class.
    return Family(config, cast("Callable[[hf_keys.HfConfig], Network]", build))


FAMILIES: dict[str, Family] = {
    "bloom": _family(hf_keys.Bloom, _bloom),
    "deepseek_v2": _family(hf_keys.DeepSeek, _deepseek),
    "deepseek_v3": _family(hf_keys.DeepSeek, _deepseek),
    "glm": _family(hf_keys.Glm, _glm),
    "glm4": _family(hf_keys.Glm, _glm),
    "glm4_moe": _family(hf_keys.Glm4Moe, _glm4_moe),
    "gpt2": _family(hf_keys.Gpt2, _gpt2),
    "gpt_neox": _family(hf_keys.GptNeoX, _gpt_neox),
    "kimi_k2": _family(hf_keys.DeepSeek, _deepseek),
    "llama": _family(hf_keys.Llama, _llama),
    "mistral": _family(hf_keys.Mistral, _mistral),
    "mixtral": _family(hf_keys.Mixtral, _mixtral),
    "opt": _family(hf_keys.Opt, _opt),
    "phi3": _family(hf_keys.Phi3, _phi3),
    "qwen2": _family(hf_keys.Qwen2, _qwen2),
    "qwen2_moe": _family(hf_keys.Qwen2Moe, _qwen2_moe),
    "qwen3": _family(hf_keys.Qwen3, _qwen3),
    "qwen3_moe": _family(hf_keys.Qwen3Moe, _qwen3_moe),
}
"""Model types that can be read, by the ``model_type`` of their ``config.json``."""
