"""``planner export`` as people and scripts meet it."""

import json
import os
from pathlib import Path

import pytest

from planner.commands.output import write_folder
from planner.errors import InputError
from planner.exporters import TARGETS
from tests.exporters.laid_out import laid_out
from tests.priced_plans import two_generations

LAYOUT = "tp: 4, pp: 2, dp: 1, in_flight: classic"
CLUSTER = "8xA100-SXM-80GB"
CHANGES = ("job.global_batch=32", "job.precision=bf16")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(laid_out(LAYOUT, *CHANGES, cluster=CLUSTER).to_json(), encoding="utf-8")
    return path


def test_an_export_is_a_folder_that_says_what_it_holds(run, plan_file, tmp_path):
    ended = run("export", plan_file, "--to", "megatron", "-o", tmp_path / "out")
    assert ended.code == 0
    assert "for Megatron-LM (core 0.20)" in ended.out
    assert "20 rules of the target" in ended.out
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["README.md", "arguments.sh", "hostfile", "nodes", "ranks.txt"]
    assert os.access(tmp_path / "out" / "nodes" / "node0.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "README.md", os.X_OK)
    assert max(map(len, ended.out.splitlines())) <= 100


def test_an_export_as_json_lists_files_checks_and_differences(run, plan_file, tmp_path):
    ended = run("export", plan_file, "--to", "deepspeed", "-o", tmp_path / "x", "--format", "json")
    (problem,) = ended.error["problems"]
    assert problem["where"] == "tensor parallelism"
    ended = run("export", plan_file, "--to", "slurm", "-o", tmp_path / "x", "--format", "json")
    answer = json.loads(ended.out)
    assert answer["target"] == "slurm"
    assert "batch.sh" in answer["files"]
    assert len(answer["checked"]) >= 5
    assert answer["checked_by_target"].startswith("not run")


def test_a_refusal_names_the_feature_and_what_to_plan_instead(run, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(two_generations().to_json(), encoding="utf-8")
    ended = run("export", path, "--to", "megatron", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "export refused by megatron" in ended.err
    assert "plan class asymmetric" in ended.err
    assert "--set job.plan_class=rectangular" in ended.err
    assert not (tmp_path / "out").exists()


def test_the_list_of_targets_needs_no_plan(run):
    ended = run("export", "--list")
    assert ended.code == 0
    assert all(name in ended.out for name in TARGETS)
    assert "runs rectangular and staged plans" in ended.out
    targets = json.loads(run("export", "--list", "--format", "json").out)["targets"]
    assert [t["target"] for t in targets] == list(TARGETS)


def test_the_list_for_a_plan_says_who_runs_it_and_why_not(run, plan_file):
    ended = run("export", plan_file, "--list")
    assert ended.code == 0
    assert "pipeline parallelism: the plan has 2 stages, the target no pipeline" in ended.out
    answer = json.loads(run("export", plan_file, "--list", "--format", "json").out)
    refused = {t["target"]: t["refused"] for t in answer["targets"]}
    assert refused["torch"] == []
    assert refused["accelerate"][0]["remedy"] == "plan with --set job.max_pipeline_stages=1"


def test_the_help_names_every_target(run):
    said = " ".join(run("export", "--help").out.split())
    assert all(name in said for name in TARGETS)


def test_what_is_missing_is_said_at_once(run):
    ended = run("export")
    assert ended.code == 2
    assert all(name in ended.err for name in ("PLAN", "--to", "--output"))


def test_an_unknown_target_names_the_nearest(run, plan_file, tmp_path):
    ended = run("export", plan_file, "--to", "megatorn", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "did you mean megatron?" in ended.err


def test_a_folder_that_exists_is_kept_unless_told_otherwise(run, plan_file, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("keep")
    ended = run("export", plan_file, "--to", "torch", "-o", target)
    assert ended.code == 2
    assert "--overwrite" in ended.err
    assert (target / "mine").read_text() == "keep"
    assert run("export", plan_file, "--to", "torch", "-o", target, "--overwrite").code == 0
    assert not (target / "mine").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "plan.json"]


def test_an_empty_folder_is_filled(run, plan_file, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("export", plan_file, "--to", "torch", "-o", tmp_path / "out").code == 0


@pytest.mark.parametrize("place", ["-", "plan.json", "no/such/folder"])
def test_a_place_for_no_folder_is_refused(run, plan_file, tmp_path, place):
    target = place if place == "-" else tmp_path / place
    assert run("export", plan_file, "--to", "torch", "-o", target).code == 2


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    files = [("good", "text", False), ("good/below", "a file is no folder", False)]
    with pytest.raises(InputError, match="cannot be written"):
        write_folder(str(tmp_path / "out"), files, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_a_plan_for_these_inputs_is_exported(run, plan_file, tmp_path):
    sets = [part for change in CHANGES for part in ("--set", change)]
    ended = run(
        "export", plan_file, "llama-2-7b", CLUSTER, "--against", *sets,
        "--to", "torch", "-o", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 0


def test_a_plan_for_other_inputs_is_stale(run, plan_file, tmp_path):
    ended = run(
        "export", plan_file, "llama-2-13b", CLUSTER, "--against", "--set", CHANGES[0],
        "--to", "torch", "-o", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 5
    assert "another model" in ended.err
    assert not (tmp_path / "out").exists()


def test_inputs_without_against_are_refused(run, plan_file, tmp_path):
    ended = run("export", plan_file, "llama-2-7b", "--to", "torch", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "--against" in ended.err


def test_an_edited_plan_is_not_exported(run, plan_file, tmp_path):
    plan_file.write_text(plan_file.read_text().replace('"micro_batches": 32', '"micro_batches": 8'))
    ended = run("export", plan_file, "--to", "torch", "-o", tmp_path / "out")
    assert ended.code == 2
    assert "is not the hash of the content" in ended.err
