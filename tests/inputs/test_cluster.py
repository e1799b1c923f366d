"""Cluster files, shipped clusters and shorthand become one checked value, or say what is wrong."""

import textwrap

import pytest

from costmodels.catalog import load_catalog
from planner.errors import InputError
from planner.inputs.cluster import cluster_from_resolved, echo, load_cluster
from planner.inputs.overrides import parse_overrides
from planner.inputs.resources import fixture_names

CATALOG = load_catalog()

NODE = """
    nodes:
      - name: a
        devices: [{chip: A100-SXM-80GB, count: 8}]
"""

TWO_NODES = """
    nodes:
      - name: a
        devices: [{chip: A100-SXM-80GB, count: 8}]
        nics: [{network: ethernet, bandwidth_one_way: 100 Gb/s}]
      - name: b
        devices: [{chip: V100-SXM2-32GB, count: 8}]
        nics: [{network: ethernet, bandwidth_one_way: 100 Gb/s}]
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text, *overrides):
        path = tmp_path / "cluster.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_cluster(path, CATALOG, parse_overrides(overrides))

    return load_text


@pytest.fixture
def problems(load):
    def problems_of(text, *overrides):
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        return caught.value.problems

    return problems_of


def chips(cluster):
    return [(g.chip, n.count * g.count) for n in cluster.spec.nodes for g in n.devices]


# What is understood


@pytest.mark.parametrize("name", fixture_names("clusters"))
def test_every_shipped_cluster_loads_and_survives_its_resolved_form(name):
    cluster = load_cluster(name, CATALOG)
    assert cluster_from_resolved(cluster.resolved) == cluster.spec


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("s1-a100-v100", 24),
        ("s3-seven-a100", 7),
        ("s6-a800-910b3", 1536),
        ("m1-flodl", 2),
        ("m2-timm", 4),
        ("m4-uneven-nodes", 5),
        ("four-4090-two-3090", 6),
        ("dgx-a100-x16", 128),
        ("mixed-128", 128),
        ("gpt3-22528", 22_528),
    ],
)
def test_shipped_clusters_have_the_chips_that_they_promise(name, devices):
    assert load_cluster(name, CATALOG).spec.device_count == devices


def test_four_and_one_cards_on_two_machines_keep_their_own_device_lists():
    cluster = load_cluster("m4-uneven-nodes", CATALOG)
    assert chips(cluster) == [("nvidia-rtx6000-ada-48gb", 4), ("nvidia-rtx6000-ada-48gb", 1)]


def test_resolved_clusters_name_catalogue_ids_and_keep_node_counts():
    resolved = load_cluster("s6-a800-910b3", CATALOG).resolved
    assert [(n["count"], n["devices"][0]["chip"]) for n in resolved["nodes"]] == [
        (128, "nvidia-a800-sxm-80gb"),
        (64, "huawei-ascend-910b3-64gb"),
    ]


def test_shorthand_and_file_say_the_same():
    short = load_cluster("8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s", CATALOG)
    long = load_cluster("s1-a100-v100", CATALOG)
    assert chips(short) == chips(long)
    assert [n.nics[0].bandwidth_one_way for n in short.spec.nodes] == [12_500_000_000] * 2


def test_shorthand_is_echoed_among_the_notes():
    cluster = load_cluster("  8xA100-SXM-80GB +  2x8xV100-SXM2-32GB @ 100Gb/s ", CATALOG)
    assert cluster.notes[0] == "fleet read as: 8xA100-SXM-80GB + 2x8xV100-SXM2-32GB @ 100Gb/s"


def test_echo_shows_network_rates_in_both_units():
    cluster = load_cluster("2x8xV100-SXM2-32GB @ 100Gb/s", CATALOG)
    assert echo(cluster.spec, CATALOG) == (
        "2 x 8xV100-SXM2-32GB (node0 … node1); network 100 Gb/s (12.5 GB/s) tcp (assumed)"
    )


def test_overrides_reach_into_the_node_list(load):
    cluster = load(TWO_NODES, "cluster.nodes.b.devices.0.count=4")
    assert chips(cluster)[1] == ("nvidia-v100-sxm2-32gb", 4)


def test_collectives_between_vendors_can_be_allowed_by_an_override():
    overrides = parse_overrides(["cluster.cross_vendor_collectives=cpu-staged"])
    cluster = load_cluster("s6-a800-910b3", CATALOG, overrides)
    assert cluster.spec.cross_vendor_collectives == "cpu-staged"


def test_a_label_within_five_percent_is_noted_and_the_catalogue_planned_with():
    cluster = load_cluster("4xH100-NVL-96GB", CATALOG)
    assert chips(cluster) == [("nvidia-h100-nvl-94gb", 4)]
    assert "has 94 GiB, not 96; planned with 94" in cluster.notes[0]


def test_the_tower_of_three_kinds_takes_its_own_cards():
    cluster = load_cluster("s4-five-gpu-tower", CATALOG)
    assert cluster.catalog.get("rtx-pro-6000-blackwell-96gb").peak("bf16") == 503.8e12
    own = cluster.catalog.get("h100-nvl-96gb")
    assert own.memory_bytes > cluster.catalog.get("nvidia-h100-nvl-94gb").memory_bytes
    assert cluster.notes == ()  # the label of a card of one's own is taken at its word


def test_a_clusters_own_chip_may_inherit_a_known_one(load):
    cluster = load(
        """
        chips:
          - {id: capped-a100, inherit: A100-SXM-80GB, bf16_tflops: 250, price_usd_per_hour: 0}
        nodes:
          - name: a
            devices: [{chip: capped-a100, count: 8}]
        """
    )
    chip = cluster.catalog.get("capped-a100")
    assert chip.peak("bf16") == 250e12
    assert chip.memory_bytes == 80 * 2**30
    restored = cluster_from_resolved(cluster.resolved)
    assert "inherit" not in restored.chips[0]


def test_price_zero_means_unknown(load):
    cluster = load(
        """
        chips:
          - {id: my-a100, inherit: A100-SXM-80GB, price_usd_per_hour: 0}
        nodes:
          - name: a
            devices: [{chip: my-a100}]
        """
    )
    assert cluster.catalog.get("my-a100").price_usd_per_hour is None


# What is wrong


@pytest.mark.parametrize("name", ["A100", "H100", "V100", "910B"])
def test_an_ambiguous_chip_lists_its_variants(name):
    with pytest.raises(InputError) as caught:
        load_cluster(f"8x{name}", CATALOG)
    (problem,) = caught.value.problems
    assert f"{name!r} fits" in problem.message
    assert all(name in v.upper() for v in problem.remedy.removeprefix("write one of ").split(", "))


def test_an_unknown_chip_names_the_nearest():
    with pytest.raises(InputError, match="A100-SXM-80GB"):
        load_cluster("8xA100-SMX-80GB", CATALOG)


def test_a_memory_that_no_variant_has_is_an_error():
    with pytest.raises(InputError, match=r"no variant has 60 GB"):
        load_cluster("8xA100-SXM-60GB", CATALOG)


def test_a_label_that_is_far_from_the_catalogue_is_an_error(problems):
    (problem,) = problems(NODE.replace("count: 8", "memory_label: 40 GB"))
    assert problem.message == "40 GB differs from the catalogue's 80 GiB by more than 5 %"


def test_an_unknown_key_names_the_nearest_with_its_line(problems):
    (problem,) = problems(NODE.replace("devices", "devises"))[1:]
    assert problem.where.endswith("cluster.yaml:4: nodes[0].devises")
    assert problem.remedy == "did you mean devices?"


def test_a_bare_bandwidth_is_an_error_that_names_both_units(problems):
    (problem,) = problems(TWO_NODES.replace("100 Gb/s", "100", 1))
    assert problem.message == "100: has no unit"
    assert problem.remedy == "write '100 Gb/s' (bits) or '100 GB/s' (bytes, 8 times as much)"


def test_a_stray_bandwidth_is_an_error(problems):
    (problem,) = problems(TWO_NODES.replace("100 Gb/s", "47775 GB/s", 1))
    assert "47,775 GB/s, more than any link carries one way" in problem.message


def test_a_port_beyond_any_network_card_is_an_error(problems):
    (problem,) = problems(TWO_NODES.replace("100 Gb/s", "400 GB/s", 1))
    assert "no network port exceeds 1,600 Gb/s" in problem.message


def test_a_duplicate_host_name_quotes_both_places(problems):
    (problem,) = problems(TWO_NODES.replace("name: b", "name: a"))
    assert problem.message == "the host name a is given 2 times"
    assert "cluster.yaml:3: nodes[0] and " in problem.where
    assert problem.where.endswith("cluster.yaml:6: nodes[1]")


def test_numbered_hosts_may_not_collide_with_a_named_one(problems):
    text = TWO_NODES.replace("name: a\n", "name_prefix: b\n        count: 3\n")
    text = text.replace("name: b\n", "name: b2\n")
    (problem,) = problems(text)
    assert problem.message == "the host name b2 is given 2 times"


def test_equal_hosts_need_a_prefix_and_not_a_name(problems):
    problem, _ = problems(NODE.replace("name: a", "name: a\n        count: 2"))
    assert problem.message == "2 hosts cannot all be called 'a'"
    assert problem.remedy == "write name_prefix: a- in place of name"


def test_two_hosts_without_a_network_are_an_error(problems):
    found = problems(NODE.replace("name: a", "name_prefix: a\n        count: 2"))
    assert "2 hosts, but this one has no network port" in found[0].message


def test_an_undeclared_network_names_the_nearest(problems):
    text = TWO_NODES.replace("network: ethernet", "network: ethrenet", 1)
    (problem,) = problems(text + "    networks: [{name: ethernet, kind: roce}]\n")
    assert problem.message == "no network is called 'ethrenet'"
    assert problem.remedy == "did you mean ethernet?"


def test_without_declared_networks_a_misspelt_one_is_a_warning(load):
    cluster = load(TWO_NODES.replace("network: ethernet", "network: ethrenet", 1))
    assert "no network joins this node" in cluster.warnings[0]
    assert "did you mean" in cluster.warnings[0]


def test_a_measurement_above_the_nominal_rate_is_an_error(problems):
    text = TWO_NODES.replace("100 Gb/s}", "100 Gb/s, measured_bandwidth_one_way: 20 GB/s}", 1)
    (problem,) = problems(text)
    assert problem.message == ("measured 160 Gb/s (20 GB/s) on a port of 100 Gb/s (12.5 GB/s)")


def test_uplinks_state_their_rate_or_the_ratio(problems):
    networks = """
    networks:
      - name: ethernet
        switches:
          - {name: leaf, uplinks: [{to: spien}]}
          - {name: spine}
    """
    text = TWO_NODES.replace("network: ethernet", "network: ethernet, switch: leaf")
    found = problems(text + networks)
    assert [p.message for p in found] == [
        "no switch is called 'spien'",
        "neither of bandwidth_one_way and the switch's oversubscription given",
    ]
    assert found[0].remedy == "did you mean spine?"


def test_a_port_says_which_of_several_switches_it_is_on(problems):
    networks = """
    networks:
      - name: ethernet
        switches: [{name: leaf0}, {name: leaf1}]
    """
    found = problems(TWO_NODES + networks)
    assert found[0].remedy == "add switch: one of leaf0, leaf1"


def test_sparse_figures_are_refused_with_the_dense_one(problems):
    (problem,) = problems(
        """
        chips:
          - id: my-h100
            inherit: H100-SXM-80GB
            bf16_tflops: 1979
        nodes:
          - name: a
            devices: [{chip: my-h100, count: 8}]
        """
    )
    assert "sparsity" in problem.message
    assert "989" in problem.message


def test_reserving_the_whole_memory_is_an_error(problems):
    (problem,) = problems(NODE.replace("count: 8", "reserved_gib: 80"))
    assert problem.message.startswith("80 GiB are reserved of 79.2")


@pytest.mark.parametrize(
    "field", ["count: 0", "count: 1.5", "derate: 0", "derate: 3", "reserved_gib: -1", "count: 9999"]
)
def test_values_out_of_range_are_errors(problems, field):
    (problem,) = problems(NODE.replace("count: 8", field))
    assert field.split(":")[0] in problem.where


def test_an_empty_device_list_is_an_error(problems):
    (problem,) = problems("nodes: [{name: a, devices: []}]")
    assert "the list is empty" in problem.message


def test_a_card_without_a_known_bridge_needs_its_bandwidth(problems):
    text = NODE.replace("A100-SXM-80GB", "RTX4090-24GB")
    (problem,) = problems(text.replace("count: 8", "count: 2, fabric: {kind: nvlink bridge}"))
    assert "knows no bridge for RTX4090-24GB" in problem.message


def test_a_misspelt_way_between_vendors_names_the_nearest(problems):
    (problem,) = problems(NODE, "cluster.cross_vendor_collectives=cpu_staged")
    assert problem.remedy == "did you mean cpu-staged?"


def test_no_library_reduces_between_ascend_and_others():
    overrides = parse_overrides(["cluster.cross_vendor_collectives=flagcx"])
    with pytest.raises(InputError, match="flagcx does not cover 910B3-64GB"):
        load_cluster("s6-a800-910b3", CATALOG, overrides)


def test_a_fabric_slower_than_pcie_is_a_warning(load):
    fabric = "count: 2, fabric: {kind: nvlink bridge, bandwidth_one_way: 25 Gb/s}"
    text = NODE.replace("A100-SXM-80GB", "RTX3090-24GB").replace("count: 8", fabric)
    assert "slower than the chip's host link" in load(text).warnings[0]


def test_a_network_faster_than_the_node_inside_is_a_warning(load):
    text = TWO_NODES.replace("chip: V100-SXM2-32GB, count: 8", "chip: V100-PCIe-32GB, count: 1")
    cluster = load(text.replace("100 Gb/s", "400 Gb/s"))
    assert "is faster than all links inside it" in cluster.warnings[0]


def test_all_problems_of_a_file_are_reported_at_once(problems):
    found = problems(
        """
        nodez: []
        nodes:
          - name: a
            devices: [{chip: A100, count: 8, derate: 9}]
            nics: [{network: e, bandwidth_one_way: 100}]
        """
    )
    assert len(found) == 4


def test_an_unknown_cluster_names_the_nearest():
    with pytest.raises(InputError, match="did you mean s1-a100-v100"):
        load_cluster("s1-a100-v10", CATALOG)


def test_garbled_fleet_text_shows_the_grammar():
    with pytest.raises(InputError, match=r"the grammar is \[NODESx\]CHIPSxCHIP"):
        load_cluster("2080 * 24090 * 2", CATALOG)


def test_a_missing_file_is_an_error():
    with pytest.raises(InputError, match="no such file"):
        load_cluster("nowhere/cluster.yaml", CATALOG)
