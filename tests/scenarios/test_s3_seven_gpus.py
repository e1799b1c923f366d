"""S3: one card of eight is dead; seven A100-80 fine-tune Llama-3-8B, 256 rows, two at a time."""

import pytest

from tests.scenarios.terminal import Planned, defects, planned, planner, rows_of

S3 = ("llama-3-8b", "s3-seven-a100", "s3-sft-8b")


@pytest.fixture(scope="module")
def s3() -> Planned:
    return planned(*S3)


@pytest.fixture(scope="module")
def data_parallel() -> Planned:
    """The same job where neither pipelines nor tensor parallelism are wanted."""
    return planned(*S3, "--forbid", "tensor-parallel", "--set", "job.max_pipeline_stages=1")


def degrees(plan_alternative: str) -> set[str]:
    return set(plan_alternative.split())


def test_the_plan_is_sound(s3):
    assert defects(s3.plan, chips=7) == []


def test_the_batch_is_never_changed_silently(s3):
    assert rows_of(s3.plan) == 256


def test_seven_chips_are_planned_as_they_are(s3):
    assert sum(len(s.replicas[0].devices) for p in s3.plan.pipelines for s in p.stages) == 7


def test_seven_replicas_take_36_or_37_rows(data_parallel):
    """256 = 3 · 36 + 4 · 37: in twos, 37 rows are 18 micro-batches and one of a single row.

    No split is faster: 7 · 36 rows are too few, so some replica runs a 19th micro-batch.
    """
    pipelines = data_parallel.plan.pipelines
    assert {p.micro_batch_rows for p in pipelines} == {2}
    loads = sorted((p.micro_batches, p.last_micro_batch_rows) for p in pipelines)
    assert loads == [(18, 2)] * 3 + [(19, 1)] * 4


def test_unequal_replicas_are_flagged_as_needing_weighted_gradients(data_parallel):
    assert "weighted" in data_parallel.text


def test_uneven_data_parallelism_is_called_uneven(data_parallel):
    assert data_parallel.plan.plan_class == "asymmetric"


@pytest.mark.parametrize("batch", [252, 266])
def test_uneven_data_parallelism_offers_the_batches_beside_it(data_parallel, batch):
    assert batch in {a.global_batch for a in data_parallel.plan.alternatives}


def test_alternatives_are_ranked_by_throughput(s3):
    rates = [a.tokens_per_s for a in s3.plan.alternatives]
    assert rates == sorted(rates, reverse=True)


def test_every_alternative_has_a_time(s3):
    assert all(a.step_time_s > 0 for a in s3.plan.alternatives)


def test_a_pipeline_of_seven_stages_is_among_the_alternatives(s3):
    assert any({"pp=7", "dp=1"} <= degrees(a.change) for a in s3.plan.alternatives)


def test_four_chips_with_three_idle_are_among_the_alternatives(s3):
    assert any("3 chips idle" in a.description for a in s3.plan.alternatives)


def test_seven_uneven_replicas_are_among_the_alternatives(s3):
    assert any("dp=7" in a.change and a.global_batch == 256 for a in s3.plan.alternatives), [
        a.change for a in s3.plan.alternatives
    ]


@pytest.mark.parametrize("batch", [252, 266])
def test_other_batches_are_among_the_alternatives(s3, batch):
    assert batch in {a.global_batch for a in s3.plan.alternatives}


def test_no_alternative_beats_the_plan_at_the_same_batch(s3):
    same = [a.step_time_s for a in s3.plan.alternatives if a.global_batch == 256]
    assert min(same) >= s3.plan.estimate.step_time_s


def test_seven_way_tensor_parallelism_is_refused_with_the_degrees_that_are_legal():
    ended = planner("estimate", S3[0], S3[1], "tp: 7", S3[2])
    assert ended.code == 2
    assert "32 attention heads do not divide by 7" in ended.err
    assert "try: one of 1, 2, 4" in ended.err


def test_a_layout_of_seven_replicas_is_priced_and_flagged():
    """36 or 37 rows per replica: gradients must be weighted, or the batch be 252 or 259."""
    ended = planner("estimate", S3[0], S3[1], "dp: 7, micro_batch_rows: 1", S3[2])
    assert ended.code == 0
    assert "gradients must then be weighted by rows" in ended.text
    assert "--global-batch 252 or --global-batch 259" in ended.text


def test_the_certificate_lists_the_tensor_parallel_degrees_that_are_legal(s3):
    assert s3.plan.certificate is not None
    assert "tensor parallel {1, 2, 4} inside an island" in s3.plan.certificate.search_space.allowed
