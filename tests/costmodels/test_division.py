"""Context and expert parallelism inside a layer: closed forms."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.layers import Division, forward_flops, layer_work
from costmodels.price import LayerConfig, price_layer
from costmodels.shapes import AttentionCore
from tests.costmodels.blocks import LLAMA_8B, chip, fabric, gpt_block, moe_block

MOE = moe_block(6144, 6144, 48, experts=64, active=4)
RUN = {
    "rows": 1,
    "seq_len": 4096,
    "tp": 1,
    "precision": "bf16",
    "sequence_parallel": False,
    "flash": True,
}


def work(shape, division: Division, **change):
    return layer_work(shape, **(RUN | change), split=division)


def sent(shape, division: Division, group: str) -> int:
    """Bytes of a group's forward collectives on one device."""
    return sum(c.bytes for c in work(shape, division).tp_forward if c.group == group)


def test_flops_of_a_block_are_those_of_the_papers():
    """2·S·W for the weights and 4·S²·h for the scores and values of the whole square."""
    block = gpt_block(4096, 32)
    weights = sum(m.parameters for m in block.matmuls)
    flops = forward_flops(block, 1, 2048, causal=False)
    assert flops == 2 * 2048 * weights + 4 * 2048**2 * 4096


def test_expert_traffic_of_forty_eight_blocks_is_as_measured():
    """Hidden 6144, top-4, bf16: dispatch and combine send 3.94 MiB per token with EP 8."""
    per_token = 48 * sent(MOE, Division(ep=8), "ep") * 7 / 8 / 4096
    assert per_token / 2**20 == pytest.approx(3.94, abs=0.005)


def test_half_of_the_copies_leave_the_node_where_experts_span_two():
    """EP 16 over two nodes of eight: 2.25 MiB per token cross the network."""
    crossing = 48 * sent(MOE, Division(ep=16), "ep") * 8 / 16 / 4096
    assert crossing / 2**20 == pytest.approx(2.25, abs=0.005)


def test_experts_inside_a_node_beat_experts_across_nodes():
    """PP2 EP8 against PP1 EP16 on H100: the traffic above decides."""
    links = fabric("H100-SXM-80GB")
    config = LayerConfig(1, 4096, 1, "bf16", False, True, ep=8, island=8, port=47e9)
    near = price_layer(MOE, chip("H100-SXM-80GB"), links, config)
    far = price_layer(MOE, chip("H100-SXM-80GB"), links, replace(config, ep=16))
    boundary = 4096 * 6144 * 2 / 47e9
    assert far.tp_comm_forward_s - near.tp_comm_forward_s > boundary


def test_context_parallel_devices_share_the_products_and_the_scores():
    alone, shared = work(LLAMA_8B, Division()), work(LLAMA_8B, Division(cp=4))
    assert sum(g.flops for g in shared.gemms) * 4 == sum(g.flops for g in alone.gemms)
    assert shared.core is not None
    assert shared.core.context_parallel == 4
    assert shared.core.seq_len == 4096


def test_keys_and_values_of_all_parts_travel_around():
    # 8 key-value heads of 128, keys and values, two bytes.
    assert sent(LLAMA_8B, Division(cp=4), "cp") == 4096 * 8 * 256 * 2


def test_expert_parallel_devices_hold_their_share_of_the_experts():
    whole, part = work(MOE, Division()), work(MOE, Division(ep=8))
    experts = sum(m.parameters for m in MOE.matmuls if m.experts > 1)
    assert whole.expert_parameters == 0
    assert part.expert_parameters == experts // 8
    assert whole.parameters - part.parameters == experts - experts // 8


def test_balanced_experts_do_the_same_work_wherever_they_lie():
    def flops(division):
        return sum(g.flops for g in work(MOE, division).gemms if g.number > 1)

    alone = flops(Division(imbalance=1.0))
    assert flops(Division(ep=8, imbalance=1.0)) == pytest.approx(alone, rel=1e-3)


def test_whole_experts_need_no_tensor_parallel_collective():
    sliced = work(MOE, Division(tp=4, ep=8, expert_tp=4), tp=4)
    whole = work(MOE, Division(tp=4, ep=8), tp=4)
    assert sum(c.group == "tp" for c in whole.tp_forward) == 1
    assert sum(c.group == "tp" for c in sliced.tp_forward) == 2


def test_an_imbalanced_router_takes_longer():
    config = LayerConfig(4, 4096, 1, "bf16", False, True, ep=8, imbalance=1.0)
    even = price_layer(MOE, chip(), fabric(), config)
    uneven = price_layer(MOE, chip(), fabric(), replace(config, imbalance=1.5))
    assert uneven.forward_s > even.forward_s


def test_a_window_limits_the_pairs_that_attention_sees():
    core = AttentionCore(32, 8, 128, 128, window=1024)
    # A triangle of 1024, then full rows of 1024 keys.
    assert core.pairs(4096) == 4096 * 1024 - 1024**2 / 2
    assert AttentionCore(32, 8, 128, 128).pairs(4096) == 4096**2 / 2


@given(cp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 2, 8]), rows=st.integers(1, 4))
def test_more_rows_never_take_less_time_or_memory(cp, ep, rows):
    config = LayerConfig(rows, 4096, 1, "bf16", False, True, cp=cp, ep=ep)
    fewer = price_layer(MOE, chip(), fabric(), config)
    more = price_layer(MOE, chip(), fabric(), replace(config, rows=rows + 1))
    assert more.forward_s >= fewer.forward_s * (1 - 1e-12)
    assert more.tp_comm_forward_s >= fewer.tp_comm_forward_s
    assert more.activation_bytes[0] >= fewer.activation_bytes[0]


@given(ep=st.sampled_from([1, 2, 4, 8, 16]))
def test_more_expert_parallel_devices_never_hold_more(ep):
    config = LayerConfig(1, 4096, 1, "bf16", False, True, ep=ep)
    held = price_layer(MOE, chip(), fabric(), config).parameters
    twice = price_layer(MOE, chip(), fabric(), replace(config, ep=2 * ep)).parameters
    assert twice <= held


def test_an_early_stop_skips_the_last_product_of_a_recomputed_block():
    config = LayerConfig(1, 4096, 1, "bf16", False, True)
    whole = price_layer(LLAMA_8B, chip(), fabric(), config).recompute_s[2]
    short = price_layer(LLAMA_8B, chip(), fabric(), replace(config, early_stop=True)).recompute_s[2]
    assert 0.6 * whole < short < 0.85 * whole
