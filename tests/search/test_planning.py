"""First plans of one setting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.search.engine import SearchLimits
from planner.searches import engine_for
from tests.mesh_inputs import PAIR, small_context


@pytest.mark.parametrize("rounds", [1, 2, 3, 10])
def test_a_search_that_is_stopped_early_still_has_its_first_plan(rounds: int) -> None:
    context = small_context(PAIR, "global_batch=16 seq_len=2048", layers=4, experts=0)
    limits = replace(SearchLimits(gap=0.01, seed=0), rounds=rounds)
    engine = engine_for(context, limits, lambda _: None, lambda: False)
    found = engine.find()
    assert found is not None
    assert found.real_ps >= engine.bound_ps()
