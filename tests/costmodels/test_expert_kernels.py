"""Experts on one chip: what the host issues, what is read, and how tokens get there and back."""

from dataclasses import replace

import pytest

from costmodels.compute import RESCALED, core_s, gemm_s, host_floor_s, product_s, rates
from costmodels.constants import shipped_constants
from costmodels.layers import CoreWork, Division, Gemm, unfused_routing
from costmodels.price import LayerConfig, price_layer
from tests.costmodels.blocks import chip, fabric, moe_block

CHIP = chip("H100-SXM-80GB")
MOE = moe_block(2048, 768, 16, experts=128, active=8)
FEW = LayerConfig(1, 512, 1, "bf16", False, True)
C = shipped_constants()


def price(config, shape=MOE):
    return price_layer(shape, CHIP, fabric("H100-SXM-80GB"), config)


def test_one_by_one_every_expert_costs_the_host():
    alone, grouped = price(FEW), price(replace(FEW, grouped_experts=True))
    assert alone.forward_s == C.host_forward_s + 128 * C.host_expert_s
    assert grouped.forward_s < alone.forward_s / 4


def test_the_host_also_casts_the_operands_of_experts():
    wide, narrow = (host_floor_s(0, C, 16, casts=casts) for casts in (False, True))
    assert narrow[0] - wide[0] == pytest.approx(16 * C.host_cast_s)
    assert narrow[1] - wide[1] == pytest.approx(32 * C.host_cast_s)


def test_uneven_tokens_cost_nothing_where_every_chip_has_all_experts():
    config = replace(FEW, seq_len=8192, grouped_experts=True)
    assert price(config) == price(replace(config, imbalance=4.0))
    spread = replace(config, ep=8)
    assert price(replace(spread, imbalance=4.0)).forward_s > price(spread).forward_s


def test_experts_with_few_tokens_take_the_time_of_their_weights():
    at = rates(CHIP, "bf16")
    few = gemm_s(Gemm("up", 16, 1536, 2048, 128), at)[0] - C.launch_s
    moved = 128 * (16 * 2048 + 1536 * 2048 + 16 * 1536) * 2
    assert few == pytest.approx(moved / (C.expert_stream * at.memory))


def test_a_product_of_its_own_reads_as_before():
    at = rates(CHIP, "bf16")
    own = product_s(16, 1536, 2048, 1, at.product, at)
    assert gemm_s(Gemm("up", 16, 1536, 2048), at)[0] == own


def test_routing_in_many_kernels_passes_every_copy_more_often():
    there, back = unfused_routing(MOE, 1000, Division())
    assert there == 1000 * 2048 * 4 * 8
    assert back == 1000 * 2048 * (7 * 8 + 1)
    assert unfused_routing(moe_block(64, 64, 4, experts=1, active=1), 1000, Division()) == (0, 0)
    config = replace(FEW, seq_len=8192, grouped_experts=True)
    fused, unfused = price(config), price(replace(config, fused_routing=False))
    assert unfused.forward_s > fused.forward_s
    assert unfused.backward_input_s > fused.backward_input_s


def test_looking_for_scales_and_turning_operands_takes_memory_passes():
    gemm, at = Gemm("up", 8192, 4096, 4096), rates(CHIP, "fp8")
    fused, looked = gemm_s(gemm, at), gemm_s(gemm, at, rescaled=True)
    one_pass = 2 / (at.memory * C.stream)
    operands, gradient = 8192 * 4096 + 4096 * 4096, 8192 * 4096
    more = operands * (RESCALED[0] - C.cast_passes) * one_pass
    assert looked[0] - fused[0] == pytest.approx(more)
    back = (operands + gradient) * RESCALED[1] - gradient * C.cast_passes
    assert looked[1] - fused[1] == pytest.approx(back * one_pass)
    wide = rates(CHIP, "bf16")
    assert gemm_s(gemm, wide) == gemm_s(gemm, wide, rescaled=True)


def test_one_head_size_pads_the_values_of_latent_attention():
    latent = CoreWork(1, 4096, 16, 16, 192, 128, causal=True, flash=True)
    at = rates(CHIP, "bf16")
    padded = core_s(latent, at, equal_heads=True)
    assert padded == core_s(latent._replace(v_head_dim=192), at)
    assert padded[0] > core_s(latent, at)[0]
    equal = latent._replace(qk_head_dim=128)
    assert core_s(equal, at, equal_heads=True) == core_s(equal, at)
