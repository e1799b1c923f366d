"""How both CP-SAT programs are run: reproducibly, and without what proves wrong optima in 9.15.

Presolve of OR-Tools 9.15 can cut off optimal solutions (docs/decisions/0006); the two switches
that caused it are off. One worker, a fixed seed and a limit on deterministic work instead of
seconds: the same input gives the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model


@dataclass(frozen=True, slots=True)
class Answer:
    """What CP-SAT said: values of the asked variables, and the proven bound on the objective.

    ``infeasible`` and ``proven`` are proofs. ``work`` is deterministic time, about seconds.
    """

    values: tuple[int, ...] | None
    bound_ps: int
    proven: bool
    infeasible: bool
    work: float


def run(
    model: cp_model.CpModel,
    asked: list[cp_model.IntVar],
    *,
    work_limit: float,
    seed: int = 0,
    linear: bool = False,
) -> Answer:
    """Solve a model that minimises picoseconds. With ``linear`` a second strategy
    with the linear relaxation takes turns."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.linearization_level = 0
    solver.parameters.linear_split_size = 1000  # loads are few and long: splitting them hides them
    if linear:  # two strategies take turns and share what they learn, also deterministic
        solver.parameters.linearization_level = 1
        solver.parameters.interleave_search = True
        solver.parameters.subsolvers.extend(["no_lp", "default_lp"])
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    solver.parameters.max_deterministic_time = work_limit
    solver.parameters.catch_sigint_signal = False  # Ctrl-C belongs to the program
    status = solver.solve(model)
    if status == cp_model.MODEL_INVALID:
        raise ValueError(f"CP-SAT rejects the model: {model.validate()}")
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Answer(
        values=tuple(solver.value(v) for v in asked) if found else None,
        bound_ps=0 if status == cp_model.INFEASIBLE else max(0, round(solver.best_objective_bound)),
        proven=status == cp_model.OPTIMAL,
        infeasible=status == cp_model.INFEASIBLE,
        work=solver.response_proto.deterministic_time,
    )
