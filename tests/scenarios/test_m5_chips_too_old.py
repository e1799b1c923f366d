"""M5: an M40 among a 3090, a 4090 and a V100 over 1 Gb/s Ethernet.

The M40 can be planned and simulated, and no runtime of today drives it: every exporter says so by
name. Plain data parallelism over such a network loses against the fastest card alone.
"""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.exporters import TARGETS, problems_of
from planner.plan import Plan
from tests.exporters.laid_out import laid_out

CLUSTER = "m5-four-generations"
JOB = ("job.global_batch=64", "job.seq_len=1024", "job.precision=fp32", "job.micro_batch_rows=[4]")
ALONE = "tp: 1, micro_batch_rows: 4, placement: [ada/0]"
TOGETHER = "tp: 1, dp: 4, micro_batch_rows: 4"


def plan_of(layout: str) -> Plan:
    return laid_out(layout, *JOB, model="gpt2", cluster=CLUSTER)


def test_data_parallelism_over_1_gbit_loses_against_the_fastest_card():
    alone, together = plan_of(ALONE), plan_of(TOGETHER)
    assert together.estimate.step_time_s > 5 * alone.estimate.step_time_s
    assert together.estimate.breakdown_s.sync > alone.estimate.step_time_s


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_no_exporter_takes_a_plan_that_uses_the_m40(target):
    problems = problems_of(plan_of(TOGETHER), target)
    chip = [p for p in problems if p.where == "chip TESLA-M40-24GB"]
    assert len(chip) == 1
    assert "leave it out of the cluster file" in chip[0].remedy


@pytest.mark.parametrize("target", ["torch", "torchtitan", "megatron", "deepspeed"])
def test_the_framework_and_what_it_needs_are_named(target):
    chip = next(p for p in problems_of(plan_of(TOGETHER), target) if "M40" in p.where)
    assert "maxwell, compute capability 5.x" in chip.message
    assert "is too old for" in chip.message
    assert "the plan uses 1 of them" in chip.message


def test_the_same_plan_without_it_is_exported():
    assert problems_of(plan_of(ALONE), "torch") == ()
    assert problems_of(plan_of(ALONE), "megatron") == ()


def test_one_page_says_what_runs_where(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(plan_of(ALONE).to_json(), encoding="utf-8")
    assert main(["export", str(path), "--list"]) == 0
    page = capsys.readouterr().out
    assert "Tesla M40 24GB: no target runs on it, it can only be planned and simulated" in page
    assert "Tesla V100 PCIe 16GB: not with torchtitan, megatron-bridge, mindspeed" in page
    assert "GeForce RTX 3090: not with mindspeed" in page
    assert max(map(len, page.splitlines())) <= 100


def test_a_refused_export_writes_nothing_and_exits_2(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(plan_of(TOGETHER).to_json(), encoding="utf-8")
    assert main(["export", str(path), "--to", "torch", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "export refused by torch" in said
    assert "chip TESLA-M40-24GB" in said
    assert not (tmp_path / "out").exists()
    assert main(["export", str(path), "--to", "torch", "-o", "x", "--format", "json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "export_refused"
    assert [Path(p["where"]).name for p in error["problems"]] == ["chip TESLA-M40-24GB"]
