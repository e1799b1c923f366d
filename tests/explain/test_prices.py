"""What a chip is worth by the program's duals, on fleets where it can be told by hand."""

from __future__ import annotations

import pytest

from planner.explain.prices import dual_prices
from planner.scenario.inputs import PlanInputs
from planner.solve import prepare
from tests.small_plans import FOUR, MIXED, small_inputs

A100, V100 = "nvidia-a100-sxm-80gb", "nvidia-v100-sxm2-32gb"


def priced(inputs: PlanInputs) -> dict[str, float]:
    found = dual_prices(prepare(inputs.model, inputs.cluster, inputs.job))
    assert found is not None
    return dict(found)


def test_each_of_equal_chips_carries_its_part_of_the_batch() -> None:
    assert priced(small_inputs(FOUR))[A100] == pytest.approx(1 / 4, rel=0.25)


def test_a_faster_chip_carries_more_and_all_together_at_least_the_batch() -> None:
    found = priced(small_inputs(MIXED))
    assert found[A100] > found[V100] > 0
    assert 2 * found[A100] + 4 * found[V100] > 0.95
