"""The shipped presets count exactly what the published weights hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.inputs.model import load_model
from planner.inputs.resources import fixture_names

# Totals of the published checkpoints (deepseek-v3: without multi-token prediction and without
# the router's correction bias, which is a buffer). GPT-3 was never published: its own arithmetic.
PARAMETERS = {
    "bloom-176b": 176_247_271_424,
    "clip-vit-l14": 427_616_513,
    "deepseek-v3": 671_026_404_352,
    "glm4-9b": 9_400_279_040,
    "gpt-neox-20b": 20_554_567_680,
    "gpt2": 124_439_808,
    "gpt3-175b": 174_604_259_328,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3-405b": 405_853_388_800,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "opt-13b": 12_853_473_280,
    "opt-350-gpt2": 407_431_168,  # a GPT of its size with a head of its own
    "opt-350m": 331_196_416,
    "qwen1.5-72b": 72_287_920_128,
    "qwen2-7b": 7_615_616_512,
    "qwen3-32b": 32_762_123_264,
    "qwen3-8b": 8_190_735_360,
    "qwen3-moe-235b-a22b": 235_093_634_560,
    "bert-base": 109_482_240,
    "t5-v1.1-base": 247_577_856,
    "unet-256": 31_030_658,
}

GRAPHS = {"bert-base", "clip-vit-l14", "t5-v1.1-base", "unet-256"}
"""Shipped layer graphs; all others are decoders."""


def test_every_shipped_model_has_a_known_count() -> None:
    assert tuple(sorted(PARAMETERS)) == fixture_names("models")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_preset_counts_exactly(name: str) -> None:
    assert load_model(name).graph.parameters == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("mixtral-8x7b", 12_879_925_248),
        ("deepseek-v3", 37_552_282_624),
        ("qwen3-moe-235b-a22b", 22_190_763_520),
        ("llama-3-8b", 8_030_261_248),
    ],
)
def test_a_token_of_a_mixture_passes_only_its_experts(name: str, active: int) -> None:
    assert load_model(name).graph.active_parameters == active


def test_gpt3_counts_as_its_paper_says() -> None:
    assert round(load_model("gpt3-175b").graph.parameters / 1e9, 1) == 174.6


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - GRAPHS))
def test_a_decoder_is_a_chain_from_its_embedding_to_lm_head(name: str) -> None:
    graph = load_model(name).graph
    hidden = graph.layers[0].shape.hidden
    chain = [(i, i + 1, hidden) for i in range(len(graph.layers) - 1)]
    assert [(e.source, e.target, e.elements_per_token) for e in graph.edges] == chain
    assert graph.layers[-1].name == "lm_head"


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_presets_assume_no_default(name: str) -> None:
    assert not [n for n in load_model(name).notes if "by default" in n]


def test_names_are_module_paths_of_the_family() -> None:
    first = {n: [x.name for x in load_model(n).graph.layers[:2]] for n in ("llama-3-8b", "gpt2")}
    assert first == {
        "llama-3-8b": ["model.embed_tokens", "model.layers.0"],
        "gpt2": ["transformer.wte", "transformer.h.0"],
    }


def test_a_preset_wins_over_a_folder_of_its_name_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("gpt2").source == "gpt2"
    assert os.listdir(tmp_path) == ["gpt2"]


def test_an_unknown_preset_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(InputError) as caught:
        load_model("llama-3-7b")
    remedy = caught.value.problems[0].remedy
    assert remedy.startswith("did you mean llama-3-70b or llama-3-8b")
    assert all(name in remedy for name in fixture_names("models"))


def test_a_hub_name_is_not_downloaded_but_points_to_the_preset() -> None:
    with pytest.raises(InputError, match=r"nothing is downloaded.*\n.*llama-2-7b"):
        load_model("meta-llama/Llama-2-7b")


def test_multi_token_prediction_is_left_out_and_said() -> None:
    assert any("multi-token prediction" in n for n in load_model("deepseek-v3").notes)
