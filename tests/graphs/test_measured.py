"""Topologies that carry what was measured."""

import pytest

from planner.errors import InputError
from planner.resolve import resolve_inputs
from tests.profile_inputs import LINK, MIB, cluster, job, model, profile, rows


def topology(cluster_text="2x2xA100-SXM-80GB @ 100Gb/s", **fields):
    return resolve_inputs(model(), cluster(cluster_text), job(), profile(**fields)).topology


def test_layer_times_lie_on_the_classes_of_their_chip():
    mixed = topology("1x2xA100-SXM-80GB + 1x2xV100-SXM2-32GB @ 100Gb/s", precision="fp16")
    by_chip = {c.chip.id: c.profile for c in mixed.classes}
    assert by_chip["nvidia-a100-sxm-80gb"].measurement(2, 2, 4).forward_s == pytest.approx(0.048)
    assert by_chip["nvidia-v100-sxm2-32gb"] is None


def test_a_chip_without_rows_is_warned_of():
    found = resolve_inputs(
        model(),
        cluster("1x2xA100-SXM-80GB + 1x2xV100-SXM2-32GB @ 100Gb/s"),
        job(),
        profile(precision="fp16"),
    )
    assert any("Tesla V100" in w and "not measured" in w for w in found.warnings)
    assert any("priced by the formulas" in a for a in found.topology.assumptions)


def test_a_profile_of_other_chips_is_an_error_that_names_both():
    with pytest.raises(InputError, match="speaks of H20") as error:
        topology(chips=[{"chip": "H20-96GB", "rows": rows()}])
    assert "nvidia-a100-sxm-80gb" in str(error.value)


def test_the_optimizer_step_is_scaled_to_the_measured_one():
    (cls,) = topology().classes
    # three layers of two milliseconds against the formula's few microseconds
    assert cls.update_scale > 10
    silent = [{**r, "update_s": 0.0} for r in rows()]
    assert topology(chips=[{"chip": "A100-SXM-80GB", "rows": silent}]).classes[0].update_scale == 1


def test_routes_between_nodes_take_the_measured_time_and_those_inside_stay():
    measured = topology(links=[LINK])
    (cls,) = measured.classes
    route = measured.route(*cls.islands)
    assert route.kind == "measured"
    assert route.seconds(MIB) == pytest.approx(0.002)
    assert route.seconds(8 * MIB, share=0.5) == pytest.approx(0.010)
    assert measured.class_routes[0, 0].points == route.points
    assert measured.capacity[route.resources[0]] == pytest.approx(16 * MIB / 0.010)


def test_a_ring_uses_the_link_that_was_measured_with_as_many_senders():
    both = {**LINK, "chips": 2, "points": [[MIB, 0.001], [16 * MIB, 0.005]]}
    route = topology(links=[LINK, both]).class_routes[0, 0]
    assert route.rate(16 * MIB, 1) == pytest.approx(16 * MIB / 0.010)
    assert route.rate(16 * MIB, 2) == pytest.approx(16 * MIB / 0.005)
    assert route.rate(16 * MIB, 8) == pytest.approx(16 * MIB / 0.005)
    assert route.bandwidth == pytest.approx(16 * MIB / 0.005)


def test_a_link_measured_inside_a_node_replaces_the_fabric():
    (cls,) = topology(links=[{**LINK, "where": "in_node"}]).classes
    assert cls.fabric.kind == "measured"
    assert cls.fabric.group_bandwidth(2) == pytest.approx(16 * MIB / 0.010)


def test_a_cluster_without_a_network_gets_none_from_a_profile():
    alone = topology("2xA100-SXM-80GB", links=[LINK])
    assert alone.class_routes.get((0, 0)) is None
