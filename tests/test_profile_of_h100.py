"""The shipped profile that was measured on an H100: it plans, and its layers add up."""

import pytest

import planner
from planner.estimate import estimate, read_layout


@pytest.fixture(scope="module")
def profile():
    return planner.load_profile("llama-3-8b-h100")


def priced(profile, layout, batch):
    model = planner.load_model("llama-3-8b")
    cluster = planner.load_cluster("8xH100-SXM-80GB")
    from planner.inputs.overrides import parse_overrides

    job = planner.load_job(None, parse_overrides([f"job.global_batch={batch}"]))
    return estimate(model, cluster, job, read_layout(layout), profile=profile).plan


def test_the_profile_says_what_it_was_measured_on(profile):
    assert "H100 80GB HBM3" in profile.spec.source
    assert (profile.spec.seq_len, profile.spec.precision) == (4096, "bf16")
    assert [chip.chip for chip in profile.spec.chips] == ["H100-SXM-80GB"]


def test_more_rows_take_longer_and_less_than_in_proportion(profile):
    rows = {
        r.micro_batch_rows: r.forward_s + r.backward_s
        for r in profile.spec.chips[0].rows
        if r.layer == [1, 33] or r.layer == (1, 33)
    }
    assert sorted(rows) == [1, 2, 4]
    assert rows[1] < rows[2] < 2 * rows[1]
    assert rows[2] < rows[4] < 2.05 * rows[2]


def test_a_stage_takes_the_sum_of_its_measured_layers(profile):
    plan = priced(profile, "pp: 8, dp: 1, micro_batch_rows: 1", 16)
    stage = plan.pipelines[0].stages[3]
    blocks = stage.layers[1] - stage.layers[0]
    measured = 0.004413 * blocks
    assert stage.replicas[0].time_s.forward == pytest.approx(measured, rel=1e-3)


def test_the_profile_of_the_card_agrees_with_the_formulas_within_a_fifth(profile):
    layout = "pp: 8, dp: 1, micro_batch_rows: 1"
    measured = priced(profile, layout, 64).estimate.step_time_s
    model = planner.load_model("llama-3-8b")
    cluster = planner.load_cluster("8xH100-SXM-80GB")
    from planner.inputs.overrides import parse_overrides

    job = planner.load_job(
        None, parse_overrides(["job.global_batch=64", "job.seq_len=4096", "job.precision=bf16"])
    )
    formulas = estimate(model, cluster, job, read_layout(layout)).plan.estimate.step_time_s
    assert measured == pytest.approx(formulas, rel=0.2)
