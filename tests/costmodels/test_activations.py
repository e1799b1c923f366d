"""Activation bytes agree with Korthikanti et al. (2022) and grow with what is computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.activations import activation_bytes
from costmodels.shapes import AttentionCore, GenericWork, LayerShape, Matmul
from tests.costmodels.blocks import (
    LLAMA_8B,
    embedding,
    gpt_block,
    llama_block,
    moe_block,
    vocabulary_head,
)


def bytes_of(shape, **change):
    run = {"rows": 1, "seq_len": 2048, "tp": 1, "precision": "fp16"}
    run |= {"sequence_parallel": False, "flash": False}
    return activation_bytes(shape, **(run | change))


GPT = st.builds(
    lambda heads, head: (gpt_block(8 * heads * head, 8 * heads), 8 * heads, 8 * heads * head),
    st.integers(1, 12),
    st.sampled_from([32, 64, 80, 128]),
)
GRID = {"s": st.sampled_from([128, 1024, 2048]), "b": st.integers(1, 4)}


@given(gpt=GPT, **GRID)
def test_gpt_on_one_device(gpt, s, b):
    shape, a, h = gpt
    kept = bytes_of(shape, rows=b, seq_len=s).kept
    assert kept[0] == s * b * (34 * h + 5 * a * s)


@given(gpt=GPT, t=st.sampled_from([1, 2, 4, 8]), **GRID)
def test_gpt_with_tensor_parallelism(gpt, t, s, b):
    shape, a, h = gpt
    kept = bytes_of(shape, rows=b, seq_len=s, tp=t).kept
    assert kept[0] == s * b * (10 * h + 24 * h // t + 5 * a * s // t)


@given(gpt=GPT, t=st.sampled_from([1, 2, 4, 8]), **GRID)
def test_gpt_with_sequence_parallelism(gpt, t, s, b):
    shape, a, h = gpt
    kept = bytes_of(shape, rows=b, seq_len=s, tp=t, sequence_parallel=True).kept
    assert kept[0] * t == s * b * (34 * h + 5 * a * s)


@given(gpt=GPT, t=st.sampled_from([1, 2, 4, 8]), **GRID)
def test_selective_recomputation_drops_the_scores(gpt, t, s, b):
    shape, _, h = gpt
    kept = bytes_of(shape, rows=b, seq_len=s, tp=t, sequence_parallel=True).kept
    assert kept[1] * t == 34 * s * b * h


@given(gpt=GPT, **GRID)
def test_full_recomputation_keeps_the_input(gpt, s, b):
    shape, _, h = gpt
    assert bytes_of(shape, rows=b, seq_len=s).kept[2] == 2 * s * b * h


@given(gpt=GPT, **GRID)
def test_flash_attention_never_stores_scores(gpt, s, b):
    shape, _, h = gpt
    kept = bytes_of(shape, rows=b, seq_len=s, flash=True).kept
    assert kept[0] == kept[1] == 34 * s * b * h


def test_a_llama_block_by_hand():
    # Per token, in elements: norm inputs 2h, matrix inputs 2h, q and output 2h, k and v h/2,
    # gate, up and their product 3·3.5h.
    h, ffn = 4096, 14336
    kept = bytes_of(LLAMA_8B, flash=True).kept
    assert kept[0] == 2048 * 2 * (2 * h + 2 * h + 2 * h + h // 2 + 3 * ffn)


def test_grouped_heads_keep_less():
    grouped, full = llama_block(4096, 14336, 32, 8), llama_block(4096, 14336, 32, 32)
    saved = bytes_of(full, flash=True).kept[0] - bytes_of(grouped, flash=True).kept[0]
    assert saved == 2048 * 2 * 24 * 128 * 2


def test_experts_keep_a_copy_of_each_token_for_each_expert():
    one = bytes_of(moe_block(1024, 2048, 8, experts=8, active=1), flash=True).kept[0]
    two = bytes_of(moe_block(1024, 2048, 8, experts=8, active=2), flash=True).kept[0]
    assert two - one == 2048 * 2 * (1024 + 3 * 2048)


def test_latents_are_counted_with_their_norms():
    core = AttentionCore(4, 4, 48, 32)
    matmuls = (
        Matmul("q_a", 256, 64, "replicated"),
        Matmul("q_b", 64, 4 * 48, "column"),
        Matmul("kv_a", 256, 32, "replicated"),
        Matmul("kv_b", 32, 4 * 64, "column"),
        Matmul("o", 4 * 32, 256, "row"),
    )
    shape = LayerShape("block", 256, matmuls, core, gated=True)
    # Norm input and shared input of the first matrices, latents and their norms' inputs, heads.
    per_token = 2 * 256 + 2 * (64 + 32) + 4 * (48 + 32) + 4 * (48 + 32)
    assert bytes_of(shape, seq_len=10, flash=True).kept[0] == 10 * 2 * per_token


def test_logits_and_their_gradient_are_in_fp32():
    # S2: the fp32 logits of Llama-3 at 4,096 tokens are 1.96 GiB; as much again beside them, and
    # the 16-bit logits of which they are a copy.
    logits = bytes_of(vocabulary_head(4096, 128256), seq_len=4096).logits
    assert logits / 2.5 / 2**30 == pytest.approx(1.957, abs=1e-3)


@given(t=st.sampled_from([1, 2, 4, 8]))
def test_the_vocabulary_parallel_loss_divides_the_logits(t):
    shape = vocabulary_head(4096, 128256)
    assert bytes_of(shape, tp=t).logits * t == bytes_of(shape).logits


def test_blocks_have_no_logits():
    assert bytes_of(LLAMA_8B).logits == 0


SHAPES = [
    LLAMA_8B,
    gpt_block(1024, 16),
    moe_block(512, 1024, 8, experts=8, active=2),
    embedding(512, 1000),
    vocabulary_head(512, 1000),
    LayerShape("generic", 64, generic=GenericWork(1e9, 1000, tensor_parallel=True)),
]


@given(
    shape=st.sampled_from(SHAPES),
    rows=st.integers(1, 4),
    t=st.sampled_from([1, 2, 8]),
    seq_len=st.sampled_from([128, 1000]),
    sequence_parallel=st.booleans(),
    flash=st.booleans(),
)
def test_more_rows_never_take_less_memory(shape, rows, t, seq_len, sequence_parallel, flash):
    run = {"tp": t, "seq_len": seq_len, "sequence_parallel": sequence_parallel, "flash": flash}
    fewer, more = bytes_of(shape, rows=rows, **run), bytes_of(shape, rows=rows + 1, **run)
    assert all(a <= b for a, b in zip(fewer.kept, more.kept))
    assert all(a <= b for a, b in zip(fewer.working, more.working))
    assert fewer.logits <= more.logits


@given(shape=st.sampled_from(SHAPES), t=st.sampled_from([1, 2, 8]), flash=st.booleans())
def test_recomputation_never_keeps_more(shape, t, flash):
    none, selective, full = bytes_of(shape, tp=t, flash=flash).kept
    assert none >= selective >= full > 0


@given(shape=st.sampled_from(SHAPES), flash=st.booleans(), t=st.sampled_from([2, 4, 8]))
def test_sequence_parallelism_never_keeps_more(shape, flash, t):
    with_it = bytes_of(shape, tp=t, flash=flash, sequence_parallel=True).kept
    assert all(a <= b for a, b in zip(with_it, bytes_of(shape, tp=t, flash=flash).kept))
