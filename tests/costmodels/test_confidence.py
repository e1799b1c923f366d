"""Ranges: wider where less is known, always around the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.catalog import load_catalog
from costmodels.confidence import (
    LEAST_SPREAD,
    Seen,
    confidence_document,
    peak_range,
    spread_of,
    step_range,
)
from tests.costmodels.blocks import chip

RATED = [i for i in load_catalog().ids if load_catalog().get(i).peak_flops]
A100, V100 = chip(), chip("V100-SXM2-32GB")


@given(step=st.floats(1e-6, 1e6), name=st.sampled_from(RATED))
def test_a_range_holds_the_step_on_every_chip(step, name):
    c = load_catalog().get(name)
    precision = c.peak_flops[0][0]
    low, high = step_range(step, [c], precision)
    assert low <= step * math.exp(-LEAST_SPREAD) < step * math.exp(LEAST_SPREAD) <= high


def test_a_chip_that_nobody_measured_is_less_certain():
    known, unknown = spread_of(A100, "bf16"), spread_of(V100, "fp16")
    assert unknown.low < known.low < 0 < known.high < unknown.high


def test_a_step_is_as_uncertain_as_its_least_certain_chip():
    both = step_range(1.0, [A100, V100], "fp16")
    assert both[0] == min(step_range(1.0, [A100], "fp16")[0], step_range(1.0, [V100], "fp16")[0])
    assert both[1] == max(step_range(1.0, [A100], "fp16")[1], step_range(1.0, [V100], "fp16")[1])


def test_mixtures_of_experts_are_less_certain_than_dense_models():
    dense = step_range(1.0, [A100], "bf16")
    experts = step_range(1.0, [A100], "bf16", experts=True)
    assert experts[0] <= dense[0]
    assert experts[1] >= dense[1]


def test_a_doubtful_catalogue_entry_widens_the_range():
    sure = spread_of(A100, "bf16")
    doubtful = load_catalog({"id": "x", "inherit": "A100-SXM-80GB", "confidence": "low"}).get("x")
    # the same silicon: only the confidence differs
    assert spread_of(doubtful, "bf16").high > sure.high


def test_a_step_needs_chips():
    with pytest.raises(ValueError, match="chips"):
        step_range(1.0, [], "bf16")


def seen(family: str, error: float, experts: bool = False) -> Seen:
    return Seen(A100, "16", family, experts, error)


def test_the_document_takes_percentiles_of_measured_over_predicted():
    # Predicted 10 % too slow by all: measured is below the prediction.
    runs = [seen(f"f{k % 3}", 0.1 + 0.01 * k) for k in range(11)]
    entry = confidence_document(runs)["spreads"]["silicon|a100-sxm|16"]
    assert entry["low"] == pytest.approx(-0.19)
    assert entry["high"] == pytest.approx(LEAST_SPREAD)
    assert (entry["rows"], entry["families"]) == (11, 3)


def test_one_family_says_too_little_of_a_chip():
    spreads = confidence_document([seen("only", 0.1)] * 20)["spreads"]
    assert set(spreads) == {"all", "memory"}


def test_a_peak_has_a_range_on_both_sides():
    low, high = peak_range(10**10)
    assert low < 10**10 < high


def test_the_range_of_peaks_is_that_of_the_measured_ones():
    document = confidence_document([seen("a", 0.1)], memory=[0.01 * k for k in range(-20, 31)])
    entry = document["spreads"]["memory"]
    assert entry["rows"] == 51
    assert entry["low"] == pytest.approx(-0.15)
    assert entry["high"] == pytest.approx(0.25)
