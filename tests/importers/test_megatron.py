"""Megatron-LM arguments to a layout and a job."""

from __future__ import annotations

import pytest

from planner.errors import InputError
from planner.importers.megatron import import_megatron
from planner.importers.shell import flags_of

SCRIPT = """\
#!/bin/bash
TP=8
PP=${PP:-16}   # stages
export GPUS=8
MODEL_ARGS=(
    --num-layers 96
    --seq-length 2048  # tokens
)
PARALLEL="--tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP}"
torchrun --nproc-per-node $GPUS pretrain_gpt.py \\
    ${MODEL_ARGS[@]} $PARALLEL --sequence-parallel \\
    --micro-batch-size 1 --global-batch-size=1536 --bf16 --use-distributed-optimizer
"""
COMMON = "--micro-batch-size 2 --global-batch-size 64 --seq-length 4096 "
STAGES = "--pipeline-model-parallel-size 4 --num-layers 30 "


def run(text, **options):
    layout, job = import_megatron(text, "train.sh", **options)
    return layout.data, job.data


def says(text, **options):
    with pytest.raises(InputError) as caught:
        import_megatron(text, "train.sh", **options)
    return str(caught.value)


def test_follows_the_script():
    layout, job = run(SCRIPT)
    assert layout == {"tp": 8, "pp": 16, "micro_batch_rows": 1, "recompute": "none", "zero": 1}
    assert job == {
        "global_batch": 1536,
        "seq_len": 2048,
        "precision": "bf16",
        "optimizer": "adam",
        "gradient_dtype": "fp32",
    }


def test_an_array_in_quotes_is_its_words():
    quoted = SCRIPT.replace("${MODEL_ARGS[@]}", '"${MODEL_ARGS[@]}"')
    assert quoted != SCRIPT
    assert run(quoted) == run(SCRIPT)


def test_variables_of_the_command_line_replace_those_of_the_script():
    assert run(SCRIPT, variables=["PP=8"])[0]["pp"] == 8
    assert "--var TP=N" in says("--tensor-model-parallel-size $TP " + COMMON)


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        ('--pipeline-model-parallel-layout "Et*6|t*9|t*9|t*6L"', [6, 9, 9, 6]),
        ('--pipeline-model-parallel-layout "E|(tt)*5|t*20|L"', [0, 10, 20, 0]),
        (
            "--decoder-first-pipeline-num-layers 6 --decoder-last-pipeline-num-layers 8",
            [6, 8, 8, 8],
        ),
        ("--decoder-last-pipeline-num-layers 6", [8, 8, 8, 6]),
        (
            "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split",
            [7, 8, 8, 7],
        ),
    ],
)
def test_reads_every_way_to_split_layers(flags, counts):
    layout, _ = run(STAGES + COMMON + flags)
    assert layout["layers_per_stage"] == counts
    assert sum(counts) == 30


def test_an_equal_split_needs_no_list():
    assert (
        "layers_per_stage"
        not in run("--pipeline-model-parallel-size 4 --num-layers 32 " + COMMON)[0]
    )


def test_layers_that_do_not_divide_are_not_dropped_silently():
    text = says(STAGES + COMMON)
    assert "30 layers do not divide by 4 stages" in text
    assert "--pipeline-model-parallel-layout" in text


@pytest.mark.parametrize(
    ("flags", "recompute"),
    [
        ("", "none"),
        ("--recompute-activations", "selective"),
        ("--recompute-granularity selective", "selective"),
        (
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            "full",
        ),
        ("--recompute-granularity full --recompute-method block --recompute-num-layers 8", "full"),
    ],
)
def test_reads_recomputation(flags, recompute):
    text = "--pipeline-model-parallel-size 4 --num-layers 32 " + COMMON + flags
    assert run(text)[0]["recompute"] == recompute


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--context-parallel-size 2", "context parallelism is not priced"),
        ("--expert-model-parallel-size 8", "expert parallelism is not priced"),
        ("--num-virtual-stages-per-pipeline-rank 2", "--num-layers: is missing"),
        ("--num-layers 30 --num-layers-per-virtual-pipeline-stage 4", "30 layers do not divide"),
        (
            "--num-layers 32 --num-virtual-stages-per-pipeline-rank 2 "
            "--account-for-loss-in-pipeline-split",
            "chunks of unequal layers",
        ),
        (
            "--num-layers 32 --num-virtual-stages-per-pipeline-rank 2 "
            "--num-layers-per-virtual-pipeline-stage 4",
            "cannot stand beside",
        ),
        ("--use-megatron-fsdp", "not priced"),
        ("--tensor-model-parallel-size zwei", "is not a whole number"),
        ("--bf16 --fp16", "stands beside --fp16"),
        ("--optimizer muon", "'muon' is not priced"),
        ("--recompute-granularity half", "full or selective"),
        (
            "--num-layers 32 --recompute-granularity full --recompute-method block "
            "--recompute-num-layers 3",
            "all or none",
        ),
    ],
)
def test_what_cannot_be_priced_is_named(flags, message):
    assert message in says(COMMON + flags)


def test_a_dropped_flag_is_left_out_and_said_so():
    layout, _ = import_megatron(
        COMMON + "--context-parallel-size 2", "x", drop=["context-parallel-size"]
    )
    assert layout.given == ("without --context-parallel-size",)
    assert "no such flag" in says(COMMON, drop=["context-parallel-size"])


@pytest.mark.parametrize(
    "flags",
    [
        "--num-virtual-stages-per-pipeline-rank 2",
        "--num-layers-per-virtual-pipeline-stage 4",
        '--pipeline-model-parallel-layout "Et*4|t*4|t*4|t*4|t*4|t*4|t*4|t*4L"',
    ],
)
def test_chunks_of_equal_layers_become_virtual_stages(flags):
    layout = run("--pipeline-model-parallel-size 4 --num-layers 32 " + COMMON + flags)[0]
    assert layout["virtual"] == 2
    assert "layers_per_stage" not in layout


def test_chunks_of_unequal_layers_are_named():
    text = "Et*3|" + "t*4|" * 6 + "t*5L"
    flags = f'--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout "{text}"'
    assert "chunks of 3, 4, 4, 4, 4, 4, 4, 5 blocks" in says(COMMON + flags)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("Et*6|t*9|t*9|t*7L", "has 31 blocks, --num-layers says 30"),
        ("Et*15|t*15L", "has 2 parts for 4 stages"),
        ("t*30L|||", "does not start with one E"),
        ("Et*6|t*9|t*9|t*6mL", "multi-token prediction"),
        ("Et*6|x|t*9|t*6L", "'x' is no part of a layout"),
    ],
)
def test_a_wrong_layout_is_named(layout, message):
    flags = f'--pipeline-model-parallel-layout "{layout}"'
    assert message in says(STAGES + COMMON + flags)


def test_missing_arguments_are_asked_for_at_once():
    text = says("--tensor-model-parallel-size 2")
    for flag in ("micro-batch-size", "global-batch-size", "seq-length"):
        assert f"--{flag}: is missing" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [("hello", "holds no argument"), ("A=(\n--x 1", "has no end"), ("--a 'b", "quotation")],
)
def test_text_that_is_no_script_is_named(text, message):
    assert message in says(text)


def test_flags_follow_the_shell():
    text = "A=1\nB=$A\nC=\"${D:-x} $B\"\ncmd --one $C --two=$A --three 'a b' # --four"
    assert flags_of(text, {}) == {"one": ("x", "1"), "two": ("1",), "three": ("a b",)}
    assert flags_of("X='--one 1 --two'\n", {}) == {"one": ("1",), "two": ()}
