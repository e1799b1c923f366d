"""Islands, classes and routes of clusters as people describe them."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.catalog import load_catalog
from planner.graphs.build_topology import build_topology
from planner.inputs.cluster import load_cluster
from planner.inputs.cluster_spec import ClusterSpec

CATALOG = load_catalog()
ETHERNET = [{"network": "ethernet", "bandwidth_one_way": "100 Gb/s"}]


def node(name, *devices, nics=ETHERNET, **more):
    return {"name": name, "devices": list(devices), "nics": nics, **more}


def chips(name, count=8, **more):
    return {"chip": name, "count": count, **more}


A100 = chips("A100-SXM-80GB")
V100 = chips("V100-SXM2-32GB")


def topology(*nodes, **more):
    spec = ClusterSpec.model_validate({"nodes": list(nodes), **more})
    return build_topology(spec, CATALOG)


def shipped(name):
    return build_topology(load_cluster(name, CATALOG).spec, CATALOG)


def islands(top):
    return {i.name: i for c in top.classes for i in c.islands}


def between(top, one, other):
    known = islands(top)
    return top.route(known[one], known[other])


def shape(top):
    """What a class is, without the names of its islands."""
    return [(c.name, c.size, c.count, c.derate, c.usable_memory_bytes) for c in top.classes]


# Islands


def test_chips_of_one_host_and_kind_are_one_island():
    (cls,) = shipped("s3-seven-a100").classes
    assert (cls.count, cls.size) == (1, 7)
    assert cls.islands[0].devices == tuple(f"a100/{i}" for i in range(7))


def test_mixed_chips_of_one_host_are_several_islands():
    top = shipped("s4-five-gpu-tower")
    assert sorted(i.name for i in islands(top).values()) == ["tower/0-1", "tower/2", "tower/3-4"]


def test_uneven_nodes_give_classes_of_their_own_sizes():
    assert [(c.size, c.count) for c in shipped("m4-uneven-nodes").classes] == [(4, 1), (1, 1)]


def test_a_straggler_is_an_island_of_its_own_on_the_same_fabric():
    slow = chips("A100-SXM-80GB", 1, derate=0.8)
    top = topology(node("a", chips("A100-SXM-80GB", 3), slow, chips("A100-SXM-80GB", 4)))
    assert sorted(islands(top)) == ["a/0-2+4-7", "a/3"]
    assert between(top, "a/0-2+4-7", "a/3").kind == "nvlink3"


def test_reserved_memory_splits_islands_and_lowers_what_is_usable():
    top = topology(node("a", chips("A40-48GB", 6), chips("A40-48GB", 2, reserved_gib=4)))
    assert [c.usable_memory_bytes // 2**30 for c in top.classes] == [45, 41]


def test_cards_without_a_fabric_form_one_island_on_their_host_link():
    (cls,) = topology(node("a", chips("A40-48GB", 8))).classes
    assert cls.fabric == cls.chip.host_fabric


def test_a_stated_bridge_joins_pairs_of_cards():
    bridged = chips("RTX3090-24GB", 4, fabric={"kind": "nvlink bridge"})
    top = topology(node("a", bridged))
    (cls,) = top.classes
    assert (cls.size, cls.count, cls.fabric.kind) == (2, 2, "nvlink bridge")
    assert between(top, "a/0-1", "a/2-3").kind == "pcie4x16"


def test_more_chips_than_a_fabric_joins_are_several_islands():
    (cls,) = topology(node("a", chips("910B3-64GB", 16))).classes
    assert (cls.size, cls.count) == (8, 2)


def test_a_pair_on_a_full_mesh_gets_a_seventh_of_the_total():
    fabric = topology(node("a", chips("910B3-64GB", 8))).classes[0].fabric
    assert fabric.full_mesh
    assert fabric.pair_bandwidth == pytest.approx(fabric.total_bandwidth / 7)


# Classes


def test_equal_hosts_are_one_class():
    assert [(c.count, c.size) for c in shipped("s6-a800-910b3").classes] == [(64, 8), (128, 8)]


@pytest.mark.parametrize(
    "change",
    [
        {"host_memory_gib": 512},
        {"nics": [{"network": "ethernet", "bandwidth_one_way": "25 Gb/s"}]},
        {"nics": [{"network": "ethernet", "bandwidth_one_way": "100 Gb/s", "kind": "roce"}]},
        {"nics": [{"network": "other", "bandwidth_one_way": "100 Gb/s"}]},
        {"devices": [A100, chips("V100-SXM2-32GB", 1)]},
        {"devices": [{**A100, "measured_rows_per_s": 3.0}]},
    ],
)
def test_islands_that_can_be_told_apart_are_different_classes(change):
    top = topology(node("a", A100), {**node("b", A100), **change})
    assert len([c for c in top.classes if c.chip.id == "nvidia-a100-sxm-80gb"]) == 2


def test_equal_hosts_written_twice_are_one_class():
    top = topology(node("b", A100), node("a", A100), {**node("x", A100), "name": "c10"},
                   node("c9", A100))  # fmt: skip
    assert [i.host for i in top.classes[0].islands] == ["a", "b", "c9", "c10"]


def test_order_and_names_of_nodes_change_nothing_about_the_classes():
    entries = [
        node("a", A100),
        node("b", V100),
        node("c", V100),
        node("d", chips("A100-SXM-80GB", 8, derate=0.9)),
    ]
    seen = {
        tuple(shape(topology(*({**n, "name": f"host{i}"} for i, n in enumerate(order)))))
        for order in permutations(entries)
    }
    assert len(seen) == 1


@st.composite
def fleets(draw):
    kinds = ("A100-SXM-80GB", "V100-SXM2-32GB", "910B3-64GB", "A40-48GB")
    nodes = []
    for index in range(draw(st.integers(1, 5))):
        groups = [
            chips(
                draw(st.sampled_from(kinds)),
                draw(st.integers(1, 8)),
                derate=draw(st.sampled_from((1.0, 0.9))),
            )
            for _ in range(draw(st.integers(1, 2)))
        ]
        networks = draw(st.sampled_from((("eth",), ("eth", "ib"))))
        nics = [{"network": n, "bandwidth_one_way": "100 Gb/s"} for n in networks]
        nodes.append(node(f"n{index}", *groups, nics=nics))
    return nodes


@given(fleets(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_shuffling_and_renaming_hosts_leaves_classes_and_their_routes(nodes, random):
    top = topology(*nodes)
    order = list(nodes)
    random.shuffle(order)
    names = [f"m{i}" for i in range(len(order))]
    random.shuffle(names)
    other = topology(*({**n, "name": name} for n, name in zip(order, names)))
    assert shape(other) == shape(top)
    assert other.class_routes == top.class_routes


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_every_device_is_on_exactly_one_island(nodes):
    devices = [d for i in islands(topology(*nodes)).values() for d in i.devices]
    sizes = {n["name"]: sum(g["count"] for g in n["devices"]) for n in nodes}
    expected = {f"{name}/{k}" for name, size in sizes.items() for k in range(size)}
    assert len(devices) == len(set(devices))
    assert set(devices) == expected


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_a_class_route_is_never_slower_than_a_real_one(nodes):
    top = topology(*nodes)
    known = [i for c in top.classes for i in c.islands]
    for one in known:
        for other in known:
            route = top.route(one, other)
            if route is not None:
                best = top.class_routes[one.class_index, other.class_index]
                assert best.bandwidth >= route.bandwidth
                assert best.latency_s <= route.latency_s


# Routes


def test_tcp_at_100_gbit_reaches_45_percent_of_the_wire():
    route = shipped("s1-a100-v100").class_routes[0, 1]
    assert route.bandwidth == pytest.approx(0.45 * 12.5e9, rel=0.01)
    assert route.kind == "tcp"


def test_a_stated_efficiency_replaces_the_assumed_one():
    nics = [{**ETHERNET[0], "efficiency": 0.9}]
    top = topology(node("a", A100, nics=nics), node("b", A100, nics=nics))
    assert top.class_routes[0, 0].bandwidth == 0.9 * 12.5e9


def test_a_measured_bandwidth_replaces_the_nominal_one():
    nics = [{**ETHERNET[0], "measured_bandwidth_one_way": "3 GB/s"}]
    top = topology(node("a", A100, nics=nics), node("b", A100, nics=nics))
    assert top.class_routes[0, 0].bandwidth == 3e9


def test_ports_on_one_network_are_added():
    nics = [{"network": "ib", "bandwidth_one_way": "200 Gb/s", "kind": "ib", "count": 4}]
    top = topology(node("a", A100, nics=nics), node("b", A100, nics=nics))
    assert top.capacity["host:a:ib:out"] == pytest.approx(4 * 0.86 * 25e9)


def test_the_fastest_common_network_is_taken():
    route = shipped("s6-a800-910b3").class_routes[1, 1]
    assert route.bandwidth == pytest.approx(0.86 * 100e9)
    assert route.kind == "ib"


def test_only_the_common_network_joins_two_vendors():
    top = shipped("s6-a800-910b3")
    route = between(top, "a800-3/0-7", "ascend-9/0-7")
    assert route.resources == ("host:a800-3:ethernet:out", "host:ascend-9:ethernet:in")


def test_an_edge_between_vendors_goes_through_host_memory():
    route = shipped("s6-a800-910b3").class_routes[0, 1]
    assert route.kind == "tcp, cpu-staged"
    assert route.bandwidth == pytest.approx(0.2 * 12.5e9)
    assert route.latency_s == pytest.approx(200e-6)


def test_a_declared_library_moves_data_between_vendors_faster():
    ib = [{"network": "ib", "bandwidth_one_way": "200 Gb/s", "kind": "ib"}]
    nodes = (node("a", A100, nics=ib), node("b", chips("MI300X-192GB"), nics=ib))
    staged = topology(*nodes).class_routes[0, 1]
    direct = topology(*nodes, cross_vendor_collectives="flagcx").class_routes[0, 1]
    assert direct.bandwidth == pytest.approx(0.7 * 25e9)
    assert direct.bandwidth > staged.bandwidth


def test_routes_out_of_one_host_share_its_port():
    top = shipped("s1-a100-v100")
    first = between(top, "a100/0-7", "v100-0/0-7")
    second = between(top, "a100/0-7", "v100-1/0-7")
    assert set(first.resources) & set(second.resources) == {"host:a100:ethernet:out"}


def test_every_resource_of_a_route_has_a_capacity():
    for name in ("s4-five-gpu-tower", "two-racks-oversubscribed", "h800-910b"):
        top = shipped(name)
        known = list(islands(top).values())
        used = {
            r
            for one in known
            for other in known
            if (route := top.route(one, other)) is not None
            for r in route.resources
        }
        assert used <= set(top.capacity)


def test_hosts_without_a_common_network_are_not_joined():
    other = [{"network": "other", "bandwidth_one_way": "100 Gb/s"}]
    top = topology(node("a", A100), node("b", V100, nics=other))
    assert top.class_routes[0, 1] is None
    assert between(top, "a/0-7", "b/0-7") is None


def test_a_lone_island_has_no_route_within_its_class():
    assert shipped("s1-a100-v100").class_routes[0, 0] is None


def test_islands_of_one_host_meet_over_its_slower_host_links():
    top = shipped("four-4090-two-3090")
    route = top.class_routes[0, 1]
    pcie = top.classes[0].chip.host_fabric
    assert route.bandwidth == pytest.approx(2 * pcie.total_bandwidth * pcie.efficiency)


def test_a_shared_root_complex_bounds_all_host_links():
    link = {"bandwidth_one_way": "31.5 GB/s", "total_bandwidth_one_way": "16 GB/s"}
    top = topology(node("a", chips("RTX4090-24GB", 4), chips("RTX3090-24GB", 4), host_link=link))
    assert top.class_routes[0, 1].bandwidth == 16e9


def test_a_single_card_cannot_outrun_its_host_link():
    ib = [{"network": "ib", "bandwidth_one_way": "400 Gb/s", "kind": "ib", "count": 4}]
    top = topology(node("a", chips("V100-SXM2-32GB", 1), nics=ib), node("b", A100, nics=ib))
    cls = next(c for c in top.classes if c.size == 1)
    limit = cls.chip.host_fabric.total_bandwidth * cls.chip.host_fabric.efficiency
    assert between(top, "b/0-7", "a/0").bandwidth == pytest.approx(limit)


def test_unlike_kinds_on_one_network_speak_tcp():
    roce = [{**ETHERNET[0], "kind": "roce"}]
    tcp = [{**ETHERNET[0], "kind": "tcp"}]
    top = topology(node("a", A100, nics=roce), node("b", A100, nics=tcp))
    route = between(top, "a/0-7", "b/0-7")
    assert route.kind == "tcp"
    assert route.bandwidth == pytest.approx(0.45 * 12.5e9, rel=0.01)


# Switches


def racks(uplink, hosts=4, racks=2):
    nics = [{"network": "fabric", "bandwidth_one_way": "200 Gb/s", "kind": "roce"}]
    return {
        "nodes": [
            {
                "name_prefix": f"r{r}-",
                "count": hosts,
                "devices": [A100],
                "nics": [{**nics[0], "switch": f"leaf{r}"}],
            }
            for r in range(racks)
        ],
        "networks": [
            {
                "name": "fabric",
                "switches": [
                    *({"name": f"leaf{r}", **uplink} for r in range(racks)),
                    {"name": "spine"},
                ],
            }
        ],
    }


def build(document):
    return build_topology(ClusterSpec.model_validate(document), CATALOG)


def test_a_quarter_of_the_bandwidth_between_racks_cuts_the_class():
    top = build(racks({"oversubscription": 4, "uplinks": [{"to": "spine"}]}))
    assert [(c.count, c.size) for c in top.classes] == [(4, 8), (4, 8)]


def test_half_of_the_bandwidth_between_racks_keeps_the_class_whole():
    top = build(racks({"oversubscription": 1.8, "uplinks": [{"to": "spine"}]}))
    assert [(c.count, c.size) for c in top.classes] == [(8, 8)]


def test_nine_racks_stay_one_class_and_the_topology_says_so():
    top = build(racks({"oversubscription": 4, "uplinks": [{"to": "spine"}]}, racks=9))
    assert len(top.classes) == 1
    assert any("more than 8 groups" in a for a in top.assumptions)


def test_a_thin_uplink_limits_the_way_between_racks_and_is_shared():
    uplink = {"uplinks": [{"to": "spine", "bandwidth_one_way": "25 Gb/s", "latency_us": 2}]}
    top = build(racks(uplink))
    route = between(top, "r0-0/0-7", "r1-0/0-7")
    assert route.bandwidth == pytest.approx(0.8 * 25e9 / 8)
    assert route.latency_s == pytest.approx((20 + 2 * 2) * 1e-6)
    assert route.resources == (
        "host:r0-0:fabric:out",
        "switch:leaf0->spine",
        "switch:spine->leaf1",
        "host:r1-0:fabric:in",
    )
    assert between(top, "r0-0/0-7", "r0-1/0-7").bandwidth == pytest.approx(0.8 * 25e9)


def test_oversubscription_divides_what_the_hosts_can_send():
    top = build(racks({"oversubscription": 4, "uplinks": [{"to": "spine"}]}))
    efficiency = 0.8  # RoCE at 200 Gb/s
    assert top.capacity["switch:leaf0->spine"] == pytest.approx(efficiency * 4 * 25e9 / 4)


def test_two_racks_without_uplinks_are_not_joined():
    top = build(racks({}))
    assert len(top.classes) == 2
    assert top.class_routes[0, 1] is None


# Size


@pytest.mark.parametrize("hosts", [2, 12_500])
def test_the_work_per_class_does_not_grow_with_the_hosts(hosts):
    spec = ClusterSpec.model_validate(
        {"nodes": [{"name_prefix": "n", "count": hosts, "devices": [A100], "nics": ETHERNET}]}
    )
    top = build_topology(spec, CATALOG)
    assert top.chips == 8 * hosts
    assert len(top.class_routes) == 1


def test_assumed_kinds_and_fractions_are_listed():
    top = topology(node("a", A100), node("b", V100))
    assert top.assumptions[:2] == (
        "network ethernet: kind tcp assumed (none was given)",
        "network ethernet: tcp at 100 Gb/s (12.5 GB/s) per host achieves 45%, 5.62 GB/s",
    )
