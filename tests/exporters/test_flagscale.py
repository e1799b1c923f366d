"""FlagScale: meshes, layers and recomputation per stage, every rule, where ranks lie."""

import pytest
import yaml

from planner.exporters.flagscale_rules import FLAGSCALE_RULES
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of

MIXED = "1x4xA100-SXM-80GB + 1x4xV100-SXM2-32GB @ 100Gb/s"
TRAIN = "conf/train/plan.yaml"
STAGED = (
    "tp: [2, 4], pp: 2, dp: 1, layers_per_stage: [20, 12], "
    "placement: [node0/0-1, node1/0-3], in_flight: classic"
)
TWO_AND_TWO = (
    "tp: 2, pp: 2, dp: 2, layers_per_stage: [20, 12], in_flight: classic, "
    "placement: [[node0/0-1, node0/2-3], [node1/0-1, node1/2-3]]"
)


def plan_of(layout, *changes, cluster=MIXED, model="llama-2-7b"):
    return laid_out(layout, "job.precision=fp16", *changes, cluster=cluster, model=model)


def train(plan):
    return yaml.safe_load(text_of(exported(plan, "flagscale"), TRAIN))


def test_a_staged_plan_becomes_one_mesh_per_degree():
    hetero = train(plan_of(STAGED))["system"]["hetero"]
    assert hetero["hetero_process_meshes"] == [2, 1, 1, 1, 1, 4, 1, 1, 1, 1]
    assert hetero["hetero_pipeline_layer_split"] == [20, 12]
    assert hetero["hetero_device_types"] == ["A100-SXM-80GB", "V100-SXM2-32GB"]


def test_equal_stages_share_a_mesh():
    plan = laid_out("tp: 2, pp: 4, dp: 2, in_flight: classic")
    hetero = train(plan)["system"]["hetero"]
    assert hetero["hetero_process_meshes"] == [2, 1, 1, 2, 4]


def test_the_host_list_names_device_types_in_rank_order():
    text = text_of(exported(plan_of(TWO_AND_TWO), "flagscale"), "hostfile")
    assert text.splitlines()[1:] == [
        "node0 slots=4 type=A100-SXM-80GB",
        "node1 slots=4 type=V100-SXM2-32GB",
    ]


def test_devices_are_named_per_host():
    found = yaml.safe_load(text_of(exported(plan_of(STAGED), "flagscale"), "conf/plan.yaml"))
    specific = found["experiment"]["envs"]["node_specific"]
    assert specific["node0"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert found["experiment"]["runner"]["rdzv_backend"] == "static"


def test_recomputation_by_stage_is_written_by_stage():
    recompute = train(plan_of(f"{STAGED}, recompute: [none, full]"))["system"]["recompute"]
    assert recompute["recompute_granularity"] == "full"
    assert recompute["recompute_granularity_per_stage_micro_batch"] == [[1, 64, 0], [1, 64, 1]]
    assert recompute["recompute_num_layers_per_stage_micro_batch"] == [[1, 64, 0], [1, 64, 12]]


def test_pipelines_inside_hosts_are_refused():
    plan = plan_of(
        "tp: 1, pp: 2, dp: 2, placement: [[node0/0, node1/0], [node0/1, node1/1]]",
        cluster="2x4xA100-SXM-80GB @ 100Gb/s",
    )
    (problem,) = refused(plan, "flagscale")
    assert problem.where == "placement"
    assert "export to torch" in problem.remedy


def test_unlike_chips_in_one_stage_are_refused():
    plan = plan_of("tp: 4, pp: 1, dp: 2", "job.global_batch=8")
    problems = refused(plan, "flagscale")
    assert any(p.where in ("unlike chips in one stage", "plan class asymmetric") for p in problems)


def test_vendors_talk_through_the_host_where_the_cluster_says_so():
    plan = laid_out(
        "tp: 4, pp: 2, dp: 1, placement: [node0/0-3, node1/0-3], in_flight: classic",
        cluster="1x4xA100-SXM-80GB + 1x4x910B3-64GB @ 100Gb/s",
    )
    hetero = train(plan)["system"]["hetero"]
    assert hetero["hetero_use_cpu_communication"] is True
    specific = yaml.safe_load(text_of(exported(plan, "flagscale"), "conf/plan.yaml"))
    variables = specific["experiment"]["envs"]["node_specific"]["node1"]
    assert variables == {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"}


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("fives", "[2, 1, 1, 1, 1, 4, 1, 1, 1, 1]", "[2, 1, 1, 1, 1, 4, 1, 1, 1]"),
        ("stages", "[2, 1, 1, 1, 1, 4, 1, 1, 1, 1]", "[2, 1, 1, 1, 2, 4, 1, 1, 1, 1]"),
        ("layers", "[20, 12]", "[20, 11]"),
        ("layers", "[20, 12]", "[19, 13]"),
        ("types", "[A100-SXM-80GB, V100-SXM2-32GB]", "[A100-SXM-80GB]"),
        ("replicas", "[2, 1, 1, 1, 1, 4, 1, 1, 1, 1]", "[2, 1, 1, 1, 1, 4, 1, 1, 2, 1]"),
        ("context", "[2, 1, 1, 1, 1, 4", "[2, 2, 1, 1, 1, 4"),
        ("sequence", "sequence_parallel: true", "sequence_parallel: false"),
        ("sequence", "seq_length: 4096", "seq_length: 4095"),
        ("tied", "untie_embeddings_and_output_weights: true", "other: true"),
        ("heads", "num_attention_heads: 32", "num_attention_heads: 30"),
        ("batch", "micro_batch_size: 1", "micro_batch_size: 5"),
        ("recompute", "[1, 64, 0]", "[1, 63, 0]"),
        ("recompute", "[1, 64, 1]", "[1, 64, 2]"),
        ("recompute", "[1, 64, 1]", "[2, 64, 1]"),
        ("recomputed", "[1, 64, 12]", "[1, 64, 6]"),
        ("parameters", "ffn_hidden_size: 11008", "ffn_hidden_size: 11009"),
        ("degrees", "global_batch_size: 64", "global_batch_size: 128"),
    ],
)
def test_every_rule_breaks(rule, old, new):
    plan = plan_of(f"{STAGED}, recompute: [none, full]")
    assert rule in broken(plan, "flagscale", (TRAIN, old, new))


def test_a_host_out_of_order_breaks_the_placement():
    edit = ("conf/plan.yaml", "CUDA_VISIBLE_DEVICES: '0,1'", "CUDA_VISIBLE_DEVICES: '1,0'")
    text = text_of(exported(plan_of(STAGED), "flagscale"), "conf/plan.yaml")
    if edit[1] not in text:
        edit = (edit[0], edit[1].replace("'", '"'), edit[2].replace("'", '"'))
    if edit[1] not in text:
        edit = (edit[0], "CUDA_VISIBLE_DEVICES: 0,1", "CUDA_VISIBLE_DEVICES: 1,0")
    assert broken(plan_of(STAGED), "flagscale", edit) == {"placement"}


def test_no_rule_is_without_a_test():
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    tested = {case[0] for case in mark.args[1]} | {"placement"}
    assert tested == {rule.name for rule in FLAGSCALE_RULES}


def test_thirty_layers_on_four_stages_stay_thirty():
    """M6."""
    plan = laid_out("tp: 4, pp: 4, dp: 1", "model.num_hidden_layers=30")
    assert sum(train(plan)["system"]["hetero"]["hetero_pipeline_layer_split"]) == 30
