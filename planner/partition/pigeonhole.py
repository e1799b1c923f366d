"""A bound for many alike nodes: some device holds at least one more than its even share.

Of h·D + 1 nodes some device holds h + 1, so the largest load is at least

    min over kinds c, sets S that hold h + 1 of these nodes:  load_c(S)

Which device it is does not matter: the search over D! numberings of the devices, which makes
alike nodes hard, has become the search for one set. It is solved as a small CP-SAT program with
the tensor clauses of `interleaved_model`, for the h·D + 1 slowest nodes, where their times alone
already come near to the fluid bound.
"""

from __future__ import annotations

from ortools.sat.python import cp_model

from planner.partition.bounds import fluid_bound_ps
from planner.partition.cp_sat import run
from planner.partition.problem import PartitionProblem

WORK_PER_BOUND = 0.5
"""Deterministic time for one h and one kind; a program that takes longer gives what it has."""

NEAR_FLUID = 0.95
"""Share of the fluid bound that the times alone must reach for an h to be tried."""


def pigeonhole_bound_ps(problem: PartitionProblem, seed: int = 0) -> tuple[int, float]:
    """The best of these bounds on the largest load (0: none tried), and the work that it took."""
    order = sorted(range(len(problem.nodes)), key=lambda v: (-problem.nodes[v].least_ps, v))
    fluid = fluid_bound_ps(problem)
    best, work = 0, 0.0
    for h in range(1, (len(order) - 1) // problem.devices + 1):
        slow = order[: h * problem.devices + 1]
        times = sum(problem.nodes[v].least_ps for v in slow[-h - 1 :])
        if times < NEAR_FLUID * fluid:
            continue
        answers = [
            _least_load(problem, c, slow, h + 1, seed)
            for c, kind in enumerate(problem.kinds)
            if kind.count
        ]
        work += sum(spent for _, spent in answers)
        best = max(best, min((b for b, _ in answers if b is not None), default=0))
    return best, work


def _least_load(
    problem: PartitionProblem, kind: int, nodes: list[int], least: int, seed: int
) -> tuple[int | None, float]:
    """A bound on the load of a device of a kind with ``least`` of ``nodes``; None: impossible.

    And the work that it took.
    """
    model = cp_model.CpModel()
    x = [model.new_bool_var(f"x[{v}]") for v in range(len(problem.nodes))]
    terms = []
    for v, node in enumerate(problem.nodes):
        time = node.time_ps[kind]
        if time is None:
            model.add(x[v] == 0)
        else:
            terms.append(time * x[v])
    for e, tensor in enumerate(problem.tensors):
        whole, paid = model.new_bool_var(f"whole[{e}]"), model.new_bool_var(f"paid[{e}]")
        for v in tensor.pins:
            model.add_implication(whole, x[v])
            model.add_bool_or([whole, paid, x[v].negated()])
        terms.append(tensor.cost_ps[kind] * paid)
    room = problem.kinds[kind].memory_bytes
    if room is not None:
        model.add(sum(n.memory_bytes * x[v] for v, n in enumerate(problem.nodes)) <= room)
    model.add(sum(x[v] for v in nodes) >= least)
    model.minimize(sum(terms))
    answer = run(model, [], work_limit=WORK_PER_BOUND, seed=seed, linear=True)
    return None if answer.infeasible else answer.bound_ps, answer.work
