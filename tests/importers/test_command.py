"""``planner import`` as a user types it: the result is checked and planned with."""

from __future__ import annotations

import io
import json
import sys

import pytest

from planner.plan import Plan
from tests.importers.samples import SAMPLES
from tests.importers.test_megatron import SCRIPT
from tests.scenarios.terminal import planner

A100 = "A100-SXM-80GB"
SMALL = ("--global-batch", "64", "--seq-len", "512")

LINES = {
    "nvidia-smi": (
        "nvidia_smi_topo_a100x8_3nic.txt",
        ("--chip", A100, "--nodes", "2", "--network", "200Gb/s:ib"),
        16,
    ),
    "nccl": (
        "nccl_topo_azure_ncv4_a100pcie_nvlink.xml",
        ("--nvlink-pairs", "0-1,2-3", "--nodes", "2"),
        8,
    ),
    "slurm": (
        "slurm_topology_tree.conf",
        ("--devices", f"8x{A100}", "--network", "4x200Gb/s:ib", "--oversubscription", "2"),
        144,
    ),
    "kubernetes": ("k8s_gfd_labels.yaml", ("--nodes", "2", "--network", "8x200Gb/s:ib"), 16),
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_imported_passes_check_and_is_priced(name, tmp_path):
    sample, options, chips = LINES[name]
    cluster, plan = tmp_path / "cluster.yaml", tmp_path / "plan.json"
    made = planner("import", name, SAMPLES / sample, *options, "-o", cluster)
    assert (made.code, made.out) == (0, "")
    checked = planner("check", "gpt2", cluster)
    assert checked.code == 0
    assert f"{chips} chips" in checked.out
    assert planner("estimate", "gpt2", cluster, "tp: 2", *SMALL, "-q", "-o", plan).code == 0
    found = Plan.model_validate_json(plan.read_text())
    used = sum(len(r.devices) for p in found.pipelines for s in p.stages for r in s.replicas)
    assert used + sum(len(u.devices) for u in found.unused_devices) == chips


def test_what_is_imported_is_planned_with(tmp_path):
    hosts, cluster = tmp_path / "hostfile", tmp_path / "cluster.yaml"
    hosts.write_text("worker-1 slots=1\nworker-2 slots=1\n")
    chip = ("--chip", "A100-SXM-40GB")
    line = ("import", "deepspeed", hosts, *chip, "--network", "100Gb/s", "-o", cluster)
    assert planner(*line).code == 0
    quick = ("--gap", "1", "--set", "job.max_pipeline_stages=1")
    ended = planner("plan", "gpt2", cluster, *SMALL, *quick, "-o", tmp_path / "plan.json")
    assert ended.code == 0


def test_megatron_arguments_are_priced(tmp_path):
    script, layout, job = (tmp_path / name for name in ("train.sh", "layout.yaml", "job.yaml"))
    script.write_text(SCRIPT)
    assert planner("import", "megatron", script, "-o", layout, "--job", job).code == 0
    assert planner("check", layout, job).code == 0
    cluster = f"16x8x{A100} @ 1600Gb/s:ib"
    ended = planner("estimate", "gpt3-175b", cluster, layout, job)
    assert ended.code == 0
    assert "1,536 rows of 2,048 tokens" in ended.text
    assert "2 + 4 + 12 bytes" in ended.text


def test_without_a_job_file_the_job_is_said():
    ended = planner("import", "megatron", "/dev/null")
    assert ended.code == 2


def test_reads_standard_input_and_prints(monkeypatch):
    text = (SAMPLES / "nvidia_smi_topo_a100x8_3nic.txt").read_text()
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    ended = planner("import", "nvidia-smi", "-", "--chip", A100)
    assert ended.out.startswith("# Cluster imported from standard input (nvidia-smi topo -m).")
    assert "note: ports" in ended.err


def test_json_is_the_bare_document():
    line = ("import", "nccl", SAMPLES / LINES["nccl"][0], *LINES["nccl"][1], "--format", "json")
    document = json.loads(planner(*line).out)
    assert document["nodes"][0]["count"] == 2


def test_what_is_missing_is_an_input_error_and_nothing_is_written(tmp_path):
    target = tmp_path / "cluster.yaml"
    ended = planner("import", "slurm", SAMPLES / "slurm_topology_tree.conf", "-o", target)
    assert ended.code == 2
    for option in ("--devices", "--network", "--uplink"):
        assert f"add {option}" in ended.err
    assert not target.exists()
    as_json = planner(
        "import", "slurm", SAMPLES / "slurm_topology_tree.conf", "--format", "json"
    ).error
    assert len(as_json["problems"]) == 3


def test_a_file_that_is_not_there():
    ended = planner("import", "nccl", "nowhere.xml")
    assert ended.code == 2
    assert "nowhere.xml: no such file" in ended.err
