"""Work of a layer: FLOPs, parameters and tensor-parallel traffic."""

from hypothesis import given
from hypothesis import strategies as st

from costmodels.layers import (
    Collective,
    forward_flops,
    layer_work,
    parameters_per_device,
)
from costmodels.shapes import AttentionCore, GenericWork, LayerShape, Matmul
from tests.costmodels.blocks import (
    LLAMA_8B,
    LLAMA_70B,
    embedding,
    gpt_block,
    moe_block,
    vocabulary_head,
)


def work(shape, **change):
    run = {"rows": 1, "seq_len": 4096, "tp": 1, "precision": "bf16"}
    run |= {"sequence_parallel": True, "flash": True}
    return layer_work(shape, **(run | change))


def test_flops_of_a_llama_3_8b_layer():
    assert forward_flops(LLAMA_8B, 1, 512, causal=False) == 227_633_266_688


def test_a_causal_mask_halves_the_attention_core():
    square = 4 * 512**2 * 4096
    whole = forward_flops(LLAMA_8B, 1, 512, causal=False)
    assert forward_flops(LLAMA_8B, 1, 512) == whole - square / 2


def test_flops_of_experts_count_the_active_ones():
    moe = moe_block(1024, 2048, 8, experts=8, active=2)
    dense = forward_flops(moe, 1, 128) / 2 / 128
    assert dense == 4 * 1024**2 + 1024 * 8 + 2 * 3 * 1024 * 2048 + 128 * 1024


def test_flops_of_generic_layers_are_as_given():
    shape = LayerShape("generic", 64, generic=GenericWork(1e9, 100))
    assert forward_flops(shape, 3, 128) == 3e9


def test_gemms_add_up_to_the_flops_of_the_matrices():
    flops = sum(g.flops for g in work(LLAMA_8B).gemms)
    core = 4 * 4096**2 * 4096
    assert flops == forward_flops(LLAMA_8B, 1, 4096, causal=False) - core


@given(tp=st.sampled_from([1, 2, 4, 8]), rows=st.integers(1, 4))
def test_tensor_parallelism_divides_the_products(tp, rows):
    whole = sum(g.flops for g in work(LLAMA_70B, rows=rows).gemms)
    assert sum(g.flops for g in work(LLAMA_70B, rows=rows, tp=tp).gemms) * tp == whole


@given(tp=st.sampled_from([1, 2, 4, 8]), shape=st.sampled_from([LLAMA_8B, gpt_block(1024, 16)]))
def test_tensor_parallelism_divides_the_matrices_and_copies_the_vectors(tp, shape):
    matrices = shape.parameters - shape.vector_parameters
    assert parameters_per_device(shape, tp) == matrices // tp + shape.vector_parameters


def test_uneven_slices_are_rounded_up():
    assert parameters_per_device(vocabulary_head(64, 50257), 8) == -(-64 * 50257 // 8) + 64


def test_the_vocabulary_is_divided_and_positions_are_copied():
    assert parameters_per_device(embedding(64, 1000, positions=32), 4) == 1000 * 64 // 4 + 32 * 64


@given(tp=st.integers(1, 16))
def test_no_parameter_is_lost(tp):
    moe = moe_block(256, 512, 8, experts=4, active=2)
    for shape in (LLAMA_8B, moe, embedding(64, 1001), vocabulary_head(64, 1001)):
        assert parameters_per_device(shape, tp) * tp >= shape.parameters
        assert parameters_per_device(shape, tp) <= shape.parameters


def test_experts_are_small_products_of_one_kernel():
    moe = moe_block(1024, 2048, 8, experts=8, active=2)
    gate = next(g for g in work(moe).gemms if g.name == "gate")
    assert gate.number == 8
    assert gate.m == 4096 * 2 / 8


def test_few_tokens_reach_few_experts():
    moe = moe_block(64, 64, 4, experts=64, active=2)
    gate = next(g for g in work(moe, seq_len=3).gemms if g.name == "gate")
    assert gate.number == 6


def test_a_block_costs_two_all_reduces_forward_and_two_backward():
    whole = 4096 * 4096 * 2
    done = work(LLAMA_8B, tp=4, sequence_parallel=False)
    assert done.tp_forward == done.tp_backward == (Collective("all_reduce", whole),) * 2


def test_sequence_parallelism_splits_each_all_reduce():
    done = work(LLAMA_8B, tp=4)
    assert [c.kind for c in done.tp_forward] == ["all_gather", "reduce_scatter"] * 2


def test_one_device_sends_nothing():
    for shape in (LLAMA_8B, embedding(64, 100), vocabulary_head(64, 100)):
        assert work(shape).tp_forward == work(shape).tp_backward == ()


def test_latent_attention_counts_its_own_head_sizes():
    # DeepSeek-V3: 128 heads, 192 wide for queries and keys, 128 for values.
    core = AttentionCore(128, 128, 192, 128)
    shape = LayerShape("block", 7168, (Matmul("o", 16384, 7168, "row"),), core, gated=True)
    attention = forward_flops(shape, 1, 4096, causal=False) - 2 * 4096 * 16384 * 7168
    assert attention == 2 * 4096**2 * 128 * (192 + 128)
