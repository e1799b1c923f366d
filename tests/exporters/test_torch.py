"""The planner's own runtime: any plan, host by host."""

import json

import pytest

from planner.exporters.reference_runtime import seated
from planner.exporters.targets import torch_runtime
from planner.exporters.view import view_of
from planner.plan import Plan
from tests.exporters.laid_out import broken, exported, laid_out, text_of
from tests.priced_plans import two_generations


def test_an_asymmetric_plan_is_exported_whole():
    plan = two_generations()
    assert plan.plan_class == "asymmetric"
    found = exported(plan, "torch")
    assert Plan.model_validate_json(text_of(found, "plan.json")) == plan


def test_every_host_starts_one_process_per_device_it_gives():
    found = exported(two_generations(), "torch")
    script = text_of(found, "nodes/node1.sh")
    assert "--nnodes 3 --node-rank 1" in script
    assert "--nproc-per-node 2" in script
    assert "-m planner run plan.json" in script
    assert text_of(found, "hostfile").splitlines()[1:] == [
        "node0 slots=4",
        "node1 slots=2",
        "node2 slots=1",
    ]


def test_the_runtime_finds_devices_by_number_so_none_is_hidden():
    script = text_of(exported(two_generations(), "torch"), "nodes/node0.sh")
    assert "CUDA_VISIBLE_DEVICES" not in script
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in script


def test_ranks_are_those_of_the_runtime():
    """The runtime's own order, where it is there to be compared with."""
    seats = pytest.importorskip("planner.runtime.seats")
    plan = two_generations()
    devices = tuple(seat.device for seat in seats.seating(plan).seats)
    assert seated(view_of(plan)) == devices


def test_old_chips_are_told_which_build_they_need():
    found = exported(two_generations(), "torch")
    assert any("CUDA 12.6" in line for line in found.differences)


@pytest.mark.parametrize(
    ("rule", "path", "old", "new"),
    [
        ("plan", "plan.json", '"seed": 0', '"seed": 1'),
        ("hosts", "nodes/node0.sh", "--nproc-per-node 4", "--nproc-per-node 3"),
        ("hosts", "nodes/node0.sh", "--node-rank 0", "--node-rank 5"),
    ],
)
def test_every_rule_breaks(rule, path, old, new):
    assert rule in broken(two_generations(), "torch", (path, old, new))


def test_no_rule_is_without_a_test():
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in torch_runtime.RULES}


def test_the_same_plan_gives_the_same_bytes():
    plan = laid_out("tp: 2, pp: 2, dp: 4")
    first, second = (json.dumps([f.text for f in exported(plan, "torch").files]) for _ in range(2))
    assert first == second
