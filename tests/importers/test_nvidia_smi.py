"""``nvidia-smi topo -m`` to a cluster."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.importers.nvidia_smi import import_nvidia_smi, read_matrix
from tests.importers.samples import CATALOG, loaded, sample

SAMPLE = sample("nvidia_smi_topo_a100x8_3nic.txt")

BRIDGED = """\
        GPU0    GPU1    GPU2    GPU3    CPU Affinity
GPU0     X      SYS     NV12    SYS     0-15
GPU1    SYS      X      SYS     NV12    0-15
GPU2    NV12    SYS      X      SYS     16-31
GPU3    SYS     NV12    SYS      X      16-31
"""

CUBE_MESH = """\
        GPU0    GPU1    GPU2    GPU3
GPU0     X      NV1     NV1     NV2
GPU1    NV1      X      NV2     NV1
GPU2    NV1     NV2      X      NV2
GPU3    NV2     NV1     NV2      X
"""

PCIE = """\
\x1b[4m\tGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tPHB\t0-7\t0
GPU1\tPHB\t X \t0-7\t0
"""


def run(text, **options):
    return import_nvidia_smi(text, "topo.txt", CATALOG, **options)


def says(text, **options):
    with pytest.raises(InputError) as caught:
        run(text, **options)
    return str(caught.value)


def test_reads_the_sample():
    matrix = read_matrix(SAMPLE, "topo.txt")
    assert len(matrix.cards) == 8
    assert matrix.ports == ("mlx5_0", "mlx5_3", "mlx5_bond_0")
    assert matrix.cells["GPU0", "NIC0"] == "PXB"


def test_the_sample_is_a_cluster(tmp_path):
    made = run(SAMPLE, chip="A100-SXM-80GB", nodes=4, network="200Gb/s:ib")
    spec = loaded(made, tmp_path).spec
    assert (spec.hosts, spec.device_count) == (4, 32)
    (nic,) = spec.nodes[0].nics
    assert (nic.count, nic.bandwidth_one_way, nic.kind) == (3, 25 * 10**9, "ib")
    # twelve links of 25 GB/s are what the catalogue has: nothing to write
    assert spec.nodes[0].devices[0].fabric is None


def test_only_named_ports_are_on_the_network():
    made = run(SAMPLE, chip="A100-SXM-80GB", nodes=2, network="200Gb/s", nics=["mlx5_0", "mlx5_3"])
    assert made.data["nodes"][0]["nics"][0]["count"] == 2


def test_asks_for_everything_that_the_matrix_does_not_say_at_once():
    text = says(SAMPLE, nodes=2)
    assert "--chip" in text
    assert "--network" in text


def test_a_single_host_needs_no_network():
    made = run(SAMPLE, chip="A100-SXM-80GB")
    assert "nics" not in made.data["nodes"][0]
    assert "mlx5_0" in " ".join(made.open)


def test_bridged_pairs_are_islands_of_two(tmp_path):
    made = run(BRIDGED, chip="A100-PCIE-80GB")
    fabric = loaded(made, tmp_path).spec.nodes[0].devices[0].fabric
    assert (fabric.joins, fabric.bandwidth_one_way) == (2, 300 * 10**9)
    assert "[0, 2, 1, 3]" in " ".join(made.open)


def test_direct_links_give_a_pair_a_part_of_the_total(tmp_path):
    made = run(CUBE_MESH, chip="V100-SXM2-32GB")
    fabric = loaded(made, tmp_path).spec.nodes[0].devices[0].fabric
    # the poorest card has 4 links, the poorest pair 1, of 25 GB/s each
    assert fabric.bandwidth_one_way == 100 * 10**9
    assert fabric.pair_bandwidth_one_way == 25 * 10**9
    assert fabric.full_mesh
    assert "150" in " ".join(made.open)


def test_cards_without_nvlink_are_joined_by_pcie(tmp_path):
    made = run(PCIE, chip="RTX4090-24GB")
    assert loaded(made, tmp_path).spec.nodes[0].devices[0].fabric is None
    cut_off = run(PCIE, chip="A100-SXM-80GB")
    assert cut_off.data["nodes"][0]["devices"][0]["fabric"]["kind"] == "pcie"
    assert "no NVLink" in " ".join(cut_off.open)


def test_a_card_that_has_fewer_links_than_the_matrix_is_refused():
    text = says(SAMPLE, chip="A800-SXM-80GB")
    assert "--chip" in text
    assert "12 links" in text


def test_an_unknown_generation_is_asked_for():
    text = says(BRIDGED, chip="L40S-48GB")
    assert "--nvlink-rate" in text
    made = run(BRIDGED, chip="L40S-48GB", nvlink_rate="25 GB/s")
    assert made.data["nodes"][0]["devices"][0]["fabric"]["bandwidth_one_way"] == "300 GB/s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "no line starts with GPU0"),
        (PCIE.replace("GPU1\tPHB\t X", "GPU1\tSYS\t X"), "GPU0 to GPU1 is PHB"),
        (PCIE.replace("PHB", "FOO"), "'FOO' is no kind of connection"),
        ("\n".join(PCIE.splitlines()[:2]), "no row for GPU1"),
        (PCIE + "GPU1\tPHB\t X\n", "stands on line 3 already"),
        (BRIDGED.replace("SYS     NV12    SYS      X      16-31", "SYS"), "has 1 cells for 4"),
    ],
)
def test_a_broken_matrix_is_named_with_its_line(text, message):
    assert message in says(text, chip="RTX4090-24GB")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chip": "A100"}, "fits 4 chips"),
        ({"chip": "A100-SXM-80GB", "network": "200"}, "has no unit"),
        ({"chip": "A100-SXM-80GB", "network": "200Gb/s:wifi"}, "unknown network kind 'wifi'"),
        ({"chip": "A100-SXM-80GB", "nics": ["mlx5_9"]}, "no port is called mlx5_9"),
        ({"chip": "A100-SXM-80GB", "nvlink_rate": "25"}, "no unit"),
    ],
)
def test_wrong_options_are_named(options, message):
    assert message in says(SAMPLE, **options)
