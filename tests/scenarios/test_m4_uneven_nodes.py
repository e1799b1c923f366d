"""M4: five RTX 6000 Ada in two machines, four and one: no count per node fits both."""

import pytest

from tests.scenarios.terminal import Planned, defects, host, planned, planner, replicas

M4 = ("gpt2", "m4-uneven-nodes", "--global-batch", "64", "--seq-len", "1024")
FAST = (
    "gpt2", "m4-uneven-nodes", "--global-batch", "160", "--seq-len", "1024",
    "--set", "cluster.nodes.0.nics.0.bandwidth_one_way=400 Gb/s",
    "--set", "cluster.nodes.1.nics.0.bandwidth_one_way=400 Gb/s",
)  # fmt: skip


@pytest.fixture(scope="module")
def m4() -> Planned:
    return planned(*M4)


def test_the_nodes_parse():
    ended = planner("check", "m4-uneven-nodes")
    assert (ended.code, "5 chips in 2 nodes" in ended.out) == (0, True)


def test_the_plan_is_sound(m4):
    assert defects(m4.plan, chips=5) == []


def test_a_chip_that_stays_idle_is_named_with_a_reason(m4):
    placed = {d for r in replicas(m4.plan) for d in r.devices}
    idle = {d: u.reason for u in m4.plan.unused_devices for d in u.devices}
    assert {*placed, *idle} == {"big/0", "big/1", "big/2", "big/3", "small/0"}
    assert all(idle.values())


def test_the_equal_split_over_all_five_has_a_price(m4):
    assert m4.baseline("equal split over all chips") < float("inf")


def test_the_best_plan_with_every_chip_has_a_price(m4):
    assert m4.baseline("best plan that uses every chip") < float("inf")


def test_a_fast_network_and_enough_rows_bring_in_the_second_machine():
    assert {host(d) for r in replicas(planned(*FAST).plan) for d in r.devices} == {"big", "small"}
