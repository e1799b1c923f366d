"""Plans of equal pipelines that are built stage by stage."""

from __future__ import annotations

from itertools import pairwise

import pytest

from costmodels.units import PS_PER_S
from planner.inputs.cluster import load_cluster
from planner.inputs.overrides import parse_overrides
from planner.search.columns import Column
from planner.search.engine import GUESSED_NEAR, Engine, Progress, Realised, SearchLimits
from planner.search.equal import NEVER, equal_plans, numbers
from planner.search.planning import Solution
from planner.search.problem import Problem
from planner.search.regions import Region, roots
from planner.searches import engine_for, realised
from planner.solve import Context
from tests.mesh_inputs import small_context

MIXED = "4x4xA100-SXM-80GB + 4x4xV100-SXM2-32GB @ 100Gb/s"
VENDORS = "2x4xA100-SXM-80GB + 2x4xV100-SXM2-32GB + 2x4x910B3-64GB @ 100Gb/s"


def context_of(fleet: str, batch: int = 24, blocks: int = 16, more: str = "") -> Context:
    job = f"global_batch={batch} micro_batch_rows=[1,2] seq_len=2048 {more}"
    cluster = load_cluster(fleet, None, parse_overrides(["cluster.cross_vendor_collectives=none"]))
    return small_context(cluster, job, layers=blocks, experts=0)


def plans_of(problem: Problem, most: int = 50) -> list[tuple[Region, Solution]]:
    return [
        (region, plan)
        for region in roots(problem)
        for plan in equal_plans(problem, region, None, most)
    ]


def covered(column: Column) -> list[int]:
    return sorted(k for s in column.stages for first, end in s.parts for k in range(first, end))


@pytest.mark.parametrize("fleet", [MIXED, VENDORS])
@pytest.mark.parametrize("interleaved", ["true", "false"])
def test_equal_plans_fit_the_fleet_hold_every_layer_once_and_do_the_batch(
    fleet: str, interleaved: str
) -> None:
    context = context_of(fleet, more=f"techniques.interleaved={interleaved}")
    problem = context.problem
    vendor = {c.index: c.chip.vendor for c in problem.topology.classes}
    plans = plans_of(problem)
    assert len(plans) > 4
    assert {s.columns[0].chunks > 1 for _, s in plans} == {False, interleaved == "true"}
    for region, plan in plans:
        (column,), (copies,) = plan.columns, plan.counts
        assert covered(column) == list(range(18))
        for used, (_, _, capacity) in zip(column.usage, problem.packing_rows, strict=True):
            assert used * copies <= capacity
        assert column.rows * column.micro_batches(plan.target_ps) * copies >= problem.global_batch
        order = [vendor[s.class_index] for s in column.stages]
        if region.vendors:
            assert list(dict.fromkeys(order)) == list(region.vendors)
            assert sum(a != b for a, b in pairwise(order)) == len(region.vendors) - 1


def test_on_chips_of_one_kind_the_takt_lies_between_perfect_division_and_even_splits() -> None:
    """Sixteen chips, memory ample: brute force over numbers of stages of the densest group."""
    context = context_of("4x4xA100-SXM-80GB @ 400Gb/s", batch=32)
    problem = context.problem
    inner, compared = problem.tables.layers - 2, 0
    for copies in (1, 2, 4):
        (plan, *_) = equal_plans(problem, Region((), (), (copies, copies)), None, 1)
        (column,) = plan.columns
        rows, period = column.rows, column.period_ps
        tables = [t for t in problem.tables.tables if t.option.rows == rows]
        each = {t.option.chips: (t.forward_ps + t.backward_ps).min(axis=0) for t in tables}
        work = inner * min(int(layer[1]) * chips for chips, layer in each.items())
        assert period * 16 >= work * copies
        even = [
            max(
                # the stages with a layer more are those without the first or the last one
                -(-inner // stages) * int(layer[1]),
                inner // stages * int(layer[1]) + int(max(layer[0], layer[-1])),
            )
            for chips, layer in each.items()
            if chips == column.stages[0].chips
            for stages in range(3, 16 // (chips * copies) + 1)
            if inner % stages < stages - 1
        ]
        assert period <= min(even, default=period)
        compared += len(even)
    assert compared > 3


def test_only_numbers_that_share_the_batch_evenly_or_are_small_are_looked_at() -> None:
    problem = context_of(MIXED, batch=24).problem
    assert numbers(problem, Region((), (), (1, 100))) == [1, 2, 3, 4, 5, 6, 7, 8, 12, 24]
    assert numbers(problem, Region((), (), (5, 12))) == [5, 6, 7, 8, 12]


def test_plans_are_built_on_the_classes_asked_for_and_not_after_an_interrupt() -> None:
    problem = context_of(MIXED).problem
    (region,) = roots(problem)
    best = equal_plans(problem, region, None, 1)[0].target_ps
    assert best < NEVER
    assert not equal_plans(problem, region, None, 1, lambda: True)
    calls = iter(range(1000))
    some = equal_plans(problem, region, None, 50, lambda: next(calls) > 30)
    assert 0 < len(some) < len(equal_plans(problem, region, None, 50))
    only = equal_plans(problem, region, (0,), 5)
    assert only
    assert all(s.class_index == 0 for p in only for s in p.columns[0].stages)


@pytest.mark.parametrize("several", [16, 64])
def test_with_few_rows_a_plan_is_no_worse_than_equal_pipelines_if_the_fleet_is_not_tiny(
    monkeypatch: pytest.MonkeyPatch, several: int
) -> None:
    context = context_of(MIXED, batch=8)
    assert context.problem.global_batch < sum(c.chips for c in context.topology.classes) < 64
    monkeypatch.setattr("planner.search.engine.SEVERAL", several)
    seen: list[float] = []

    def watch(progress: Progress) -> None:
        seen.extend([progress.best_s] if progress.best_s is not None else [])

    engine = engine_for(context, SearchLimits(gap=0.01, seed=0), watch, lambda: False)
    engine.find()
    real = [realised(context, plan) for _, plan in plans_of(context.problem, 6)]
    best = min(r.real_ps for r in real if r is not None) / PS_PER_S
    assert (min(seen) <= best) == (several == 16)


def test_far_slower_ones_are_not_placed_and_a_deadline_that_none_meets_is_no_plan() -> None:
    problem = context_of(MIXED).problem
    plans = sorted((p for _, p in plans_of(problem)), key=lambda p: p.target_ps)
    best = plans[0].target_ps
    assert plans[-1].target_ps > best * GUESSED_NEAR
    placed: list[int] = []

    def realise(plan: Solution) -> Realised:
        placed.append(plan.target_ps)
        return Realised(plan.target_ps, ())

    engine = Engine(problem, SearchLimits(gap=0.01, seed=0), realise=realise)
    engine.know(best // 2)
    assert engine._offer_each(plans)
    assert engine.best is not None
    assert engine.best.real_ps == best
    assert placed == [p.target_ps for p in plans if p.target_ps < best * GUESSED_NEAR]
