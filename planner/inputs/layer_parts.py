"""The parts that transformer blocks are assembled from: matrix products plus small vectors.

Splits follow Megatron-LM: q, k, v, gate and up are cut by columns, o and down by rows; routers
and the down-projections of multi-head latent attention are kept whole on every chip.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.shapes import AttentionCore, LayerShape, Matmul, Split


@dataclass(frozen=True, slots=True)
class Part:
    """Some matrix products of a block with their biases and norms (``vectors``)."""

    matmuls: tuple[Matmul, ...] = ()
    vectors: int = 0
    attention: AttentionCore | None = None
    gated: bool = False

    def __add__(self, other: Part) -> Part:
        return Part(
            self.matmuls + other.matmuls,
            self.vectors + other.vectors,
            self.attention or other.attention,
            self.gated or other.gated,
        )


def linear(name: str, inputs: int, outputs: int, split: Split, *, bias: bool = False) -> Part:
    """One dense matrix, with a bias of its outputs if asked."""
    return Part((Matmul(name, inputs, outputs, split),), outputs if bias else 0)


def norms(width: int, *, count: int, bias: bool = False) -> Part:
    """``count`` norms over ``width`` elements; layer norms have a bias, RMS norms do not."""
    return Part(vectors=count * width * (2 if bias else 1))


def grouped_attention(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    out_name: str = "self_attn.o_proj",
) -> Part:
    """Attention whose query heads share ``kv_heads`` keys and values (all heads: plain MHA)."""
    width, kv_width = heads * head_dim, kv_heads * head_dim
    return (
        linear("self_attn.q_proj", hidden, width, "column", bias=qkv_bias)
        + linear("self_attn.k_proj", hidden, kv_width, "column", bias=qkv_bias)
        + linear("self_attn.v_proj", hidden, kv_width, "column", bias=qkv_bias)
        + linear(out_name, width, hidden, "row", bias=out_bias)
        + norms(head_dim, count=2 if qk_norm else 0)
        + Part(attention=AttentionCore(heads, kv_heads, head_dim, head_dim))
    )


def fused_attention(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    qkv_name: str,
    out_name: str,
    bias: bool,
) -> Part:
    """The same with query, key and value in one matrix."""
    return (
        linear(qkv_name, hidden, (heads + 2 * kv_heads) * head_dim, "column", bias=bias)
        + linear(out_name, heads * head_dim, hidden, "row", bias=bias)
        + Part(attention=AttentionCore(heads, kv_heads, head_dim, head_dim))
    )


def latent_attention(
    hidden: int,
    heads: int,
    *,
    q_rank: int | None,
    kv_rank: int,
    nope_dim: int,
    rope_dim: int,
    v_dim: int,
    bias: bool = False,
) -> Part:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1).

    Queries and keys of a head have ``nope_dim + rope_dim`` elements; the rotary part of the key
    is shared by all heads. ``q_rank`` None means that queries are not compressed.
    """
    qk_dim = nope_dim + rope_dim
    if q_rank is None:
        queries = linear("self_attn.q_proj", hidden, heads * qk_dim, "column")
    else:
        queries = (
            linear("self_attn.q_a_proj", hidden, q_rank, "replicated", bias=bias)
            + norms(q_rank, count=1)
            + linear("self_attn.q_b_proj", q_rank, heads * qk_dim, "column")
        )
    down = kv_rank + rope_dim
    return (
        queries
        + linear("self_attn.kv_a_proj_with_mqa", hidden, down, "replicated", bias=bias)
        + norms(kv_rank, count=1)
        + linear("self_attn.kv_b_proj", kv_rank, heads * (nope_dim + v_dim), "column")
        + linear("self_attn.o_proj", heads * v_dim, hidden, "row", bias=bias)
        + Part(attention=AttentionCore(heads, heads, qk_dim, v_dim))
    )


def gated_mlp(hidden: int, ffn: int, *, prefix: str = "mlp", bias: bool = False) -> Part:
    """down(act(gate(x)) * up(x)): three matrices."""
    return (
        linear(f"{prefix}.gate_proj", hidden, ffn, "column", bias=bias)
        + linear(f"{prefix}.up_proj", hidden, ffn, "column", bias=bias)
        + linear(f"{prefix}.down_proj", ffn, hidden, "row", bias=bias)
        + Part(gated=True)
    )


def fused_gated_mlp(hidden: int, ffn: int) -> Part:
    """The same with gate and up in one matrix, as GLM and Phi-3 store it."""
    return (
        linear("mlp.gate_up_proj", hidden, 2 * ffn, "column")
        + linear("mlp.down_proj", ffn, hidden, "row")
        + Part(gated=True)
    )


def plain_mlp(hidden: int, ffn: int, *, up: str, down: str, bias: bool = True) -> Part:
    """down(act(up(x))): two matrices."""
    return linear(up, hidden, ffn, "column", bias=bias) + linear(
        down, ffn, hidden, "row", bias=bias
    )


def routed_experts(
    hidden: int,
    ffn: int,
    *,
    experts: int,
    active: int,
    groups: tuple[int, int] = (1, 1),
    router: str = "mlp.gate",
    gate: str = "mlp.experts.gate_proj",
    up: str = "mlp.experts.up_proj",
    down: str = "mlp.experts.down_proj",
) -> Part:
    """A router and ``experts`` gated MLPs, ``active`` of which see each token.

    Of all ``groups`` of them a token passes experts of the second number alone.

    The correction bias of DeepSeek's router is a buffer that no gradient reaches: not counted.
    """
    return Part(
        (
            Matmul(router, hidden, experts, "replicated"),
            Matmul(gate, hidden, ffn, "column", experts, active, groups),
            Matmul(up, hidden, ffn, "column", experts, active, groups),
            Matmul(down, ffn, hidden, "row", experts, active, groups),
        ),
        gated=True,
    )


def block(hidden: int, part: Part) -> LayerShape:
    """One transformer block."""
    return LayerShape(
        "block", hidden, part.matmuls, part.attention, part.gated, vector_parameters=part.vectors
    )


def embedding(
    hidden: int, vocab: int, *, width: int = 0, positions: int = 0, extra: Part | None = None
) -> LayerShape:
    """The token table (``width`` columns, by default ``hidden``) and learned positions."""
    extra = extra or Part()
    return LayerShape(
        "embedding",
        hidden,
        extra.matmuls,
        vector_parameters=extra.vectors,
        table_parameters=vocab * (width or hidden) + positions * hidden,
        vocab=vocab,
    )


def head(hidden: int, vocab: int, final: Part, *, width: int = 0) -> LayerShape:
    """The final norm (``final``) and the product with the vocabulary."""
    part = final + linear("lm_head", width or hidden, vocab, "column")
    return LayerShape("head", hidden, part.matmuls, vector_parameters=part.vectors, vocab=vocab)
