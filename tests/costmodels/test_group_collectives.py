"""Collectives of groups that may be larger than one fabric."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.catalog import Fabric
from costmodels.collectives import (
    Links,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    group_s,
    hosts_reached,
)

FABRIC = Fabric("plain", 100e9, 100e9, 1.0, 1e-6, False)
LINKS = Links(FABRIC, 8, 10e9, 20e-6)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


@pytest.mark.parametrize(
    ("kind", "flat"),
    [("all_reduce", all_reduce_s), ("all_gather", all_gather_s), ("all_to_all", all_to_all_s)],
)
def test_inside_one_fabric_nothing_changes(kind, flat):
    assert group_s(kind, 1e8, 8, LINKS) == flat(1e8, 8, FABRIC)


def test_a_ring_over_two_hosts_passes_each_port_once():
    # 8 of 16 chips per host share 8 ports of 10 GB/s: half of 1 GB in each direction.
    seconds = group_s("all_gather", 1e9, 16, LINKS)
    assert seconds == pytest.approx(15 / 16 * 1e9 / 100e9, rel=0.03)
    slow = replace(LINKS, port=1e9)
    assert group_s("all_gather", 1e9, 16, slow) == pytest.approx(0.5e9 / 8e9, rel=0.01)


def test_chips_far_apart_have_a_port_each():
    # Stride 8: one chip of every group per host, each with its own share of the way out.
    assert LINKS.inside(4, 8) == 1
    assert group_s("all_gather", 1e9, 4, LINKS, stride=8) == pytest.approx(0.075, rel=0.01)


def test_all_to_all_sends_what_leaves_the_host_over_its_own_port():
    # 8 of 16 partners are on the other host: half of the bytes at 10 GB/s.
    assert group_s("all_to_all", 1e9, 16, LINKS) == pytest.approx(0.05, rel=0.01)


def test_a_group_that_leaves_its_fabric_needs_a_network():
    with pytest.raises(ValueError, match="no network"):
        group_s("all_reduce", 1e6, 16, Links(FABRIC, 8))


@given(
    kind=st.sampled_from(KINDS),
    bytes_=st.floats(0, 1e10),
    more=st.floats(0, 1e10),
    ranks=st.sampled_from([2, 8, 16, 64]),
    slower=st.floats(0.05, 1),
)
def test_more_bytes_or_a_slower_port_never_take_less_time(kind, bytes_, more, ranks, slower):
    base = group_s(kind, bytes_, ranks, LINKS)
    assert group_s(kind, bytes_ + more, ranks, LINKS) >= base
    assert group_s(kind, bytes_, ranks, replace(LINKS, port=LINKS.port * slower)) >= base


def test_a_token_that_crosses_once_per_host_reaches_the_others_by_chance():
    # Eight copies on four hosts: each of the three others is missed with (3/4)^8 = 10 %.
    assert hosts_reached(4, 8) == pytest.approx(3 * (1 - 0.75**8))
    assert hosts_reached(4, 1) == pytest.approx(3 / 4)


@given(hosts=st.integers(2, 64), copies=st.integers(1, 64))
def test_hosts_reached_are_fewer_than_copies_and_than_hosts(hosts, copies):
    reached = hosts_reached(hosts, copies)
    assert reached <= copies * (hosts - 1) / hosts + 1e-9
    assert 0 < reached < hosts
    assert hosts_reached(hosts, copies + 1) >= reached


def test_crossing_once_per_host_spares_the_port():
    each = group_s("all_to_all", 8e9, 32, LINKS)
    once = group_s("all_to_all", 8e9, 32, LINKS, copies=8)
    assert once == pytest.approx(each * hosts_reached(4, 8) / (8 * 3 / 4), rel=0.01)
