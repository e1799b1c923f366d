"""The model of a measured run, built from its row: blocks, embedding and head.

Where a row leaves a width open, a declared rule fills it in: public models by their name, the
MLP's width and kind by the family, the vocabulary by the tokenizer that the name stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from planner.graphs.model_graph import Layer, ModelGraph, TensorEdge
from planner.inputs import layer_parts as parts
from planner.inputs.layer_parts import Part
from planner.validate.fields import Unstated, count, ffn, number
from planner.validate.table import Row

PUBLIC: Mapping[str, Mapping[str, int]] = {
    "internlm-7b": {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 11008, "vocab": 103168},
    "llama-2-7b": {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 11008, "vocab": 32000},
    "llama-2-13b": {"layers": 40, "hidden": 5120, "heads": 40, "ffn": 13824, "vocab": 32000},
}
"""Widths of public models that tables name without giving them."""

MISTRAL_WINDOW = 4096
OSS_WINDOW = 128

_GATED = (
    "llama", "mistral", "mixtral", "qwen", "gemma", "aquila", "baichuan", "glm", "internlm",
    "minicpm", "deepseek", "yi-", "phi-3", "codellama", "gpt oss", "gpt-oss",
)  # fmt: skip
_PLAIN = ("gpt", "mpt", "bloom", "opt", "megatron", "nemotron", "starcoder", "falcon")
_TIED = ("gpt", "mpt", "bloom", "opt", "megatron", "gemma", "minicpm")

_VOCABULARIES = (
    ("llama3", 128256), ("llama-3", 128256), ("llama 3", 128256), ("qwen", 151936),
    ("baichuan2", 125696), ("baichuan", 64000), ("aquila", 100008), ("internlm", 103168),
    ("glm4", 151552), ("chatglm", 65024), ("gemma", 256000), ("minicpm", 122753),
    ("bloom", 250880), ("gpt", 51200), ("megatron", 51200), ("mpt", 50368), ("opt", 50272),
    ("deepseek", 129280),
)  # fmt: skip
_DEFAULT_VOCABULARY = 32000


@dataclass(frozen=True, slots=True)
class Built:
    """A model and the rules that filled in what its row leaves open.

    ``fused``: its elementwise kernels have fused forms. Clamped activations and biases of experts
    have not, in any runtime of the table.
    """

    graph: ModelGraph
    notes: tuple[str, ...]
    fused: bool = True


def build_model(row: Row) -> Built:
    """The layers of a row's model. Raises Unstated where they cannot be known."""
    name = row["model"]
    low = name.lower()
    oss = "gpt oss" in low or "gpt-oss" in low
    known = next((PUBLIC[key] for key in PUBLIC if key == low), {})
    notes: list[str] = []

    def width(column: str) -> int:
        value = count(row, column)
        if value is None and column in known:
            notes.append(f"{column} {known[column]}: as {name} was published")
            return known[column]
        if value is None:
            raise Unstated(f"{column} is not stated")
        return value

    hidden, heads = width("hidden"), width("heads")
    vocab = count(row, "vocab") or known.get("vocab")
    if vocab is None:
        vocab = next((v for w, v in _VOCABULARIES if w in low), _DEFAULT_VOCABULARY)
        notes.append(f"vocabulary {vocab}: of the family")
    layers = _layers(row, hidden, vocab, notes) or width("layers")
    dense, expert = ffn(row)
    dense = dense or known.get("ffn")
    if dense is None and expert is None:
        dense = 4 * hidden
        notes.append(f"MLP width {dense}: four times the hidden size")
    gated = _gated(row, low, hidden, dense, layers, vocab, notes)
    if row["kv_heads"].upper() == "MLA":
        bodies = _latent(row, hidden, heads, layers, dense, expert, notes)
    else:
        attention = _attention(row, low, hidden, heads, notes)
        body = _mlp(row, low, hidden, dense, expert, gated, notes)
        bodies = [attention + body] * layers
        if oss and attention.attention is not None:
            notes.append(f"every second block attends over a window of {OSS_WINDOW} tokens")
            core = replace(attention.attention, window=OSS_WINDOW)
            near = replace(attention, attention=core) + body
            notes.append("activations of experts not fused: clamped, with biases")
            bodies = [near if i % 2 == 0 else bodies[0] for i in range(layers)]
    tied = any(w in low for w in _TIED) and not oss
    return Built(_graph(name, hidden, vocab, bodies, tied), tuple(notes), fused=not oss)


def _layers(row: Row, hidden: int, vocab: int, notes: list[str]) -> int | None:
    """Blocks from the parameter count, where the source says that its layers are inferred."""
    billions = _billions(row)
    if billions is None or "layers inferred" not in row["notes"].lower():
        return None
    layers = round((billions * 1e9 - vocab * hidden) / (12 * hidden * hidden))
    notes.append(f"{layers} blocks: {billions:g}e9 parameters less the vocabulary")
    return max(1, layers)


def _billions(row: Row) -> float | None:
    """The stated size; a name such as 7B1 in its place says nothing."""
    try:
        return number(row, "params_B")
    except Unstated:
        return None


