"""Collectives cost latency when small and bandwidth when large."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.catalog import Fabric
from costmodels.collectives import (
    LAUNCH_S,
    SyncHost,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    gradient_sync_s,
    point_to_point_s,
    reduce_scatter_s,
)
from tests.costmodels.blocks import fabric

PLAIN = Fabric("plain", 100e9, 100e9, 1.0, 1e-6, False)
COLLECTIVES = [all_reduce_s, reduce_scatter_s, all_gather_s, all_to_all_s]


def test_all_reduce_by_hand():
    # 2·3/4·1e9/100e9 = 15 ms on the wire, 2 steps each way of 1 us.
    assert all_reduce_s(1e9, 4, PLAIN) == pytest.approx(LAUNCH_S + 4e-6 + 15e-3)


def test_all_reduce_is_a_reduce_scatter_and_an_all_gather_on_the_wire():
    both = reduce_scatter_s(1e9, 8, PLAIN) + all_gather_s(1e9, 8, PLAIN)
    assert both - LAUNCH_S == pytest.approx(all_reduce_s(1e9, 8, PLAIN))


@pytest.mark.parametrize(("bytes_", "measured"), [(2**15, 40e-6), (2**20, 48e-6), (2**24, 133e-6)])
def test_agrees_with_eight_measured_h200(bytes_, measured):
    assert all_reduce_s(bytes_, 8, fabric("H200-SXM-141GB")) == pytest.approx(measured, rel=0.15)


def test_two_ranks_of_a_full_mesh_are_far_slower_than_eight():
    mesh = fabric("MI300X-192GB")
    # 47.7 GB/s of bus bandwidth with two chips, 313 with eight.
    assert 2**30 / all_reduce_s(2**30, 2, mesh) == pytest.approx(47.7e9, rel=0.1)
    assert 1.75 * 2**30 / all_reduce_s(2**30, 8, mesh) == pytest.approx(313e9, rel=0.05)


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_single_rank_communicates_for_free(collective):
    assert collective(1e9, 1, PLAIN) == 0


@given(
    collective=st.sampled_from(COLLECTIVES),
    bytes_=st.floats(0, 1e11),
    more=st.floats(0, 1e11),
    ranks=st.integers(1, 64),
)
def test_more_bytes_never_take_less_time(collective, bytes_, more, ranks):
    assert collective(bytes_ + more, ranks, PLAIN) >= collective(bytes_, ranks, PLAIN)


@given(
    collective=st.sampled_from(COLLECTIVES),
    bytes_=st.floats(0, 1e11),
    ranks=st.integers(1, 64),
    slower=st.floats(0.01, 1),
    later=st.floats(1, 100),
)
def test_slower_links_never_take_less_time(collective, bytes_, ranks, slower, later):
    total = PLAIN.total_bandwidth * slower
    worse = replace(
        PLAIN, total_bandwidth=total, pair_bandwidth=total, latency_s=PLAIN.latency_s * later
    )
    assert collective(bytes_, ranks, worse) >= collective(bytes_, ranks, PLAIN)


def test_point_to_point_by_hand():
    # S1: 41.9 MB over 12.5 GB/s is 3.4 ms.
    assert point_to_point_s(41.9e6, 12.5e9, 0.0) == pytest.approx(3.352e-3)


def host(**change) -> SyncHost:
    return SyncHost(1, 10**9, PLAIN, 10**9, 10e9)._replace(**change)


def test_gradient_sync_over_two_hosts_by_hand():
    # One replica per host: 2·1/2·1e9/10e9 = 100 ms, one launch, 2·1 hops of 50 us.
    seconds = gradient_sync_s([host(), host()], latency_s=50e-6)
    assert seconds == pytest.approx(0.1 + LAUNCH_S + 100e-6)


def test_gradient_sync_inside_one_host_is_an_all_reduce():
    assert gradient_sync_s([host(replicas=4)]) == all_reduce_s(10**9, 4, PLAIN)


def test_gradient_sync_of_one_replica_is_free():
    assert gradient_sync_s([host(port_bytes_per_s=None)]) == 0


def test_two_tiers_beat_a_flat_ring_over_a_slow_network():
    # S5: BERT-base in fp32 over 40 Gb/s, four chips in each of two hosts.
    gradients = 4 * 110_000_000
    pcie = Fabric("pcie", 12e9, 12e9, 1.0, 0.0, False)
    node = SyncHost(4, gradients, pcie, gradients, 5e9)
    flat_ring = 2 * 7 / 8 * gradients / 5e9
    inside = all_reduce_s(gradients, 4, pcie)
    assert flat_ring == pytest.approx(0.154, abs=1e-3)
    assert gradient_sync_s([node, node]) - inside == pytest.approx(0.088, abs=1e-3)


def test_the_slowest_host_decides():
    slow = host(port_bytes_per_s=1e9)
    assert gradient_sync_s([host(), slow]) == gradient_sync_s([slow, slow])


def test_hosts_that_must_talk_need_a_port():
    with pytest.raises(ValueError, match="network port"):
        gradient_sync_s([host(), host(port_bytes_per_s=None)])


@given(
    replicas=st.integers(1, 8),
    hosts=st.integers(1, 300),
    shard=st.integers(0, 10**11),
    more=st.integers(0, 10**11),
    port=st.floats(1e8, 1e12),
    slower=st.floats(0.01, 1),
    alpha=st.floats(0, 1e-3),
)
def test_sync_never_gets_faster_with_more_bytes_or_worse_links(
    replicas, hosts, shard, more, port, slower, alpha
):
    base = SyncHost(replicas, shard, PLAIN, shard, port)
    heavy = base._replace(shard_bytes=shard + more, exchanged_bytes=shard + more)
    narrow = base._replace(port_bytes_per_s=port * slower)
    seconds = gradient_sync_s([base] * hosts, latency_s=alpha)
    assert gradient_sync_s([heavy] * hosts, latency_s=alpha) >= seconds
    assert gradient_sync_s([narrow] * hosts, latency_s=alpha) >= seconds
    assert gradient_sync_s([base] * hosts, latency_s=2 * alpha) >= seconds
    assert gradient_sync_s([base] * (hosts + 1), latency_s=alpha) >= seconds
