"""DeepSpeed: the JSON, the partition, every rule, and DeepSpeed's own classes."""

import json

import pytest

from planner.exporters.python_file import constants
from planner.exporters.targets import deepspeed
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of
from tests.exporters.real_target import require, run_check, write

DEEP = "tp: 1, pp: 4, dp: 4, layers_per_stage: [7, 8, 8, 9], in_flight: classic"
OFFLOAD = "cluster.nodes.0.host_memory_gib=1024"


def config(plan):
    return json.loads(text_of(exported(plan, "deepspeed"), "ds_config.json"))


def module(plan):
    return constants(text_of(exported(plan, "deepspeed"), "planned_pipeline.py"))


def test_the_batch_is_a_product():
    found = config(laid_out(DEEP))
    assert found["train_batch_size"] == 64
    assert found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"] * 4 == 64
    assert found["zero_optimization"] == {"stage": 1}
    assert found["bf16"] == {"enabled": True}
    assert found["data_types"] == {"grad_accum_dtype": "bf16"}


def test_the_parts_are_the_plans_stages_over_all_layers():
    found = module(laid_out(DEEP))
    assert found["PARTS"] == [0, 8, 16, 24, 34]
    assert len(found["LAYERS"]) == 34
    assert found["AXES"] in (["pipe", "data"], ["data", "pipe"])


def test_a_layer_graph_is_taken_as_it_is():
    plan = laid_out("tp: 1, pp: 2, dp: 2", model="t5-v1.1-base", cluster="4xA100-SXM-80GB")
    assert module(plan)["PARTS"][-1] == len(plan.layer_order)


def test_tensor_parallelism_is_refused_by_name():
    (problem,) = refused(laid_out("tp: 2, pp: 2, dp: 4"), "deepspeed")
    assert problem.where == "tensor parallelism"
    assert "--forbid tensor_parallel" in problem.remedy


def test_selective_recomputation_is_refused_by_name():
    (problem,) = refused(laid_out(f"{DEEP}, recompute: selective"), "deepspeed")
    assert problem.where == "selective recomputation"
    assert "--forbid recompute_selective" in problem.remedy


def test_fp32_gradients_of_one_replica_are_refused():
    plan = laid_out("tp: 1, pp: 8, dp: 1", "job.gradient_dtype=fp32", cluster="8xA100-SXM-80GB")
    (problem,) = refused(plan, "deepspeed")
    assert "(mixed)" in problem.where


@pytest.mark.parametrize(
    ("rule", "path", "old", "new"),
    [
        ("batch", "ds_config.json", '"train_batch_size": 64', '"train_batch_size": 63'),
        ("stages", "planned_pipeline.py", "NUM_STAGES = 4", "NUM_STAGES = 3"),
        ("parts", "planned_pipeline.py", "[0, 8, 16, 24, 34]", "[0, 8, 16, 24, 33]"),
        ("parts", "planned_pipeline.py", "[0, 8, 16, 24, 34]", "[0, 9, 16, 24, 34]"),
        ("layers", "planned_pipeline.py", "model.layers.3'", "model.layers.4'"),
        ("degrees", "planned_pipeline.py", "NUM_REPLICAS = 4", "NUM_REPLICAS = 2"),
        ("zero", "ds_config.json", '"stage": 1', '"stage": 2'),
        ("zero", "ds_config.json", '"stage": 1', '"stage": 4'),
        ("offload", "ds_config.json", '"cpu"', '"none"'),
        ("offload", "ds_config.json", '"stage": 1', '"stage": 0'),
        ("precision", "ds_config.json", '"bf16": {', '"fp16": {'),
        ("mixed", "ds_config.json", '"stage": 1', '"stage": 0'),
        ("checkpoints", "planned_pipeline.py", "INTERVAL = 0", "INTERVAL = 1"),
        ("placement", "planned_pipeline.py", "['data', 'pipe']", "['pipe', 'data']"),
    ],
)
def test_every_rule_breaks(rule, path, old, new):
    plan = laid_out(DEEP, "job.gradient_dtype=fp32")
    if rule == "offload":
        plan = laid_out(f"{DEEP}, offload: optimizer", OFFLOAD)
    if rule == "placement":
        plan = laid_out(
            "tp: 1, pp: 2, dp: 2, placement: [[node0/0, node1/0], [node0/1, node1/1]]",
            cluster="2x2xA100-SXM-80GB @ 100Gb/s",
        )
    assert rule in broken(plan, "deepspeed", (path, old, new))


def test_an_offloaded_optimizer_is_zeros_even_of_one_replica():
    for layout in (DEEP, "tp: 1, pp: 8, dp: 1"):
        found = config(laid_out(f"{layout}, offload: optimizer", OFFLOAD))
        offload = {"device": "cpu", "pin_memory": True}
        assert found["zero_optimization"] == {"stage": 1, "offload_optimizer": offload}


def test_offload_of_some_stages_is_refused_by_name():
    plan = laid_out(f"{DEEP}, offload: [optimizer, none, none, none]", OFFLOAD)
    said = {p.where: p for p in refused(plan, "deepspeed")}
    assert "1 of 4 stages offload" in said["optimizer offload by stage"].message


def test_no_rule_is_without_a_test():
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in deepspeed.RULES}


def test_deepspeeds_own_classes_accept_the_files(tmp_path):
    require("deepspeed")
    plan = laid_out(f"{DEEP}, recompute: full", "job.gradient_dtype=fp32")
    ended = run_check(write(plan, "deepspeed", tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "accepts ds_config.json: batch 64 = 1 · 16 · 4, ZeRO 1" in ended.stdout
    assert "stage 3: layers 24 to 33" in ended.stdout
    assert "34 layers, each once" in ended.stdout


def test_deepspeeds_own_classes_accept_an_offloaded_optimizer(tmp_path):
    require("deepspeed")
    plan = laid_out(f"{DEEP}, offload: optimizer", OFFLOAD)
    ended = run_check(write(plan, "deepspeed", tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "ZeRO 1" in ended.stdout


def test_deepspeeds_own_classes_refuse_a_wrong_batch(tmp_path):
    require("deepspeed")
    folder = write(laid_out(DEEP), "deepspeed", tmp_path)
    path = folder / "ds_config.json"
    path.write_text(path.read_text().replace("64", "63"))
    assert run_check(folder).returncode != 0
