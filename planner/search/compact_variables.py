"""The variables of the compact model and their ranges; ``compact`` states the whole program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from costmodels.units import PS_PER_S
from planner.costing import Ints, OptionTable, host_limit
from planner.search.finish import expected_finish_s, unhidden_s
from planner.search.problem import Problem, Setting, over_network
from planner.search.space import expected_hop_ps

Expr = cp_model.LinearExpr
Bools = list[cp_model.IntVar]


@dataclass(frozen=True)
class Limits:
    """Ranges of the variables, all of them safe."""

    slots: int
    stages: int
    time: int
    hop: int
    finish: int
    memory: int
    host: int
    micro_batches: int


@dataclass(frozen=True)
class Slot:
    """The variables of one pipeline; see the module docstring."""

    active: cp_model.IntVar
    size: dict[int, cp_model.IntVar]
    used: Bools
    y: list[Bools]
    option: list[Bools]
    way: list[list[dict[int, cp_model.IntVar]]]
    shared: list[list[dict[int, cp_model.IntVar]]]
    deep: list[Bools]
    time: list[cp_model.IntVar]
    backward: list[cp_model.IntVar]
    hop: list[cp_model.IntVar]
    period: cp_model.IntVar
    many: Bools
    finish: cp_model.IntVar
    load: cp_model.IntVar

    @property
    def micro_batches(self) -> Expr:
        """m; ``many[n]`` says that m > n."""
        return Expr.sum(self.many)

    def depth(self, s: int) -> Expr:
        """D[s]; ``deep[s][n]`` says that D[s] > n + 1."""
        return 1 + Expr.sum(self.deep[s])

    def holds(self, v: int, s: int) -> Expr:
        """1 if layer v is in stage s."""
        return self.y[s][v] - self.y[s - 1][v] if s else 1 * self.y[s][v]

    def weigh(self, s: int, values: Sequence[int] | Ints) -> Expr:
        """Sum over the layers of stage s of one value per layer."""
        return Expr.sum([self.holds(v, s) * int(value) for v, value in enumerate(values)])

    def crossing(self, s: int, values: Sequence[int]) -> Expr:
        """The value of the cut at which stage s ends; ``values[c]`` for the cut before layer c."""
        ends = self.y[s]
        return Expr.sum([(ends[c - 1] - ends[c]) * values[c] for c in range(1, len(ends))])


def find_limits(problem: Problem, setting: Setting) -> Limits:
    """Ranges that cut off no plan of the setting."""
    tables = problem.tables.tables
    layers = problem.tables.layers
    policies = list(problem.policies)
    slots = min(setting.replicas[1], problem.topology.chips, problem.global_batch)
    least_rows = min(t.option.rows for t in tables)
    hops = [
        expected_hop_ps(problem.topology, a, b, int(size), (True, True))
        for a in tables
        for b in tables
        if a.option.rows == b.option.rows
        for size in {int(x) for x in problem.tables.boundary_bytes[a.option.rows]}
    ]
    return Limits(
        slots=slots,
        stages=min(problem.max_stages, layers),
        time=max(
            int((t.forward_ps[policies] + t.backward_ps[policies]).max(axis=0).sum())
            for t in tables
        ),
        hop=max((h for h in hops if h is not None), default=0),
        finish=max(
            finish_ps(problem, t, 0, layers, r) for t in tables for r in range(1, slots + 1)
        ),
        memory=max(c.usable_memory_bytes for c in problem.topology.classes),
        host=max(map(host_limit, problem.topology.classes)),
        micro_batches=-(-problem.global_batch // least_rows),
    )


def fill_limit(limits: Limits) -> int:
    """No pipeline takes longer for one micro-batch."""
    return limits.stages * (limits.time + 2 * limits.hop)


def finish_ps(problem: Problem, table: OptionTable, first: int, end: int, replicas: int) -> int:
    """Synchronisation and update of a stage, as the objective counts it."""
    return round(expected_finish_s(problem, table, first, end, replicas) * PS_PER_S)


def unhidden_ps(problem: Problem, table: OptionTable, first: int, end: int, replicas: int) -> int:
    """What of it no earlier stage's backward hides."""
    return round(unhidden_s(problem, table, first, end, replicas) * PS_PER_S)


def hops_ps(
    problem: Problem, tables: Sequence[OptionTable], firsts: Sequence[int]
) -> tuple[int, ...]:
    """Hops of a pipeline: a stage with two neighbours over the network shares its port."""
    crossing = problem.tables.boundary_bytes[tables[0].option.rows]
    over = [over_network(problem.topology, a, b) for a, b in pairwise(tables)]
    hops = []
    for s, (a, b) in enumerate(pairwise(tables)):
        busy = (over[s] and s > 0 and over[s - 1], over[s] and s + 1 < len(over) and over[s + 1])
        hop = expected_hop_ps(problem.topology, a, b, int(crossing[firsts[s + 1]]), busy)
        hops.append(hop or 0)
    return tuple(hops)


def new_slot(
    model: cp_model.CpModel, problem: Problem, limits: Limits, counts: Sequence[int], p: int
) -> Slot:
    """Fresh variables for slot p; ``counts`` are the possible numbers of replicas."""
    positions = range(limits.stages)
    options = range(len(problem.tables.tables))
    layers = range(problem.tables.layers)
    most = limits.micro_batches
    rows = sorted({t.option.rows for t in problem.tables.tables})
    return Slot(
        active=model.new_bool_var(f"active[{p}]"),
        size={r: model.new_bool_var(f"rows[{p},{r}]") for r in rows},
        used=[model.new_bool_var(f"used[{p},{s}]") for s in positions],
        y=[[model.new_bool_var(f"y[{p},{v},{s}]") for v in layers] for s in positions],
        option=[[model.new_bool_var(f"o[{p},{s},{k}]") for k in options] for s in positions],
        way=[
            [
                {a: model.new_bool_var(f"w[{p},{s},{k},{a}]") for a in problem.policies}
                for k in options
            ]
            for s in positions
        ],
        shared=[
            [{r: model.new_bool_var(f"z[{p},{s},{k},{r}]") for r in counts} for k in options]
            for s in positions
        ],
        deep=[
            [model.new_bool_var(f"D[{p},{s}]>{n + 1}") for n in range(3 * (limits.stages - 1 - s))]
            for s in positions
        ],
        time=[model.new_int_var(0, limits.time, f"g[{p},{s}]") for s in positions],
        backward=[model.new_int_var(0, limits.time, f"b[{p},{s}]") for s in positions],
        hop=[model.new_int_var(0, limits.hop, f"h[{p},{s}]") for s in positions[:-1]],
        period=model.new_int_var(0, fill_limit(limits), f"tau[{p}]"),
        many=[model.new_bool_var(f"m[{p}]>{n}") for n in range(most)],
        finish=model.new_int_var(0, limits.finish, f"f[{p}]"),
        load=model.new_int_var(0, most * rows[-1], f"load[{p}]"),
    )
