"""Targets that take Megatron's arguments in words of their own: MindSpeed-LLM, Megatron Bridge."""

import pytest

from planner.exporters.megatron_arguments import read_flags
from planner.exporters.scripts import read_bash_array
from planner.exporters.targets import megatron_bridge, mindspeed
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of

DEEP = "tp: 2, pp: 4, dp: 2, layers_per_stage: [7, 8, 8, 9], in_flight: classic"
ASCEND = "2x8x910B3-64GB @ 200Gb/s"


def ascend(layout=DEEP, *changes, model="llama-2-7b"):
    return laid_out(layout, *changes, model=model, cluster=ASCEND)


# --- MindSpeed-LLM ----------------------------------------------------------------------------


def test_mindspeed_lists_the_layers_of_every_stage():
    text = text_of(exported(ascend(), "mindspeed"), "arguments.sh")
    flags = read_flags(read_bash_array(text, "PLAN_ARGUMENTS"))
    assert flags["num-layer-list"] == "7,8,8,9"
    assert "pipeline-model-parallel-layout" not in flags


def test_mindspeed_orders_ascend_devices():
    script = text_of(exported(ascend(), "mindspeed"), "nodes/node0.sh")
    assert "ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6,7" in script
    assert "NCCL" not in script


def test_mindspeed_needs_no_list_for_one_stage():
    text = text_of(exported(ascend("tp: 8, pp: 1, dp: 2"), "mindspeed"), "arguments.sh")
    assert "num-layer-list" not in text


def test_mindspeed_refuses_other_vendors():
    problems = refused(laid_out(DEEP), "mindspeed")
    assert [p.where for p in problems] == ["chip A100-SXM-80GB"]
    assert "NVIDIA" in problems[0].message


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("list", "7,8,8,9", "8,8,8,8"),
        ("list", "7,8,8,9", "7,8,8,8"),
        ("list", "7,8,8,9", "7,8,17"),
        ("list", "7,8,8,9", "0,15,8,9"),
        ("alone", "--bf16", "--bf16 --noop-layers 3"),
        ("heads", "--num-attention-heads 32", "--num-attention-heads 31"),
    ],
)
def test_every_rule_of_mindspeed_breaks(rule, old, new):
    assert rule in broken(ascend(), "mindspeed", ("arguments.sh", old, new))


def test_mindspeed_has_no_other_rule_of_its_own():
    mark = next(m for m in test_every_rule_of_mindspeed_breaks.pytestmark)
    own = {rule.name for rule in mindspeed.RULES} - {rule.name for rule in mindspeed.COMMON}
    assert own <= {case[0] for case in mark.args[1]}


# --- Megatron Bridge --------------------------------------------------------------------------


def overrides(plan):
    return read_bash_array(
        text_of(exported(plan, "megatron-bridge"), "overrides.sh"), "PLAN_OVERRIDES"
    )


def test_bridge_gets_fields_of_its_own_configuration():
    found = overrides(laid_out(DEEP, "job.gradient_dtype=fp32"))
    assert "model.tensor_model_parallel_size=2" in found
    assert "model.pipeline_model_parallel_layout=Et*7|t*8|t*8|t*9L" in found
    assert "train.global_batch_size=64" in found
    assert "mixed_precision=bf16_mixed" in found
    assert "ddp.use_distributed_optimizer=true" in found
    assert "model.add_bias_linear=false" in found
    assert "dataset.seq_length=4096" in found


def test_bridge_switches_the_sharded_optimizer_off_where_the_plan_does():
    found = overrides(laid_out(f"{DEEP}, zero: 0", "job.gradient_dtype=fp32"))
    assert "ddp.use_distributed_optimizer=false" in found


def test_bridge_is_translated_back_to_the_arguments_it_came_from():
    plan = laid_out(f"{DEEP}, recompute: selective", "job.gradient_dtype=fp32")
    flags = megatron_bridge._flags(overrides(plan))
    text = text_of(exported(plan, "megatron"), "arguments.sh")
    wanted = read_flags(read_bash_array(text, "PLAN_ARGUMENTS"))
    for flag in megatron_bridge.IMPLIED:
        wanted.pop(flag, None)
        flags.pop(flag, None)
    assert flags == wanted


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("world", "pipeline_model_parallel_size=4", "pipeline_model_parallel_size=3"),
        ("batch", "global_batch_size=64", "global_batch_size=63"),
        ("heads", "num_attention_heads=32", "num_attention_heads=31"),
        ("groups", "model.normalization", "model.num_query_groups=3\n  model.normalization"),
        ("ffn", "ffn_hidden_size=11008", "ffn_hidden_size=11007"),
        ("sequence", "seq_length=4096", "seq_length=4095"),
        ("recompute", "model.recompute_method=uniform", ""),
        ("recomputed", "model.recompute_granularity=full", ""),
        ("degrees", "micro_batch_size=1", "micro_batch_size=2"),
        ("parameters", "model.gated_linear_unit=true", ""),
        ("optimizer", "use_distributed_optimizer=true", "use_distributed_optimizer=false"),
        ("precision", "bf16_mixed", "16-mixed"),
        ("placement", "model.sequence_parallel=true", "dist.use_tp_pp_dp_mapping=true"),
        ("layout", "Et*7|t*8", "Et*6|t*9"),
    ],
)
def test_megatrons_rules_hold_for_bridge_too(rule, old, new):
    plan = laid_out(f"{DEEP}, recompute: full", "job.gradient_dtype=fp32")
    assert rule in broken(plan, "megatron-bridge", ("overrides.sh", old, new))


def test_thirty_layers_on_four_stages_stay_thirty():
    """M6, for every target of this family."""
    layout, layers = "tp: 4, pp: 4, dp: 1", "model.num_hidden_layers=30"
    for target, plan in (
        ("mindspeed", ascend(layout, layers)),
        ("megatron-bridge", laid_out(layout, layers, "job.gradient_dtype=fp32")),
    ):
        assert exported(plan, target).checked.problems == ()
    text = text_of(exported(ascend(layout, layers), "mindspeed"), "arguments.sh")
    flags = read_flags(read_bash_array(text, "PLAN_ARGUMENTS"))
    assert sum(map(int, flags["num-layer-list"].split(","))) == 30
