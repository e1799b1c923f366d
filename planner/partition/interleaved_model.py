"""Interleaved stages as one CP-SAT program: any nodes may share a device.

Devices d = 0 … D−1 in groups of one kind, c(d) their kinds; nodes v in the order of
`opening_order`; tensors e. All variables but T and the loads are 0 or 1:

    x[v,d]      v is on device d               whole[e,d]  all pins of e are on device d
    opened[v,d] one of the nodes up to v is    paid[e,d]   device d pays for e
                on device d

    minimise T

    (1) Σ_d x[v,d] = 1;  x[v,d] = 0 where c(d) cannot run v          `_add_nodes`
    (2) whole[e,d] ⇒ x[v,d];  x[v,d] ⇒ whole[e,d] or paid[e,d]
        for v in e                                                   `_add_tensors`
    (3) Σ_v t[v,c(d)]·x[v,d] + Σ_e w[e,c(d)]·paid[e,d] ≤ L[d];
        L[d] ≤ T, or Σ_d L[d] ≤ T for the total load                 `_add_loads`
    (4) Σ_v m[v]·x[v,d] ≤ M[c(d)]                                    `_add_memory`
    (5) devices of one kind are interchangeable: they are opened in
        their order, x[v,d] ⇒ opened[u,d−1] with u the node before v `_add_symmetry`
    (6) implied: a tensor that is not whole anywhere is paid twice
        at least                                                     `_add_implied`
    (7) lower ≤ T ≤ upper: proven bound and known partition

Clause learning alone is best where traffic decides. Where work does, and the fluid bound is close
to the known partition, a second strategy with the linear relaxation takes turns (`NEAR_FLUID`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from planner.partition.bounds import fluid_bound_ps
from planner.partition.cp_sat import Answer, run
from planner.partition.problem import (
    Objective,
    Partition,
    PartitionProblem,
    Stage,
    highest_ps,
    load_ps,
)

NEAR_FLUID = 1.1
"""Up to this ratio of the known partition to the fluid bound the linear relaxation helps."""


@dataclass(frozen=True)
class _Program:
    """The model and its variables: ``x[v][d]``, ``whole[e][d]``, ``paid[e][d]``."""

    problem: PartitionProblem
    devices: list[int]
    upper: int
    model: cp_model.CpModel
    x: list[list[cp_model.IntVar]]
    whole: list[list[cp_model.IntVar]]
    paid: list[list[cp_model.IntVar]]
    top: cp_model.IntVar


def solve_interleaved_model(
    problem: PartitionProblem,
    *,
    hint: Partition | None = None,
    lower_ps: int = 0,
    work_limit: float = 60.0,
    seed: int = 0,
) -> tuple[Partition | None, Answer]:
    """The best partition of a reduced problem that CP-SAT finds, and what it proved.

    ``hint`` is any partition; the answer is no worse. ``lower_ps`` is a proven bound.
    """
    program = build_interleaved_model(problem, hint, lower_ps)
    linear = program.upper <= NEAR_FLUID * fluid_bound_ps(problem)
    asked = [x for row in program.x for x in row]
    answer = run(program.model, asked, work_limit=work_limit, seed=seed, linear=linear)
    if answer.values is None:
        return hint, answer
    found = _decode(program, answer.values)
    known = [found] if hint is None else [found, hint]
    return min(known, key=lambda p: p.objective_ps(problem.objective)), answer


def build_interleaved_model(
    problem: PartitionProblem,
    hint: Partition | None = None,
    lower_ps: int = 0,
    *,
    without: tuple[str, ...] = (),
) -> _Program:
    """The model with all constraints and the hint; ``without`` names families to leave out."""
    model = cp_model.CpModel()
    most = len(problem.nodes)
    devices = [c for c, kind in enumerate(problem.kinds) for _ in range(min(kind.count, most))]

    def grid(rows: int, name: str) -> list[list[cp_model.IntVar]]:
        return [
            [model.new_bool_var(f"{name}[{i},{d}]") for d in range(len(devices))]
            for i in range(rows)
        ]

    upper = highest_ps(problem) if hint is None else hint.objective_ps(problem.objective)
    program = _Program(
        problem,
        devices,
        upper,
        model,
        grid(len(problem.nodes), "x"),
        grid(len(problem.tensors), "whole"),
        grid(len(problem.tensors), "paid"),
        model.new_int_var(min(lower_ps, upper), upper, "T"),
    )
    for add in _FAMILIES:
        if add.__name__ not in without:
            add(program)
    model.minimize(program.top)
    if hint is not None:
        _add_hint(program, hint)
    return program


def opening_order(problem: PartitionProblem) -> list[int]:
    """Nodes in the order in which they open devices: those that weigh most on a device first."""
    weight = [node.least_ps for node in problem.nodes]
    for tensor in problem.tensors:
        for v in tensor.pins:
            weight[v] += min(tensor.cost_ps)
    return sorted(range(len(weight)), key=lambda v: (-weight[v], v))


def _add_nodes(program: _Program) -> None:
    """(1) Every node is on one device that can run it."""
    for node, row in zip(program.problem.nodes, program.x):
        program.model.add_exactly_one(row)
        for c, x in zip(program.devices, row):
            if node.time_ps[c] is None:
                program.model.add(x == 0)


def _add_tensors(program: _Program) -> None:
    """(2) A device that holds a pin pays, unless it holds them all."""
    model = program.model
    for tensor, whole, paid in zip(program.problem.tensors, program.whole, program.paid):
        for d in range(len(program.devices)):
            for v in tensor.pins:
                model.add_implication(whole[d], program.x[v][d])
                model.add_bool_or([whole[d], paid[d], program.x[v][d].negated()])


def _add_loads(program: _Program) -> None:
    """(3) Loads of the devices, and T."""
    problem, model, top = program.problem, program.model, program.top
    loads = [top] * len(program.devices)
    if problem.objective is Objective.total_load:
        loads = [model.new_int_var(0, program.upper, f"L[{d}]") for d in range(len(loads))]
        model.add(sum(loads) <= top)
    for d, (c, load) in enumerate(zip(program.devices, loads)):
        terms = [(n.time_ps[c] or 0) * row[d] for n, row in zip(problem.nodes, program.x)]
        terms += [t.cost_ps[c] * row[d] for t, row in zip(problem.tensors, program.paid)]
        model.add(sum(terms) <= load)


def _add_memory(program: _Program) -> None:
    """(4) What a device holds fits."""
    problem = program.problem
    total = sum(node.memory_bytes for node in problem.nodes)
    for d, c in enumerate(program.devices):
        room = problem.kinds[c].memory_bytes
        if room is not None and total > room:
            held = [n.memory_bytes * row[d] for n, row in zip(problem.nodes, program.x)]
            program.model.add(sum(held) <= room)


def _add_symmetry(program: _Program) -> None:
    """(5) Devices of one kind are opened one after the other, by nodes in the opening order."""
    model = program.model
    order = opening_order(program.problem)
    for d in range(1, len(program.devices)):
        if program.devices[d] != program.devices[d - 1]:
            continue
        opened: cp_model.IntVar | None = None
        for v in order:
            if opened is None:
                model.add(program.x[v][d] == 0)
            else:
                model.add_implication(program.x[v][d], opened)
            before = [program.x[v][d - 1], *([opened] if opened is not None else [])]
            opened = model.new_bool_var(f"opened[{v},{d - 1}]")
            model.add_bool_or([*before, opened.negated()])
            for literal in before:
                model.add_implication(literal, opened)


def _add_implied(program: _Program) -> None:
    """(6) All loads together are at most D times T."""
    problem = program.problem
    work = sum(node.least_ps for node in problem.nodes)
    traffic = [
        2 * min(t.cost_ps) * (1 - sum(row)) for t, row in zip(problem.tensors, program.whole)
    ]
    shares = 1 if problem.objective is Objective.total_load else len(program.devices)
    program.model.add(work + sum(traffic) <= shares * program.top)
    for row in program.whole:
        program.model.add_at_most_one(row)


_FAMILIES = (_add_nodes, _add_tensors, _add_loads, _add_memory, _add_symmetry, _add_implied)


def _add_hint(program: _Program, hint: Partition) -> None:
    """Start from a known partition, its devices in the order that (5) asks for."""
    rank = {v: i for i, v in enumerate(opening_order(program.problem))}
    free = list(range(len(program.devices)))
    place: dict[int, int] = {}
    for stage in sorted(hint.stages, key=lambda s: min(rank[v] for v in s.nodes)):
        d = next(d for d in free if program.devices[d] == stage.kind)
        free.remove(d)
        place |= dict.fromkeys(stage.nodes, d)
    for v, row in enumerate(program.x):
        for d, literal in enumerate(row):
            program.model.add_hint(literal, place[v] == d)
    for tensor, whole, paid in zip(program.problem.tensors, program.whole, program.paid):
        held = {place[v] for v in tensor.pins}
        for d in range(len(program.devices)):
            program.model.add_hint(whole[d], held == {d})
            program.model.add_hint(paid[d], d in held and len(held) > 1)


def _decode(program: _Program, values: tuple[int, ...]) -> Partition:
    """The devices that hold something, their loads recomputed."""
    width = len(program.devices)
    found = []
    for d, c in enumerate(program.devices):
        nodes = tuple(v for v in range(len(program.x)) if values[v * width + d])
        load = load_ps(program.problem, c, nodes)
        if nodes and load is not None:
            found.append(Stage(c, nodes, load))
    return Partition(tuple(found))
