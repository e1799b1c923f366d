"""Kernels: larger work never takes less time, and small work is bound by its launch."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.compute import (
    Rates,
    core_s,
    gemm_s,
    gemms_s,
    generic_s,
    optimizer_update_s,
    product_s,
    rates,
    streamed_s,
)
from costmodels.constants import shipped_constants
from costmodels.layers import CoreWork, Gemm, Streamed
from costmodels.memory import StateBytes, adam_state
from tests.costmodels.blocks import chip

AT = rates(chip(), "bf16")
LAUNCH_S = shipped_constants().launch_s
STREAM = shipped_constants().stream
DIM = st.integers(1, 20_000)


@given(m=DIM, n=DIM, k=DIM, more=st.integers(0, 5_000), which=st.integers(0, 2))
def test_a_larger_product_never_takes_less_time(m, n, k, more, which):
    larger = [m, n, k]
    larger[which] += more
    assert product_s(*larger, 1, AT.product, AT) >= product_s(m, n, k, 1, AT.product, AT)


@given(m=DIM, n=DIM, k=DIM, slower=st.floats(0.1, 1))
def test_a_slower_chip_never_takes_less_time(m, n, k, slower):
    weak = replace(AT, product=AT.product * slower, memory=AT.memory * slower)
    assert product_s(m, n, k, 1, weak.product, weak) >= product_s(m, n, k, 1, AT.product, AT)


@given(m=DIM, n=DIM, k=DIM)
def test_no_product_exceeds_the_best_measured_rate(m, n, k):
    best = chip().peak("bf16") * chip().gemm_fraction
    assert 2 * m * n * k / product_s(m, n, k, 1, AT.product, AT) < best


@given(m=DIM, n=DIM, k=DIM, count=st.integers(1, 64))
def test_a_product_takes_the_tiles_that_end_first(m, n, k, count):
    c = shipped_constants()

    def busy(high, wide, share) -> float:
        tiles = count * -(-m // high) * -(-n // wide) / AT.cores
        waves = tiles + c.wave_fill * (math.ceil(tiles) - tiles)
        return waves * high * wide / share

    deep = -(-k // 64) * 64 + c.k_half
    first = 2.0 * min(busy(*tile) for tile in c.tiles) * AT.cores * deep / AT.product
    moved = count * (m * k + k * n + m * n) * AT.element_bytes / AT.memory
    assert product_s(m, n, k, count, AT.product, AT) == max(first, moved) + c.launch_s


@given(sizes=st.lists(st.sampled_from([512, 1024, 4096]), min_size=3, max_size=9))
def test_products_of_one_size_take_as_long_together_as_one_by_one(sizes):
    gemms = [Gemm("", 2048, n, k) for n, k in itertools.pairwise(sizes)]
    alone = [gemm_s(gemm, AT) for gemm in gemms]
    together = gemms_s(gemms, AT, shipped_constants())
    for way in range(3):
        seconds = 0.0
        for times in alone:
            seconds += times[way]
        assert together[way] == seconds


def test_a_large_product_reaches_most_of_the_sustained_rate():
    seconds = product_s(8192, 8192, 8192, 1, AT.product, AT)
    assert 2 * 8192**3 / seconds / AT.product > 0.95


def test_a_thin_product_is_bound_by_reading_its_weights():
    seconds = product_s(1, 8192, 8192, 1, 1e18, AT)
    assert seconds == pytest.approx(2 * 8192**2 / AT.memory + LAUNCH_S, rel=1e-3)


def test_narrow_slices_are_inefficient():
    # hidden/tp below 512 comes out far below the rate of wide matrices.
    def rate(width):
        return width / product_s(2048, 4096, width, 1, AT.product, AT)

    assert rate(256) < 0.75 * rate(4096)


def test_many_small_experts_are_slower_than_one_large_product():
    experts = product_s(64, 2048, 1024, 64, AT.product, AT)
    assert experts > product_s(4096, 2048, 1024, 1, AT.product, AT)


def test_backward_of_a_product_is_two_products():
    forward, inputs, weights = gemm_s(Gemm("x", 4096, 4096, 4096), AT)
    assert forward == inputs == weights


CORE = CoreWork(1, 4096, 32, 8, 128, 128, causal=True, flash=True)


@given(
    rows=st.integers(1, 4),
    seq_len=st.integers(1, 8192),
    longer=st.integers(0, 1000),
    flash=st.booleans(),
)
def test_attention_never_gets_faster_with_rows_or_length(rows, seq_len, longer, flash):
    base = CORE._replace(rows=rows, seq_len=seq_len, flash=flash)
    for larger in (base._replace(rows=rows + 1), base._replace(seq_len=seq_len + longer)):
        assert all(a <= b for a, b in zip(core_s(base, AT), core_s(larger, AT)))


@given(seq_len=st.integers(256, 65_536), longer=st.integers(1, 65_536))
def test_fused_attention_gains_from_longer_sequences_and_never_overtakes_its_work(seq_len, longer):
    def rate(s):
        core = CORE._replace(seq_len=s)
        return s**2 / (sum(core_s(core, AT)) - 3 * LAUNCH_S)

    assert rate(seq_len) <= rate(seq_len + longer) * (1 + 1e-9)
    # Twice the length takes at least twice the time.
    assert rate(2 * seq_len) <= 2 * rate(seq_len) * (1 + 1e-9)


def test_a_query_takes_as_long_as_so_many_keys_more():
    s, more = 4096, round(shipped_constants().flash_query)

    def seconds(**changes):
        return core_s(CORE._replace(**changes), AT)[0] - LAUNCH_S

    # s²/2 + s·q pairs of a causal mask are the s² of a full one, less what the rows beside take.
    causal, whole = seconds(), seconds(causal=False)
    assert whole / causal == pytest.approx((s + more) / (s / 2 + more), rel=1e-3)
    windowed = seconds(pairs=float(512 * s))
    assert windowed / causal == pytest.approx((512 + more) / (s / 2 + more), rel=1e-3)


def test_attention_in_32_bits_runs_outside_of_the_matrix_units():
    tf32, half = rates(chip("H100-SXM-80GB"), "tf32"), rates(chip("H100-SXM-80GB"), "bf16")
    assert tf32.core == rates(chip("H100-SXM-80GB"), "fp32").core < 0.2 * half.core
    assert tf32.product > 0.4 * half.product


def test_weight_gradients_in_tf32_are_slower_on_hopper_alone():
    for name, slower in (("H100-SXM-80GB", 1.75), ("A100-SXM-80GB", 1.0)):
        at = rates(chip(name), "tf32")
        forward, _, weights = (t - LAUNCH_S for t in gemm_s(Gemm("", 8192, 8192, 8192), at))
        assert weights / forward == pytest.approx(slower)


def test_a_kernel_more_in_eager_attention_costs_as_much_backward_as_forward():
    eager, fused = (
        core_s(CORE._replace(flash=False), AT, fused_softmax=softmax) for softmax in (False, True)
    )
    assert eager[0] - fused[0] == pytest.approx(eager[1] - fused[1])
    assert eager[0] > 2 * fused[0]


def test_a_causal_mask_speeds_up_flash_only():
    def seconds(**change):
        return sum(core_s(CORE._replace(**change), AT))

    # Half of the pairs, less what each query takes whatever it sees.
    assert 1.85 * seconds() < seconds(causal=False) < 2 * seconds()
    assert seconds(flash=False, causal=False) == seconds(flash=False)


def test_unfused_attention_is_several_times_slower():
    unfused = sum(core_s(CORE._replace(flash=False), AT))
    assert 3 < unfused / sum(core_s(CORE, AT)) < 10


def test_misaligned_heads_are_slow():
    aligned, odd = CORE._replace(flash=False, qk_head_dim=152, v_head_dim=152), 149
    misaligned = aligned._replace(qk_head_dim=odd, v_head_dim=odd)
    assert core_s(misaligned, AT)[0] > 1.5 * core_s(aligned, AT)[0]


@given(moved=st.floats(0, 1e12), more=st.floats(0, 1e12), kernels=st.integers(0, 50))
def test_moving_more_never_takes_less_time(moved, more, kernels):
    assert streamed_s(Streamed(moved + more, kernels), AT) >= streamed_s(
        Streamed(moved, kernels), AT
    )


def test_layers_without_work_are_free():
    assert generic_s(0.0, 0.0, AT) == 0


def test_generic_layers_follow_the_roofline():
    assert generic_s(AT.product, 0.0, AT) == pytest.approx(1.0, abs=1e-4)
    assert generic_s(0.0, AT.memory, AT) == pytest.approx(1 / STREAM, rel=1e-3)


def test_fp8_leaves_attention_in_16_bits():
    at = rates(chip("H100-SXM-80GB"), "fp8")
    assert at.product > 2 * at.core
    assert at.core == rates(chip("H100-SXM-80GB"), "bf16").core


def test_a_chip_without_the_precision_is_an_error():
    with pytest.raises(LookupError, match="v100"):
        rates(chip("V100-SXM2-32GB"), "bf16")


def test_an_update_streams_the_whole_state():
    # A billion parameters: 4 for the norm, then 4 + 2·12 + 2 bytes, at the streamed share.
    state = StateBytes(2, 4, 12)
    seconds = optimizer_update_s(10**9, state, chip())
    assert seconds == pytest.approx(34e9 / (STREAM * 2039e9), rel=1e-2)


def test_zero_divides_the_update_but_not_the_norm():
    state = adam_state("bf16", 4)
    sharded = optimizer_update_s(10**9, state, chip(), 8)
    assert sharded == pytest.approx((4 + 30 / 8) * 1e9 / (STREAM * 2039e9), rel=1e-2)


@given(parameters=st.integers(0, 10**10), more=st.integers(0, 10**9), replicas=st.integers(1, 64))
def test_more_parameters_never_update_faster(parameters, more, replicas):
    state = adam_state("bf16")
    fewer = optimizer_update_s(parameters, state, chip(), replicas)
    assert optimizer_update_s(parameters + more, state, chip(), replicas) >= fewer


def test_rates_are_those_of_the_catalogue():
    assert isinstance(AT, Rates)
    assert AT.memory == 2039e9
    assert AT.product < 0.869 * 312e12
