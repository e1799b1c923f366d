"""Experts as one grouped product: who may, what it is priced as, what exports ask for."""

from __future__ import annotations

import pytest

from costmodels.catalog import load_catalog
from costmodels.price import LayerConfig, price_layer
from planner.costing import layer_cost
from planner.exporters.targets import megatron, megatron_bridge
from planner.graphs.build_topology import build_topology
from planner.importers.megatron import import_megatron
from planner.inputs.cluster import load_cluster
from planner.inputs.job import ResolvedJob, load_job, resolve_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.mesh import StageMesh
from planner.scenario.inputs import inputs_of
from planner.verify import verify
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of

A100 = "1x8xA100-SXM-80GB"
MIXED = "1x8xA100-SXM-80GB + 1x8xV100-SXM2-32GB @ 100Gb/s"
V100 = "1x8xV100-SXM2-32GB"
EIGHT = "2x8xA100-SXM-80GB @ 200Gb/s"
LAID = "tp: 4, pp: 4, dp: 1"
ALONE = "job.techniques.grouped_experts=false"


def resolved(model: str, cluster: str, *changes: str) -> ResolvedJob:
    overrides = parse_overrides(list(changes))
    topology = build_topology(load_cluster(cluster).spec, load_catalog())
    return resolve_job(load_job(None, overrides), load_model(model).graph, topology)


@pytest.mark.parametrize(
    ("chip", "has"),
    [("V100-SXM2-32GB", False), ("T4-16GB", False), ("A100-SXM-80GB", True), ("L4-24GB", True),
     ("H800-SXM-80GB", True), ("B200-SXM-180GB", True), ("Ascend-910B3-64GB", False),
     ("MI300X-192GB", False)],
)  # fmt: skip
def test_grouped_products_need_compute_capability_8(chip, has):
    assert load_catalog().get(chip).grouped_gemm is has


def test_an_own_chip_says_whether_it_has_them():
    told = {"id": "mine", "inherit": "Ascend-910B3-64GB", "grouped_gemm": True}
    assert load_catalog({"chips": [told]}).get("mine").grouped_gemm
    told = {"id": "mine", "inherit": "H100-SXM-80GB", "grouped_gemm": False}
    assert not load_catalog({"chips": [told]}).get("mine").grouped_gemm


def test_experts_are_grouped_by_default_where_a_chip_can():
    assert resolved("mixtral-8x7b", A100).grouped_experts
    assert resolved("mixtral-8x7b", MIXED, "job.precision=fp16").grouped_experts is False
    assert not resolved("mixtral-8x7b", V100).grouped_experts
    assert not resolved("mixtral-8x7b", A100, ALONE).grouped_experts


def test_other_precisions_have_experts_one_by_one_and_say_so():
    job = resolved(
        "mixtral-8x7b", A100, "job.precision=fp16", "job.techniques.grouped_experts=true"
    )
    assert not job.grouped_experts
    assert any("grouped products are for bf16" in note for note in job.notes)


def test_jobs_without_experts_are_what_they_were():
    job = resolved("llama-2-7b", A100, "job.techniques.grouped_experts=true")
    assert not job.grouped_experts
    assert "grouped_experts" not in job.as_json()
    assert not any("expert" in note for note in job.notes)


def test_a_resolved_job_keeps_what_was_decided():
    job = resolved("mixtral-8x7b", A100)
    assert ResolvedJob.from_json(job.as_json()).grouped_experts
    old = {k: v for k, v in job.as_json().items() if k != "grouped_experts"}
    assert not ResolvedJob.from_json(old).grouped_experts


@pytest.mark.parametrize("model", ["mixtral-8x7b", "qwen3-moe-235b-a22b", "llama-2-7b"])
@pytest.mark.parametrize("ep", [1, 8])
@pytest.mark.parametrize("rows", [1, 8])
def test_one_product_is_never_slower_and_changes_no_layer_without_experts(model, ep, rows):
    graph = load_model(model).graph
    grouped = resolved(model, A100)
    alone = resolved(model, A100, ALONE)
    cls = build_topology(load_cluster(A100).spec, load_catalog()).classes[0]
    mesh = StageMesh(dp=ep, ep=ep) if graph.has_experts else StageMesh()
    for layer in graph.layers[:3]:
        one = layer_cost(layer.shape, cls, mesh, rows * mesh.dp, grouped)
        each = layer_cost(layer.shape, cls, mesh, rows * mesh.dp, alone)
        if not layer.shape.is_moe:
            assert one == each
        assert one.forward_ps <= each.forward_ps
        assert one.backward_total_ps(0) <= each.backward_total_ps(0)
        assert one.price.activation_bytes == each.price.activation_bytes


