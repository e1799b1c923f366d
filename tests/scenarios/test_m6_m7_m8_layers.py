"""M6, M7, M8: no layer is lost, no stage is averaged, no parameter is miscounted."""

import json
from pathlib import Path

import pytest

from planner.inputs.model import load_model
from planner.inputs.resources import fixture
from planner.plan import Plan
from tests.scenarios.terminal import defects, planned, planner

BLOCKS = 30
THIRTY = ("--set", f"model.num_hidden_layers={BLOCKS}")


def blocks_per_stage(plan: Plan) -> list[list[int]]:
    """Blocks of every stage: layers less the embedding (first) and the head (last)."""
    last = len(plan.layer_order) - 1
    return [
        [min(end, last) - max(first, 1) for first, end in (s.layers for s in p.stages)]
        for p in plan.pipelines
    ]


# --- M6: Megatron-LM trained 28 of 30 layers on four stages, silently ------------------------


@pytest.fixture(scope="module")
def four_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("m6") / "plan.json"
    ended = planner("estimate", "llama-2-7b", "4xA100-SXM-80GB", "pp: 4", *THIRTY,
                    "--global-batch", "16", "-o", file)  # fmt: skip
    assert ended.code == 0
    return file


def test_m6_thirty_blocks_on_four_stages_are_still_thirty_when_read_back(four_stages):
    plan = Plan.model_validate_json(four_stages.read_text(encoding="utf-8"))
    assert blocks_per_stage(plan) == [[8, 8, 7, 7]]


def test_m6_the_file_is_verified_from_scratch(four_stages):
    assert planner("check", four_stages).code == 0


def test_m6_a_split_that_drops_two_blocks_is_refused():
    layout = "pp: 4, layers_per_stage: [7, 7, 7, 7]"
    ended = planner("estimate", "llama-2-7b", "4xA100-SXM-80GB", layout, *THIRTY)
    assert ended.code == 2
    assert "sums to 28" in ended.err
    assert "has 30 blocks" in ended.err


def test_m6_a_file_that_lost_two_blocks_is_refused(four_stages, tmp_path):
    plan = json.loads(four_stages.read_text(encoding="utf-8"))
    plan["pipelines"][0]["stages"][-1]["layers"][0] += 2
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(plan))
    assert planner("check", edited).code == 2


def test_m6_the_search_covers_all_thirty_as_well():
    """Without tensor parallelism 30 blocks need at least three cards of 40 GB."""
    found = planned("llama-2-7b", "4xA100-SXM-40GB", *THIRTY, "--global-batch", "16",
                    "--forbid", "tensor-parallel")  # fmt: skip
    assert defects(found.plan, chips=4) == []
    assert all(sum(stages) == BLOCKS for stages in blocks_per_stage(found.plan))


# --- M7: [1, 2, 2, 3] of eight blocks: the last stage, not the average -----------------------

HIDDEN, INNER, VOCABULARY = 16, 32, 100
BLOCK = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER + 2 * HIDDEN
"""Attention, gated MLP and two norms: 2,592 parameters."""

TABLE = VOCABULARY * HIDDEN
STAGES = [TABLE + BLOCK, 2 * BLOCK, 2 * BLOCK, 3 * BLOCK + HIDDEN + TABLE]
"""Parameters: embedding with the first stage; final norm and head with the last."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("m7")
    config = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": 8, "num_attention_heads": 2, "vocab_size": VOCABULARY,
        "max_position_embeddings": 128, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "tiny.json").write_text(json.dumps(config))
    layout = "pp: 4, layers_per_stage: [1, 2, 2, 3], zero: 0"
    ended = planner("estimate", folder / "tiny.json", "4xA100-SXM-80GB", layout,
                    "--global-batch", "8", "--seq-len", "128",
                    "-o", folder / "plan.json")  # fmt: skip
    assert ended.code == 0
    return Plan.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))


def parameters(plan: Plan) -> list[int]:
    """Parameters of every stage: two bytes each in 16 bits."""
    return [s.replicas[0].memory_bytes.parameters // 2 for s in plan.pipelines[0].stages]


def test_m7_every_stage_has_its_own_parameters(uneven):
    assert parameters(uneven) == STAGES


def test_m7_the_most_loaded_stage_is_not_the_average(uneven):
    assert (max(parameters(uneven)), sum(STAGES) // 4) == (9_392, 5_988)


def test_m7_optimizer_state_follows_the_stage(uneven):
    found = [s.replicas[0].memory_bytes.optimizer for s in uneven.pipelines[0].stages]
    assert found == [12 * n for n in STAGES]


# --- M8: a gated MLP has three matrices -------------------------------------------------------


def test_m8_qwen_72b_has_72_billion_parameters():
    assert load_model("qwen1.5-72b").graph.parameters == 72_287_920_128


def test_m8_a_count_that_contradicts_the_name_stops_the_plan(tmp_path):
    """With the MLP of 56 billion in all, the name says 72."""
    config = json.loads(Path(str(fixture("models", "qwen1.5-72b"))).read_text())
    config["intermediate_size"] = config["intermediate_size"] * 2 // 3
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    ended = planner("plan", file, "8xA100-SXM-80GB", "-o", tmp_path / "plan.json")
    assert ended.code == 2
    assert "says 72B but the configuration has 56.18 B parameters" in ended.err
    assert not (tmp_path / "plan.json").exists()
