"""Shares of the peak: hierarchy, fallbacks, and chips that share their silicon."""

import pytest

from costmodels.catalog import load_catalog
from costmodels.catalog.efficiencies import (
    MOST,
    Efficiencies,
    Fitted,
    Setting,
    from_json,
    shipped_efficiencies,
    to_json,
)
from tests.costmodels.blocks import chip

SHIPPED = shipped_efficiencies()


def table(**keys: float) -> dict[tuple[str, ...], Fitted]:
    return {tuple(k.split("__")): Fitted(v, v * 0.9, v * 1.1, 3) for k, v in keys.items()}


def test_a_share_is_the_product_of_what_is_known_from_vendor_to_silicon():
    found = Efficiencies(
        vendor={("NVIDIA", "16"): Fitted(0.9, 0.8, 1.0, 9)},
        architecture={("ampere", "16"): Fitted(1.1, 1.0, 1.2, 9)},
        sustained={("a100-sxm", "16"): Fitted(0.8, 0.7, 0.9, 9)},
    )
    a100, h100 = chip(), chip("H100-SXM-80GB")
    base = a100.gemm_fraction * 0.86
    assert found.share(a100, "16") == pytest.approx(base * 0.9 * 1.1 * 0.8)
    assert found.share(h100, "16") == pytest.approx(h100.gemm_fraction * 0.86 * 0.9)


def test_another_recipe_of_the_same_class_stands_in():
    found = Efficiencies(sustained={("h100-sxm", "fp8"): Fitted(0.7, 0.6, 0.8, 5)})
    h100 = chip("H100-SXM-80GB")
    assert found.share(h100, "mxfp8") == found.share(h100, "fp8")
    assert found.share(h100, "16") > found.share(h100, "fp8")


@pytest.mark.parametrize(
    ("one", "other"),
    [("A100-SXM-80GB", "A800-SXM-80GB"), ("H100-SXM-80GB", "H800-SXM-80GB")],
)
def test_chips_of_one_silicon_sustain_the_same(one, other):
    assert chip(one).sustained_shares == chip(other).sustained_shares
    assert chip(one).attention == chip(other).attention


@pytest.mark.parametrize("name", load_catalog().ids)
def test_every_chip_sustains_something_plausible(name):
    c = load_catalog().get(name)
    assert {p for p, _ in c.sustained_shares} == {p for p, _ in c.peak_flops}
    assert all(0.2 < share <= MOST for _, share in c.sustained_shares)
    assert 0.3 < c.attention < 3


def test_a_chip_without_rows_falls_back_on_its_catalogue_figures():
    v100 = chip("V100-SXM2-32GB")
    assert SHIPPED.rows_of(v100, "16") == 0
    assert v100.sustained("fp16") == pytest.approx(
        v100.gemm_fraction * 0.86 * SHIPPED.vendor["NVIDIA", "16"].value
    )


def test_unknown_software_runs_at_the_pace_of_the_chip():
    unknown = Setting("16", "fa2", "nobody knows")
    assert SHIPPED.software_pace(chip(), unknown) == SHIPPED.mean_pace(chip(), "16")
    assert SHIPPED.software_pace(chip("V100-SXM2-32GB"), unknown) == 1.0


def test_a_generation_that_did_not_run_on_a_silicon_differs_as_on_others():
    """A100 runs slow under all software; new is 0.8 of the mean on H100."""
    pace = {
        ("a100-sxm", "16", "old"): Fitted(1.2, 1, 1, 1),
        ("h100-sxm", "16", "old"): Fitted(1.0, 1, 1, 1),
        ("h100-sxm", "16", "new"): Fitted(0.64, 1, 1, 1),
    }
    found = Efficiencies(pace=pace).software_pace(chip(), Setting("16", "fa2", "new"))
    assert found == pytest.approx(1.2 * 0.64 / 0.8)


def test_the_nearest_generation_of_attention_kernels_speaks_for_one_that_was_not_measured():
    attention = {
        ("ampere", "te"): Fitted(1.5, 1, 2, 9),
        ("ampere", "fa2"): Fitted(1.2, 1, 2, 9),
    }
    rate = Efficiencies(attention=attention).attention_rate
    assert rate(chip(), "triton") == pytest.approx(0.7 * 1.2)
    assert rate(chip(), "something else") == 1.5
    assert rate(chip("H100-SXM-80GB"), "triton") == 0.7
    assert rate(chip("H100-SXM-80GB"), "fa2") == 1.0


def test_runs_in_32_bits_have_a_share_of_their_own():
    sustained = {("h100-sxm", "16"): Fitted(1, 1, 1, 9), ("h100-sxm", "32"): Fitted(1.1, 1, 1, 9)}
    found = Efficiencies(sustained=sustained)
    h100 = chip("H100-SXM-80GB")
    run = found.chip(h100, Setting("32", "fa2", ""))
    for at in (run, found.current(h100)):
        for name in ("fp32", "tf32"):
            assert at.sustained(name) == pytest.approx(1.1 * h100.gemm_fraction * 0.86)
        assert at.sustained("bf16") == pytest.approx(h100.gemm_fraction * 0.86)


def test_the_current_share_counts_the_mean_pace_of_known_software():
    pace = {
        ("a100-sxm", "16", "old"): Fitted(1.21, 1, 1, 1),
        ("a100-sxm", "16", "x"): Fitted(1, 1, 1, 1),
    }
    found = Efficiencies(pace=pace)
    assert found.mean_pace(chip(), "16") == pytest.approx(1.1)
    assert found.current(chip()).sustained("bf16") == pytest.approx(
        chip().gemm_fraction * 0.86 / 1.1
    )


def test_files_hold_the_same_figures():
    assert from_json(to_json(SHIPPED)) == SHIPPED


def test_a_chip_record_may_state_its_own_share():
    record = {
        "id": "mine",
        "inherit": "A100-SXM-80GB",
        "sustained": {"bf16": 0.4},
        "attention": 2.0,
    }
    mine = load_catalog({"chips": [record]}).get("mine")
    assert mine.sustained("bf16") == 0.4
    assert mine.sustained("fp16") == chip().sustained("fp16")
    assert mine.attention == 2.0


def test_an_excerpt_builds_the_same_chip():
    catalog = load_catalog()
    excerpt = catalog.excerpt(["H100-SXM-80GB"])
    again = load_catalog(excerpt).get("H100-SXM-80GB")
    assert again == catalog.get("H100-SXM-80GB")
