"""The shipped catalogue: every chip loads, in base units, with its sources."""

import pytest

from costmodels.catalog import check_peak, load_catalog, load_machines
from costmodels.catalog.records import shipped_records
from costmodels.units import GIB

CATALOG = load_catalog()


@pytest.mark.parametrize("chip_id", CATALOG.ids)
def test_every_chip_has_sane_figures(chip_id):
    c = CATALOG.get(chip_id)
    assert 0.3 < c.gemm_fraction <= 1
    assert 0 < c.usable_memory_bytes <= c.memory_bytes
    assert 1e11 < c.memory_bandwidth < 1e13
    assert all(1e12 < flops < 2e16 for _, flops in c.peak_flops)
    for links in (c.fabric, c.bridge, c.host_fabric):
        assert links is None or 0 < links.efficiency <= 1
        assert links is None or links.pair_bandwidth <= links.total_bandwidth
        assert links is None or 0 < links.latency_s < 1e-4


@pytest.mark.parametrize("chip_id", CATALOG.ids)
def test_every_given_figure_keeps_its_source(chip_id):
    record = shipped_records()[chip_id]
    for field in ("fp16_tflops", "bf16_tflops", "memory_gib", "mem_bw_gbs"):
        assert record[field] is None or record["sources"][field]


@pytest.mark.parametrize("chip_id", CATALOG.ids)
def test_no_shipped_rate_is_sparse(chip_id):
    assert check_peak(CATALOG.record(chip_id)) == []


def test_a100_in_base_units():
    c = CATALOG.get("A100-SXM-80GB")
    assert c.peak("bf16") == 312e12
    assert c.memory_bytes == 80 * GIB
    assert c.memory_bandwidth == 2039e9
    assert c.nic_bytes_per_s == 25e9
    assert c.gemm_fraction == 0.869
    assert c.fabric is not None
    assert c.fabric.group_bandwidth(8) == pytest.approx(234.9e9, rel=1e-3)


def test_v100_has_no_bf16():
    c = CATALOG.get("V100-SXM2-32GB")
    assert not c.supports("bf16")
    with pytest.raises(LookupError, match=r"nvidia-v100-sxm2-32gb has no bf16 .* fp32, fp16"):
        c.peak("bf16")


@pytest.mark.parametrize(
    ("name", "usable_gib"),
    [
        ("A40-48GB", 45),
        ("L40S-48GB", 45),
        ("A100-SXM-40GB", 39.2),
        ("910B2-64GB", 60.3),
        ("H100-SXM-80GB", 79.2),
    ],
)
def test_usable_memory_is_less_than_the_label(name, usable_gib):
    assert CATALOG.get(name).usable_memory_bytes / GIB == pytest.approx(usable_gib, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "flash"),
    [
        ("V100-SXM2-32GB", False),
        ("P100-SXM2-16GB", False),
        ("T4-16GB", False),
        ("910A-32GB", False),
        ("A100-SXM-80GB", True),
        ("RTX4090-24GB", True),
        ("910B3-64GB", True),
        ("MI300X-192GB", True),
    ],
)
def test_fused_attention_exists_on_newer_chips_only(name, flash):
    assert CATALOG.get(name).flash_attention is flash


def test_pcie_cards_have_no_fabric_but_may_have_a_bridge():
    assert CATALOG.get("RTX4090-24GB").fabric is None
    card = CATALOG.get("A100-PCIE-80GB")
    assert card.fabric is None
    assert card.fabric_domain == 1
    assert card.bridge is not None
    assert card.bridge.total_bandwidth == 300e9


def test_a_pair_on_a_full_mesh_gets_one_link():
    mesh = CATALOG.get("910B3-64GB").fabric
    assert mesh is not None
    assert mesh.full_mesh
    assert mesh.total_bandwidth / mesh.pair_bandwidth == 7
    assert mesh.group_bandwidth(2) == mesh.group_bandwidth(8) / 7


def test_behind_a_switch_a_pair_gets_everything():
    switch = CATALOG.get("H100-SXM-80GB").fabric
    assert switch is not None
    assert switch.group_bandwidth(2) == switch.group_bandwidth(8)


def test_unmeasured_gemm_fraction_falls_back_to_its_generation_and_says_so():
    c = CATALOG.get("V100-PCIE-16GB")
    assert c.gemm_fraction == 0.8
    assert any("median of its architecture (volta)" in a for a in c.assumed)


def test_judged_figures_are_listed_as_assumed():
    assert any("label less 1 %" in a for a in CATALOG.get("H100-SXM-80GB").assumed)
    assert not any("usable" in a for a in CATALOG.get("A40-48GB").assumed)


def test_packages_of_two_devices_say_so():
    package, die = CATALOG.get("910C-128GB"), CATALOG.get("910C-Die-64GB")
    assert package.devices_per_package == 2
    assert any("2 devices" in a for a in package.assumed)
    assert package.peak("bf16") == 2 * die.peak("bf16")
    assert die.devices_per_package == 1


def test_backend_and_device_are_single_words():
    c = CATALOG.get("MI300X-192GB")
    assert (c.torch_device, c.dist_backend) == ("cuda", "nccl")
    npu = CATALOG.get("910B2-64GB")
    assert (npu.torch_device, npu.dist_backend) == ("npu", "hccl")


def test_excerpt_alone_restores_exactly_the_same_chips():
    restored = load_catalog(CATALOG.excerpt(CATALOG.ids))
    assert restored.chips == CATALOG.chips


def test_machines_name_chips_of_the_catalogue():
    machines = load_machines()
    assert machines["dgx-a100"].network_bandwidth == 200e9
    assert {m.chip for m in machines.values()} <= set(CATALOG.ids)