def test_many_experts_with_few_tokens_are_much_faster_as_one_product():
    graph = load_model("qwen3-moe-235b-a22b").graph
    chip = load_catalog().get("H100-SXM-80GB")
    config = LayerConfig(1, 4096, 1, "bf16", sequence_parallel=False, flash=True)
    block = next(layer.shape for layer in graph.layers if layer.shape.is_moe)
    each = price_layer(block, chip, chip.fabric, config)
    one = price_layer(block, chip, chip.fabric, LayerConfig(
        1, 4096, 1, "bf16", sequence_parallel=False, flash=True, grouped_experts=True))  # fmt: skip
    assert dict(each.items)["waiting for the host"] > 0
    assert one.forward_s < each.forward_s


def test_verification_prices_plans_as_the_planner_does():
    for changes in ((), (ALONE,)):
        plan = laid_out(LAID, *changes, model="mixtral-8x7b", cluster=EIGHT)
        assert verify(plan) == []


@pytest.mark.parametrize("changes", [(), (ALONE,)])
def test_a_plan_that_is_made_again_has_experts_as_it_had_them(changes):
    plan = laid_out(LAID, *changes, model="mixtral-8x7b", cluster=EIGHT)
    assert inputs_of(plan).job.spec.techniques.grouped_experts is not bool(changes)


def flags(plan):
    words = megatron.read_bash_array(
        text_of(exported(plan, "megatron"), "arguments.sh"), "PLAN_ARGUMENTS"
    )
    return megatron.read_flags(words)


def test_megatron_is_asked_for_what_the_plan_counts():
    found = flags(laid_out(LAID, model="mixtral-8x7b", cluster=EIGHT))
    assert {"moe-grouped-gemm", "moe-permute-fusion"} <= set(found)
    found = flags(laid_out(LAID, ALONE, model="mixtral-8x7b", cluster=EIGHT))
    assert not {"moe-grouped-gemm", "moe-permute-fusion"} & set(found)
    assert "moe-grouped-gemm" not in flags(laid_out(LAID, cluster=EIGHT))


def test_scripts_ask_for_one_kernel_only_where_experts_are_grouped():
    for changes, there in (((), True), ((ALONE,), False)):
        plan = laid_out(LAID, *changes, model="mixtral-8x7b", cluster=EIGHT)
        scripts = [f.text for f in exported(plan, "megatron").files if f.path.startswith("nodes/")]
        assert scripts
        assert all(("NVTE_USE_CUTLASS_GROUPED_GEMM" in text) is there for text in scripts)


def test_megatron_bridge_is_told_either_way():
    for changes, value in (((), "true"), ((ALONE,), "false")):
        changes = (*changes, "job.gradient_dtype=fp32")
        plan = laid_out(LAID, *changes, model="mixtral-8x7b", cluster=EIGHT)
        text = text_of(exported(plan, "megatron-bridge"), megatron_bridge.OVERRIDES)
        assert f"model.moe_grouped_gemm={value}" in text
        assert f"model.moe_permute_fusion={value}" in text


@pytest.mark.parametrize("instead", ["", "  --moe-grouped-gemm\n  --transformer-impl local\n"])
def test_arguments_that_do_otherwise_than_the_plan_are_found(instead):
    plan = laid_out(LAID, model="mixtral-8x7b", cluster=EIGHT)
    assert "grouped" in broken(
        plan, "megatron", ("arguments.sh", "  --moe-grouped-gemm\n", instead)
    )


def test_chips_that_differ_are_refused_by_a_target_with_one_setting():
    plan = laid_out(
        "tp: 8, pp: 2, dp: 1", "job.precision=bf16", model="mixtral-8x7b",
        cluster="1x8xA100-SXM-80GB + 1x8xAscend-910B3-64GB @ 100Gb/s",
    )  # fmt: skip
    problems = [p for p in refused(plan, "megatron") if "grouped" in p.message + p.where]
    assert [p.remedy for p in problems] == ["plan with --forbid grouped_experts"]


def test_targets_that_take_any_model_say_that_it_is_up_to_the_model():
    plan = laid_out("tp: 1, pp: 16, dp: 1", model="mixtral-8x7b", cluster=EIGHT)
    said = exported(plan, "torch").differences
    assert any("one grouped product" in line for line in said)


@pytest.mark.parametrize("changes", [(), (ALONE,)])
def test_an_export_that_is_imported_is_the_same_way(changes):
    plan = laid_out(LAID, *changes, model="mixtral-8x7b", cluster=EIGHT)
    text = text_of(exported(plan, "megatron"), "arguments.sh")
    _, job = import_megatron(text, "arguments.sh", drop=["pipeline-model-parallel-layout"])
    assert job.data["techniques"] == {"grouped_experts": not changes}


def test_arguments_without_experts_say_nothing_of_them():
    given = "--micro-batch-size 2 --global-batch-size 64 --seq-length 4096 --bf16"
    assert "techniques" not in import_megatron(given, "train.sh")[1].data
    layout, job = import_megatron(given + " --num-experts 8", "train.sh")
    assert job.data["techniques"] == {"grouped_experts": False}
    assert any("fused" in note for note in layout.open)
