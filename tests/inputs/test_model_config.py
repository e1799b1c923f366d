"""Hugging Face configurations: exact counts by architecture, and the traps of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from costmodels.shapes import AttentionCore, LayerShape, Matmul
from planner.errors import InputError
from planner.graphs.model_graph import ModelGraph
from planner.inputs.document import Document
from planner.inputs.hf_config import read_hf
from planner.inputs.hf_families import FAMILIES
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides

TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}
DEEPSEEK = {
    **TINY,
    "model_type": "deepseek_v3",
    "num_hidden_layers": 3,
    "moe_intermediate_size": 4,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 5,
    "kv_lora_rank": 3,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 1,
    "v_head_dim": 2,
}
QWEN_MOE = {
    **TINY,
    "model_type": "qwen3_moe",
    "head_dim": 2,
    "moe_intermediate_size": 4,
    "num_experts": 6,
    "num_experts_per_tok": 2,
}
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 4, "vocab_size": 32}
OPT = {**TINY, "model_type": "opt", "ffn_dim": 16}
OPT.pop("intermediate_size")


def build(config: dict[str, Any], **changes: Any) -> ModelGraph:
    data = {**config, **changes}
    return read_hf(Document("config.json", data), data).graph


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in names}


def refused(config: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        build(config, **changes)
    return str(caught.value)


def block(graph: ModelGraph, index: int = 0) -> LayerShape:
    return graph.layers[1 + index].shape


def matmul(shape: LayerShape, name: str) -> Matmul:
    return next(m for m in shape.matmuls if m.name.endswith(name))


def write(folder: Path, name: str, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config, indent=1))
    return folder / name


def test_a_tiny_llama_counts_as_worked_out_by_hand() -> None:
    attention, mlp, two_norms = 4 * 8 * 8, 3 * 8 * 16, 2 * 8
    assert build(TINY).parameters == 2 * (attention + mlp + two_norms) + 2 * 32 * 8 + 8


def test_absent_key_value_heads_mean_all_heads() -> None:
    assert block(build(TINY)).attention == AttentionCore(4, 4, 2, 2)


def test_null_key_value_heads_and_head_dim_mean_absent() -> None:
    assert build(TINY, num_key_value_heads=None, head_dim=None) == build(TINY)


def test_fewer_key_value_heads_shrink_only_keys_and_values() -> None:
    shape = block(build(TINY, num_key_value_heads=2))
    widths = [matmul(shape, f"{p}_proj").outputs for p in "qkvo"]
    assert widths == [8, 4, 4, 8]


def test_head_dim_may_differ_from_hidden_over_heads() -> None:
    shape = block(build(TINY, head_dim=6))
    assert (matmul(shape, "q_proj").outputs, matmul(shape, "o_proj").inputs) == (24, 24)


def test_qwen3_norms_queries_and_keys_per_head() -> None:
    plain = build(TINY, head_dim=2).parameters
    assert build(TINY, model_type="qwen3", head_dim=2).parameters == plain + 2 * 2 * 2


def test_qwen3_without_head_dim_has_the_library_default_of_128() -> None:
    assert block(build(TINY, model_type="qwen3")).attention == AttentionCore(4, 4, 128, 128)


def test_qwen2_has_a_bias_on_q_k_and_v() -> None:
    assert build(TINY, model_type="qwen2").parameters == build(TINY).parameters + 2 * 3 * 8


def test_llama_attention_bias_is_on_the_output_too() -> None:
    assert build(TINY, attention_bias=True).parameters == build(TINY).parameters + 2 * 4 * 8


def test_glm4_has_two_more_norms_than_glm() -> None:
    glm4, glm = (build(TINY, model_type=t, head_dim=2).parameters for t in ("glm4", "glm"))
    assert glm4 == glm + 2 * 2 * 8


def test_glm_bias_is_not_on_the_output() -> None:
    biased = build(TINY, model_type="glm4", head_dim=2, attention_bias=True)
    assert biased.parameters == build(TINY, model_type="glm4", head_dim=2).parameters + 2 * 3 * 8


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_megatron_splits_by_column_then_by_row(model_type: str) -> None:
    samples = {"gpt2": {**GPT2, "n_positions": 16}, "opt": OPT, "qwen3_moe": QWEN_MOE}
    experts = {"num_local_experts": 4, "shared_expert_intermediate_size": 4, "num_experts": 4}
    config = samples.get(model_type, {**DEEPSEEK, **experts, "n_routed_experts": 4})
    graph = build(config, model_type=model_type)
    for layer in graph.layers[1:-1]:
        wide = {m.split for m in layer.shape.matmuls if m.split != "replicated"}
        assert wide == {"column", "row"}


def test_a_fused_gate_and_up_counts_like_two() -> None:
    assert build(TINY, model_type="phi3").parameters == build(TINY).parameters


def test_gpt2_inner_width_is_four_times_hidden_when_null() -> None:
    shape = block(build(GPT2, n_positions=16, n_inner=None))
    assert matmul(shape, "c_fc").outputs == 32


def test_gpt2_positions_are_a_table() -> None:
    longer, shorter = (build(GPT2, n_positions=n).parameters for n in (20, 16))
    assert longer - shorter == 4 * 8


def test_opt_positions_have_two_extra_rows() -> None:
    assert build(OPT).layers[0].shape.table_parameters == 32 * 8 + (64 + 2) * 8


def test_opt_with_a_narrow_embedding_projects_in_and_out() -> None:
    graph = build(OPT, word_embed_proj_dim=4, do_layer_norm_before=False)
    first, last = graph.layers[0].shape, graph.layers[-1].shape
    assert matmul(first, "project_in").parameters == matmul(last, "project_out").parameters == 32
    assert matmul(last, "lm_head").inputs == 4
    assert last.vector_parameters == 0  # post-norm: no final norm


def test_bloom_norms_its_embedding_and_needs_no_positions() -> None:
    data = {"n_embed": 8, "n_layer": 2, "num_attention_heads": 4, "vocab_size": 32}
    first = build({"model_type": "bloom", **data}).layers[0].shape
    assert (first.table_parameters, first.vector_parameters) == (32 * 8, 2 * 8)


def test_tied_embeddings_are_computed_twice_and_counted_once() -> None:
    tied, untied = build(TINY, tie_word_embeddings=True), build(TINY)
    assert tied.layers == untied.layers
    assert tied.tied == ((0, 3),)
    assert untied.parameters - tied.parameters == 32 * 8


@pytest.mark.parametrize(("model_type", "tied"), [("gpt2", True), ("llama", False)])
def test_each_family_has_its_own_default_for_tying(model_type: str, tied: bool) -> None:
    config = {**GPT2, "n_positions": 16} if model_type == "gpt2" else TINY
    assert bool(build(config).tied) is tied


def test_deepseek_latent_attention_counts_by_its_ranks() -> None:
    shape = block(build(DEEPSEEK))
    attention = 8 * 5 + 5 * 4 * 3 + 8 * (3 + 1) + 3 * 4 * (2 + 2) + 4 * 2 * 8
    assert sum(m.parameters for m in shape.matmuls if "self_attn" in m.name) == attention
    assert shape.attention == AttentionCore(4, 4, 3, 2)


def test_deepseek_down_projections_stay_whole_under_tensor_parallel() -> None:
    shape = block(build(DEEPSEEK))
    kept = [m.name for m in shape.matmuls if m.split == "replicated"]
    assert kept == ["self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"]


def test_deepseek_head_dim_is_not_read() -> None:
    assert build(DEEPSEEK, head_dim=64) == build(DEEPSEEK)


def test_deepseek_without_query_rank_projects_queries_directly() -> None:
    shape = block(build(DEEPSEEK, q_lora_rank=None))
    assert matmul(shape, "q_proj").parameters == 8 * 4 * 3


def test_deepseek_must_say_whether_queries_are_compressed() -> None:
    assert "q_lora_rank: is missing" in refused(without(DEEPSEEK, "q_lora_rank"))


def test_leading_blocks_are_dense_and_later_ones_routed() -> None:
    graph = build(DEEPSEEK)
    assert [block(graph, i).is_moe for i in range(3)] == [False, True, True]


def test_shared_experts_are_one_wide_mlp() -> None:
    shape = block(build(DEEPSEEK, n_shared_experts=2), 1)
    assert matmul(shape, "shared_experts.up_proj").outputs == 2 * 4


def test_experts_are_stored_whole_and_used_in_part() -> None:
    up = matmul(block(build(DEEPSEEK), 1), "mlp.experts.up_proj")
    assert (up.parameters, up.active_parameters) == (6 * 8 * 4, 2 * 8 * 4)


def test_sparse_step_and_mlp_only_layers_choose_the_routed_blocks() -> None:
    graph = build(QWEN_MOE, num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3])
    assert [block(graph, i).is_moe for i in range(6)] == [False, True, False, False, False, True]


def test_experts_may_be_called_local() -> None:
    renamed = {**without(QWEN_MOE, "num_experts"), "num_local_experts": 6}
    assert build(renamed) == build(QWEN_MOE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_attention_heads": 3}, "num_attention_heads: 3 does not divide hidden_size 8"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention"),
        ({"hidden_size": "8"}, "hidden_size: '8' should be a whole number"),
        ({"hidden_size": 8.0}, "hidden_size: 8.0 should be a whole number"),
        ({"vocab_size": True}, "vocab_size: true should be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 should be greater than 0"),
        ({"num_hidden_layers": 10**9}, "should be less than or equal to 10000"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: 'no' should be"),
        ({"n_layer": 5}, "n_layer: 5 contradicts num_hidden_layers: 2"),
        ({"is_encoder_decoder": True}, "only decoders are read"),
        ({"_name_or_path": 3}, "_name_or_path: 3 should be text"),
        ({"model_type": None}, "model_type: is missing"),
        ({"model_type": "llama4"}, "did you mean llama?"),
        ({"model_type": "chatglm"}, "supported: bloom, deepseek_v2, deepseek_v3"),
    ],
)
def test_refuses_values_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    assert said in refused(TINY, **changes)


def test_a_misspelt_key_does_not_fall_back_to_a_default() -> None:
    assert "num_key_value_head: unknown key\n    try: did you mean num_key_value_heads?" in refused(
        TINY, num_key_value_head=2
    )


def test_more_active_experts_than_experts_are_refused() -> None:
    assert "7 is more than n_routed_experts 6" in refused(DEEPSEEK, num_experts_per_tok=7)


def test_more_dense_layers_than_layers_are_refused() -> None:
    assert "9 is more than num_hidden_layers 3" in refused(DEEPSEEK, first_k_dense_replace=9)


def test_all_problems_of_a_config_come_at_once(tmp_path: Path) -> None:
    bad = {**without(TINY, "vocab_size"), "hidden_size": -8, "num_hidden_layers": 0}
    path = write(tmp_path, "config.json", bad)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert [p.where.removeprefix(str(path)) for p in caught.value.problems] == [
        ":1: vocab_size",
        ":3: hidden_size",
        ":4: num_hidden_layers",
    ]


def test_keys_that_do_not_matter_are_ignored() -> None:
    assert build(TINY, rope_theta=1e4, torch_dtype="bfloat16", transformers_version="4") == build(
        TINY
    )


def test_assumed_defaults_are_listed() -> None:
    notes = read_hf(Document("c", TINY), TINY).notes
    assert notes[0].startswith("not in the file, so as llama has it by default: tie_word")
    assert "num_key_value_heads=4" in notes[0]


def test_a_sliding_window_is_said_to_be_ignored() -> None:
    data = {**TINY, "model_type": "mistral", "sliding_window": 16}
    assert any("sliding_window=16" in n for n in read_hf(Document("c", data), data).notes)


def test_an_unnamed_model_is_called_by_family_and_size() -> None:
    assert build(TINY).name == "llama 1832"


def test_the_folder_names_the_model_but_not_its_content(tmp_path: Path) -> None:
    first = write(tmp_path / "mine", "config.json", TINY)
    second = write(tmp_path / "yours", "config.json", TINY)
    a, b = load_model(first.parent), load_model(second)
    assert (a.name, b.name) == ("mine", "yours")
    assert a.resolved == b.resolved


def test_the_same_model_written_differently_resolves_equally() -> None:
    full = {**TINY, "num_key_value_heads": 4, "head_dim": 2, "attention_bias": False}
    a, b = (read_hf(Document("c", d), d).resolved for d in (TINY, full))
    assert a == b


def test_a_hub_cache_folder_is_called_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--some--tiny-llama" / "snapshots" / "0123abcd"
    assert load_model(write(folder, "config.json", TINY)).name == "tiny-llama"


def test_a_value_set_by_hand_changes_the_model_and_silences_its_name() -> None:
    overrides = parse_overrides(["model.num_hidden_layers=4", "job.seq_len=8"])
    changed = load_model("llama-3-8b", overrides)
    assert len(changed.graph.layers) == 6
    assert any("size in the name was not checked" in n for n in changed.notes)


def test_a_key_that_the_file_lacks_can_be_set_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path, "tiny.json", TINY)
    changed = load_model(path, parse_overrides(["model.tie_word_embeddings=true"]))
    assert changed.graph.tied == ((0, 3),)


def test_a_key_that_no_config_has_cannot_be_set_by_hand() -> None:
    with pytest.raises(InputError, match="did you mean num_hidden_layers"):
        load_model("llama-3-8b", parse_overrides(["model.num_hidden_layer=4"]))
