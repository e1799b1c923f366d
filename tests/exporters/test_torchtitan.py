"""torchtitan 0.3.0: the module, every rule, and torchtitan's own classes."""

import pytest

from planner.exporters.python_file import constants
from planner.exporters.targets import torchtitan
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of
from tests.exporters.real_target import require, run_check, write

DEEP = "tp: 2, pp: 4, dp: 2, layers_per_stage: [7, 8, 8, 9], in_flight: classic"
MODULE = "plan_config.py"


def module(plan):
    return constants(text_of(exported(plan, "torchtitan"), MODULE))


def test_stages_name_torchtitans_modules():
    found = module(laid_out(DEEP))["STAGES"]
    assert found[0] == ["tok_embeddings", *(f"layers.{i}" for i in range(7))]
    assert found[3] == [*(f"layers.{i}" for i in range(23, 32)), "norm", "lm_head"]


def test_a_pipeline_takes_all_micro_batches_of_a_step_at_once():
    found = module(laid_out(DEEP))
    assert (found["LOCAL_BATCH"], found["MICRO_BATCH"], found["GLOBAL_BATCH"]) == (32, 1, 64)
    flat = module(laid_out("tp: 8, pp: 1, dp: 2"))
    assert (flat["LOCAL_BATCH"], flat["MICRO_BATCH"]) == (1, 1)


def test_thirty_layers_on_four_stages_stay_thirty():
    """M6, read back."""
    plan = laid_out("tp: 4, pp: 4, dp: 1", "model.num_hidden_layers=30")
    names = [name for stage in module(plan)["STAGES"] for name in stage]
    assert sum(name.startswith("layers.") for name in names) == 30


def test_tied_embeddings_on_two_stages_are_refused():
    plan = laid_out("tp: 2, pp: 2, dp: 4", "model.tie_word_embeddings=true")
    assert [p.where for p in refused(plan, "torchtitan")] == ["tied embeddings"]


def test_wider_gradients_are_taken_where_there_is_room():
    found = exported(laid_out(DEEP), "torchtitan")
    assert any("4 bytes" in line for line in found.differences)


def test_wider_gradients_are_refused_where_there_is_none():
    plan = laid_out(
        "tp: 8, pp: 1, dp: 2", cluster="2x8xA100-SXM-40GB @ 200Gb/s", model="llama-3-70b"
    )
    problems = refused(plan, "torchtitan")
    assert any(p.where == "gradients in 2 bytes" and "lacks" in p.message for p in problems)
    assert any("job.gradient_dtype=fp32" in p.remedy for p in problems)


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("world", "TP = 2", "TP = 4"),
        ("heads", "KV_HEADS = 32", "KV_HEADS = 31"),
        ("head-dim", "HEAD_DIM = 128", "HEAD_DIM = 64"),
        ("sequence", "SEQUENCE_LENGTH = 4096", "SEQUENCE_LENGTH = 4095"),
        ("local", "LOCAL_BATCH = 32", "LOCAL_BATCH = 0.5"),
        ("batch", "GLOBAL_BATCH = 64", "GLOBAL_BATCH = 63"),
        ("enough", "LOCAL_BATCH = 32", "LOCAL_BATCH = 2"),
        ("modules", "'layers.7', ", ""),
        ("split", "'layers.7', 'layers.8'", "'layers.7'"),
        ("reshard", 'RESHARD = "never"', 'RESHARD = "default"'),
        ("recompute", "RECOMPUTE = False", "RECOMPUTE = True"),
        ("parameters", "FFN_DIM = 11008", "FFN_DIM = 11007"),
        ("degrees", 'SCHEDULE = "1F1B"', 'SCHEDULE = "GPipe"'),
        ("precision", '"bfloat16"', '"float32"'),
    ],
)
def test_every_rule_breaks(rule, old, new):
    if rule == "local":
        old, new = "MICRO_BATCH = 1", "MICRO_BATCH = 3"
    assert rule in broken(laid_out(DEEP), "torchtitan", (MODULE, old, new))


def test_a_device_out_of_place_breaks_the_placement():
    edit = ("nodes/node0.sh", "=0,1,2,3,4,5,6,7", "=1,0,2,3,4,5,6,7")
    assert broken(laid_out(DEEP), "torchtitan", edit) == {"placement"}


def test_no_rule_is_without_a_test():
    mark = next(m for m in test_every_rule_breaks.pytestmark if m.name == "parametrize")
    tested = {case[0] for case in mark.args[1]} | {"placement"}
    assert tested == {rule.name for rule in torchtitan.RULES}


TWICE = """
import check
import plan_config

check.main()
plan_config.STAGES[1].remove("layers.7")
try:
    check.main()
except SystemExit as error:
    print("refused:", error)
"""
"""The check as it is, then with a layer that no stage holds; torchtitan is imported once."""


def test_torchtitans_own_classes_accept_the_module_and_refuse_a_lost_layer(tmp_path):
    require("torchtitan")
    folder = write(laid_out(f"{DEEP}, recompute: full"), "torchtitan", tmp_path)
    (folder / "twice.py").write_text(TWICE)
    ended = run_check(folder, kernels=False, script="twice.py")
    assert ended.returncode == 0, ended.stderr[-2000:]
    good, bad = ended.stdout.split("torchtitan 0.3.0 accepts the plan: 16 processes")[1:]
    assert "6,738,415,616 parameters" in good
    assert good.count("stage ") == 4
    assert "refused: the stages do not hold every parameter once" in bad
