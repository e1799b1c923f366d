"""Bytes that a layer keeps for its backward pass, and what it needs on top while that runs.

The count follows Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
Models" (2022): a GPT block of s·b tokens keeps, in 16 bits,

    s·b·h·(34 + 5·a·s/h)                     one device
    s·b·h·(10 + 24/t + 5·a·s/(h·t))          tensor parallel
    s·b·h·(34 + 5·a·s/h)/t                   tensor and sequence parallel

and is here taken from the matrices themselves, so that grouped heads, gated MLPs, latent attention
and experts are counted by the same rule. Blocks with gated MLPs (Llama and later) are taken to have
no dropout and so no masks; ungated ones (GPT) keep theirs. With flash attention the scores (the
s² term) never exist.

Policies: "none" keeps everything; "selective" runs the attention core again and so drops the s²
term; "full" keeps the block's input alone.
"""

from __future__ import annotations

from typing import NamedTuple

from costmodels.layers import Division, divide, expert_tokens, mlp_elements
from costmodels.shapes import LayerShape
from costmodels.units import bytes_of

LOGITS_BYTES = 10
"""Per logit on the last stage: the product's 16-bit logits (2), their fp32 copy (4) and its fp32
gradient (4) are alive at once in a plain cross-entropy."""

_TOKEN_ID_BYTES = 8

Bytes3 = tuple[int, int, int]


class ActivationBytes(NamedTuple):
    """Bytes on one device for one micro-batch, by policy (none, selective, full)."""

    kept: Bytes3
    working: Bytes3
    logits: int


def activation_bytes(
    shape: LayerShape,
    *,
    rows: int,
    seq_len: int,
    tp: int,
    precision: str,
    sequence_parallel: bool,
    flash: bool,
    split: Division | None = None,
) -> ActivationBytes:
    """Bytes kept per micro-batch in flight, transient bytes on top, and logits.

    ``split`` adds context and expert parallelism; its ``tp`` is then the one that counts.
    """
    size = bytes_of(precision)
    split = split or Division(tp)
    tp = split.tp
    tokens = rows * divide(seq_len, split.cp)
    local = divide(tokens, tp) if sequence_parallel else tokens
    boundary = local * shape.hidden * size
    gathered = 2 * tokens * shape.hidden * size
    if shape.kind == "embedding":
        return _constant(tokens * _TOKEN_ID_BYTES, boundary)
    if shape.kind == "head":
        logits = LOGITS_BYTES * tokens * divide(shape.vocab, tp)
        return _constant(2 * boundary, gathered, logits)
    if shape.generic is not None:
        return _generic(shape, rows, split, boundary)
    scores = 0 if flash else _scores_bytes(shape, rows, seq_len, split, size)
    stored = _block_bytes(shape, tokens, local, split, size)
    gradients = _gradient_bytes(shape, tokens, split, size)
    # Attention and MLP do not run backward at the same time: the larger one counts.
    attention = gradients[0] + (0 if flash else _score_gradients(shape, rows, seq_len, split, size))
    peak = gathered + max(attention, gradients[1])
    with_scores = gathered + max(attention + scores, gradients[1])
    return ActivationBytes(
        kept=(stored + scores, stored, boundary),
        working=(peak, with_scores, peak + stored + scores - boundary),
        logits=0,
    )


def _constant(kept: int, working: int, logits: int = 0) -> ActivationBytes:
    """Layers outside of the blocks are not recomputed: the same under every policy."""
    return ActivationBytes((kept,) * 3, (working,) * 3, logits)


def _generic(shape: LayerShape, rows: int, split: Division, boundary: int) -> ActivationBytes:
    """A layer described by its totals; "full" keeps its input where its width is known."""
    if shape.generic is None:
        return _constant(0, 0)
    share = split.cp * (split.tp if shape.generic.tensor_parallel else 1)
    stored = divide(rows * shape.generic.activation_bytes_per_row, share)
    kept = min(stored, boundary) if shape.hidden else stored
    return ActivationBytes((stored, stored, kept), (stored, stored, 2 * stored - kept), 0)


def _block_bytes(shape: LayerShape, tokens: int, local: int, split: Division, size: int) -> int:
    """Kept bytes of a block without the scores."""
    parts = shape.anatomy
    h, a, tp = shape.hidden, shape.attention, split.tp
    # Inputs of the norms (one per tensor-parallel region) and of the first matrices.
    undivided = 0
    divided = 0  # by heads
    routed = 0  # copies of tokens in expert order, twice where they travel
    if parts.attention:
        widths = parts.attention_inputs
        latents = sum([w for w in widths if w != h])  # their norms keep them once more
        undivided += h + sum(widths) + latents
    if parts.mlp:
        undivided += h + (sum(parts.mlp_inputs) or h)
        if parts.routed:
            copies = h * parts.routed * (2 if split.ep > 1 else 1)
            routed = expert_tokens(tokens, split) * copies
    inner = (3 if shape.gated else 2) * mlp_elements(shape, tokens, split) if parts.mlp else 0
    if a is not None:
        divided += divide(a.heads, tp) * (a.qk_head_dim + a.v_head_dim)
        divided += divide(a.kv_heads, tp) * (a.qk_head_dim + a.v_head_dim)
    masks = 0 if shape.gated else local * h * sum(map(bool, (parts.attention, parts.mlp)))
    return (local * undivided + tokens * divided + inner + routed) * size + masks


def _scores_bytes(shape: LayerShape, rows: int, seq_len: int, split: Division, size: int) -> int:
    """Kept scores: the softmax, and for GPT its dropout's mask and output (5 bytes in 16 bits)."""
    if shape.attention is None:
        return 0
    per_score = size if shape.gated else 2 * size + 1
    heads = divide(shape.attention.heads, split.tp)
    return rows * heads * seq_len * divide(seq_len, split.cp) * per_score


def _score_gradients(shape: LayerShape, rows: int, seq_len: int, split: Division, size: int) -> int:
    """Gradients of the softmax's output and input, both alive at once."""
    if shape.attention is None:
        return 0
    heads = divide(shape.attention.heads, split.tp)
    return 2 * rows * heads * seq_len * divide(seq_len, split.cp) * size


def _gradient_bytes(shape: LayerShape, tokens: int, split: Division, size: int) -> tuple[int, int]:
    """Gradients of inner tensors that are alive together: in attention, in the MLP."""
    parts, a, tp = shape.anatomy, shape.attention, split.tp
    attention = 0
    if a is not None:
        attention = (divide(a.heads, tp) + divide(a.kv_heads, tp)) * (a.qk_head_dim + a.v_head_dim)
    mlp = (3 if shape.gated else 2) * mlp_elements(shape, tokens, split) if parts.mlp else 0
    if parts.routed:
        mlp += expert_tokens(tokens, split) * parts.routed * shape.hidden
    return tokens * attention * size, mlp * size
