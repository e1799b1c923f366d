"""Layer shapes and chips that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace

from costmodels.catalog import Chip, Fabric, load_catalog
from costmodels.price import LayerConfig, LayerPrice, price_layer
from costmodels.shapes import AttentionCore, LayerShape, Matmul


def gpt_block(hidden: int, heads: int) -> LayerShape:
    head = hidden // heads
    return LayerShape(
        "block",
        hidden,
        (
            Matmul("qkv", hidden, 3 * hidden, "column"),
            Matmul("o", hidden, hidden, "row"),
            Matmul("up", hidden, 4 * hidden, "column"),
            Matmul("down", 4 * hidden, hidden, "row"),
        ),
        AttentionCore(heads, heads, head, head),
        gated=False,
        vector_parameters=13 * hidden,
    )


def attention(hidden: int, heads: int, kv_heads: int, head: int) -> tuple[Matmul, ...]:
    return (
        Matmul("q", hidden, heads * head, "column"),
        Matmul("k", hidden, kv_heads * head, "column"),
        Matmul("v", hidden, kv_heads * head, "column"),
        Matmul("o", heads * head, hidden, "row"),
    )


def llama_block(hidden: int, ffn: int, heads: int, kv_heads: int) -> LayerShape:
    head = hidden // heads
    mlp = (
        Matmul("gate", hidden, ffn, "column"),
        Matmul("up", hidden, ffn, "column"),
        Matmul("down", ffn, hidden, "row"),
    )
    return LayerShape(
        "block",
        hidden,
        attention(hidden, heads, kv_heads, head) + mlp,
        AttentionCore(heads, kv_heads, head, head),
        gated=True,
        vector_parameters=2 * hidden,
    )


def moe_block(hidden: int, ffn: int, heads: int, experts: int, active: int) -> LayerShape:
    head = hidden // heads
    mlp = (
        Matmul("router", hidden, experts, "replicated"),
        Matmul("gate", hidden, ffn, "column", experts, active),
        Matmul("up", hidden, ffn, "column", experts, active),
        Matmul("down", ffn, hidden, "row", experts, active),
    )
    return LayerShape(
        "block",
        hidden,
        attention(hidden, heads, heads, head) + mlp,
        AttentionCore(heads, heads, head, head),
        gated=True,
        vector_parameters=2 * hidden,
    )


def vocabulary_head(hidden: int, vocab: int) -> LayerShape:
    matmul = Matmul("lm_head", hidden, vocab, "column")
    return LayerShape("head", hidden, (matmul,), vector_parameters=hidden, vocab=vocab)


def embedding(hidden: int, vocab: int, positions: int = 0) -> LayerShape:
    return LayerShape(
        "embedding", hidden, table_parameters=(vocab + positions) * hidden, vocab=vocab
    )


LLAMA_8B = llama_block(4096, 14336, 32, 8)
LLAMA_13B = llama_block(5120, 13824, 40, 40)
LLAMA_70B = llama_block(8192, 28672, 64, 8)


def chip(name: str = "A100-SXM-80GB") -> Chip:
    return load_catalog().get(name)


def fabric(name: str = "A100-SXM-80GB") -> Fabric:
    found = chip(name)
    return found.fabric or found.host_fabric


def price(shape: LayerShape, name: str = "A100-SXM-80GB", derate: float = 1.0, **run) -> LayerPrice:
    config = LayerConfig(1, 4096, 1, "fp16", True, True)
    return price_layer(shape, chip(name), fabric(name), replace(config, **run), derate=derate)


def compute_s(p: LayerPrice) -> float:
    return p.forward_s + p.backward_input_s + p.backward_weight_s


def total_s(p: LayerPrice) -> float:
    return compute_s(p) + p.tp_comm_forward_s + p.tp_comm_backward_s
