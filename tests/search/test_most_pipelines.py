"""How many pipelines a fleet can have at most, whatever the groups that its chips come in."""

from __future__ import annotations

from dataclasses import replace

from planner.search.problem import Problem
from planner.search.regions import roots
from tests.mesh_inputs import small_context


def problem_of(batch: int) -> Problem:
    fleet = "4x2xA100-SXM-80GB + 2x4xV100-SXM2-32GB @ 100Gb/s"
    job = f"global_batch={batch} micro_batch_rows=[1] seq_len=2048"
    return small_context(fleet, job, layers=4, experts=0).problem


def without_single_chips(problem: Problem, *classes: int) -> Problem:
    """As where a profile was measured with tensor parallelism alone."""
    kept = tuple(
        t
        for t in problem.tables.tables
        if t.option.chips > 1 or t.option.class_index not in classes
    )
    return replace(problem, tables=replace(problem.tables, tables=kept))


def test_a_pipeline_has_a_chip_and_a_row() -> None:
    assert problem_of(64).most_pipelines == 16
    assert problem_of(6).most_pipelines == 6


def test_where_groups_are_larger_than_a_chip_a_pipeline_has_a_group() -> None:
    problem = problem_of(64)
    assert without_single_chips(problem, 0, 1).most_pipelines == 4 + 4
    assert without_single_chips(problem, 0).most_pipelines == 4 + 8
    (region,) = roots(without_single_chips(problem, 0, 1))
    assert region.replicas == (1, 8)


def test_chips_that_may_be_used_are_those_of_the_classes_and_islands_asked_for() -> None:
    problem = problem_of(64)
    assert problem.chips_of(None) == 16
    assert problem.chips_of((0,)) == 8
    assert replace(problem, islands=(1, 2)).chips_of(None) == 2 + 8
