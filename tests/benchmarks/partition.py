"""Time to prove the public stage-partition instances, and what each idea is worth. Not a test.

    python tests/benchmarks/partition.py                 # all instances as they are solved
    python tests/benchmarks/partition.py --ideas         # one CP-SAT run per idea and instance
    python tests/benchmarks/partition.py gnmt resnet50   # instances by a part of their name

Times are processor seconds of one thread; "work" is CP-SAT's deterministic time, which does not
depend on the machine. A run of --ideas that proves nothing within its work says so.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ortools.sat.python import cp_model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from planner.partition.heuristic import first_partition  # noqa: E402 - after the path is set
from planner.partition.interleaved_model import build_interleaved_model  # noqa: E402
from planner.partition.lattice import all_ideals, lattice_partition  # noqa: E402
from planner.partition.pigeonhole import pigeonhole_bound_ps  # noqa: E402
from planner.partition.prefix_model import build_prefix_model  # noqa: E402
from planner.partition.problem import Partition, PartitionProblem, Stage, load_ps  # noqa: E402
from planner.partition.reduce import reduce_problem  # noqa: E402
from planner.partition.solve import Limits, partition  # noqa: E402
from tests.conformance.instances import NAMES, PS_PER_MS, read_instance  # noqa: E402

WORK = 20.0
"""Deterministic time of one run of --ideas, about half a minute to two minutes."""


def main(arguments: list[str]) -> int:
    wanted = [a for a in arguments if not a.startswith("-")]
    names = [n for n in NAMES if not wanted or any(w in n for w in wanted)]
    if "--ideas" in arguments:
        for name in names:
            contiguous_ideas(name)
            interleaved_ideas(name)
    else:
        as_solved(names)
    return 0


def as_solved(names: list[str]) -> None:
    """What users get: contiguous by both exact methods, and interleaved."""
    print(
        f"{'instance':36} {'stages':12} {'method':8} {'optimum ms':>12} {'proof':>8} {'cpu s':>7}"
    )
    first: float | None = None
    for name in names:
        runs = [
            ("contiguous", "ideals", read_instance(name, mirrored=True), Limits()),
            ("contiguous", "cp-sat", read_instance(name), Limits(ideals=0)),
            ("interleaved", "cp-sat", read_instance(name, interleaved=True), Limits()),
        ]
        for kind, method, problem, limits in runs:
            start = time.process_time()
            certificate = partition(problem, limits).certificate
            took = time.process_time() - start
            first = first or took
            print(
                f"{name:36} {kind:12} {method:8} {certificate.objective_ps / PS_PER_MS:12.6f} "
                f"{certificate.status:>8} {took:7.2f}  {took / first:6.1f} x the first",
                flush=True,
            )


@dataclass(frozen=True)
class Idea:
    """One CP-SAT run: the model, and whether the linear relaxation is used."""

    name: str
    model: cp_model.CpModel
    linear: int | None
    split: int = 1000


def contiguous_ideas(name: str) -> None:
    """From the plain prefix model to everything together."""
    problem = read_instance(name)
    joined = reduce_problem(problem, absorb=False).problem
    small = reduce_problem(problem).problem
    hint, _ = first_partition(small)
    extras = ("_add_symmetry", "_add_implied", "_add_windows")
    ideas = [
        Idea("classes joined", build_prefix_model(joined, without=extras).model, 1, 100),
        Idea("+ absorbed", build_prefix_model(small, without=extras).model, 1, 100),
        Idea("+ implied, symmetry", build_prefix_model(small).model, 1, 100),
        Idea("+ first partition", build_prefix_model(small, hint).model, 1, 100),
        Idea("+ no relaxation", build_prefix_model(small, hint).model, 0, 100),
        Idea("+ loads not split", build_prefix_model(small, hint).model, 0),
    ]
    print(f"{name}, contiguous: {len(joined.nodes)} nodes joined, {len(small.nodes)} absorbed")
    for idea in ideas:
        run(idea)
    mirrored = reduce_problem(read_instance(name, mirrored=True)).problem
    start = time.process_time()
    ideals = all_ideals(mirrored, 20_000) or []
    found = lattice_partition(mirrored, ideals).partition
    value = found.objective_ps(mirrored.objective) / PS_PER_MS if found else 0.0
    took = time.process_time() - start
    print(
        f"  {'dynamic program':24} {value:12.6f} {len(ideals):8} ideals {took:8.2f} s", flush=True
    )


def interleaved_ideas(name: str) -> None:
    """From the plain assignment model to everything together."""
    joined = reduce_problem(read_instance(name, interleaved=True), absorb=False).problem
    small = reduce_problem(read_instance(name, interleaved=True)).problem
    solved = partition(read_instance(name, interleaved=True)).certificate
    start = _started(small)
    lower, _ = pigeonhole_bound_ps(small)
    plain = ("_add_symmetry", "_add_implied")
    build = build_interleaved_model
    ideas = [
        Idea("classes joined", build(joined, without=plain).model, 1, 100),
        Idea("+ absorbed", build(small, without=plain).model, 1, 100),
        Idea("+ implied", build(small, without=("_add_symmetry",)).model, 1, 100),
        Idea("+ opening order", build(small).model, 1, 100),
        Idea("+ contiguous start", build(small, start).model, 1, 100),
        Idea("… no relaxation", build(small, start).model, 0),
        Idea("… taking turns", build(small, start).model, None),
    ]
    if lower:
        ideas.append(Idea("… no relaxation, bound", build(small, start, lower).model, 0))
    value = solved.objective_ps / PS_PER_MS
    print(f"{name}, interleaved: {len(small.nodes)} nodes, {value:.6f}")
    for idea in ideas:
        run(idea)


def _started(problem: PartitionProblem) -> Partition:
    """The contiguous optimum of the same nodes (their order is not in the problem any more)."""
    name = problem.name
    full = partition(read_instance(name)).partition
    reduced = reduce_problem(read_instance(name, interleaved=True))
    where = {v: s for s, stage in enumerate(full.stages) for v in stage.nodes}
    held: list[list[int]] = [[] for _ in full.stages]
    for v, members in enumerate(reduced.members):
        held[where[members[0]]].append(v)
    stages = [Stage(0, tuple(h), load_ps(problem, 0, tuple(h)) or 0) for h in held if h]
    return replace(full, stages=tuple(stages))


def run(idea: Idea) -> None:
    """Solve and print one line."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = WORK
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    solver.parameters.linear_split_size = idea.split
    solver.parameters.linearization_level = 1 if idea.linear is None else idea.linear
    if idea.linear is None:
        solver.parameters.interleave_search = True
        solver.parameters.subsolvers.extend(["no_lp", "default_lp"])
    start = time.process_time()
    status = solver.solve(idea.model)
    took = time.process_time() - start
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    value = f"{solver.objective_value / PS_PER_MS:12.6f}" if found else f"{'none':>12}"
    bound = solver.best_objective_bound / PS_PER_MS
    proof = "proved" if status == cp_model.OPTIMAL else f"bound {bound:.3f}"
    work = solver.response_proto.deterministic_time
    print(
        f"  {idea.name:24} {value} {proof:>14} {work:8.3f} work {took:8.2f} s "
        f"{solver.num_branches:10} branches",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
