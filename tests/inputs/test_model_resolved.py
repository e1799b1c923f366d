"""Resolved models: plain JSON from which exactly the same graph is rebuilt."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.inputs.document import Document
from planner.inputs.hf_config import hf_from_resolved, read_hf
from planner.inputs.hf_families import FAMILIES
from planner.inputs.model import load_model, model_from_resolved
from planner.inputs.resources import fixture_names

widths = st.integers(1, 6)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Valid small configurations of every family."""
    model_type = draw(st.sampled_from(sorted(FAMILIES)))
    kv_heads, share, head_dim = draw(widths), draw(widths), draw(widths)
    heads = kv_heads * share
    experts = draw(widths)
    layers = draw(st.integers(1, 4))
    optional = {
        "num_key_value_heads": kv_heads,
        "head_dim": draw(widths),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "word_embed_proj_dim": draw(widths),
        "do_layer_norm_before": draw(st.booleans()),
        "use_qk_norm": draw(st.booleans()),
        "n_inner": None,
        "n_shared_experts": draw(st.integers(0, 2)),
        "first_k_dense_replace": draw(st.integers(0, layers)),
        "_name_or_path": draw(st.sampled_from(["org/tiny", "./x/", "", None])),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(optional))))
    config = {
        "model_type": model_type,
        "hidden_size": heads * head_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": draw(widths),
        "max_position_embeddings": 16,
        **{k: optional[k] for k in sorted(chosen)},
    }
    if model_type == "gpt2":
        config["n_positions"] = config.pop("max_position_embeddings")
    elif model_type == "opt":
        config["ffn_dim"] = draw(widths)
    else:
        config["intermediate_size"] = draw(widths)
    config |= {
        "moe_intermediate_size": draw(widths),
        "shared_expert_intermediate_size": draw(widths),
        "num_experts_per_tok": draw(st.integers(1, experts)),
    }
    config["n_routed_experts" if "deepseek" in model_type else "num_experts"] = experts
    ranks = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return config | {r: draw(widths) for r in ranks} | {"q_lora_rank": draw(widths | st.none())}


@given(configs())
def test_the_resolved_values_rebuild_the_same_graph(config: dict[str, Any]) -> None:
    model = read_hf(Document("c", config), config)
    assert model_from_resolved(json.loads(json.dumps(model.resolved))) == model.graph


@given(configs())
def test_resolving_twice_changes_nothing(config: dict[str, Any]) -> None:
    resolved = read_hf(Document("c", config), config).resolved
    again = {**dict(resolved["config"]), "_name_or_path": resolved["name"]}  # type: ignore[arg-type]
    assert read_hf(Document("c", again), again).resolved == resolved


@given(configs())
def test_the_layers_add_up_to_the_model(config: dict[str, Any]) -> None:
    graph = read_hf(Document("c", config), config).graph
    last = graph.layers[-1].shape.matmuls[-1].parameters if graph.tied else 0
    assert graph.parameters == sum(x.shape.parameters for x in graph.layers) - last
    assert graph.active_parameters <= graph.parameters


@pytest.mark.parametrize(
    "resolved",
    [
        {},
        {"format": "hugging-face"},
        {"format": "hugging-face", "name": "x", "config": {"model_type": "llama"}},
        {"format": "layer-graph", "name": "x"},
    ],
)
def test_damaged_resolved_values_are_an_input_error(resolved: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        model_from_resolved(resolved)


@pytest.mark.parametrize("name", fixture_names("models"))
def test_every_preset_survives_json(name: str) -> None:
    model = load_model(name)
    assert model_from_resolved(json.loads(json.dumps(model.resolved))) == model.graph


def test_resolved_values_of_a_config_belong_to_its_reader() -> None:
    model = load_model("qwen3-moe-235b-a22b")
    assert hf_from_resolved(model.resolved) == model.graph