def _gated(
    row: Row,
    low: str,
    hidden: int,
    dense: int | None,
    layers: int,
    vocab: int,
    notes: list[str],
) -> bool:
    """Three matrices or two: by the family's name, else by which count meets the stated size."""
    if any(w in low for w in _GATED):
        return True
    if any(w in low for w in _PLAIN):
        return False
    billions = _billions(row)
    if billions is not None and dense is not None:
        rest = 4 * hidden * hidden * layers + vocab * hidden
        sizes = [abs(rest + k * hidden * dense * layers - billions * 1e9) for k in (2, 3)]
        notes.append("MLP of two or three matrices: whichever meets the stated size")
        return sizes[1] < sizes[0]
    notes.append("MLP of three matrices: assumed")
    return True


def _attention(row: Row, low: str, hidden: int, heads: int, notes: list[str]) -> Part:
    kv_heads = count(row, "kv_heads")
    if kv_heads is None:
        kv_heads = heads
        notes.append("as many key-value heads as heads")
    dim = _head_dim(row, low, hidden, heads, notes)
    part = parts.fused_attention(
        hidden,
        heads,
        kv_heads,
        dim,
        qkv_name="self_attn.qkv_proj",
        out_name="self_attn.o_proj",
        bias=not any(w in low for w in _GATED),
    )
    if "mistral" in low and part.attention is not None:
        notes.append(f"attention over a window of {MISTRAL_WINDOW} tokens, as published")
        part = replace(part, attention=replace(part.attention, window=MISTRAL_WINDOW))
    return part + parts.norms(hidden, count=2)


def _head_dim(row: Row, low: str, hidden: int, heads: int, notes: list[str]) -> int:
    stated = count(row, "head_dim")
    if stated is not None:
        return stated
    if hidden % heads:
        notes.append(f"{hidden} does not divide by {heads} heads: heads of {hidden // heads}")
    if "gemma" in low:
        return 256
    if "qwen3" in low or "mistral nemo" in low:
        return 128
    if "gpt oss" in low or "gpt-oss" in low:
        return 64
    return hidden // heads


def _mlp(
    row: Row,
    low: str,
    hidden: int,
    dense: int | None,
    expert: int | None,
    gated: bool,
    notes: list[str],
) -> Part:
    experts, active = count(row, "moe_experts"), count(row, "moe_topk")
    if experts and active:
        width = expert or dense
        if width is None:
            raise Unstated("the width of an expert is not stated")
        moe = _experts(hidden, width, experts, active)
        shared = count(row, "shared_ffn")
        if shared is None and ("qwen1.5" in low or "qwen2-moe" in low):
            notes.append("one shared expert of 5632, as Qwen1.5-MoE-A2.7B was published")
            shared = 5632
        return moe + parts.fused_gated_mlp(hidden, shared) if shared else moe
    if dense is None:
        raise Unstated("the number of experts is not stated")
    if gated:
        return parts.fused_gated_mlp(hidden, dense)
    return parts.plain_mlp(hidden, dense, up="mlp.up_proj", down="mlp.down_proj")


def _experts(hidden: int, width: int, experts: int, active: int) -> Part:
    """A router and experts whose gate and up projections are one matrix."""
    routed = parts.routed_experts(hidden, width, experts=experts, active=active)
    router, gate, _, down = routed.matmuls
    joined = type(gate)("mlp.experts.gate_up_proj", hidden, 2 * width, "column", experts, active)
    return Part((router, joined, down), gated=True)


def _latent(
    row: Row,
    hidden: int,
    heads: int,
    layers: int,
    dense: int | None,
    expert: int | None,
    notes: list[str],
) -> list[Part]:
    """Blocks with latent attention, in the widths of DeepSeek-V3 where none are stated."""
    notes.append("latent attention, shared expert and dense blocks as in DeepSeek-V3")
    whole = row["q_rank"].lower() == "none"
    rank = None if whole else count(row, "q_rank") or 1536
    attention = parts.latent_attention(
        hidden, heads, q_rank=rank, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128
    ) + parts.norms(hidden, count=2)
    experts, active = count(row, "moe_experts"), count(row, "moe_topk")
    if expert is None or experts is None or active is None:
        if dense is None:
            raise Unstated("the experts are not stated")
        return [attention + parts.fused_gated_mlp(hidden, dense)] * layers
    sparse = attention + _experts(hidden, expert, experts, active)
    sparse += parts.fused_gated_mlp(hidden, count(row, "shared_ffn") or expert)
    first = attention + parts.fused_gated_mlp(hidden, dense or 9 * expert)
    lead = count(row, "dense_blocks") or 3
    bodies = [first] * lead + [sparse] * (layers - lead)
    low = row["model"].lower()
    if "deepseekv3" in low and "w/o mtp" not in low:
        notes.append("one block for multi-token prediction")
        bodies.append(sparse)
    return bodies


def _graph(name: str, hidden: int, vocab: int, bodies: list[Part], tied: bool) -> ModelGraph:
    blocks = {id(body): parts.block(hidden, body) for body in bodies}
    layers = (
        Layer("embedding", parts.embedding(hidden, vocab)),
        *(Layer(f"block.{i}", blocks[id(body)]) for i, body in enumerate(bodies)),
        Layer("lm_head", parts.head(hidden, vocab, parts.norms(hidden, count=1))),
    )
    last = len(layers) - 1
    shared = vocab * hidden if tied else 0
    return ModelGraph(
        name=name or "model",
        family="table",
        layers=layers,
        edges=tuple(TensorEdge(i, i + 1, hidden) for i in range(last)),
        tied=((0, last),) if tied else (),
        parameters=sum(layer.shape.parameters for layer in layers) - shared,
        active_parameters=sum(layer.shape.active_parameters for layer in layers) - shared,
    )
