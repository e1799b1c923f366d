"""Verification accepts what the planner priced and rejects every broken plan for its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

import planner.verify
from planner.inputs.constraints import Constraints, Pin
from planner.plan import Plan, digest, seal
from planner.simulate import simulate
from planner.verify import verify
from tests.broken_plans import BROKEN
from tests.priced_plans import (
    PipelineSketch,
    StageSketch,
    priced_plan,
    two_generations,
    two_interleaved,
    two_vendors,
)


@pytest.mark.parametrize("good", [two_generations, two_vendors, two_interleaved])
def test_accepts_a_plan_that_the_planner_priced(good: object) -> None:
    assert verify(good()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_rejects(name: str) -> None:
    breakage = BROKEN[name]
    problems = "\n".join(map(str, verify(breakage.broken())))
    assert breakage.expected in problems


def test_a_pin_binds_the_chunks_that_hold_its_layers_and_not_those_around_them() -> None:
    """Layers 5 to 7 lie on stage 0, between the chunks of stage 1."""
    body = two_interleaved().model_dump(mode="json")
    record = body["inputs"]["job"]
    pin = Pin(5, 8, never_on=("nvidia-a100-sxm-80gb",))
    record["resolved"]["constraints"] = Constraints(pinned_layers=(pin,)).as_json()
    record["digest"] = digest(record["resolved"])
    said = [p.where for p in verify(seal(Plan.model_validate(body)))]
    assert said == [f"pipelines[{p}].stages[0].replicas[0].chip" for p in (0, 1)]


def test_the_corpus_holds_at_least_25_breakages() -> None:
    assert len(BROKEN) >= 25


@pytest.mark.parametrize("good", [two_generations, two_vendors, two_interleaved])
def test_a_plan_read_back_from_its_file_is_still_good(good: object) -> None:
    assert verify(Plan.model_validate_json(good().to_json())) == []


def test_reports_all_problems_of_a_plan_at_once() -> None:
    body = two_generations().model_dump(mode="json")
    body["unused_devices"][0]["reason"] = ""
    body["plan_class"] = "staged"
    body["pipelines"][0]["micro_batches"] = 9
    assert len(verify(seal(Plan.model_validate(body)))) >= 3


def numbers(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all numbers below a JSON value."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from numbers(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize("good", [two_generations, two_interleaved])
@pytest.mark.parametrize("part", ["pipelines", "sync_groups", "estimate"])
def test_no_number_of_a_plan_can_be_changed_unnoticed(part: str, good: object) -> None:
    body = good().model_dump(mode="json")
    unnoticed = []
    for path in numbers(body[part], (part,)):
        changed = deepcopy(body)
        owner = changed
        for key in path[:-1]:
            owner = owner[key]
        old = owner[path[-1]]
        owner[path[-1]] = old + 1 if isinstance(old, int) else old * 1.001 + 1e-9
        if not verify(seal(Plan.model_validate(changed))):
            unnoticed.append(path)
    assert unnoticed == []


def test_asks_for_the_reduction_of_a_weight_that_two_stages_share() -> None:
    halves = [
        PipelineSketch(
            [
                StageSketch((f"node0/{2 * k}",), (0, 7)),
                StageSketch((f"node0/{2 * k + 1}",), (7, 14)),
            ],
            rows=1,
            micro_batches=4,
            last_rows=1,
        )
        for k in range(2)
    ]
    plan = priced_plan("4xA100-SXM-80GB", halves, model="gpt2", bound=1.0)
    without = [g for g in plan.model_dump(mode="json")["sync_groups"] if g["kind"] != "tied"]
    body = plan.model_dump(mode="json") | {"sync_groups": without}
    messages = [p.message for p in verify(seal(Plan.model_validate(body)))]
    assert "no group sums the weight that layers 0 and 13 share in pipeline 1" in messages


def test_accepts_gpipe() -> None:
    sketch = PipelineSketch(
        [StageSketch(("node0/0",), (0, 5)), StageSketch(("node0/1",), (5, 10))],
        rows=1,
        micro_batches=4,
        last_rows=1,
        schedule="gpipe",
    )
    assert verify(priced_plan("2xA100-SXM-80GB", [sketch], bound=0.99)) == []


def test_accepts_depths_below_and_above_the_rule() -> None:
    for depth in (2, 9):
        sketch = PipelineSketch(
            [
                StageSketch(("node0/0", "node0/1"), (0, 5), in_flight=depth),
                StageSketch(("node1/0",), (5, 10), in_flight=1),
            ],
            rows=1,
            micro_batches=8,
            last_rows=1,
        )
        plan = priced_plan("2x2xA100-SXM-80GB @ 100Gb/s", [sketch], bound=0.99)
        assert verify(plan) == []


@pytest.mark.parametrize("good", [two_generations, two_vendors, two_interleaved])
def test_the_replay_of_a_good_plan_takes_its_step_time_where_no_port_is_short(
    good: object,
) -> None:
    plan = good()
    assert round(simulate(plan).step_time_ps) == round(plan.estimate.step_time_s * 1e12)


def test_knows_nothing_of_search_options_costing_or_pricing() -> None:
    banned = ("search", "options", "costing", "layout", "solve", "estimate", "assemble", "place")
    for file in sorted(Path(planner.verify.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module != "planner.verify.layout":
                assert not any(f"planner.{name}" in (node.module or "") for name in banned)


def test_a_shared_weight_is_summed_in_each_pipeline_before_its_replicas_reduce() -> None:
    across = [
        PipelineSketch(
            [
                StageSketch((f"node0/{k}",), (0, 7)),
                StageSketch((f"node1/{k}",), (7, 14)),
            ],
            rows=1,
            micro_batches=4,
            last_rows=1,
        )
        for k in range(2)
    ]
    plan = priced_plan("2x2xA100-SXM-80GB @ 100Gb/s", across, model="gpt2", bound=1.0)
    assert verify(plan) == []
    tied = [g for g in plan.sync_groups if g.kind == "tied"]
    assert [[(m.pipeline, m.stage) for m in g.members] for g in tied] == [
        [(0, 0), (0, 1)],
        [(1, 0), (1, 1)],
    ]
    reduced = [g for g in plan.sync_groups if g.kind == "gradients"]
    last = max(p.exact_time_s for p in plan.pipelines)
    slowest = max(g.time_s for g in reduced)
    # the two replicas of a stage share a host: its port is for the shared weight alone
    step = last + tied[0].time_s + slowest + plan.estimate.breakdown_s.update
    assert plan.estimate.step_time_s == pytest.approx(step)
    # bf16 gradients of half of 50,257 x 768 weights over half of a port, not all of it achieved
    nominal = 50_257 * 768 * 2 / 2 / 6.25e9
    assert nominal < tied[0].time_s < 3 * nominal
