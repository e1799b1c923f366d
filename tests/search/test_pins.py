"""Layers that must not lie on some chips: brute force, compact model, bound and search agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.engine import Engine, SearchLimits
from planner.search.problem import Problem
from planner.search.regions import fluid_bound_s
from tests.oracle import brute_force
from tests.search_checks import (
    assert_bound_is_below,
    assert_compact_agrees,
)
from tests.strategies import Case, cases, reproducible
from tests.tick_problems import (
    TICK_PS,
    UPDATE_PS,
    LayerTicks,
    build_problem,
    even_routes,
    island_class,
    open_setting,
    topology,
)

PLENTY = 50_000


def barred(problem: Problem, layers_off: dict[int, set[int]]) -> Problem:
    """The problem with layers kept off classes."""
    tables = tuple(
        replace(
            table,
            barred=np.array(
                [
                    v in layers_off.get(table.option.class_index, set())
                    for v in range(problem.tables.layers)
                ]
            ),
        )
        for table in problem.tables.tables
    )
    return replace(problem, tables=replace(problem.tables, tables=tables))


@st.composite
def pinned_cases(draw: st.DrawFn) -> Case:
    """A tiny case in which every class is kept off some layers, often off none."""
    case = draw(cases(max_pipelines=400, max_batch=6))
    count = case.problem.tables.layers
    off = {
        cls.index: draw(st.sets(st.integers(0, count - 1), max_size=2))
        for cls in case.problem.topology.classes
        if draw(st.booleans())
    }
    return Case(barred(case.problem, off), case.setting)


@settings(reproducible(25))
@given(pinned_cases())
def test_compact_model_agrees_with_brute_force(case: Case) -> None:
    assert_compact_agrees(case)


@settings(reproducible(25))
@given(pinned_cases())
def test_bounds_are_never_above_the_optimum(case: Case) -> None:
    assert_bound_is_below(case, goal=True, rounds=20)
    best = brute_force(case.problem, case.setting).time_ps
    if best is not None:
        assert fluid_bound_s(case.problem, case.setting) * 1e12 <= best * (1 + 1e-9)


@settings(reproducible(15))
@given(pinned_cases())
def test_search_obeys_and_is_bounded(case: Case) -> None:
    """No stage of the plan holds a layer that is kept off its class."""
    problem = case.problem
    best = brute_force(problem, open_setting(problem)).time_ps
    engine = Engine(problem, SearchLimits(gap=0.01, seed=0))
    engine.find()
    outcome = engine.prove()
    assert best is not None or outcome.solution is None
    if outcome.solution is None or best is None:
        return
    assert outcome.lower_bound_ps <= best
    for column in outcome.solution.columns:
        for stage in column.stages:
            table = next(
                t
                for t in problem.tables.tables
                if (t.option.class_index, t.option.mesh) == (stage.class_index, stage.mesh)
            )
            assert not table.barred[stage.first : stage.end].any()


def test_a_pin_makes_a_pipeline_of_two_kinds() -> None:
    """Layer 0 on class 1 alone, layer 1 on class 0 alone: one pipeline, three ticks per stage."""
    classes = (island_class(0, 1, 1), island_class(1, 1, 1))
    problem = build_problem(
        (LayerTicks(1, 2),) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1, 1),
        degrees=((1,), (1,)),
        global_batch=4,
        max_stages=2,
    )
    pinned = barred(problem, {0: {0}, 1: {1}})
    engine = Engine(pinned, SearchLimits(gap=0.0, seed=0))
    solution = engine.find()
    assert solution is not None
    (column,) = solution.columns
    assert [(s.class_index, s.first, s.end) for s in column.stages] == [(1, 0, 1), (0, 1, 2)]
    assert solution.target_ps == (6 + 3 * 3) * TICK_PS + UPDATE_PS
    assert engine.prove().lower_bound_ps <= solution.target_ps


def test_a_layer_that_no_chip_may_hold_is_proven_impossible() -> None:
    classes = (island_class(0, 1, 2),)
    problem = build_problem(
        (LayerTicks(1, 2),) * 2,
        topology(classes, even_routes(classes)),
        slowness=(1,),
        degrees=((1,),),
        global_batch=4,
    )
    outcome = Engine(barred(problem, {0: {1}}), SearchLimits(gap=0.01, seed=0))
    assert outcome.find() is None
    assert outcome.prove().proven_infeasible
