"""NCCL's topology XML to a cluster."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.importers.nccl import import_nccl, read_host
from planner.importers.pci_ids import CHIP_OF
from tests.importers.samples import CATALOG, loaded, sample

NDV4 = sample("nccl_topo_azure_ndv4_a100.xml")
NDV5 = sample("nccl_topo_azure_ndv5_h100.xml")
NCV4 = sample("nccl_topo_azure_ncv4_a100pcie_nvlink.xml")

SWITCHED = """<system version="1"><cpu numaid="0">{}</cpu></system>""".format(
    "".join(
        f'<pci busid="000{n}:00:00.0" class="0x030200" vendor="0x10de" device="0x2330">'
        f'<gpu dev="{3 - n}" sm="90"><nvlink target="fffffff:ff:ff.0" count="18" '
        f'tclass="0x068000"/></gpu></pci>'
        for n in range(4)
    )
    + '<nic><net name="mlx5_0" speed="400000"/><net name="mlx5_1" speed="400000"/></nic>'
)


def run(text, **options):
    return import_nccl(text, "topo.xml", CATALOG, **options)


def says(text, **options):
    with pytest.raises(InputError) as caught:
        run(text, **options)
    return str(caught.value)


def test_every_known_identity_is_in_the_catalogue():
    assert set(CHIP_OF.values()) <= set(CATALOG.chips)


def test_reads_cards_and_ports_by_class():
    host = read_host(NDV4, "topo.xml")
    assert (len(host.cards), len(host.ports)) == (8, 8)
    assert {port.kind for port in host.ports} == {"ib"}
    # four switches with a link of generation 4 each, 16 lanes of 16 GT/s in 128b/130b
    assert host.uplinks == pytest.approx(4 * 16 * 16e9 * 128 / 130 / 8)


def test_a_file_without_identities_asks_for_chip_and_rate_at_once():
    text = says(NDV5, nodes=4)
    assert "--chip" in text
    assert "--network" in text


def test_the_kind_of_the_ports_is_in_the_file(tmp_path):
    made = run(NDV5, chip="H100-SXM-80GB", nodes=4, network="400Gb/s")
    spec = loaded(made, tmp_path).spec
    (nic,) = spec.nodes[0].nics
    assert (nic.count, nic.kind, nic.bandwidth_one_way) == (8, "ib", 50 * 10**9)
    assert spec.nodes[0].host_link is None  # one card on each switch, as the catalogue has it


def test_cards_that_share_a_switch_share_its_link(tmp_path):
    link = loaded(run(NDV4, chip="A100-SXM-40GB"), tmp_path).spec.nodes[0].host_link
    assert link.total_bandwidth_one_way == pytest.approx(4 * link.bandwidth_one_way, rel=1e-4)


def test_the_identity_names_the_card_and_the_rate_is_read(tmp_path):
    made = run(NCV4, nvlink_pairs="0-1,2-3", nodes=2)
    spec = loaded(made, tmp_path).spec
    (group,) = spec.nodes[0].devices
    assert (group.chip, group.count) == ("nvidia-a100-pcie-80gb", 4)
    assert (group.fabric.joins, group.fabric.bandwidth_one_way) == (2, 300 * 10**9)
    assert spec.nodes[0].nics[0].bandwidth_one_way == 100 * 10**9 // 8


def test_links_that_lead_nowhere_are_asked_for():
    text = says(NCV4)
    assert "--nvlink-pairs" in text
    assert "0001:00:00.0" in text
    without = run(NCV4, nvlink_pairs="none")
    assert "fabric" not in without.data["nodes"][0]["devices"][0]


def test_a_chip_that_the_file_contradicts_is_refused():
    text = says(NCV4, chip="V100-SXM2-32GB", nvlink_pairs="none")
    assert "A100-PCIE-80GB" in text


def test_links_to_a_switch_are_the_whole_rate(tmp_path):
    made = run(SWITCHED)
    (group,) = loaded(made, tmp_path).spec.nodes[0].devices
    assert (group.chip, group.count, group.fabric) == ("nvidia-h100-sxm-80gb", 4, None)
    assert made.data["nodes"][0]["nics"][0] == {
        "network": "network",
        "bandwidth_one_way": "400 Gb/s",
        "count": 2,
    }


def test_cards_are_numbered_as_nccl_numbers_them():
    assert [c.bus[:4] for c in read_host(SWITCHED, "x").cards] == ["0003", "0002", "0001", "0000"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<system>", "not valid XML"),
        ("<html/>", "starts with <html>"),
        ("<system version='1'/>", "holds no card"),
        (SWITCHED.replace('count="18"', 'count="many"'), "is not a number"),
        (SWITCHED.replace("0x2330", "0x20b2", 1), "different cards"),
    ],
)
def test_a_broken_file_is_named(text, message):
    assert message in says(text)


@pytest.mark.parametrize("pairs", ["0-0", "0-9", "0-1,1-2", "a-b", ""])
def test_pairs_must_be_pairs(pairs):
    assert "is not a pair" in says(NCV4, nvlink_pairs=pairs)
