"""show, simulate and check: what a plan's file, and other files, are good for."""

import json

import pytest

from tests.command_line import TINY


def test_show_draws_what_plan_printed(run, tiny_plan):
    shown = run("show", tiny_plan).out
    planned = run("plan", *TINY).out
    assert shown == planned


def test_show_as_json_is_the_file(run, tiny_plan):
    assert run("show", tiny_plan, "--format", "json").out == tiny_plan.read_text()


def test_simulate_agrees_with_the_plan(run, tiny_plan):
    ended = run("simulate", tiny_plan, "--format", "json")
    answer = json.loads(ended.out)
    assert answer["simulated_step_time_s"] == pytest.approx(
        json.loads(tiny_plan.read_text())["estimate"]["simulated_step_time_s"]
    )
    assert "as planned" in run("simulate", tiny_plan).out


def test_simulate_writes_a_trace_with_one_track_per_device(run, tiny_plan, tmp_path):
    trace = tmp_path / "trace.json"
    assert run("simulate", tiny_plan, "--trace", trace, "--all").code == 0
    events = json.loads(trace.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    devices = {
        d
        for p in json.loads(tiny_plan.read_text())["pipelines"]
        for s in p["stages"]
        for r in s["replicas"]
        for d in r["devices"]
    }
    assert all(any(name.startswith(device) for name in names) for device in devices)


def test_check_recognises_every_kind_of_file(run, tiny_plan, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: 64\n")
    layout = tmp_path / "layout.yaml"
    layout.write_text("tp: 8\npp: 4\n")
    ended = run("check", "llama-2-7b", "8xA100-SXM-80GB", job, layout, tiny_plan)
    assert ended.code == 0
    for kind in ("model", "cluster", "job", "layout", "plan"):
        assert kind in ended.out
    assert "verified from scratch" in ended.out


def test_check_reports_the_problems_of_all_files_at_once(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: many\nprecison: fp16\n")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("nodes:\n  - name: a\n    devices:\n      - chip: A100\n")
    ended = run("check", job, cluster)
    assert ended.code == 2
    assert f"{job}:1: global_batch" in ended.err
    assert "precision" in ended.err
    assert "A100-SXM-80GB" in ended.err


def test_check_as_json_is_one_object(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("global_batch: 0\n")
    ended = run("check", job, "--format", "json")
    assert ended.code == 2
    assert ended.error["problems"][0]["where"].startswith(str(job))
    good = json.loads(run("check", "llama-2-7b", "--format", "json").out)
    assert good["files"][0]["ok"] is True


def test_check_holds_a_model_against_the_cluster_beside_it(run, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("precision: bf16\n")
    ended = run("check", "llama-2-7b", "8xV100-SXM2-32GB", job)
    assert ended.code == 2
    assert "V100" in ended.err
    assert "bf16" in ended.err


def test_check_refuses_a_file_that_is_nothing_known(run, tmp_path):
    stray = tmp_path / "stray.yaml"
    stray.write_text("colour: blue\n")
    ended = run("check", stray)
    assert ended.code == 2
    assert "not recognised" in ended.err


def test_check_rejects_a_plan_that_was_edited(run, tiny_plan, tmp_path):
    edited = tmp_path / "edited.json"
    plan = json.loads(tiny_plan.read_text())
    plan["estimate"]["mfu"] = 0.99
    edited.write_text(json.dumps(plan))
    ended = run("check", edited)
    assert ended.code == 2
    assert "mfu" in ended.err


def test_check_against_the_same_inputs_passes(run, tiny_plan):
    ended = run(
        "check", tiny_plan, "--against", *TINY[:2],
        "--set", "job.global_batch=8", "--set", "job.seq_len=1024",
    )  # fmt: skip
    assert (ended.code, "made for these inputs" in ended.out) == (0, True)


def test_check_against_another_job_exits_5(run, tiny_plan):
    ended = run("check", tiny_plan, "--against", *TINY[:2], "--set", "job.global_batch=16")
    assert ended.code == 5
    assert "another job" in ended.err
    as_json = run("check", tiny_plan, "--against", *TINY[:2], "--format", "json")
    assert as_json.error["code"] == "stale_plan"


def test_a_plan_of_another_schema_version_is_named(run, tiny_plan, tmp_path):
    newer = tmp_path / "newer.json"
    newer.write_text(tiny_plan.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    ended = run("show", newer)
    assert ended.code == 2
    assert "schema version 9" in ended.err


def test_a_broken_plan_names_the_line(run, tiny_plan, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(tiny_plan.read_text().replace('"in_flight": ', '"in_flight": "x", "was": '))
    ended = run("show", broken)
    assert ended.code == 2
    assert "broken.json:" in ended.err


def test_a_missing_plan_is_no_crash(run):
    ended = run("show", "nowhere.json")
    assert ended.code == 2
    assert "no such file" in ended.err
