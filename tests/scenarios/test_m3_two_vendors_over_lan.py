"""M3: an RTX 5090 takes 289 s alone; with an AMD Strix Halo over the LAN it took 184 s."""

import json

import pytest

from tests.scenarios.terminal import Planned, defects, planned, planner, replicas

M3 = ("opt-350m", "m3-lan", "m3-lan")
UNTIED = ("--set", "model.tie_word_embeddings=false")
"""A head of its own: a shared one lies at both ends of the pipeline, and so on both vendors."""


@pytest.fixture(scope="module")
def m3() -> Planned:
    return planned(*M3, *UNTIED, "--gap", "0.05")


def test_the_plan_is_sound(m3):
    assert defects(m3.plan, chips=2) == []


def test_the_5090_alone_takes_what_was_measured(m3):
    assert m3.baseline("1 x GeForce RTX 5090") == pytest.approx(289, rel=0.005)


def test_both_together_are_faster_than_the_5090_alone(m3):
    assert {r.chip for r in replicas(m3.plan)} == {"rtx5090-32gb", "strix-halo-96gb"}
    # the poster measured 184 s together; blocks in proportion to the rates, not half of them each
    assert m3.plan.estimate.step_time_s == pytest.approx(184, rel=0.02)


def test_no_plan_is_faster_than_both_rates_together(m3):
    assert m3.plan.estimate.step_time_s > 1000 / (1000 / 289 + 1.9746) * 0.999


def test_the_vendors_are_joined_by_one_pipeline_edge(m3):
    (pipeline,) = m3.plan.pipelines
    assert [len(s.replicas) for s in pipeline.stages] == [1, 1]
    first, second = (s.replicas[0].chip for s in pipeline.stages)
    assert first != second
    assert [g for g in m3.plan.sync_groups if len(g.members) > 1] == []


def test_the_edge_is_a_hop_over_tcp(m3):
    """2.1 MB of a row at less than 2.5 Gb/s."""
    stage = m3.plan.pipelines[0].stages[0]
    rows = m3.plan.pipelines[0].micro_batch_rows
    assert stage.hop_to_next_s > rows * 1024 * 1024 * 2 / (2.5e9 / 8)
    assert "hosts are joined by TCP" in m3.text


def test_a_split_by_speed_comes_near_the_184_seconds_that_were_measured():
    layout = (
        "pp: 2, dp: 1, layers_per_stage: [9, 15], chips: [strix-halo-96gb, rtx5090-32gb], zero: 0"
    )
    ended = planner("estimate", M3[0], M3[1], layout, M3[2], *UNTIED, "--format", "json")
    assert json.loads(ended.out)["estimate"]["step_time_s"] == pytest.approx(184, rel=0.05)


@pytest.mark.parametrize("target", ["megatron", "deepspeed", "torchtitan", "accelerate"])
def test_what_cannot_join_vendors_refuses_by_name(m3, target, tmp_path):
    ended = planner("export", m3.file, "--to", target, "-o", tmp_path / target)
    assert ended.code == 2
    assert f"refused by {target}" in ended.text
    assert "chips of several vendors: NVIDIA and AMD" in ended.text


def test_flagscale_refuses_the_card_that_it_does_not_drive(m3, tmp_path):
    ended = planner("export", m3.file, "--to", "flagscale", "-o", tmp_path / "flagscale")
    assert ended.code == 2
    assert "STRIX-HALO-96GB" in ended.text


def test_the_reference_runtime_takes_it(m3, tmp_path):
    assert planner("export", m3.file, "--to", "torch", "-o", tmp_path / "torch").code == 0
