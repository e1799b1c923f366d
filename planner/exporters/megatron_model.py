"""Megatron's model arguments for the families that it can build as they are."""

from __future__ import annotations

from collections.abc import Mapping

from planner.exporters.model_facts import ModelFacts

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "gpt2")
"""Model types whose blocks are Megatron's own, bit by bit."""

MODERN = ("llama", "mistral", "qwen2", "qwen3", "mixtral")

Arguments = tuple[tuple[str, str], ...]
"""Flags without their hyphens, with their value; "" for a switch."""


def model_arguments(model: ModelFacts, seq_len: int) -> Arguments:
    """The arguments that fix the shape of the model. Its numbers are those of the plan."""
    heads = model.size("num_attention_heads")
    longest = max(seq_len, int(model.config.get("max_position_embeddings") or 0))
    common: Arguments = (
        ("num-layers", str(model.blocks)),
        ("hidden-size", str(model.size("hidden_size"))),
        ("ffn-hidden-size", str(ffn_width(model))),
        ("num-attention-heads", str(heads)),
        ("seq-length", str(seq_len)),
        ("max-position-embeddings", str(longest)),
    )
    return common + (_modern(model, heads) if model.family in MODERN else _gpt2(model))


def ffn_width(model: ModelFacts) -> int:
    """Inner width of the MLP, of one expert where there are several."""
    return model.size("n_inner" if model.family == "gpt2" else "intermediate_size")


def _modern(model: ModelFacts, heads: int) -> Arguments:
    kv = model.size("num_key_value_heads")
    found: list[tuple[str, str]] = [("kv-channels", str(model.size("head_dim")))]
    if kv != heads:
        found += [("group-query-attention", ""), ("num-query-groups", str(kv))]
    found += [
        ("position-embedding-type", "rope"),
        ("normalization", "RMSNorm"),
        ("swiglu", ""),
        ("disable-bias-linear", ""),
        ("attention-dropout", "0.0"),
        ("hidden-dropout", "0.0"),
    ]
    if model.family == "qwen2":
        found.append(("add-qkv-bias", ""))
    if model.family == "qwen3":
        found.append(("qk-layernorm", ""))
    if model.family == "mixtral":
        found += [
            ("num-experts", str(model.size("num_local_experts"))),
            ("moe-router-topk", str(model.size("num_experts_per_tok"))),
            ("moe-ffn-hidden-size", str(model.size("intermediate_size"))),
            ("moe-token-dispatcher-type", "alltoall"),
        ]
    if not model.tied:
        found.append(("untie-embeddings-and-output-weights", ""))
    return tuple(found)


def _gpt2(model: ModelFacts) -> Arguments:
    found: list[tuple[str, str]] = [("position-embedding-type", "learned_absolute")]
    if not model.tied:
        found.append(("untie-embeddings-and-output-weights", ""))
    return tuple(found)


def outside(model: ModelFacts) -> tuple[str, ...]:
    """Model settings that change no size, so that the plan does not hold them."""
    if model.family == "gpt2":
        return ("--norm-epsilon (GPT-2: 1e-5)",)
    return ("--rotary-base (rope_theta of your config.json)", "--norm-epsilon (rms_norm_eps)")


def parameters(read: Mapping[str, str], vocab: int) -> int:
    """Parameters of the model that Megatron builds from these arguments, vocabulary unpadded.

    Follows megatron/core: fused QKV (with bias unless disabled), output projection, MLP (gated
    with --swiglu), two norms per layer and a final one, untied head without bias.
    """
    number = {k: int(v) for k, v in read.items() if v.isdigit()}
    h, heads = number["hidden-size"], number["num-attention-heads"]
    channels = number.get("kv-channels", h // heads)
    groups = number.get("num-query-groups", heads)
    biased = "disable-bias-linear" not in read
    norm = h if read.get("normalization") == "RMSNorm" else 2 * h
    qkv = (heads + 2 * groups) * channels
    attention = h * qkv + heads * channels * h + (h if biased else 0)
    attention += qkv if biased or "add-qkv-bias" in read else 0
    attention += 2 * channels if "qk-layernorm" in read else 0
    layer = attention + _mlp(read, number, h, biased) + 2 * norm
    table = vocab * h
    learned = read.get("position-embedding-type") == "learned_absolute"
    positions = number["max-position-embeddings"] * h if learned else 0
    head = table if "untie-embeddings-and-output-weights" in read else 0
    return number["num-layers"] * layer + table + positions + norm + head


def _mlp(read: Mapping[str, str], number: Mapping[str, int], h: int, biased: bool) -> int:
    ffn = number["ffn-hidden-size"]
    inner = 2 if "swiglu" in read else 1
    experts = number.get("num-experts", 0)
    width = number["moe-ffn-hidden-size"] if experts else ffn
    one = h * inner * width + width * h + (inner * width + h if biased else 0)
    return experts * one + h * experts if experts else one
