"""The job against the chips, the model and the network."""

from types import SimpleNamespace

import pytest

from costmodels.catalog import load_catalog
from planner import checks
from planner.graphs.build_topology import build_topology
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job, resolve_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides

CATALOG = load_catalog()


def inputs(cluster, *overrides, model="llama-2-13b"):
    loaded = load_cluster(cluster, CATALOG)
    topology = build_topology(loaded.spec, CATALOG)
    found = load_model(model)
    job = resolve_job(load_job(None, parse_overrides(overrides)), found.graph, topology)
    return found, loaded, job, topology


def check(cluster, *overrides, model="llama-2-13b"):
    return checks.check_inputs(*inputs(cluster, *overrides, model=model))


def test_an_ordinary_job_has_no_problems_and_no_warnings():
    assert check("dgx-a100-x16") == ([], [])


def test_a_precision_that_a_chip_lacks_names_chip_and_remedy():
    (problem,), _ = check("s1-a100-v100", "job.precision=bf16")
    assert problem.message == "V100-SXM2-32GB has no bf16 matrix units (it has fp32, fp16)"
    assert problem.remedy == ("--set job.precision=fp16, which every chip of the cluster has")


def test_fp8_is_refused_on_chips_of_before():
    (problem,), _ = check("dgx-a100-x16", "job.precision=fp8")
    assert problem.message.startswith("A100-SXM-80GB has no fp8")
    assert "job.precision=bf16" in problem.remedy


@pytest.mark.parametrize(
    ("cluster", "overrides", "words"),
    [
        ("dgx-a100-x16", ["job.seq_len=8192"], "8192 tokens are more than the 4096 of"),
        ("s3-seven-a100", ["job.global_batch=255", "job.micro_batch_rows=[2]"], "divides 255"),
        ("mixed-128", [], "no fused attention (FlashAttention 2)"),
        ("mixed-128", [], "collectives over unlike chips have hung"),
        ("s1-a100-v100", [], "hosts are joined by TCP, down to 5.62 GB/s"),
    ],
)
def test_warns_of_what_a_person_should_know(cluster, overrides, words):
    problems, warnings = check(cluster, *overrides)
    assert problems == []
    assert any(words in w for w in warnings)


def test_warns_where_no_network_joins_two_classes():
    from planner.inputs.cluster_spec import ClusterSpec

    nodes = [
        {
            "name": name,
            "devices": [{"chip": chip}],
            "nics": [{"network": name, "bandwidth_one_way": "1 Gb/s"}],
        }
        for name, chip in (("a", "A100-SXM-80GB"), ("b", "A100-SXM-40GB"))
    ]
    topology = build_topology(ClusterSpec.model_validate({"nodes": nodes}), CATALOG)
    (problem,) = checks.warn_unreachable(topology)
    assert problem.message == "no network joins them"


def test_warns_where_only_some_chips_were_measured():
    top = SimpleNamespace(
        classes=[
            SimpleNamespace(name="fast", measured_rows_per_s=3.0),
            SimpleNamespace(name="slow", measured_rows_per_s=None),
        ]
    )
    (problem,) = checks.warn_measured_rates(top)
    assert "slow are computed from the catalogue" in problem.message


@pytest.mark.parametrize(
    ("way", "together"), [("none", False), ("cpu-staged", True), ("flagcx", False)]
)
def test_gradients_cross_vendors_only_as_declared(way, together):
    topology = inputs("s6-a800-910b3")[3]
    declared = SimpleNamespace(cross_vendor_collectives=way)
    one, other = topology.classes
    assert checks.can_reduce_together(one, other, declared) is together
