"""Scenarios planned side by side: equal ones once, known ones not at all, all of them in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.scenario.apply import apply_all
from planner.scenario.grammar import parse_changes
from planner.whatif import Effort, RunOptions, RunProgress, evaluate, run
from planner.whatif.cache import OutcomeCache, fingerprint, key_of
from planner.whatif.evaluation import evaluate_json
from planner.whatif.outcome import Outcome, outcome_from_json
from tests.small_plans import MILLION, small_inputs

QUICK = Effort(gap=0.2)


def test_outcomes_come_in_the_order_of_the_scenarios(tmp_path: Path) -> None:
    scenarios = [small_inputs(layers=n) for n in (3, 5, 3, 4)]
    seen: list[RunProgress] = []
    options = RunOptions(effort=QUICK, workers=2, cache=tmp_path)
    found = run(scenarios, options, progress=seen.append)
    assert found == tuple(evaluate(s, QUICK) for s in scenarios)
    assert found[0] == found[2]
    assert (seen[0].done, seen[0].total, seen[0].eta_s) == (0, 4, None)
    assert (seen[-1].done, seen[-1].known, seen[-1].failed) == (4, 0, 0)
    assert len([p for p in seen if p.eta_s is not None]) == 3


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    scenarios = [small_inputs(layers=n) for n in (3, 4, 5, 6)]
    options = RunOptions(effort=QUICK, workers=1, cache=tmp_path)
    done: list[int] = []
    first = run(
        scenarios,
        options,
        progress=lambda p: done.append(p.done),
        interrupted=lambda: max(done, default=0) >= 2,
    )
    assert [o is None for o in first] == [False, False, True, True]
    seen: list[RunProgress] = []
    second = run(scenarios, options, progress=seen.append)
    assert None not in second
    assert second[:2] == first[:2]
    assert seen[0].known == 2
    third: list[RunProgress] = []
    assert run(scenarios, options, progress=third.append) == second
    assert [p.known for p in third] == [4]


def test_what_decides_the_plan_decides_the_key() -> None:
    base = small_inputs()
    assert key_of(base, QUICK) == key_of(small_inputs(), QUICK)
    others = [
        key_of(apply_all(base, parse_changes(text)), QUICK)
        for text in ("memory a100 x2", "global_batch = 4", "link fabric:a100 x2", "chips a100 -1")
    ]
    others.append(key_of(base, Effort(gap=0.1)))
    assert len({key_of(base, QUICK), *others}) == 6
    assert key_of(apply_all(base, parse_changes("price a100 = 3")), QUICK) == key_of(base, QUICK)


def test_the_key_holds_the_planners_own_code() -> None:
    assert len(fingerprint()) == 64


def test_a_damaged_file_of_the_cache_is_planned_again(tmp_path: Path) -> None:
    cache = OutcomeCache(tmp_path)
    outcome = evaluate(small_inputs(), QUICK)
    cache.put("ab12", outcome)
    assert cache.get("ab12") == outcome
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:40])
    assert cache.get("ab12") is None


def test_what_a_limit_stopped_is_not_kept(tmp_path: Path) -> None:
    cache = OutcomeCache(tmp_path)
    for status in ("limit", "failed"):
        cache.put("cd34", Outcome(status=status, reason="stopped"))
    assert cache.get("cd34") is None


def test_a_cache_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError) as caught:
        run([small_inputs()], RunOptions(cache=blocked / "folder"))
    assert "results cannot be kept" in str(caught.value)


def test_inputs_without_a_plan_are_outcomes_with_their_reason() -> None:
    none = evaluate(small_inputs("1xV100-SXM2-32GB", layers=3, parameters=900 * MILLION), QUICK)
    assert none.status == "infeasible"
    assert "GiB" in none.reason
    assert none.tokens_per_s is None
    wrong = evaluate(small_inputs("1xV100-SXM2-32GB", sets="precision=bf16"), QUICK)
    assert wrong.status == "invalid"
    assert "bf16" in wrong.reason


def test_outcomes_survive_json() -> None:
    for outcome in (evaluate(small_inputs(), QUICK), Outcome(status="limit", reason="time")):
        assert outcome_from_json(json.loads(json.dumps(outcome.as_json()))) == outcome


def test_a_bug_in_a_worker_is_an_outcome_that_names_it() -> None:
    found = outcome_from_json(evaluate_json({"inputs": {}, "effort": {}}))
    assert found.status == "failed"
    assert "KeyError" in found.reason
