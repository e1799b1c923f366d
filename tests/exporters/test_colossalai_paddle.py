"""ColossalAI's plugin and Paddle's hybrid configuration: what is written, every rule."""

from importlib.util import find_spec

import pytest

from planner.exporters.python_file import constants
from planner.exporters.targets import colossalai, paddle
from tests.exporters.laid_out import broken, exported, laid_out, refused, text_of
from tests.exporters.real_target import run_check, write

DEEP = "tp: 2, pp: 4, dp: 2, layers_per_stage: [7, 8, 8, 9], in_flight: classic"
MODULE = "planned.py"
ASCEND = "2x8x910B3-64GB @ 200Gb/s"


def values(plan, target):
    return constants(text_of(exported(plan, target), MODULE))


# --- ColossalAI -------------------------------------------------------------------------------


def test_colossalai_takes_layers_and_recomputed_layers_per_stage():
    found = values(laid_out(f"{DEEP}, recompute: [full, none, none, full]"), "colossalai")
    assert found["LAYERS_PER_STAGE"] == [7, 8, 8, 9]
    assert found["RECOMPUTED_PER_STAGE"] == [7, 0, 0, 9]
    assert (found["TP"], found["PP"], found["ZERO"]) == (2, 4, 1)
    assert found["LOCAL_BATCH"] == 32


def test_colossalai_runs_on_ascend():
    script = text_of(exported(laid_out(DEEP, cluster=ASCEND), "colossalai"), "nodes/node1.sh")
    assert "ASCEND_RT_VISIBLE_DEVICES" in script


def test_colossalai_has_no_zero_in_fp32():
    plan = laid_out("tp: 2, pp: 2, dp: 4", "job.precision=fp32")
    (problem,) = refused(plan, "colossalai")
    assert "(zero)" in problem.where
    assert "--forbid zero1" in problem.message


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("world", "TP = 2", "TP = 3"),
        ("layers", "[7, 8, 8, 9]", "[7, 8, 8, 8]"),
        ("layers", "[7, 8, 8, 9]", "[8, 8, 8, 8]"),
        ("layers", "[7, 8, 8, 9]", "[0, 15, 8, 9]"),
        ("recomputed", "[0, 0, 0, 0]", "[1, 0, 0, 0]"),
        ("zero", "ZERO = 1", "ZERO = 2"),
        ("batch", "MICRO_BATCH = 1", "MICRO_BATCH = 3"),
        ("batch", "GLOBAL_BATCH = 64", "GLOBAL_BATCH = 65"),
        ("heads", "TP = 2", "TP = 3"),
        ("sequence", "SEQUENCE_LENGTH = 4096", "SEQUENCE_LENGTH = 4095"),
        ("degrees", '"bf16"', '"fp16"'),
        ("placement", "DP_OUTSIDE = True", "DP_OUTSIDE = False"),
    ],
)
def test_every_rule_of_colossalai_breaks(rule, old, new):
    if rule == "placement" and old not in text_of(exported(laid_out(DEEP), "colossalai"), MODULE):
        old, new = new, old
    assert rule in broken(laid_out(DEEP), "colossalai", (MODULE, old, new))


def test_no_rule_of_colossalai_is_without_a_test():
    mark = next(m for m in test_every_rule_of_colossalai_breaks.pytestmark)
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in colossalai.RULES}


# --- Paddle -----------------------------------------------------------------------------------


def test_paddle_shards_the_optimizer_over_its_own_axis():
    hybrid = values(laid_out(DEEP), "paddle")["HYBRID"]
    assert (hybrid["dp_degree"], hybrid["sharding_degree"]) == (1, 2)
    assert (hybrid["mp_degree"], hybrid["pp_degree"]) == (2, 4)
    plain = values(laid_out(f"{DEEP}, zero: 0"), "paddle")["HYBRID"]
    assert (plain["dp_degree"], plain["sharding_degree"]) == (2, 1)


def test_paddle_cuts_at_the_plans_bounds():
    found = values(laid_out(DEEP), "paddle")
    assert found["BOUNDS"] == [0, 8, 16, 24, 34]
    assert len(found["LAYERS"]) == 34


def test_paddle_starts_with_its_own_launcher():
    script = text_of(exported(laid_out(DEEP, cluster=ASCEND), "paddle"), "nodes/node1.sh")
    assert "-m paddle.distributed.launch" in script
    assert "--rank 1" in script
    assert "--devices 0,1,2,3,4,5,6,7" in script
    assert "VISIBLE_DEVICES" not in script


def test_paddle_refuses_what_its_launcher_cannot_number():
    plan = laid_out(
        "tp: 2, pp: 2, dp: 2, placement: [[node0/0-1, node1/2-3], [node1/0-1, node0/2-3]]",
        cluster="2x4xA100-SXM-80GB @ 100Gb/s",
    )
    (problem,) = refused(plan, "paddle")
    assert problem.where == "placement"


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("keys", "'mp_degree': 2", "'tp_degree': 2, 'mp_degree': 2"),
        ("keys", "'sep', ", ""),
        ("world", "'mp_degree': 2", "'mp_degree': 4"),
        ("bounds", "[0, 8, 16, 24, 34]", "[0, 8, 16, 24, 33]"),
        ("bounds", "[0, 8, 16, 24, 34]", "[0, 8, 16, 34]"),
        ("bounds", "[0, 8, 16, 24, 34]", "[0, 9, 16, 24, 34]"),
        ("layers", "model.layers.3'", "model.layers.4'"),
        ("batch", "ACCUMULATE_STEPS = 32", "ACCUMULATE_STEPS = 31"),
        ("heads", "'mp_degree': 2", "'mp_degree': 3"),
        ("sharding", "'sharding_degree': 2", "'sharding_degree': 1"),
        ("recompute", "RECOMPUTE_INTERVAL = 0", "RECOMPUTE_INTERVAL = 1"),
        ("degrees", '"bfloat16"', '"float16"'),
        ("placement", "'order': ['pp', 'dp', 'sharding'", "'order': ['dp', 'sharding', 'pp'"),
    ],
)
def test_every_rule_of_paddle_breaks(rule, old, new):
    plan = laid_out(DEEP)
    if rule == "placement" and old not in text_of(exported(plan, "paddle"), MODULE):
        old, new = new, old
    assert rule in broken(plan, "paddle", (MODULE, old, new))


def test_no_rule_of_paddle_is_without_a_test():
    mark = next(m for m in test_every_rule_of_paddle_breaks.pytestmark)
    assert {case[0] for case in mark.args[1]} == {rule.name for rule in paddle.RULES}


def test_paddles_own_classes_accept_the_module(tmp_path):
    """Paddle is not part of the extras: it is large, and its own wheel of CUDA libraries larger."""
    if find_spec("paddle") is None:
        pytest.skip("paddlepaddle is not installed")
    ended = run_check(write(laid_out(DEEP), "paddle", tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "accepts the plan: 4 stages cut at [0, 8, 16, 24, 34]" in ended.stdout


def test_thirty_layers_on_four_stages_stay_thirty():
    """M6."""
    plan = laid_out("tp: 4, pp: 4, dp: 1", "model.num_hidden_layers=30")
    assert sum(values(plan, "colossalai")["LAYERS_PER_STAGE"]) == 30
    assert values(plan, "paddle")["BOUNDS"][-1] == 32
