"""Frozen weights and low-rank adapters: closed forms of weights, work, memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.compute import gemm_s, rates
from costmodels.constants import shipped_constants
from costmodels.layers import Division, products
from costmodels.memory import DeviceOverhead, StateBytes, stage_memory
from costmodels.training import FULL, Training, adapters
from tests.costmodels.blocks import (
    LLAMA_8B,
    chip,
    embedding,
    gpt_block,
    llama_block,
    moe_block,
    price,
)

LLAMA_7B = llama_block(4096, 11008, 32, 32)
FROZEN, FORWARD = Training("frozen"), Training("forward")
STATE = StateBytes(2, 2, 12)
NOTHING = DeviceOverhead(0, 0, 0)


def lora(rank, targets="all"):
    return Training("lora", rank, targets)


def memory(layer):
    return stage_memory(
        [layer],
        [0],
        state=STATE,
        overhead=NOTHING,
        in_flight=1,
        micro_batches=1,
        zero_level=0,
        replicas=1,
        boundary_bytes=0,
    )


def test_lora_16_on_every_matrix_of_llama_7b_has_its_published_40_million_weights():
    one = price(LLAMA_7B, training=lora(16)).trained_parameters
    # rank times inputs plus outputs: four of 8,192 and three of 15,104
    assert one == 16 * (4 * 8192 + 3 * 15104)
    assert 32 * one == 39_976_960


def test_lora_8_on_attention_alone():
    assert price(LLAMA_7B, training=lora(8, "attention")).trained_parameters == 8 * 4 * 8192


def test_targets_divide_the_adapters():
    attention, mlp, every = (
        price(LLAMA_8B, training=lora(4, t)).trained_parameters for t in ("attention", "mlp", "all")
    )
    assert attention + mlp == every


def test_tensor_parallel_halves_one_side_of_every_adapter():
    one = price(gpt_block(1024, 16), training=lora(8), tp=2).trained_parameters
    # qkv and up: A whole, B halved; o and down: A halved, B whole
    column = 8 * (1024 + 3 * 1024 // 2) + 8 * (1024 + 4 * 1024 // 2)
    row = 8 * (1024 // 2 + 1024) + 8 * (4 * 1024 // 2 + 1024)
    assert one == column + row


def test_every_expert_has_an_adapter_of_its_own():
    block = moe_block(1024, 3584, 16, experts=8, active=2)
    expert = [m for m in adapters(block, lora(4, "mlp")) if m.name.startswith("gate")]
    assert [m.experts for m in expert] == [8, 8]
    assert sum(m.parameters for m in expert) == 8 * 4 * (1024 + 3584)


def test_a_frozen_block_drops_exactly_its_weight_gradients():
    full, frozen = price(LLAMA_8B), price(LLAMA_8B, training=FROZEN)
    assert frozen.forward_s == full.forward_s
    assert frozen.backward_input_s == full.backward_input_s
    assert frozen.backward_weight_s == 0
    assert frozen.activation_bytes == full.activation_bytes
    assert frozen.parameters == full.parameters
    assert frozen.trained_parameters == 0


def test_adapters_cost_the_products_of_their_rank():
    training = lora(64)
    at = rates(chip(), "fp16")
    extra = [gemm_s(g, at) for g in products(adapters(LLAMA_8B, training), 4096, Division(), True)]
    frozen, adapted = (price(LLAMA_8B, training=t) for t in (FROZEN, training))
    assert adapted.forward_s - frozen.forward_s == pytest.approx(sum(t[0] for t in extra))
    assert adapted.backward_input_s - frozen.backward_input_s == pytest.approx(
        sum(t[1] for t in extra)
    )
    c = shipped_constants()
    adding = 2 * 2 * c.accumulate * adapted.trained_parameters / (at.memory * c.stream)
    assert adapted.backward_weight_s == pytest.approx(sum(t[2] for t in extra) + adding)


def test_adapters_keep_the_product_with_a_for_their_backward():
    frozen, adapted = (price(LLAMA_8B, training=t) for t in (FROZEN, lora(64)))
    # seven matrices, 4,096 tokens of rank 64 in two bytes
    assert adapted.activation_bytes[0] - frozen.activation_bytes[0] == 7 * 4096 * 64 * 2


def test_a_layer_before_every_trained_one_runs_forward_alone():
    found = price(LLAMA_8B, training=FORWARD)
    assert found.forward_s == price(LLAMA_8B).forward_s
    assert found.backward_input_s == found.backward_weight_s == found.tp_comm_backward_s == 0
    assert found.activation_bytes == (0, 0, 0)
    assert found.recompute_s == (0, 0, 0)
    assert found.items[0] == ("forward alone", found.forward_s)


def test_a_frozen_embedding_gets_no_gradient_rows():
    full, frozen = (price(embedding(4096, 32000), training=t) for t in (FULL, FROZEN))
    assert full.backward_weight_s > 0
    assert frozen.backward_weight_s == 0


def test_gradients_and_optimizer_exist_for_adapters_alone():
    items = memory(price(LLAMA_7B, training=lora(16)))
    trained = 16 * (4 * 8192 + 3 * 15104)
    whole = price(LLAMA_7B).parameters + trained
    assert (items.parameters, items.gradients, items.optimizer) == (
        2 * whole,
        2 * trained,
        12 * trained,
    )


def test_a_frozen_layer_keeps_its_weights_alone():
    items = memory(price(LLAMA_7B, training=FROZEN))
    assert items.parameters == 2 * price(LLAMA_7B).parameters
    assert items.gradients == items.optimizer == 0


@given(st.integers(1, 256), st.sampled_from([1, 2, 4, 8]), st.sampled_from(["attention", "mlp"]))
def test_training_less_never_takes_more(rank, tp, targets):
    full = price(LLAMA_8B, tp=tp)
    some = price(LLAMA_8B, tp=tp, training=lora(rank, targets))
    more = price(LLAMA_8B, tp=tp, training=lora(rank, "all"))
    frozen = price(LLAMA_8B, tp=tp, training=FROZEN)
    backward = [p.backward_input_s + p.backward_weight_s for p in (frozen, some, more)]
    assert backward == sorted(backward)
    assert frozen.backward_input_s + frozen.backward_weight_s <= (
        full.backward_input_s + full.backward_weight_s
    )
    assert frozen.trained_parameters <= some.trained_parameters <= more.trained_parameters
    assert memory(frozen).peak <= memory(full).peak
