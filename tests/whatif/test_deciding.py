"""A fleet is decided against a target: a plan proves yes, a bound proves no; first plans."""

from __future__ import annotations

import pytest

from planner.baselines import equal_splits
from planner.beside import chips_used
from planner.solve import prepare
from planner.whatif import Effort, PlanInputs, plan_inputs
from planner.whatif.deciding import decide
from planner.whatif.evaluation import decide_inputs
from planner.whatif.rectangles import _replicas, fastest_rectangle, least_rectangle
from planner.whatif.replace import least_share
from tests.small_plans import small_inputs

EFFORT = Effort(gap=0.05)
CLUSTERS = ("4xA100-SXM-80GB", "3x2xV100-SXM2-32GB @ 100Gb/s")


def prepared(inputs: PlanInputs):
    return prepare(inputs.model, inputs.cluster, inputs.job)


def every_rectangle(context):
    """``(exact picoseconds, chips)`` of all rectangular layouts on any number of chips."""
    found, _ = equal_splits(context.pricer, context.options, (0,), all_chips=False)
    return [(e.priced.exact_ps, e.tp * e.pp * e.dp) for e in found]


# -- first plans ------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_the_fastest_rectangle_is_the_fastest_of_all_that_there_are(cluster: str) -> None:
    context = prepared(small_inputs(cluster))
    found = fastest_rectangle(context)
    assert found.priced.exact_ps == min(every_rectangle(context))[0]


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("stretch", [1.0, 1.3, 2.2, 5.0])
def test_the_least_rectangle_uses_the_fewest_chips_that_are_fast_enough(
    cluster: str, stretch: float
) -> None:
    context = prepared(small_inputs(cluster))
    every = every_rectangle(context)
    target = int(min(every)[0] * stretch)
    found = least_rectangle(context, target)
    assert found.priced.exact_ps <= target
    assert chips_used(found) == min(chips for time, chips in every if time <= target)


def test_no_rectangle_is_faster_than_the_fastest() -> None:
    context = prepared(small_inputs())
    best = fastest_rectangle(context).priced.exact_ps
    assert least_rectangle(context, best) is not None
    assert least_rectangle(context, best - 1) is None


def test_a_rectangle_may_not_leave_chips_idle_where_the_job_forbids_it() -> None:
    # 5 chips: nothing but 5 stages or 5 replicas of one chip uses all of them
    inputs = small_inputs("5x1xV100-SXM2-32GB @ 10Gb/s", sets="techniques.idle_chips=false")
    found = fastest_rectangle(prepared(inputs))
    assert chips_used(found) == 5


def test_the_most_replicas_that_the_batch_feeds_are_tried() -> None:
    """Eleven rows in pairs: four replicas and five both run two micro-batches, five hold less."""
    assert list(_replicas(11, 2, 100)) == [(1, 6), (2, 3), (3, 2), (5, 2)]
    assert list(_replicas(11, 2, 4)) == [(1, 6), (2, 3), (3, 2), (4, 2)]


# -- decisions --------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_target_is_decided_as_the_best_plan_and_its_bound_decide_it(cluster: str) -> None:
    inputs = small_inputs(cluster)
    best = plan_inputs(inputs, EFFORT).plan
    reached, bound = best.estimate.step_time_s, best.certificate.lower_bound_s
    slow = decide(inputs, 1.5 * reached, EFFORT)
    assert slow.plan.estimate.step_time_s <= 1.5 * reached
    same = decide(inputs, reached, EFFORT)
    assert same.plan.estimate.step_time_s <= reached
    impossible = decide(inputs, 0.95 * bound, EFFORT)
    assert impossible.bound_s > 0.95 * bound
    assert impossible.plan.estimate.step_time_s > 0.95 * bound


def test_without_a_target_the_plan_is_as_good_as_any() -> None:
    inputs = small_inputs()
    found, usual = decide(inputs, None, EFFORT), plan_inputs(inputs, EFFORT).plan
    certificate = found.plan.certificate
    assert found.bound_s == pytest.approx(certificate.lower_bound_s)
    assert found.bound_s <= usual.certificate.objective_s
    assert found.plan.estimate.step_time_s <= usual.estimate.step_time_s * (1 + EFFORT.gap)


def test_decisions_are_the_same_again() -> None:
    inputs = small_inputs(CLUSTERS[1])
    first, second = (decide(inputs, None, EFFORT) for _ in range(2))
    assert first.plan == second.plan
    assert first.bound_s == second.bound_s


def test_what_fits_nowhere_is_proven_to() -> None:
    # 6 layers of 10 billion parameters: 120 GB of weights in half precision on 32 GB
    inputs = small_inputs("1xV100-SXM2-32GB", parameters=10**10)
    assert decide(inputs, 1.0, EFFORT).infeasible
    found = decide_inputs(inputs, 1e-3, EFFORT)
    assert (found.outcome.status, found.plan) == ("infeasible", None)


def test_inputs_that_contradict_one_another_are_an_outcome() -> None:
    inputs = small_inputs("4xV100-SXM2-32GB", sets="precision=bf16")
    assert decide_inputs(inputs, None, EFFORT).outcome.status == "invalid"


def test_the_least_share_is_found_to_a_twentieth() -> None:
    asked = []

    def good(share: float) -> bool:
        asked.append(share)
        return share >= 0.3

    found = least_share(good, 1.0)
    assert 0.3 <= found <= 0.3 * 1.05
    assert len(asked) <= 9  # 64 = 1.05^85, and 2^7 > 85
    assert least_share(lambda _: True, 1.0) == 1 / 64
    assert least_share(lambda _: False, 1.0) == 1.0
