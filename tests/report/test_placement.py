"""Hosts that look alike are drawn once, and nothing that differs is joined."""

from __future__ import annotations

from planner.inputs.cluster import cluster_from_resolved
from planner.plan import Plan
from planner.report.groups import pipeline_groups
from planner.report.placement import Placement, placement
from planner.restore import restore
from tests.report.made import priced


def placed(plan: Plan) -> Placement:
    spec = cluster_from_resolved(plan.inputs.cluster.resolved)
    return placement(plan, spec, restore(plan).topology, pipeline_groups(plan))


def rows(found: Placement) -> list[tuple[tuple[str, ...], list[list[int | None]]]]:
    """Hosts and the stages on their chips, island by island."""
    return [
        (
            kind.hosts,
            [[s.stage if s else None for s in island.seats] for island in kind.islands],
        )
        for kind in found.kinds
    ]


def test_two_pipelines_over_three_nodes():
    found = placed(priced())
    assert rows(found) == [
        (("node0",), [[0] * 8]),
        (("node1",), [[1] * 8]),
        (("node2",), [[2] * 8]),
    ]
    first = found.kinds[0].islands[0].seats
    assert [s.pipeline for s in first if s] == [0] * 4 + [1] * 4


def test_equal_nodes_are_one_kind_however_many():
    found = placed(priced("llama-3-8b", "64x8xA100-SXM-80GB @ 400Gb/s:ib", "tp: 4, pp: 1"))
    assert [(len(hosts), stages) for hosts, stages in rows(found)] == [(64, [[0] * 8])]
    assert found.kinds[0].chips == 8
    assert found.hosts_on == {"network": 64}


def test_idle_chips_have_no_seat():
    found = placed(priced("llama-3-8b", "8xA100-SXM-80GB", "tp: 2, pp: 1, dp: 3"))
    assert rows(found) == [(("node0",), [[0] * 6 + [None] * 2])]


def test_nodes_hang_on_their_switches():
    found = placed(priced("llama-3-8b", "two-racks-oversubscribed", "tp: 8, pp: 2, dp: 4"))
    assert [[s.name for s in rack.switches] for rack in found.racks] == [["leaf0"], ["leaf1"]]
    assert [sum(n for _, n in rack.kinds) for rack in found.racks] == [4, 4]


def test_switches_that_hold_the_same_are_one_rack():
    found = placed(priced("llama-3-8b", "two-racks-oversubscribed", "tp: 8, pp: 1, dp: 8"))
    (rack,) = found.racks
    assert [s.name for s in rack.switches] == ["leaf0", "leaf1"]
    assert rack.kinds == ((0, 4),)
    assert len(found.kinds[0].hosts) == 8
