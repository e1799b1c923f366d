"""Where the time of a step goes, against figures worked out by hand from the plan."""

from __future__ import annotations

import pytest

from planner.terms import bottleneck, shape, tightest, used_chips
from tests.example_plan import example_plan
from tests.small_plans import MIXED, laid_out

LAYOUTS = ("tp: 1, pp: 1, dp: 4", "tp: 2, pp: 2, dp: 1", "tp: 1, pp: 4, recompute: full")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_terms_sum_to_the_step_time(layout: str) -> None:
    plan = laid_out(layout)
    terms = bottleneck(plan).terms
    assert terms.total == pytest.approx(plan.estimate.step_time_s, rel=1e-9)
    assert all(value >= 0 for _, value in terms.items())


def test_terms_of_a_stage_are_its_micro_batches_times_what_it_works_on_one() -> None:
    plan = laid_out("tp: 2, pp: 2, dp: 1, recompute: full")
    slow = bottleneck(plan)
    time, terms = plan.pipelines[0].stages[slow.stage].replicas[0].time_s, slow.terms
    assert terms.recompute == pytest.approx(8 * time.recompute)
    assert terms.tensor_parallel == pytest.approx(
        8 * (time.tp_comm_forward + time.tp_comm_backward)
    )
    assert terms.compute == pytest.approx(
        8 * (time.forward + time.backward_input + time.backward_weight), rel=1e-6
    )
    assert terms.recompute > 0
    assert terms.tensor_parallel > 0


def test_data_parallelism_alone_waits_for_no_pipeline() -> None:
    terms = bottleneck(laid_out("tp: 1, pp: 1, dp: 4")).terms
    assert terms.pipeline == 0
    assert terms.sync > 0


def test_the_slower_chips_are_the_bottleneck_of_an_equal_split() -> None:
    plan = laid_out("tp: 2, pp: 3, layers_per_stage: [2, 2, 2]", MIXED)
    assert bottleneck(plan).chip == "nvidia-v100-sxm2-32gb"
    assert used_chips(plan) == {"nvidia-a100-sxm-80gb": 2, "nvidia-v100-sxm2-32gb": 4}


def test_the_tightest_device_is_the_one_that_keeps_least() -> None:
    tight = tightest(example_plan())
    assert tight.chip == "nvidia-v100-sxm2-32gb"
    assert (
        tight.left
        == tight.usable - tight.peak
        == min(
            r.memory_bytes.usable - r.memory_bytes.peak
            for p in example_plan().pipelines
            for s in p.stages
            for r in s.replicas
        )
    )


def test_the_shape_spans_all_stages() -> None:
    form = shape(example_plan())
    assert (form.pipelines, form.stages, form.tensor_parallel) == (2, (2, 2), (4, 8))
    assert form.recompute == ("none", "full")
