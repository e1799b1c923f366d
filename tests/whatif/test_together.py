"""Scenarios planned at the same time give what they give one after the other."""

from __future__ import annotations

import pytest

from planner.errors import PlannerError
from planner.scenario.apply import apply_all
from planner.scenario.grammar import parse_changes
from planner.whatif.evaluation import Effort
from planner.whatif.pool import Lost
from planner.whatif.together import _planned, plan_together
from tests.small_plans import small_inputs

EFFORT = Effort(gap=0.5)


def test_processes_give_the_same_plans_in_the_order_asked() -> None:
    base = small_inputs()
    more = apply_all(base, parse_changes("global_batch = 16"))
    asked = [("more", more), ("as it is", base), ("the same", base)]
    said: list[str] = []
    apart = plan_together(asked, EFFORT, workers=2, progress=said.append)
    after = plan_together(asked, EFFORT)
    assert [p and p.plan and p.plan.to_json() for p in apart] == [
        p and p.plan and p.plan.to_json() for p in after
    ]
    assert apart[1] is apart[2]
    assert said[0] == "2 scenarios on 2 processes"
    assert len(said) == 3


def test_what_was_interrupted_is_missing() -> None:
    asked = [("one", small_inputs()), ("two", small_inputs(layers=5))]
    assert plan_together(asked, EFFORT, interrupted=lambda: True) == (None, None)
    assert plan_together(asked, EFFORT, workers=2, interrupted=lambda: True) == (None, None)


def test_a_bug_or_a_killed_worker_is_an_error_that_names_the_scenario() -> None:
    with pytest.raises(PlannerError, match=r"one: internal error in x.py:1"):
        _planned("one", {"bug": "internal error in x.py:1"})
    with pytest.raises(PlannerError, match="one: its worker died"):
        _planned("one", Lost("its worker died 3 times"))
