"""Megatron-LM: what is written, what every rule catches, where every rank starts."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.exporters.megatron_layout import broken_layout, parse_layout
from planner.exporters.placement import started
from planner.exporters.targets import megatron
from planner.exporters.view import view_of
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of

ARGUMENTS = "arguments.sh"
DEEP = "tp: 2, pp: 4, dp: 2, layers_per_stage: [7, 8, 8, 9], in_flight: classic"
OFFLOAD = "cluster.nodes.0.host_memory_gib=1024"


def flags(plan):
    """The flags of an export as Megatron gets them."""
    words = megatron.read_bash_array(
        text_of(exported(plan, "megatron"), ARGUMENTS), "PLAN_ARGUMENTS"
    )
    return megatron.read_flags(words)


def test_uneven_stages_become_a_layout_that_holds_every_layer():
    found = flags(laid_out(DEEP))
    assert found["pipeline-model-parallel-layout"] == "Et*7|t*8|t*8|t*9L"
    assert (found["tensor-model-parallel-size"], found["pipeline-model-parallel-size"]) == (
        "2",
        "4",
    )
    assert (found["micro-batch-size"], found["global-batch-size"]) == ("1", "64")
    assert "sequence-parallel" in found


def test_thirty_layers_on_four_stages_stay_thirty():
    """M6: an even split would train 28."""
    plan = laid_out("tp: 4, pp: 4, dp: 1", "model.num_hidden_layers=30")
    stages = parse_layout(flags(plan)["pipeline-model-parallel-layout"])
    assert sum(stage.count("t") for stage in stages) == 30
    assert len(stages) == 4


def test_a_stage_without_blocks_keeps_its_embedding():
    plan = laid_out("tp: 4, pp: 2, dp: 2, layers_per_stage: [[0, 1], [1, 34]]")
    assert flags(plan)["pipeline-model-parallel-layout"] == "E|t*32L"


def test_one_stage_needs_no_layout():
    assert "pipeline-model-parallel-layout" not in flags(laid_out("tp: 8, pp: 1, dp: 2"))


def test_gradients_in_two_bytes_are_reduced_in_bf16():
    assert "grad-reduce-in-bf16" in flags(laid_out(DEEP))
    assert "grad-reduce-in-bf16" not in flags(laid_out(DEEP, "job.gradient_dtype=fp32"))


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        ("none", {}),
        ("selective", {"recompute-granularity": "selective", "recompute-modules": "core_attn"}),
        (
            "full",
            {
                "recompute-granularity": "full",
                "recompute-method": "uniform",
                "recompute-num-layers": "1",
            },
        ),
    ],
)
def test_recomputation_of_the_whole_job(recompute, expected):
    found = flags(laid_out(f"{DEEP}, recompute: {recompute}"))
    assert {k: v for k, v in found.items() if k.startswith("recompute")} == expected


def test_recomputation_that_differs_by_stage_is_refused():
    plan = laid_out(f"{DEEP}, recompute: [full, none, none, none]")
    (problem,) = refused(plan, "megatron")
    assert problem.where == "recomputation by stage"
    assert "7 of 7, 0 of 8" in problem.message
    assert "--forbid recompute_full" in problem.remedy


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("world", "model-parallel-size 2\n", "model-parallel-size 3\n"),
        ("batch", "--global-batch-size 64", "--global-batch-size 63"),
        ("heads", "--num-attention-heads 32", "--num-attention-heads 31"),
        ("groups", "--swiglu", "--swiglu --num-query-groups 3"),
        ("ffn", "--ffn-hidden-size 11008", "--ffn-hidden-size 11007"),
        ("sequence", "--seq-length 4096", "--seq-length 4095"),
        ("positions", "--max-position-embeddings 4096", "--max-position-embeddings 2048"),
        ("recompute", "--recompute-method uniform", ""),
        ("recomputed", "--recompute-num-layers 1", "--recompute-num-layers 7"),
        ("degrees", "--micro-batch-size 1", "--micro-batch-size 2"),
        ("parameters", "--ffn-hidden-size 11008", "--ffn-hidden-size 11010"),
        ("optimizer", "--use-distributed-optimizer", ""),
        ("offload", "--use-precision-aware-optimizer", ""),
        ("offload", "--optimizer-offload-fraction 1.0", "--optimizer-offload-fraction 0.5"),
        ("precision", "--bf16", "--fp16"),
        ("placement", "--sequence-parallel", "--sequence-parallel --use-tp-pp-dp-mapping"),
        ("experts", "--swiglu", "--swiglu --expert-model-parallel-size 2"),
        ("layout", "Et*7|t*8", "Et*8|t*7"),
        ("layout", "Et*7|t*8", "Et*7|t*7"),
        ("layout", "t*9L", "t*9"),
        ("layout", "Et*7", "xt*7"),
        ("exclusive", "--bf16", "--bf16 --decoder-first-pipeline-num-layers 7"),
        ("grouped", "--bf16", "--bf16 --moe-grouped-gemm"),
        ("turns", "--bf16", "--bf16 --microbatch-group-size-per-virtual-pipeline-stage 4"),
    ],
)
def test_every_rule_breaks(rule, old, new):
    plan = laid_out(f"{DEEP}, recompute: full")
    if rule == "offload":
        plan = laid_out(f"{DEEP}, recompute: full, offload: optimizer", OFFLOAD)
    if rule == "recomputed":
        old, new = "uniform\n  --recompute-num-layers 1", "block\n  --recompute-num-layers 7"
    assert rule in broken(plan, "megatron", (ARGUMENTS, old, new))


def test_an_offloaded_optimizer_is_a_precision_aware_one():
    found = flags(laid_out(f"{DEEP}, offload: optimizer", OFFLOAD))
    assert "optimizer-cpu-offload" in found
    assert "use-precision-aware-optimizer" in found
    assert found["optimizer-offload-fraction"] == "1.0"
    assert "optimizer-cpu-offload" not in flags(laid_out(DEEP))


def test_an_offloaded_optimizer_that_is_not_sharded_is_refused():
    (problem,) = refused(laid_out(f"{DEEP}, zero: 0, offload: optimizer", OFFLOAD), "megatron")
    assert "sharded optimizer" in problem.message


def test_no_rule_is_without_a_test():
    """The parameters of the test above name every rule of the target."""
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in megatron.RULES}


def test_an_untouched_export_breaks_no_rule():
    assert broken(laid_out(DEEP), "megatron") == set()


@pytest.mark.parametrize(
    "model", ["llama-3-8b", "qwen2-7b", "qwen3-8b", "mistral-7b", "mixtral-8x7b", "gpt2"]
)
def test_the_arguments_build_a_model_with_the_plans_parameters(model):
    plan = laid_out("tp: 4, pp: 2, dp: 2", "job.seq_len=1024", model=model)
    assert exported(plan, "megatron").checked.problems == ()


def test_a_bias_that_megatron_would_not_have_is_caught():
    plan = laid_out("tp: 2, pp: 2, dp: 2", "model.attention_bias=true", model="llama-3-8b")
    (problem,) = refused(plan, "megatron")
    assert "parameters" in problem.where


def test_layout_grammar():
    assert parse_layout("E(t|)*3L") == ("Et", "t", "t", "L")
    assert broken_layout(("Et", "tL"), 2, 2) == ""
    assert "parts do not divide" in broken_layout(("Et", "t", "tL"), 3, 2)
    assert "embedding" in broken_layout(("t", "EtL"), 2, 2)
    assert "loss" in broken_layout(("EtL", "t"), 2, 2)


# --- placement --------------------------------------------------------------------------------

NODES = "2x4xA100-SXM-80GB @ 200Gb/s"
ACROSS = ("node0/0-1", "node1/0-1"), ("node0/2-3", "node1/2-3")
INSIDE = ("node0/0-1", "node0/2-3"), ("node1/0-1", "node1/2-3")
MIXED = ("node0/0-1", "node1/0-1"), ("node1/2-3", "node0/2-3")


def placed(pipelines, cluster=NODES, tp=2):
    """A plan whose pipelines lie on these devices, stage by stage."""
    stages = ", ".join(f"[{', '.join(group)}]" for group in zip(*pipelines))
    layout = f"tp: {tp}, pp: {len(pipelines[0])}, dp: {len(pipelines)}, placement: [{stages}]"
    return laid_out(layout, cluster=cluster)


def test_stages_on_different_hosts_keep_megatrons_own_order():
    found = flags(placed(ACROSS))
    assert "use-tp-pp-dp-mapping" not in found


def test_pipelines_inside_hosts_ask_for_stages_before_replicas():
    found = flags(placed(INSIDE))
    assert "use-tp-pp-dp-mapping" in found


def test_replicas_are_renumbered_where_that_makes_ranks_consecutive():
    cluster = "1x8xA100-SXM-80GB + 1x8xA100-SXM-80GB @ 200Gb/s"
    replicas = [["node1/0-3"], ["node0/0-3"], ["node0/4-7"], ["node1/4-7"]]
    plan = placed(replicas, cluster, tp=4)
    script = text_of(exported(plan, "megatron"), "nodes/node0.sh")
    assert "torchrun" in script


def test_ranks_that_no_order_makes_consecutive_are_started_one_by_one():
    script = text_of(exported(placed(MIXED), "megatron"), "nodes/node0.sh")
    assert "ranks=(0 1 6 7)" in script
    assert "torchrun" not in script.replace("so torchrun cannot", "")


@given(order=st.permutations(range(4)))
@settings(max_examples=24, deadline=None)
def test_every_rank_starts_on_its_device_wherever_the_plan_puts_it(order):
    groups = ["node0/0-1", "node0/2-3", "node1/0-1", "node1/2-3"]
    a, b, c, d = (groups[i] for i in order)
    plan = placed(((a, b), (c, d)))
    found = exported(plan, "megatron")
    view = view_of(plan)
    devices = started(view, {f.path: f.text for f in found.written.files})
    assert sorted(devices) == sorted(view.used)
    assert found.checked.problems == ()


def test_scripts_started_one_by_one_give_every_process_its_rank(tmp_path):
    """The script is run for real with a program that only says where it is."""
    script = text_of(exported(placed(MIXED), "megatron"), "nodes/node0.sh")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "node0.sh").write_text(script)
    (tmp_path / ARGUMENTS).write_text("PLAN_ARGUMENTS=(--one two)\n")
    (tmp_path / "say").write_text(
        '#!/bin/sh\necho "$RANK $LOCAL_RANK $WORLD_SIZE $CUDA_VISIBLE_DEVICES ${@#*/pretrain}"\n'
    )
    (tmp_path / "say").chmod(0o755)
    ended = subprocess.run(
        ["bash", "nodes/node0.sh", "--lr", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(tmp_path / "say")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = sorted(ended.stdout.splitlines())
    assert [line.split()[:4] for line in lines] == [
        ["0", "0", "8", "0,1,2,3"],
        ["1", "1", "8", "0,1,2,3"],
        ["6", "2", "8", "0,1,2,3"],
        ["7", "3", "8", "0,1,2,3"],
    ]
    assert all("--one two --lr 1" in line for line in lines)


def test_a_process_that_fails_ends_the_others(tmp_path):
    script = text_of(exported(placed(MIXED), "megatron"), "nodes/node0.sh")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "node0.sh").write_text(script)
    (tmp_path / ARGUMENTS).write_text("PLAN_ARGUMENTS=()\n")
    (tmp_path / "fail").write_text('#!/bin/sh\n[ "$RANK" = 6 ] && exit 9\nexec sleep 60\n')
    (tmp_path / "fail").chmod(0o755)
    ended = subprocess.run(
        ["bash", "nodes/node0.sh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(tmp_path / "fail")},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 9
