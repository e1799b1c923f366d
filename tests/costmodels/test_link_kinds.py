"""Networks between hosts reach less than their nominal rate, and say how much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodels.catalog import cross_vendor, load_links, network_kind, network_kinds
from costmodels.units import GBIT


@pytest.mark.parametrize(("gbit", "share"), [(1, 0.85), (10, 0.85), (25, 0.75), (100, 0.45)])
def test_tcp_wastes_more_of_a_faster_port(gbit, share):
    assert network_kind("tcp").efficiency(gbit * GBIT) == pytest.approx(share, abs=0.01)


def test_eight_ports_are_as_efficient_as_one_of_them():
    ib = network_kind("ib")
    assert ib.efficiency(3200 * GBIT, ports=8) == ib.efficiency(400 * GBIT) == 0.94


def test_interpolates_between_known_rates():
    tcp = network_kind("tcp")
    assert tcp.efficiency(100 * GBIT) < tcp.efficiency(50 * GBIT) < tcp.efficiency(25 * GBIT)


@given(
    name=st.sampled_from(sorted(network_kinds())),
    rate=st.floats(1e8, 4e11),
    factor=st.floats(1.0, 10.0),
)
def test_a_faster_network_never_carries_less(name, rate, factor):
    kind = network_kind(name)
    assert kind.achievable(rate * factor) >= kind.achievable(rate) * (1 - 1e-12)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(LookupError, match="tcp, roce, ib, efa"):
        network_kind("token-ring")


def test_every_link_has_a_source():
    assert all(link.sources for link in load_links().values())


def test_cpu_staged_transfers_are_slow_and_work_for_every_vendor():
    staged = cross_vendor("cpu-staged")
    assert staged.efficiency == 0.2
    assert staged.latency_s == pytest.approx(200e-6)
    assert staged.unsupported_backends == ()


def test_no_library_reduces_with_ascend():
    assert "hccl" in cross_vendor("flagcx").unsupported_backends
