"""Accelerate: the sizes, every rule, and Accelerate's own ParallelismConfig."""

import pytest

from planner.exporters.python_file import constants
from planner.exporters.targets import accelerate
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of
from tests.exporters.real_target import require, run_check, write

FLAT = "tp: 4, pp: 1, dp: 4"
MODULE = "planned.py"


def sizes(plan):
    return constants(text_of(exported(plan, "accelerate"), MODULE))


def test_sharded_replicas_are_dp_shard():
    found = sizes(laid_out(FLAT))
    assert (found["DP_REPLICATE"], found["DP_SHARD"], found["TP"]) == (1, 4, 4)
    assert found["MICRO_BATCH"] * found["ACCUMULATION_STEPS"] * 4 == found["GLOBAL_BATCH"] == 64
    assert found["BLOCK"] == "LlamaDecoderLayer"


def test_replicas_that_share_nothing_are_dp_replicate():
    found = sizes(laid_out("tp: 1, pp: 1, dp: 16, zero: 0"))
    assert (found["DP_REPLICATE"], found["DP_SHARD"]) == (16, 1)


def test_a_pipeline_is_refused_by_name():
    (problem,) = refused(laid_out("tp: 2, pp: 2, dp: 4"), "accelerate")
    assert problem.where == "pipeline parallelism"
    assert "job.max_pipeline_stages=1" in problem.remedy


def test_tensor_parallelism_beside_plain_replicas_is_refused():
    (problem,) = refused(laid_out("tp: 4, pp: 1, dp: 4, zero: 0"), "accelerate")
    assert "(beside)" in problem.where
    assert "zero1" in problem.message


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("world", "TP = 4", "TP = 2"),
        ("beside", "DP_REPLICATE = 1\nDP_SHARD = 4", "DP_REPLICATE = 4\nDP_SHARD = 1"),
        ("batch", "ACCUMULATION_STEPS = 16", "ACCUMULATION_STEPS = 15"),
        ("heads", "TP = 4", "TP = 3"),
        ("degrees", "SEQUENCE_LENGTH = 4096", "SEQUENCE_LENGTH = 2048"),
        ("sharding", "DP_REPLICATE = 1\nDP_SHARD = 4", "DP_REPLICATE = 4\nDP_SHARD = 1"),
        ("recompute", "RECOMPUTE = False", "RECOMPUTE = True"),
    ],
)
def test_every_rule_breaks(rule, old, new):
    assert rule in broken(laid_out(FLAT), "accelerate", (MODULE, old, new))


def test_a_device_out_of_place_breaks_the_placement():
    edit = ("nodes/node0.sh", "=0,1,2,3,4,5,6,7", "=1,0,2,3,4,5,6,7")
    assert broken(laid_out(FLAT), "accelerate", edit) == {"placement"}


def test_no_rule_is_without_a_test():
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    tested = {case[0] for case in mark.args[1]} | {"placement"}
    assert tested == {rule.name for rule in accelerate.RULES}


@pytest.mark.parametrize("layout", [FLAT, "tp: 1, pp: 1, dp: 16, zero: 0"])
def test_accelerates_own_classes_accept_the_files(tmp_path, layout):
    require("accelerate")
    ended = run_check(write(laid_out(layout), "accelerate", tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "accepts the plan: 16 processes" in ended.stdout


def test_accelerates_own_classes_refuse_what_the_rule_refuses(tmp_path):
    require("accelerate")
    folder = write(laid_out(FLAT), "accelerate", tmp_path)
    path = folder / MODULE
    text = path.read_text().replace(
        "DP_REPLICATE = 1\nDP_SHARD = 4", "DP_REPLICATE = 4\nDP_SHARD = 1"
    )
    path.write_text(text)
    ended = run_check(folder)
    assert ended.returncode != 0
    assert "cannot be used with pure data parallelism" in ended.stderr
