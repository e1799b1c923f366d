"""Contiguous stages as one CP-SAT program over prefixes.

Stages s = 0 … S−1, nodes v, tensors e (sets of pins), kinds of device c. All variables but T and
the loads are 0 or 1:

    y[v,s]   v is in a stage ≤ s               whole[e,s]  all pins of e are in stage s
    on[s,c]  stage s is on a device of kind c  paid[e,s]   stage s pays for e

v is in stage s where x[v,s] = y[v,s] − y[v,s−1] = 1; nothing is in a stage < 0, everything is in a
stage ≤ S−1. ``[literal] ⇒`` marks an enforced constraint; nothing uses a big-M.

    minimise T

    (1) y[v,s−1] ≤ y[v,s]                                          `_add_prefixes`
    (2) y[v,s] ≤ y[u,s]  for (u,v) in order                        `_add_order`
    (3) Σ_c on[s,c] = 1;  Σ_s on[s,c] ≤ N[c]                       `_add_devices`
    (4) whole[e,s] ⇒ x[v,s];  x[v,s] ⇒ whole[e,s] or paid[e,s]
        for v in e                                                 `_add_tensors`
    (5) [on[s,c]] ⇒ Σ_v t[v,c]·x[v,s] + Σ_e w[e,c]·paid[e,s] ≤ L[s];
        L[s] ≤ T, or Σ_s L[s] ≤ T for the total load               `_add_loads`
    (6) [on[s,c]] ⇒ Σ_v m[v]·x[v,s] ≤ M[c];  a node is in no stage
        on a kind that cannot run it                               `_add_memory`
    (7) every optimum has one whose used stages come first         `_add_symmetry`
    (8) implied: a tensor that is not whole anywhere is paid twice
        at least, so Σ_v min_c t[v,c] + 2·Σ_e min_c w[e,c]·(1 − Σ_s whole[e,s])
        ≤ S·T                                                      `_add_implied`
    (9) implied by T ≤ upper: the nodes before v and v itself fit
        into the stages up to its own, those after it into the
        stages from its own                                        `_add_windows`

Times are whole picoseconds: nothing is rounded. The linear relaxation is not used: it is weak here
and slow, clause learning alone proves the public instances several times sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from planner.partition.cp_sat import Answer, run
from planner.partition.problem import (
    Objective,
    Partition,
    PartitionProblem,
    Stage,
    highest_ps,
    load_ps,
)


@dataclass(frozen=True)
class _Program:
    """The model and its variables: ``y[v][s]``, ``on[s][c]``, ``whole[e][s]``, ``paid[e][s]``."""

    problem: PartitionProblem
    stages: int
    upper: int
    model: cp_model.CpModel
    y: list[list[cp_model.IntVar]]
    on: list[list[cp_model.IntVar]]
    whole: list[list[cp_model.IntVar]]
    paid: list[list[cp_model.IntVar]]
    top: cp_model.IntVar

    def x(self, v: int, s: int) -> cp_model.LinearExpr:
        """Whether v is in stage s, as an expression."""
        return self.y[v][s] - self.y[v][s - 1] if s else self.y[v][0]

    def inside(self, v: int, s: int) -> list[cp_model.BoolVarT]:
        """Literals that are all true if and only if v is in stage s."""
        here: cp_model.BoolVarT = self.y[v][s]
        return [here, self.y[v][s - 1].negated()] if s else [here]

    def outside(self, v: int, s: int) -> list[cp_model.BoolVarT]:
        """Literals of which one is true if and only if v is not in stage s."""
        return [literal.negated() for literal in self.inside(v, s)]


def solve_prefix_model(
    problem: PartitionProblem,
    *,
    hint: Partition | None = None,
    work_limit: float = 60.0,
    seed: int = 0,
) -> tuple[Partition | None, Answer]:
    """The best contiguous partition of a reduced problem that CP-SAT finds, and what it proved.

    ``problem.order`` is acyclic and goes forward. ``hint`` is any partition: the answer is no
    worse, and its objective bounds the windows of (9).
    """
    program = build_prefix_model(problem, hint)
    asked = [y for row in program.y for y in row] + [o for row in program.on for o in row]
    answer = run(program.model, asked, work_limit=work_limit, seed=seed)
    if answer.values is None:
        return hint, answer
    found = _decode(program, answer.values)
    known = [found] if hint is None else [found, hint]
    return min(known, key=lambda p: p.objective_ps(problem.objective)), answer


def build_prefix_model(
    problem: PartitionProblem, hint: Partition | None = None, *, without: tuple[str, ...] = ()
) -> _Program:
    """The model with all constraints and the hint; ``without`` names families to leave out."""
    model = cp_model.CpModel()
    stages = min(problem.devices, len(problem.nodes))
    one = model.new_constant(1)

    def grid(rows: int, columns: int, name: str) -> list[list[cp_model.IntVar]]:
        return [
            [model.new_bool_var(f"{name}[{i},{s}]") for s in range(columns)] for i in range(rows)
        ]

    y = [[*row, one] for row in grid(len(problem.nodes), stages - 1, "y")]
    upper = highest_ps(problem) if hint is None else hint.objective_ps(problem.objective)
    single = len(problem.kinds) == 1
    program = _Program(
        problem,
        stages,
        upper,
        model,
        y,
        [[one]] * stages if single else grid(stages, len(problem.kinds), "on"),
        grid(len(problem.tensors), stages, "whole"),
        grid(len(problem.tensors), stages, "paid"),
        model.new_int_var(0, upper, "T"),
    )
    for add in _FAMILIES:
        if add.__name__ not in without:
            add(program)
    model.minimize(program.top)
    if hint is not None:
        _add_hint(program, hint)
    return program


def _add_prefixes(program: _Program) -> None:
    """(1) What is in a stage ≤ s−1 is in a stage ≤ s."""
    for row in program.y:
        for s in range(1, program.stages - 1):
            program.model.add_implication(row[s - 1], row[s])


def _add_order(program: _Program) -> None:
    """(2) No node before its predecessors."""
    for u, v in program.problem.order:
        for s in range(program.stages - 1):
            program.model.add_implication(program.y[v][s], program.y[u][s])


def _add_devices(program: _Program) -> None:
    """(3) Every stage has one kind of device, of which there are so many."""
    if len(program.problem.kinds) == 1:
        return
    for row in program.on:
        program.model.add_exactly_one(row)
    for c, kind in enumerate(program.problem.kinds):
        program.model.add(sum(row[c] for row in program.on) <= kind.count)


def _add_tensors(program: _Program) -> None:
    """(4) A stage that holds a pin pays, unless it holds them all."""
    for e, tensor in enumerate(program.problem.tensors):
        for s in range(program.stages):
            whole, paid = program.whole[e][s], program.paid[e][s]
            for v in tensor.pins:
                for literal in program.inside(v, s):
                    program.model.add_implication(whole, literal)
                program.model.add_bool_or([whole, paid, *program.outside(v, s)])


def _add_loads(program: _Program) -> None:
    """(5) Loads of the stages, and T."""
    problem, model, top = program.problem, program.model, program.top
    loads = [top] * program.stages
    if problem.objective is Objective.total_load:
        loads = [model.new_int_var(0, program.upper, f"L[{s}]") for s in range(program.stages)]
        model.add(sum(loads) <= top)
    for s, load in enumerate(loads):
        for c in range(len(problem.kinds)):
            terms = [
                (node.time_ps[c] or 0) * program.x(v, s) for v, node in enumerate(problem.nodes)
            ]
            terms += [
                tensor.cost_ps[c] * program.paid[e][s] for e, tensor in enumerate(problem.tensors)
            ]
            model.add(sum(terms) <= load).only_enforce_if(program.on[s][c])


def _add_memory(program: _Program) -> None:
    """(6) What fits, and what runs where."""
    problem, model = program.problem, program.model
    total = sum(node.memory_bytes for node in problem.nodes)
    for c, kind in enumerate(problem.kinds):
        absent = [v for v, node in enumerate(problem.nodes) if node.time_ps[c] is None]
        for s in range(program.stages):
            on = program.on[s][c]
            if kind.memory_bytes is not None and total > kind.memory_bytes:
                used = [n.memory_bytes * program.x(v, s) for v, n in enumerate(problem.nodes)]
                model.add(sum(used) <= kind.memory_bytes).only_enforce_if(on)
            for v in absent:
                model.add_bool_or([on.negated(), *program.outside(v, s)])


def _add_symmetry(program: _Program) -> None:
    """(7) An empty stage is followed by empty stages only.

    With S−1 the last stage: once everything is in a stage ≤ s, it stays so, which (1) says. What is
    to be excluded is an empty stage before a used one: some node is in stage s or all are before.
    """
    model, nodes = program.model, range(len(program.problem.nodes))
    sinks = set(nodes) - {u for u, _ in program.problem.order}
    for s in range(program.stages - 1):
        done = model.new_bool_var(f"done[{s}]")
        for v in sinks:  # all nodes are in a stage ≤ s if and only if the last ones are
            model.add_implication(done, program.y[v][s])
        held = model.new_bool_var(f"held[{s}]")
        model.add(sum(program.x(v, s) for v in nodes) >= 1).only_enforce_if(held)
        model.add_bool_or([done, held])


def _add_implied(program: _Program) -> None:
    """(8) All loads together are at most S times T."""
    problem = program.problem
    work = sum(node.least_ps for node in problem.nodes)
    traffic = [
        2 * min(tensor.cost_ps) * (1 - sum(program.whole[e]))
        for e, tensor in enumerate(problem.tensors)
    ]
    if problem.objective is Objective.max_load:
        program.model.add(work + sum(traffic) <= program.stages * program.top)
    else:
        program.model.add(work + sum(traffic) <= program.top)
    for row in program.whole:
        program.model.add_at_most_one(row)


def _add_windows(program: _Program) -> None:
    """(9) Stages that are too early or too late for a node."""
    problem = program.problem
    if problem.objective is not Objective.max_load:
        return
    least = [node.least_ps for node in problem.nodes]
    before, after = _closures(problem)
    for v in range(len(problem.nodes)):
        head = least[v] + sum(t for u, t in enumerate(least) if before[v] >> u & 1)
        tail = least[v] + sum(t for u, t in enumerate(least) if after[v] >> u & 1)
        for s in range(program.stages - 1):
            if head > (s + 1) * program.upper:
                program.model.add(program.y[v][s] == 0)
            if tail > (program.stages - 1 - s) * program.upper:
                program.model.add(program.y[v][s] == 1)


def _closures(problem: PartitionProblem) -> tuple[list[int], list[int]]:
    """All nodes before and all nodes after every node, as bit sets."""
    before, after = [0] * len(problem.nodes), [0] * len(problem.nodes)
    for u, v in sorted(problem.order):
        before[v] |= before[u] | 1 << u
    for u, v in sorted(problem.order, reverse=True):
        after[u] |= after[v] | 1 << v
    return before, after


_FAMILIES = (
    _add_prefixes,
    _add_order,
    _add_devices,
    _add_tensors,
    _add_loads,
    _add_memory,
    _add_symmetry,
    _add_implied,
    _add_windows,
)


def _add_hint(program: _Program, hint: Partition) -> None:
    """Start from a known partition."""
    place = {v: s for s, stage in enumerate(hint.stages) for v in stage.nodes}
    for v, row in enumerate(program.y):
        for s, literal in enumerate(row[:-1]):
            program.model.add_hint(literal, place[v] <= s)
    if len(program.problem.kinds) > 1:
        for s, stage in enumerate(hint.stages):
            for c, literal in enumerate(program.on[s]):
                program.model.add_hint(literal, c == stage.kind)
    for e, tensor in enumerate(program.problem.tensors):
        held = {place[v] for v in tensor.pins}
        for s in range(program.stages):
            program.model.add_hint(program.whole[e][s], held == {s})
            program.model.add_hint(program.paid[e][s], s in held and len(held) > 1)


def _decode(program: _Program, values: tuple[int, ...]) -> Partition:
    """The stages of an answer, their loads recomputed without rounding."""
    problem, stages = program.problem, program.stages
    rows = [values[i * stages : (i + 1) * stages] for i in range(len(problem.nodes))]
    rest = values[len(problem.nodes) * stages :]
    kinds = len(problem.kinds)
    found = []
    for s in range(stages):
        nodes = tuple(v for v, row in enumerate(rows) if row[s] and (s == 0 or not row[s - 1]))
        kind = next(c for c in range(kinds) if rest[s * kinds + c])
        load = load_ps(problem, kind, nodes)
        if nodes and load is not None:
            found.append(Stage(kind, nodes, load))
    return Partition(tuple(found))
