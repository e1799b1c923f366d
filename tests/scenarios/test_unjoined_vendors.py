"""Two vendors without a network between them: a plan for one, and the truth about the other."""

import pytest

from tests.scenarios.terminal import Planned, defects, planned, replicas

CLUSTER = """
name: unjoined
nodes:
  - name: fast
    devices: [{chip: A100-SXM-80GB, count: 2}]
    nics: [{network: one, bandwidth_one_way: 100 Gb/s, kind: ib}]
  - name: slow
    devices: [{chip: 910B3-64GB, count: 2}]
    nics: [{network: two, bandwidth_one_way: 100 Gb/s, kind: ib}]
"""


@pytest.fixture(scope="module")
def unjoined(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    file = tmp_path_factory.mktemp("unjoined") / "cluster.yaml"
    file.write_text(CLUSTER)
    return planned("gpt2", str(file), "--global-batch", "8", "--seq-len", "512", "--gap", "0.05")


def test_the_plan_is_sound(unjoined):
    assert defects(unjoined.plan, chips=4) == []


def test_the_faster_vendor_is_taken(unjoined):
    assert {d for r in replicas(unjoined.plan) for d in r.devices} == {"fast/0", "fast/1"}


def test_the_missing_network_is_the_reason_for_the_idle_chips(unjoined):
    (idle,) = unjoined.plan.unused_devices
    assert "no network joins" in idle.reason


def test_what_stands_beside_the_plan_leaves_the_slower_chips_idle_too(unjoined):
    """The same layout on the other vendor would be the same line with a worse time."""
    (same,) = [a for a in unjoined.plan.alternatives if "tp=1 pp=1 dp=2" in a.change]
    assert same.step_time_s == pytest.approx(unjoined.plan.estimate.step_time_s)
