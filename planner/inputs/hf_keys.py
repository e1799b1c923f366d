"""What the ``config.json`` of each Hugging Face model type says, as validated classes.

Field names are those of the files. Other spellings of a key (``n_embd``) are aliases. A default
is the one that the ``transformers`` library uses when the key is absent; sizes that the library
would also invent are required here. ``null`` means absent, except for ``q_lora_rank``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(gt=0, le=10_000_000)]
Count = Annotated[int, Field(gt=0, le=10_000)]
Index = Annotated[int, Field(ge=0, le=10_000)]


def _also(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def _same_as(name: str) -> Callable[[dict[str, Any]], int]:
    return lambda earlier: int(earlier[name])


def _hidden_per_head(earlier: dict[str, Any]) -> int:
    # A remainder is reported by hf_config, where all impossible sizes are collected.
    return max(1, int(earlier["hidden_size"]) // int(earlier["num_attention_heads"]))


class HfConfig(BaseModel):
    """Keys that every supported decoder has."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())
    nullable: ClassVar[frozenset[str]] = frozenset()

    model_type: str
    hidden_size: Width = Field(validation_alias=_also("hidden_size", "n_embd", "n_embed"))
    num_hidden_layers: Count = Field(validation_alias=_also("num_hidden_layers", "n_layer"))
    num_attention_heads: Count = Field(validation_alias=_also("num_attention_heads", "n_head"))
    vocab_size: Width
    max_position_embeddings: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        validation_alias=_also("max_position_embeddings", "n_positions", "seq_length"),
    )
    tie_word_embeddings: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k in cls.nullable}


class GroupedHeads(HfConfig):
    """Attention whose key and value heads may be fewer than its query heads."""

    num_key_value_heads: Count = Field(default_factory=_same_as("num_attention_heads"))
    head_dim: Width = Field(default_factory=_hidden_per_head)


class Llama(GroupedHeads):
    """``llama``."""

    intermediate_size: Width
    attention_bias: bool = False
    mlp_bias: bool = False


class Mistral(GroupedHeads):
    """``mistral``."""

    intermediate_size: Width


class Qwen2(GroupedHeads):
    """``qwen2``: q, k and v always have a bias."""

    intermediate_size: Width


class Qwen3(GroupedHeads):
    """``qwen3``: queries and keys are normed per head."""

    head_dim: Width = 128
    intermediate_size: Width
    attention_bias: bool = False


class Glm(GroupedHeads):
    """``glm`` and ``glm4``: rotary over half of each head, a bias on q, k and v only."""

    head_dim: Width = 128
    intermediate_size: Width
    attention_bias: bool = False


class Phi3(GroupedHeads):
    """``phi3``: fused q, k, v and fused gate and up."""

    intermediate_size: Width


class Mixtral(GroupedHeads):
    """``mixtral``: every block is a mixture of experts."""

    intermediate_size: Width
    num_local_experts: Count = Field(validation_alias=_also("num_local_experts", "num_experts"))
    num_experts_per_tok: Count


class QwenMoe(GroupedHeads):
    """Sparse blocks where ``decoder_sparse_step`` says so and ``mlp_only_layers`` does not."""

    intermediate_size: Width
    moe_intermediate_size: Width
    num_experts: Index = Field(validation_alias=_also("num_experts", "num_local_experts"))
    num_experts_per_tok: Count
    decoder_sparse_step: Count = 1
    mlp_only_layers: tuple[Index, ...] = Field(default=(), strict=False)


class Qwen2Moe(QwenMoe):
    """``qwen2_moe``: a shared expert with a gate of its own."""

    shared_expert_intermediate_size: Width
    qkv_bias: bool = True


class Qwen3Moe(QwenMoe):
    """``qwen3_moe``."""

    attention_bias: bool = False


class SharedExperts(HfConfig):
    """Leading dense blocks, then routed and shared experts."""

    intermediate_size: Width
    moe_intermediate_size: Width
    n_routed_experts: Count = Field(
        validation_alias=_also("n_routed_experts", "num_local_experts", "num_experts")
    )
    num_experts_per_tok: Count
    n_shared_experts: Index = 0
    first_k_dense_replace: Index = 0
    moe_layer_freq: Count = 1
    num_nextn_predict_layers: Index = 0
    n_group: Count | None = None
    topk_group: Count | None = None
    attention_bias: bool = False


class DeepSeek(SharedExperts):
    """``deepseek_v2``, ``deepseek_v3`` and ``kimi_k2``: multi-head latent attention.

    The files' ``head_dim`` is only the rotary part and is not read.
    """

    nullable: ClassVar[frozenset[str]] = frozenset({"q_lora_rank"})

    q_lora_rank: Width | None
    kv_lora_rank: Width
    qk_nope_head_dim: Width
    qk_rope_head_dim: Width
    v_head_dim: Width


class Glm4Moe(SharedExperts):
    """``glm4_moe``: grouped attention with DeepSeek's experts."""

    num_key_value_heads: Count = Field(default_factory=_same_as("num_attention_heads"))
    head_dim: Width = Field(default_factory=_hidden_per_head)
    use_qk_norm: bool = False


class Gpt2(HfConfig):
    """``gpt2``: learned positions, layer norms, biases everywhere."""

    max_position_embeddings: Annotated[int, Field(gt=0, le=1_000_000_000)] = Field(
        validation_alias=_also("n_positions", "max_position_embeddings")
    )
    n_inner: Width = Field(
        default_factory=lambda earlier: 4 * int(earlier["hidden_size"]),
        validation_alias=_also("n_inner", "intermediate_size"),
    )
    tie_word_embeddings: bool = True
    add_cross_attention: bool = False


class Bloom(HfConfig):
    """``bloom``: ALiBi instead of positions, a norm after the embedding, ffn = 4 * hidden."""

    tie_word_embeddings: bool = True


class GptNeoX(HfConfig):
    """``gpt_neox``: attention and MLP read the same input."""

    intermediate_size: Width
    attention_bias: bool = True


class Opt(HfConfig):
    """``opt``: learned positions with two extra rows; small models project their embedding."""

    max_position_embeddings: Annotated[int, Field(gt=0, le=1_000_000_000)]
    ffn_dim: Width = Field(validation_alias=_also("ffn_dim", "intermediate_size"))
    word_embed_proj_dim: Width = Field(default_factory=_same_as("hidden_size"))
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = Field(
        default=False,
        validation_alias=_also("_remove_final_layer_norm", "remove_final_layer_norm"),
    )
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True
