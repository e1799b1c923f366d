"""Ranks follow hosts and device numbers."""

from __future__ import annotations

from planner.plan import Plan
from planner.runtime.seats import host_of, local_index, seating
from tests.runtime.run_plans import P, S, run_plan

NAMES = [f"layer{k}" for k in range(4)]


def test_hosts_come_in_the_order_of_the_plan_and_devices_by_their_number() -> None:
    """Ten devices: 10 comes after 9."""
    plan = run_plan([P([S((0, 4), [(1, 1)] * 11)], 1), P([S((0, 4), [(1, 2)])], 1)], NAMES)
    devices = [seat.device for seat in seating(plan).seats]
    assert devices == [f"host0/{k}" for k in range(11)] + ["host1/0", "host1/1"]


def test_a_group_keeps_the_order_of_its_shards() -> None:
    """The plan lists a replica's devices by shard, in any order of numbers."""
    plan = run_plan([P([S((0, 4), [(1, 2)])], 1)], NAMES)
    body = plan.model_dump(mode="json")
    body["pipelines"][0]["stages"][0]["replicas"][0]["devices"] = ["host0/1", "host0/0"]
    places = seating(Plan.model_validate(body))
    assert places.ranks(0, 0, 0) == (1, 0)
    assert [seat.shard for seat in places.seats] == [1, 0]


def test_names_split_into_host_and_number() -> None:
    """A name without a number is a host with one device."""
    assert (host_of("rack1/node3/7"), local_index("rack1/node3/7")) == ("rack1/node3", 7)
    assert (host_of("laptop"), local_index("laptop")) == ("laptop", 0)
