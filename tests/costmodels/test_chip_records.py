"""A user's own chips: added, replaced, inherited, and refused with every problem at once."""

import json

import pytest

from costmodels.catalog import CatalogError, check_peak, load_catalog
from costmodels.units import GIB

OWN = {
    "id": "rtx-pro-6000-96gb",
    "vendor": "NVIDIA",
    "bf16_tflops": 503.8,
    "memory_gib": 96,
    "mem_bw_gbs": 1792,
    "host_gbs_per_dir": 63.0,
    "host_link": "PCIe5 x16",
}


def test_a_new_chip_needs_few_figures_and_assumes_the_rest_aloud():
    c = load_catalog(OWN).get("RTX-PRO-6000-96GB")
    assert c.peak("bf16") == 503.8e12
    assert c.fabric is None
    assert not c.flash_attention
    assert any("median of its vendor (NVIDIA)" in a for a in c.assumed)
    assert any("no fused attention" in a for a in c.assumed)


def test_inherits_everything_that_it_does_not_change():
    own = {"id": "a100-sxm-96gb", "inherit": "A100-SXM-80GB", "memory_gib": 96}
    catalog = load_catalog({"chips": [own]})
    changed, base = catalog.get("a100-sxm-96gb"), catalog.get("A100-SXM-80GB")
    assert changed.memory_bytes == 96 * GIB
    assert changed.peak("bf16") == base.peak("bf16")
    assert changed.fabric == base.fabric
    assert catalog.record("a100-sxm-96gb")["sources"]["memory_gib"] == "given by the user"


def test_another_memory_drops_the_inherited_usable_memory():
    own = {"id": "a40-96gb", "inherit": "A40-48GB", "memory_gib": 96}
    assert load_catalog(own).get("a40-96gb").usable_memory_bytes == round(0.99 * 96 * GIB)


def test_faster_links_behind_a_switch_serve_a_pair_as_well():
    own = {"id": "a100-fast", "inherit": "A100-SXM-80GB", "scaleup_per_dir_gbs": 400}
    links = load_catalog(own).get("a100-fast").fabric
    assert links is not None
    assert links.pair_bandwidth == 400e9


def test_own_record_replaces_a_shipped_one():
    own = {"id": "nvidia-t4-16gb", "inherit": "T4-16GB", "price_usd_per_hour": 0.35}
    assert load_catalog(own).get("T4").price_usd_per_hour == 0.35
    assert load_catalog().get("T4").price_usd_per_hour is None


def test_reads_a_json_file(tmp_path):
    path = tmp_path / "chips.json"
    path.write_text(json.dumps({"chips": [OWN]}))
    assert load_catalog(path).get("RTX-PRO-6000").memory_bytes == 96 * GIB


def test_broken_json_names_its_line(tmp_path):
    path = tmp_path / "chips.json"
    path.write_text('{"chips": [\n {"id": }]}')
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    assert caught.value.problems[0].where.endswith("chips.json:2")


def test_reports_all_problems_at_once():
    bad = {"id": "x", "mem_bw_gb": 3, "bf16_tflops": "fast", "memory_gib": -1, "topology": "star"}
    worse = {"id": "y", "inherit": "A100"}
    with pytest.raises(CatalogError) as caught:
        load_catalog({"chips": [bad, worse]})
    assert [p.where for p in caught.value.problems] == [
        "x.mem_bw_gb",
        "x.bf16_tflops",
        "x.memory_gib",
        "x.topology",
        "y.inherit",
    ]
    assert caught.value.problems[0].remedy == "did you mean mem_bw_gbs?"


def test_says_which_figures_a_chip_lacks():
    with pytest.raises(CatalogError) as caught:
        load_catalog({"id": "x", "vendor": "V"})
    missing = [p.where for p in caught.value.problems]
    assert missing == ["x.memory_gib", "x.mem_bw_gbs", "x.host_gbs_per_dir", "x"]


def test_a_pair_cannot_exceed_all_links():
    own = {"id": "x", "inherit": "H100-SXM-80GB", "scaleup_p2p_per_dir_gbs": 900}
    with pytest.raises(CatalogError, match="cannot exceed all links"):
        load_catalog(own)


@pytest.mark.parametrize(
    ("record", "dense"),
    [
        ({"name": "H100 SXM5 80GB", "bf16_tflops": 1979}, "989"),
        ({"id": "my-chip", "bf16_tflops": 1979}, "989"),
        ({"id": "my-chip", "fp8_tflops": 3958}, "1979"),
        ({"id": "my-chip", "bf16_tflops": 1513}, "756"),
        ({"id": "my-chip", "fp16_tflops": 624}, "312"),
        ({"inherit": "A100-SXM-80GB", "fp16_tflops": 624}, "312"),
        ({"id": "RTX4090-24GB", "bf16_tflops": 330.3}, "165"),
    ],
)
def test_sparse_rates_are_refused_with_the_dense_one_offered(record, dense):
    (message,) = check_peak(record)
    assert "sparsity" in message
    assert message.endswith(f"dense one: {dense}")


def test_a_rate_far_above_the_catalogue_is_refused():
    (message,) = check_peak({"id": "A100-SXM-80GB", "bf16_tflops": 500})
    assert "1.6 times" in message


@pytest.mark.parametrize(
    "record",
    [
        {"id": "my-chip", "bf16_tflops": 400},
        {"id": "H100-SXM-80GB", "fp8_tflops": 1979},
        {"inherit": "A100-SXM-80GB", "bf16_tflops": 320},
    ],
)
def test_dense_rates_pass(record):
    assert check_peak(record) == []


def test_a_sparse_rate_in_a_users_file_is_an_error():
    with pytest.raises(CatalogError, match="sparsity"):
        load_catalog({"id": "my-h100", "inherit": "H100-SXM-80GB", "bf16_tflops": 1979})
