"""The parameter count is held against the size in the model's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.inputs.model import load_model
from planner.inputs.resources import fixture
from planner.inputs.size_names import check_size, sizes_in


def config(preset: str, **changes: Any) -> dict[str, Any]:
    path = fixture("models", preset)
    assert path is not None
    return {**json.loads(path.read_text()), **changes}


def write(folder: Path, data: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Qwen1.5-72B", [72e9]),
        ("Mixtral-8x7B-v0.1", [7e9]),
        ("Qwen3-235B-A22B", [235e9, 22e9]),
        ("Qwen1.5-MoE-A2.7B", [2.7e9]),
        ("bloom-1b7", [1.7e9]),
        ("opt-350m", [350e6]),
        ("Kimi-K2-1T", [1e12]),
        ("TinyLlama-1.1B-intermediate-step-1431k-3T", [1.1e9]),
        ("Qwen2.5-7B-Instruct-1M", [7e9]),
        ("llama-3-8b-4bit", [8e9]),
        ("gpt2", []),
        ("checkpoint-500", []),
        ("0b", []),
        ("8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920", []),
    ],
)
def test_finds_the_sizes_in_a_name(name: str, sizes: list[float]) -> None:
    assert [s.parameters for s in sizes_in(name)] == pytest.approx(sizes)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Llama-2-7b-hf", 6_738_415_616, None),
        ("Llama-3.2-1B", 1_235_814_400, None),
        ("Qwen1.5-7B", 7_721_324_544, None),
        ("Qwen3-0.6B", 596_049_920, None),
        ("bloom-7b1", 7_069_016_064, None),
        ("Mixtral-8x7B", 46_702_792_704, 12_879_925_248),
        ("Mixtral-8x22B", 140_630_071_296, 39_161_468_928),
        ("Qwen3-30B-A3B", 30_532_122_624, 3_353_032_704),
        ("DeepSeek-V2-Lite-16B-A2.4B", 15_706_484_224, 2_661_150_208),
        ("DeepSeek-V3-671B-A37B", 671_026_404_352, 37_552_282_624),
        ("Qwen1.5-MoE-A2.7B", 14_315_784_192, 2_689_173_504),
    ],
)
def test_real_models_agree_with_their_names(name: str, total: int, active: int | None) -> None:
    assert check_size([name], total, active or total, "") == ([], [])


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Qwen1.5-72B", 56_181_792_768, None),
        ("Llama-2-7b", 8_030_261_248, None),
        ("Mixtral-8x7B", 7_241_732_096, None),
        ("Mixtral-8x7B", 66_000_000_000, None),
        ("Qwen3-235B-A22B", 235_093_634_560, 40_000_000_000),
    ],
)
def test_a_count_far_from_the_name_is_a_problem(name: str, total: int, active: int | None) -> None:
    assert len(check_size([name], total, active or total, "")[0]) == 1


def test_qwen_72b_with_the_dimensions_of_56b_stops_with_both_numbers(tmp_path: Path) -> None:
    # A calculator once took these dimensions with a two-matrix MLP for 56.2 B.
    wrong = config("qwen1.5-72b", intermediate_size=16384)
    with pytest.raises(InputError, match=r"Qwen1\.5-72B says 72B .* 56\.18 B .*56,181,792,768"):
        load_model(write(tmp_path / "model", wrong))


def test_qwen_72b_counts_72_billion(tmp_path: Path) -> None:
    folder = write(tmp_path / "Qwen1.5-72B", config("qwen1.5-72b"))
    assert load_model(folder).graph.parameters == 72_287_920_128


def test_the_folder_alone_can_contradict(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama-13b", config("llama-2-7b", _name_or_path=None))
    with pytest.raises(InputError, match="llama-13b says 13b"):
        load_model(folder)


def test_one_agreeing_name_is_enough_and_the_other_is_noted(tmp_path: Path) -> None:
    # Models that were deepened still carry the name of what they started from.
    deep = config("mistral-7b", num_hidden_layers=48)
    notes = load_model(write(tmp_path / "deep-10.7b", deep)).notes
    assert any("Mistral-7B-v0.1 says 7B" in n and "agrees" in n for n in notes)


def test_a_fresh_name_is_never_checked(tmp_path: Path) -> None:
    folder = write(tmp_path / "experiment", config("llama-2-7b", _name_or_path=None))
    assert load_model(folder).graph.parameters == 6_738_415_616
