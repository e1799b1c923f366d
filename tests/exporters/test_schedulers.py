"""Slurm and Kubernetes: the plan's hosts by name, all their devices, one script each."""

import os
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planner.exporters.hostlist import expand, hostlist
from planner.exporters.targets import kubernetes, slurm
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of
from tests.priced_plans import two_generations

EVEN = "tp: 2, pp: 4, dp: 2, in_flight: classic"


def uneven():
    """Four devices of one host and two of another."""
    return laid_out(
        "tp: 2, pp: 3, dp: 1, placement: [node0/0-1, node0/2-3, node1/0-1], in_flight: classic",
        cluster="1x4xA100-SXM-80GB + 1x2xA100-SXM-80GB @ 100Gb/s",
    )


# --- host lists -------------------------------------------------------------------------------


def test_host_lists_are_short():
    assert hostlist(["dgx-0", "dgx-1", "dgx-2", "dgx-7", "login"]) == "dgx-[0-2,7],login"
    assert hostlist(["node7"]) == "node7"
    assert hostlist(["gpu01", "gpu02"]) == "gpu01,gpu02"


@given(st.sets(st.tuples(st.sampled_from(["a", "b-", "rack1n"]), st.integers(0, 40)), min_size=1))
def test_a_host_list_holds_the_hosts_it_was_made_of(pairs):
    hosts = [f"{prefix}{number}" for prefix, number in sorted(pairs)]
    assert sorted(expand(hostlist(hosts))) == sorted(set(hosts))


@pytest.mark.parametrize("text", ["a[0-", "a[0]]b", "a[x]"])
def test_a_broken_host_list_is_no_list(text):
    with pytest.raises(ValueError, match=r"."):
        expand(text)


# --- Slurm ------------------------------------------------------------------------------------


def test_slurm_asks_for_the_plans_hosts_and_their_devices():
    text = text_of(exported(laid_out(EVEN), "slurm"), "batch.sh")
    assert "#SBATCH --nodes=2 --nodelist=node[0-1] --gres=gpu:8" in text
    assert "hetjob" not in text
    assert "--het-group" not in text


def test_hosts_with_unlike_devices_are_one_heterogeneous_job():
    text = text_of(exported(uneven(), "slurm"), "batch.sh")
    assert "#SBATCH --nodes=1 --nodelist=node0 --gres=gpu:4" in text
    assert "#SBATCH hetjob\n#SBATCH --nodes=1 --nodelist=node1 --gres=gpu:2" in text
    assert "srun --het-group=0,1 " in text


def test_slurm_runs_asymmetric_plans():
    assert exported(two_generations(), "slurm").checked.problems == ()


def test_every_host_of_a_slurm_job_runs_its_own_script(tmp_path):
    """The batch file is run for real, with an srun that stands in for one host."""
    found = exported(uneven(), "slurm")
    (tmp_path / "batch.sh").write_text(text_of(found, "batch.sh"))
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "node1.sh").write_text('echo "here: $*"\n')
    (tmp_path / "srun").write_text('#!/bin/sh\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    ended = subprocess.run(
        ["bash", "batch.sh", "--steps", "3"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURMD_NODENAME": "node1",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "here: --steps 3\n")


@pytest.mark.parametrize(
    ("rule", "path", "old", "new"),
    [
        ("hosts", "batch.sh", "--nodelist=node0 ", "--nodelist=node5 "),
        ("nodes", "batch.sh", "--nodes=1 --nodelist=node0", "--nodes=2 --nodelist=node0"),
        ("devices", "batch.sh", "gpu:4", "gpu:2"),
        ("together", "batch.sh", "--het-group=0,1", "--het-group=0"),
        ("scripts", "batch.sh", "--nodelist=node0 ", "--nodelist=node5 "),
    ],
)
def test_every_rule_of_slurm_breaks(rule, path, old, new):
    assert rule in broken(uneven(), "slurm", (path, old, new))


def test_no_rule_of_slurm_is_without_a_test():
    mark = next(m for m in test_every_rule_of_slurm_breaks.pytestmark)
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in slurm.OWN_RULES}


# --- Kubernetes -------------------------------------------------------------------------------


def jobs(plan):
    return list(yaml.safe_load_all(text_of(exported(plan, "kubernetes"), "jobs.yaml")))


def test_every_host_has_a_pod_on_its_node_with_all_its_devices():
    first, second = jobs(uneven())
    pod = first["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/hostname": "node0"}
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert pod["containers"][0]["command"] == ["bash", "/export/nodes/node0.sh"]
    other = second["spec"]["template"]["spec"]["containers"][0]
    assert other["resources"]["limits"] == {"nvidia.com/gpu": 2}


def test_pods_meet_at_the_first_host_by_the_services_name():
    plan = uneven()
    service = yaml.safe_load(text_of(exported(plan, "kubernetes"), "service.yaml"))
    name = service["metadata"]["name"]
    assert name == f"plan-{plan.plan_id[:12]}"
    env = jobs(plan)[1]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == [{"name": "MASTER_ADDR", "value": f"node0.{name}"}]


def test_devices_without_a_known_plugin_are_refused():
    plan = laid_out("tp: 2, pp: 1, dp: 1", "job.precision=fp16", cluster="2xT20-32GB")
    problems = refused(plan, "kubernetes")
    assert problems
    assert any("plugin" in p.message or "variable" in p.message for p in problems)


def test_names_that_kubernetes_does_not_take_are_made_into_some():
    assert kubernetes.dns_name("Rack_3.Node-07") == "rack-3-node-07"
    assert len(kubernetes.dns_name("n" * 80)) == 63


@pytest.mark.parametrize(
    ("rule", "path", "old", "new"),
    [
        ("nodes", "jobs.yaml", "kubernetes.io/hostname: node1", "kubernetes.io/hostname: node9"),
        (
            "names",
            "jobs.yaml",
            "hostname: node1\n      subdomain",
            "hostname: Node_1\n      subdomain",
        ),
        ("devices", "jobs.yaml", "nvidia.com/gpu: 4", "nvidia.com/gpu: 3"),
        ("meeting", "jobs.yaml", "value: node0.", "value: node1."),
        ("meeting", "service.yaml", "name: plan-", "name: other-"),
        ("scripts", "jobs.yaml", "nodes/node1.sh", "nodes/node2.sh"),
    ],
)
def test_every_rule_of_kubernetes_breaks(rule, path, old, new):
    assert rule in broken(uneven(), "kubernetes", (path, old, new))


def test_no_rule_of_kubernetes_is_without_a_test():
    mark = next(m for m in test_every_rule_of_kubernetes_breaks.pytestmark)
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in kubernetes.OWN_RULES}
