"""Names that people write become catalogue ids, and nothing is guessed."""

import pytest

from costmodels.catalog import AmbiguousChip, UnknownChip, load_catalog

CATALOG = load_catalog()


@pytest.mark.parametrize("chip_id", CATALOG.ids)
def test_the_alias_of_every_chip_leads_back_to_it(chip_id):
    assert CATALOG.get(CATALOG.alias(chip_id)).id == chip_id


@pytest.mark.parametrize(
    ("name", "chip_id"),
    [
        ("nvidia-a100-sxm-80gb", "nvidia-a100-sxm-80gb"),
        ("A100-SXM-80GB", "nvidia-a100-sxm-80gb"),
        ("a100_sxm4_80gb", "nvidia-a100-sxm-80gb"),
        ("A100SXM80GB", "nvidia-a100-sxm-80gb"),
        ("V100-SXM2-32GB", "nvidia-v100-sxm2-32gb"),
        ("H800-SXM-80GB", "nvidia-h800-sxm-80gb"),
        ("A800-SXM-80GB", "nvidia-a800-sxm-80gb"),
        ("910B3-64GB", "huawei-ascend-910b3-64gb"),
        ("Ascend 910B2", "huawei-ascend-910b2-64gb"),
        ("RTX4090-24GB", "nvidia-rtx4090-24gb"),
        ("RTX 4090", "nvidia-rtx4090-24gb"),
        ("RTX6000Ada-48GB", "nvidia-rtx6000-ada-48gb"),
        ("A6000", "nvidia-rtx-a6000-48gb"),
        ("H20", "nvidia-h20-96gb"),
        ("K100-64GB", "hygon-dcu-k100-64gb"),
        ("BI-V100", "iluvatar-bi-v100-32gb"),
        ("TPU-v5p", "google-tpu-v5p"),
    ],
)
def test_resolves_names_that_fit_one_chip(name, chip_id):
    assert CATALOG.get(name).id == chip_id


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("A100", ["A100-PCIE-40GB", "A100-PCIE-80GB", "A100-SXM-40GB", "A100-SXM-80GB"]),
        ("A100-80GB", ["A100-PCIE-80GB", "A100-SXM-80GB"]),
        ("H100", ["H100-NVL-94GB", "H100-PCIE-80GB", "H100-SXM-80GB"]),
        ("V100", ["V100-PCIE-16GB", "V100-PCIE-32GB", "V100-SXM2-16GB", "V100-SXM2-32GB"]),
        ("910B", ["910B1-64GB", "910B2-64GB", "910B3-64GB", "910B4-32GB"]),
        ("910B-64GB", ["910B1-64GB", "910B2-64GB", "910B3-64GB"]),
        ("910C", ["910C-128GB", "910C-Die-64GB"]),
        ("RTX 6000", ["QUADRO-RTX6000-24GB", "RTX6000-Ada-48GB"]),
    ],
)
def test_lists_all_variants_of_an_ambiguous_name(name, variants):
    with pytest.raises(AmbiguousChip) as caught:
        CATALOG.get(name)
    assert list(caught.value.candidates) == variants


@pytest.mark.parametrize(
    ("name", "near"),
    [("A10G", "A10-24GB"), ("L40", "L40S-48GB"), ("GH100", "H100-SXM-80GB"), ("3080", "RTX3090")],
)
def test_offers_near_names_for_an_unknown_one(name, near):
    with pytest.raises(UnknownChip) as caught:
        CATALOG.get(name)
    assert any(c.startswith(near) for c in caught.value.candidates)


@pytest.mark.parametrize("name", ["80GB", "RTX", "NVIDIA", "GTX 1060", "RTX 2080 Ti", "", "M40"])
def test_a_chip_that_is_not_there_is_unknown(name):
    with pytest.raises(UnknownChip):
        CATALOG.get(name)


def test_find_lists_what_a_name_may_mean():
    assert len(CATALOG.find("A100")) == 4
    assert [c.id for c in CATALOG.find("T4")] == ["nvidia-t4-16gb"]
    assert CATALOG.find("3080") == []
