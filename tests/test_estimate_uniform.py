"""Layouts with techniques that only uniform layouts are priced with."""

import json
from dataclasses import replace

import pytest

from costmodels.step import price_step
from costmodels.units import PS_PER_S
from planner.errors import InputError
from planner.estimate import estimate, read_layout
from planner.estimate.from_spec import sketch_layout
from planner.estimate.spans import settle
from planner.estimate.techniques import _Reader, estimate_uniform
from planner.graphs.build_topology import build_topology
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job, resolve_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.layout import LayoutPricer
from tests.scenarios.terminal import planner

FLEET = "4x8xA100-SXM-80GB @ 800Gb/s:ib"


def world(layout: str, model: str = "llama-2-7b", fleet: str = FLEET, batch: int = 64):
    job = load_job(None, parse_overrides([f"job.global_batch={batch}", "job.seq_len=2048"]))
    return load_model(model), load_cluster(fleet), job, read_layout(layout)


@pytest.mark.parametrize(
    "layout",
    [
        "tp: 1, dp: 8",
        "tp: 2, dp: 4, micro_batch_rows: 2",
        "tp: 8, pp: 4, recompute: full",
        "tp: 4, pp: 2, dp: 4, zero: 1",
        "tp: 1, pp: 8, dp: 1, zero: 0, schedule: gpipe",
    ],
)
def test_plain_layouts_cost_what_the_search_prices_to_the_picosecond(layout):
    """The same sums of the same layers; the search neither overlaps nor hides anything yet."""
    model, cluster, job, given = world(f"{layout}, in_flight: classic")
    topology = build_topology(cluster.spec, cluster.catalog)
    resolved = resolve_job(job, model.graph, topology)
    sketch = sketch_layout(given, model.graph, topology, resolved, cluster.catalog)
    pricer = LayoutPricer(model.graph, topology, resolved)
    priced = pricer.price(settle(sketch, topology).layouts, sketch.zero_level)
    run = replace(_Reader(given, model.graph, topology, resolved).run(), overlap=False)
    step = price_step(run).step_s
    assert round(step * PS_PER_S) == pytest.approx(priced.exact_ps, rel=2e-3)


def test_full_sharding_fits_where_replicas_do_not():
    model, cluster, job, plain = world("tp: 1, dp: 8, zero: 2", "llama-2-13b")
    replicas = estimate_uniform(model, cluster, job, plain).price
    sharded = estimate_uniform(model, cluster, job, read_layout("tp: 1, dp: 8, zero: 3")).price
    assert sharded.footprint.worst.parameters * 8 == pytest.approx(
        replicas.footprint.worst.parameters, rel=1e-6
    )
    assert sharded.footprint.worst.peak < replicas.footprint.worst.peak


def test_interleaving_shortens_the_bubble_and_holds_more():
    model, cluster, job, plain = world("tp: 8, pp: 4, dp: 1, zero: 0, cp: 1, virtual: 2")
    chunked = estimate_uniform(model, cluster, job, plain).price
    run = replace(chunked.run, virtual=1)
    once = price_step(run, exact=False)
    assert dict(chunked.step.items)["bubble"] < dict(once.items)["bubble"]


def test_the_range_holds_the_step():
    found = estimate_uniform(*world("tp: 2, cp: 2, dp: 8")).price
    low, high = found.range_s
    assert low < found.step_s < high


def test_the_report_says_what_it_costs_and_whether_it_fits():
    ended = planner("estimate", "llama-2-7b", FLEET, "tp: 2, cp: 2, zero: 3", "--seq-len", "4096")
    assert ended.code == 0
    assert "context-parallel communication" in ended.text
    assert "between" in ended.text
    assert "fits: every chip keeps" in ended.text


def test_the_price_is_json_for_programs():
    ended = planner(
        "estimate", "mixtral-8x7b", FLEET, "ep: 8, pp: 2, virtual: 2", "--format", "json"
    )
    found = json.loads(ended.out)
    assert found["degrees"]["ep"] == 8
    assert sum(found["breakdown_s"].values()) == pytest.approx(found["step_time_s"])
    assert found["fits"] in (True, False)
    assert len(found["memory_bytes"]) == 2


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("ep: 3", "3 does not divide"),
        ("tp: 3, cp: 2", "tp 3 is not possible"),
        ("pp: 2, virtual: 60", "chunks"),
        ("dp: 99, zero: 3", "needs more than 32 chips"),
        ("zero: 0, shard: 4", "nothing is sharded"),
        ("tp: [1, 2], cp: 2", "uniform layouts only"),
    ],
)
def test_impossible_layouts_say_why(layout, message):
    ended = planner("estimate", "mixtral-8x7b", FLEET, layout)
    assert ended.code == 2
    assert message in ended.text or "do not divide by ep" in ended.text


def test_a_layout_that_does_not_fit_is_refused_on_request():
    layout = ["llama-2-70b", "8xA100-SXM-80GB", "cp: 2, zero: 1", "--must-fit"]
    ended = planner("estimate", *layout)
    assert ended.code == 3
    assert "does not fit" in ended.text


def test_such_a_layout_is_no_plan_file(tmp_path):
    ended = planner("estimate", "gpt2", FLEET, "cp: 2", "-o", tmp_path / "plan.json")
    assert ended.code == 2
    assert not (tmp_path / "plan.json").exists()


def test_reserved_memory_is_not_to_be_had(tmp_path):
    cluster = tmp_path / "reserved.yaml"
    devices = "{chip: A100-SXM-80GB, count: 8, reserved_gib: 60}"
    cluster.write_text(f"name: reserved\nnodes:\n  - name_prefix: a\n    devices: [{devices}]\n")
    args = (
        "llama-2-7b",
        str(cluster),
        "zero: 3, dp: 8",
        "--global-batch",
        "8",
        "--seq-len",
        "4096",
    )
    ended = planner("estimate", *args, "--format", "json")
    found = json.loads(ended.out)
    (own,) = found["memory_bytes"]
    assert found["fits"] is (own["peak"] <= 19.2 * 2**30)
    assert not found["fits"]


@pytest.mark.parametrize("layout", ["tp: 1, dp: 32, zero: 3", "tp: 4, cp: 2, dp: 4"])
def test_a_plan_is_not_made_of_techniques_that_it_cannot_hold(layout):
    with pytest.raises(InputError, match="no plan holds them"):
        estimate(*world(layout))
