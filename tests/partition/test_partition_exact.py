"""Reduction, dynamic program and CP-SAT against brute force on tiny graphs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InfeasibleError
from planner.partition.check import check_partition, check_solution
from planner.partition.lattice import all_ideals, lattice_partition
from planner.partition.prefix_model import solve_prefix_model
from planner.partition.problem import Objective
from planner.partition.reduce import reduce_problem, restore
from planner.partition.solve import Limits, partition
from tests.partition_cases import EXACT, brute_force, problems

BOTH = st.sampled_from(Objective)


@EXACT
@given(data=st.data())
def test_the_dynamic_program_finds_the_optimum(data: st.DataObject) -> None:
    problem = data.draw(problems(objective=data.draw(BOTH)))
    reduced = reduce_problem(problem, absorb=False)
    ideals = all_ideals(reduced.problem, 1000)
    assert ideals is not None
    found = lattice_partition(reduced.problem, ideals).partition
    best = brute_force(problem)
    if best is None:
        assert found is None
    else:
        assert found is not None
        whole = restore(problem, reduced, found)
        assert check_partition(problem, whole) == []
        assert whole.objective_ps(problem.objective) == best
        assert found.objective_ps(problem.objective) == best


@EXACT
@given(data=st.data())
def test_absorbing_nodes_keeps_the_optimum(data: st.DataObject) -> None:
    problem = data.draw(problems(objective=data.draw(BOTH), max_nodes=7))
    reduced = reduce_problem(problem)
    ideals = all_ideals(reduced.problem, 1000)
    assert ideals is not None
    found = lattice_partition(reduced.problem, ideals).partition
    best = brute_force(problem)
    assert (None if found is None else found.objective_ps(problem.objective)) == best


@EXACT
@given(data=st.data())
def test_the_prefix_model_proves_the_optimum(data: st.DataObject) -> None:
    problem = data.draw(problems(objective=data.draw(BOTH)))
    reduced = reduce_problem(problem, absorb=False)
    found, answer = solve_prefix_model(reduced.problem)
    best = brute_force(problem)
    if best is None:
        assert answer.infeasible
        assert found is None
    else:
        assert found is not None
        assert answer.proven
        assert answer.bound_ps == best
        whole = restore(problem, reduced, found)
        assert check_partition(problem, whole) == []
        assert whole.objective_ps(problem.objective) == best


@EXACT
@given(data=st.data())
def test_the_whole_solver_agrees_with_brute_force_either_way(data: st.DataObject) -> None:
    problem = data.draw(problems(objective=data.draw(BOTH)))
    best = brute_force(problem)
    for limits in (Limits(), Limits(ideals=0)):
        if best is None:
            with pytest.raises(InfeasibleError):
                partition(problem, limits)
        else:
            solution = partition(problem, limits)
            assert check_solution(problem, solution) == []
            assert solution.certificate.objective_ps == best
            assert solution.certificate.lower_bound_ps == best
            assert solution.certificate.status == "optimal"
