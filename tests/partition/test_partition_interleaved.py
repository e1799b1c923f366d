"""Interleaved stages: every step against brute force on tiny graphs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InfeasibleError
from planner.partition.anneal import annealed
from planner.partition.check import check_partition, check_solution
from planner.partition.interleaved_model import solve_interleaved_model
from planner.partition.pigeonhole import pigeonhole_bound_ps
from planner.partition.problem import (
    Kind,
    Node,
    Objective,
    Partition,
    PartitionProblem,
    Stage,
    Tensor,
)
from planner.partition.reduce import reduce_problem, restore
from planner.partition.solve import Limits, partition
from tests.partition_cases import EXACT, brute_force, problems

BOTH = st.sampled_from(Objective)


@EXACT
@given(data=st.data())
def test_the_model_proves_the_optimum(data: st.DataObject) -> None:
    problem = data.draw(problems(interleaved=True, objective=data.draw(BOTH)))
    reduced = reduce_problem(problem)
    found, answer = solve_interleaved_model(reduced.problem)
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
def test_the_whole_solver_finds_it_too(data: st.DataObject) -> None:
    problem = data.draw(problems(interleaved=True, objective=data.draw(BOTH)))
    best = brute_force(problem)
    limits = Limits(moves=200)
    if best is None:
        with pytest.raises(InfeasibleError):
            partition(problem, limits)
    else:
        solution = partition(problem, limits)
        assert check_solution(problem, solution) == []
        assert solution.certificate.objective_ps == best
        assert solution.certificate.lower_bound_ps == best


@EXACT
@given(problem=problems(interleaved=True))
def test_the_pigeonhole_bound_is_a_bound(problem: PartitionProblem) -> None:
    best = brute_force(problem)
    reduced = reduce_problem(problem).problem
    if best is not None:
        assert pigeonhole_bound_ps(reduced)[0] <= best


@EXACT
@given(data=st.data())
def test_annealing_keeps_to_the_rules_and_never_gets_worse(data: st.DataObject) -> None:
    objective = data.draw(BOTH)
    problem = data.draw(problems(interleaved=True, colocated=False, objective=objective))
    start, _ = solve_interleaved_model(problem)
    if start is not None:
        after = annealed(problem, start, seed=data.draw(st.integers(0, 9)), moves=200)
        assert check_partition(problem, after) == []
        assert after.objective_ps(objective) == start.objective_ps(objective)


def test_annealing_finds_the_way_from_a_bad_start() -> None:
    times = (5, 4, 3, 3, 3, 2)
    problem = PartitionProblem(
        "numbers",
        (Kind("device", 2),),
        tuple(Node(f"n{i}", (t,)) for i, t in enumerate(times)),
        interleaved=True,
    )
    bad = Partition((Stage(0, tuple(range(6)), 20),))
    after = annealed(problem, bad, seed=0, moves=500)
    assert after.objective_ps(Objective.max_load) == 10


def test_seven_alike_nodes_on_two_devices_put_four_together() -> None:
    """Six units of work in a ring of tensors: the fluid bound of 21 does not see the fourth."""
    problem = PartitionProblem(
        "ring",
        (Kind("device", 2),),
        tuple(Node(f"n{i}", (6,)) for i in range(7)),
        tuple(Tensor((i, (i + 1) % 7), (1,)) for i in range(7)),
        interleaved=True,
    )
    bound, _ = pigeonhole_bound_ps(problem)
    assert bound == 4 * 6 + 2  # four neighbours, and the two tensors at their ends
    solution = partition(problem)
    assert solution.certificate.objective_ps == 26
    assert solution.certificate.status == "optimal"


def test_interleaving_pays_where_the_order_forces_a_bad_split() -> None:
    """A chain of 3, 5, 1, 1 and 2 on two devices: intervals give 8 and 4, sets 6 and 6."""
    chain = PartitionProblem(
        "chain",
        (Kind("device", 2),),
        tuple(Node(f"n{i}", (t,)) for i, t in enumerate((3, 5, 1, 1, 2))),
        order=((0, 1), (1, 2), (2, 3), (3, 4)),
    )
    assert partition(chain).certificate.objective_ps == 8
    free = PartitionProblem(chain.name, chain.kinds, chain.nodes, interleaved=True)
    assert partition(free).certificate.objective_ps == 6
