"""S5: BERT-base on two nodes of four V100: 2 it/s on one of them, 4 s/it on both."""

import json
import re

import pytest

from tests.scenarios.terminal import Ended, Planned, defects, host, planned, planner, replicas

S5 = ("bert-base", "s5-ethernet-trap", "s5-bert-base")
MEASURED = ("--set", "cluster.nodes.0.nics.0.measured_bandwidth_one_way=1 Gb/s")
"""440 MB of fp32 gradients in the 3.5 s that an iteration took longer."""
REPLICAS = "dp: 8, zero: 0, micro_batch_rows: 32"


def layout(text: str, *more: str) -> dict:
    ended = planner("estimate", S5[0], S5[1], text, S5[2], "--format", "json", *more)
    assert ended.code == 0
    return json.loads(ended.out)["estimate"]


@pytest.fixture(scope="module")
def nominal() -> Planned:
    return planned(*S5, "--gap", "0.05")


@pytest.fixture(scope="module")
def measured() -> Planned:
    return planned(*S5, *MEASURED, "--gap", "0.05")


def nodes(found: Planned) -> set[str]:
    return {host(d) for r in replicas(found.plan) for d in r.devices}


def test_both_plans_are_sound(nominal, measured):
    assert defects(nominal.plan, chips=8) == []
    assert defects(measured.plan, chips=8) == []


def test_on_paper_the_gradients_take_a_tenth_of_a_second():
    """0.15 s as a flat ring, 0.09 s in two tiers, at the full 40 Gb/s."""
    full = ("--set", "cluster.nodes.0.nics.0.efficiency=1.0")
    assert 0.085 < layout(REPLICAS, *full)["breakdown_s"]["sync"] < 0.155


def test_one_node_makes_two_iterations_per_second():
    seconds = layout("dp: 4, zero: 0, micro_batch_rows: 64")["step_time_s"]
    assert 1 / seconds == pytest.approx(2, rel=0.2)


def test_at_the_measured_bandwidth_both_nodes_take_four_seconds():
    assert layout(REPLICAS, *MEASURED)["step_time_s"] == pytest.approx(4, rel=0.1)


def test_on_paper_both_nodes_are_used(nominal):
    assert nodes(nominal) == {"v100-0", "v100-1"}


def test_with_what_was_measured_one_node_is_used(measured):
    assert len(nodes(measured)) == 1


def test_the_idle_node_is_listed_with_what_using_it_would_cost(measured):
    (idle,) = measured.plan.unused_devices
    assert len(idle.devices) == 4
    assert "the best plan found that uses every chip takes" in idle.reason
    every = measured.baseline("best plan that uses every chip")
    assert every > 1.5 * measured.plan.estimate.step_time_s


@pytest.fixture(scope="module")
def link(measured) -> Ended:
    """The question for the link, asked once."""
    return planner("whatif", "link", measured.file, "-j", "1")


def test_the_bandwidth_from_which_both_nodes_pay_is_printed(link):
    assert link.code == 0
    assert "measured 1.00 Gb/s" in link.text
    assert "a plan on 8 chips beats this one on 4" in link.text


def test_both_nodes_pay_above_that_bandwidth_and_not_below(link):
    (text,) = re.findall(r"from a measured ([0-9.]+) Gb/s", link.text)
    rate = float(text)
    assert 1 < rate < 26  # above what was measured, below what TCP is taken to carry
    for factor, expected in ((0.8, 1), (1.25, 2)):
        at = f"cluster.nodes.0.nics.0.measured_bandwidth_one_way={rate * factor:.3f} Gb/s"
        assert len(nodes(planned(*S5, "--set", at, "--gap", "0.05"))) == expected
