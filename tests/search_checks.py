"""What the search must hold on any tiny case: tests of one feature draw cases that have it."""

from __future__ import annotations

from dataclasses import replace

from costmodels.memory import MemoryItems, boundary_buffer_bytes, stage_memory
from planner.costing import OptionTable
from planner.dominance import without_dominated
from planner.search.compact import solve_compact
from planner.search.finish import expected_finish_s, least_finish_s
from planner.search.problem import Problem
from planner.search.relaxation import Relaxation
from tests.oracle import brute_force
from tests.strategies import Case


def assert_compact_agrees(case: Case) -> None:
    """The compact model proves what brute force finds, to the picosecond."""
    best = brute_force(case.problem, case.setting)
    found = solve_compact(case.problem, case.setting)
    assert found.proven
    assert found.time_ps == best.time_ps


def assert_optimum_needs_no_dominated_option(case: Case) -> None:
    """Brute force finds as good a plan without the options that others dominate."""
    problem = case.problem
    left = replace(problem, tables=without_dominated(problem.tables, problem.policies))
    best = brute_force(problem, case.setting).time_ps
    assert brute_force(left, case.setting).time_ps == best


def assert_bound_is_below(case: Case, *, goal: bool = False, rounds: int = 6) -> None:
    """A relaxation's bound, with the optimum as its ``goal`` or without, is never above it."""
    best = brute_force(case.problem, case.setting).time_ps
    if best is not None:
        relaxation = Relaxation(case.problem, case.setting, case.problem.sizes, best)
        relaxation.improve(best if goal else None, rounds=rounds, max_queries=50_000)
        assert relaxation.bound_ps <= best


def assert_least_finish_is_below(case: Case) -> None:
    """What pricing takes a stage to need after its last backward is never more than it will."""
    problem, (low, high) = case.problem, case.setting.replicas
    for table in problem.tables.tables:
        least = least_finish_s(problem, table, (low, high))
        for replicas in range(low, high + 1):
            for end in range(1, problem.tables.layers + 1):
                for together in (False, True):
                    paid = expected_finish_s(problem, table, 0, end, replicas, together=together)
                    assert least[end] <= paid


def stage_items(
    problem: Problem,
    table: OptionTable,
    layers: tuple[int, int],
    *,
    policy: int = 0,
    in_flight: int,
    replicas: int,
) -> MemoryItems:
    """What the memory model says of layers ``[first, end)`` under an option."""
    tables, mesh, (first, end) = problem.tables, table.option.mesh, layers
    edges = [*(int(b) for b in tables.boundary_bytes[table.option.rows]), 0]
    return stage_memory(
        [c.price for c in table.costs[first:end]],
        [policy] * (end - first),
        state=tables.state,
        overhead=tables.overheads[table.option.class_index],
        in_flight=in_flight,
        micro_batches=in_flight,
        zero_level=tables.zero_level,
        replicas=replicas * mesh.dense.copies,
        expert_replicas=replicas * mesh.expert.copies,
        inner=(mesh.dense.shards, mesh.expert.shards),
        boundary_bytes=boundary_buffer_bytes(
            edges[first],
            edges[end],
            tp=mesh.tp,
            sequence_parallel=tables.sequence_parallel,
            copies=mesh.copies,
        ),
        offload_buffer=tables.offload_bytes if mesh.offload else None,
    )
