"""M1, M2: unlike cards of known rates. Equal batches wait for the slowest card."""

import pytest

from tests.scenarios.terminal import Planned, defects, planned, rows_of


@pytest.fixture(scope="module")
def flodl(images) -> Planned:
    """A GTX 1060 beside an RTX 5060 Ti; 1,000 rows are one epoch."""
    return planned(images, "m1-flodl", "m1-flodl")


@pytest.fixture(scope="module")
def timm(images) -> Planned:
    """Two A6000 at 750 images/s and two RTX 2080 Ti at 500; 1,000 images per step."""
    return planned(images, "m2-timm", "m2-timm")


def rows_by_chip(plan: Planned) -> dict[str, int]:
    rows: dict[str, int] = {}
    for p in plan.plan.pipelines:
        chips = {s.replicas[0].chip for s in p.stages}
        assert len(chips) == 1
        own = (p.micro_batches - 1) * p.micro_batch_rows + p.last_micro_batch_rows
        rows[min(chips)] = rows.get(min(chips), 0) + own
    return rows


def computed_s(found: Planned) -> float:
    """Seconds of a step before gradients are exchanged: the rates were measured without."""
    breakdown = found.plan.estimate.breakdown_s
    return breakdown.fill + breakdown.steady


def test_m1_is_sound(flodl):
    assert defects(flodl.plan, chips=2) == []


@pytest.mark.parametrize(
    ("baseline", "seconds"),
    [("1 x GeForce RTX 5060", 135.7), ("1 x GeForce GTX 1060", 380.4), ("equal split", 190.2)],
)
def test_m1_prices_what_was_measured(flodl, baseline, seconds):
    assert flodl.baseline(baseline) == pytest.approx(seconds, rel=0.005)


def test_m1_splits_the_rows_by_speed(flodl):
    """74 : 26, within a micro-batch of four rows."""
    rows = rows_by_chip(flodl)
    assert rows["rtx5060-ti-16gb"] == pytest.approx(737, abs=4)
    assert rows_of(flodl.plan) == 1000


def test_m1_reaches_the_sum_of_both_rates(flodl):
    assert computed_s(flodl) == pytest.approx(100.0, rel=0.01)


def test_m1_says_in_words_that_the_equal_split_is_worse_than_the_fast_card_alone(flodl):
    assert "slower than 1 x GeForce RTX 5060 Ti 16GB alone" in flodl.text


def test_m1_plans_in_fp32_because_the_gtx_1060_has_nothing_else(flodl):
    assert flodl.plan.inputs.job.resolved["precision"] == "fp32"


def test_m2_is_sound(timm):
    assert defects(timm.plan, chips=4) == []


def test_m2_reproduces_2000_images_per_second_with_equal_batches(timm):
    assert 1000 / timm.baseline("equal split") == pytest.approx(2000, rel=0.01)


def test_m2_reproduces_2500_images_per_second_with_300_and_200(timm):
    assert 1000 / computed_s(timm) == pytest.approx(2500, rel=0.01)


def test_m2_gives_three_fifths_of_the_images_to_the_faster_pair(timm):
    assert rows_by_chip(timm)["nvidia-rtx-a6000-48gb"] == pytest.approx(600, abs=10)


def test_the_user_is_told_that_times_follow_the_measured_rates(timm):
    assert "scaled to the measured rows per second" in timm.text
