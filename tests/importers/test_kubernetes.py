"""Labels of Kubernetes nodes to a cluster."""

from __future__ import annotations

import json

import pytest

from planner.errors import InputError
from planner.importers.kubernetes import import_kubernetes
from planner.inputs.reading import parse_document, read_document
from tests.importers.samples import CATALOG, SAMPLES, loaded

LABELS = read_document(SAMPLES / "k8s_gfd_labels.yaml")
A100, H100 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"


def node(name, product=A100, count="8", leaf=None, spine=None, free=None, **labels):
    found = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": count, **labels}
    levels = {"leaf": leaf, "spine": spine}
    found |= {f"network.topology.nvidia.com/{k}": v for k, v in levels.items() if v}
    item = {"kind": "Node", "metadata": {"name": name, "labels": found}}
    return item | ({"status": {"allocatable": {"nvidia.com/gpu": free}}} if free else {})


def listed(*nodes):
    text = json.dumps({"kind": "List", "items": list(nodes)}, indent=1)
    return parse_document(text, "nodes.json", is_json=True)


def says(document, **options):
    with pytest.raises(InputError) as caught:
        import_kubernetes(document, CATALOG, **options)
    return str(caught.value)


def test_the_labels_of_one_node_are_a_cluster_of_equal_nodes(tmp_path):
    made = import_kubernetes(LABELS, CATALOG, nodes=4, network="8x200Gb/s:ib")
    spec = loaded(made, tmp_path).spec
    assert (spec.hosts, spec.device_count) == (4, 32)
    assert spec.nodes[0].devices[0].chip == "nvidia-a100-sxm-80gb"


def test_asks_for_the_network():
    assert "--network" in says(LABELS, nodes=2)
    assert "nics" not in import_kubernetes(LABELS, CATALOG).data["nodes"][0]


def test_a_list_of_nodes_keeps_names_chips_and_switches(tmp_path):
    document = listed(
        node("n0", leaf="l0", spine="s"),
        node("n1", leaf="l0", spine="s"),
        node("n2", H100, leaf="l1", spine="s"),
        {"kind": "Node", "metadata": {"name": "cpu", "labels": {}}},
    )
    made = import_kubernetes(document, CATALOG, network="400Gb/s:ib", oversubscription=2.0)
    spec = loaded(made, tmp_path).spec
    found = {h: (n.nics[0].switch, n.devices[0].chip) for n in spec.nodes for h in n.host_names}
    assert found == {
        "n0": ("l0", "nvidia-a100-sxm-80gb"),
        "n1": ("l0", "nvidia-a100-sxm-80gb"),
        "n2": ("l1", "nvidia-h100-sxm-80gb"),
    }
    assert [s.name for s in spec.networks[0].switches] == ["l0", "l1", "s"]
    assert "cpu" in " ".join(made.open)


def test_uplinks_are_asked_for_where_there_are_switches():
    document = listed(node("n0", leaf="l0", spine="s"), node("n1", leaf="l1", spine="s"))
    assert "--uplink" in says(document, network="400Gb/s")


def test_cards_that_cannot_be_allocated_are_left_out():
    made = import_kubernetes(listed(node("n0", free="7")), CATALOG)
    assert made.data["nodes"][0]["devices"][0]["count"] == 7
    assert "7 of its 8" in " ".join(made.open)


@pytest.mark.parametrize(
    ("product", "chip"),
    [
        ("Tesla-V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("NVIDIA-GeForce-RTX-4090", "RTX4090-24GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        (H100, "H100-SXM-80GB"),
    ],
)
def test_knows_the_drivers_names(product, chip):
    made = import_kubernetes(listed(node("n0", product)), CATALOG)
    assert made.data["nodes"][0]["devices"][0]["chip"] == chip


def test_an_unknown_product_is_asked_for():
    document = listed(node("n0", "NVIDIA-GH200-480GB"), node("n1", "NVIDIA-GH200-480GB"))
    assert "--chip NVIDIA-GH200-480GB=NAME" in says(document, network="400Gb/s")
    made = import_kubernetes(
        document, CATALOG, chips=["NVIDIA-GH200-480GB=H200-SXM-141GB"], network="400Gb/s"
    )
    assert made.data["nodes"][0]["devices"][0]["chip"] == "H200-SXM-141GB"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (listed(node("a"), node("a")), "the node a is listed twice"),
        (listed(node("")), "no metadata.name"),
        (listed(node("a", count="many")), "is not a whole number"),
        (listed(node("a", f"{A100}-MIG-1g.10gb")), "is a part of a card"),
        (listed(node("a", f"{A100}-SHARED")), "cards are shared"),
        (listed(node("a", **{"nvidia.com/gpu.replicas": "4"})), "cards are shared (4 pods"),
        (listed(node("a", **{"nvidia.com/gpu.memory": "40960"})), "40,960 MiB are not"),
        (listed({"metadata": {"name": "x", "labels": {}}}), "no node has the label"),
        (listed(node("a", leaf="l"), node("b")), "b has no label"),
        (listed(node("a", leaf="l"), node("b", leaf="m")), "no label says what joins"),
        (parse_document("[1]", "x.yaml"), "neither labels nor a node"),
        (parse_document("{a: 1}", "x.yaml"), "has no label nvidia.com/gpu.product"),
    ],
)
def test_labels_that_contradict_or_lack_something_are_named(document, message):
    assert message in says(document, network="400Gb/s", oversubscription=1.0)


def test_a_list_counts_its_nodes_itself():
    assert "--nodes 3" in says(listed(node("a")), nodes=3)
