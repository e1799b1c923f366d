"""Widths that do not divide by 8, where a runtime does not pad them."""

from dataclasses import replace

import pytest

from costmodels.compute import RAGGED_EVEN, RAGGED_ODD, gemm_s, ragged, rates
from costmodels.constants import shipped_constants
from costmodels.layers import Gemm
from tests.costmodels.blocks import chip

AT = rates(chip(), "bf16")
LAUNCH_S = shipped_constants().launch_s


@pytest.mark.parametrize(
    ("widths", "slow"),
    [
        ((50304, 4096), 1.0),
        ((50264, 2560), 1.0),
        ((50258, 2560), RAGGED_EVEN),
        ((4096, 4092), RAGGED_EVEN),
        ((50257, 2048), RAGGED_ODD),
        ((4095, 4094), RAGGED_ODD),
    ],
)
def test_the_worst_width_counts(widths, slow):
    assert ragged(*widths) == slow


def test_all_three_products_slow_down_and_launches_do_not():
    gemm = Gemm("", 8192, 50257, 2048)
    padded, bare = gemm_s(gemm, AT), gemm_s(gemm, AT, padded=False)
    for quick, slow in zip(padded, bare):
        assert slow - LAUNCH_S == pytest.approx(RAGGED_ODD * (quick - LAUNCH_S))


def test_the_number_of_tokens_may_be_odd():
    gemm = Gemm("", 4095, 4096, 4096)
    assert gemm_s(gemm, AT, padded=False) == gemm_s(gemm, AT)


def test_four_byte_elements_are_not_slowed():
    gemm = Gemm("", 4096, 4095, 4096)
    wide = replace(AT, element_bytes=4)
    assert gemm_s(gemm, wide, padded=False) == gemm_s(gemm, wide)
