"""The whole problem as one CP-SAT model: exact on small clusters, the oracle of the search.

Column generation splits the problem; this model does not, shares no code with the pricing, the
master or the bound, and answers to the same formula. It is meant for a few pipelines of a few
stages.

Slots p = 0 … P−1 are pipelines, P the most replicas that the setting, the chips and the batch
allow. Positions s = 0 … S−1 are stages, S the most that are allowed; a shorter pipeline leaves its
*first* positions empty, so that position S−1 is always the last stage. Layers v, options k,
recomputation policies a, cuts c (before layer c), replica counts r. Per slot:

    y[v,s]     layer v is in a stage ≤ s; x[v,s] = y[v,s] − y[v,s−1] says that it is in stage s
    o[s,k]     stage s runs under option k         w[s,k,a]  … with recomputation policy a
    e[s,k,k′]  … and stage s+1 under option k′     z[s,k,r]  … and the plan has r pipelines
    D[s]       micro-batches in flight             m         number of micro-batches
    g[s]       picoseconds of a micro-batch        h[s]      picoseconds of the hop s → s+1
    τ          period                              f         synchronisation and update time

and ``R[r]``: the plan has r pipelines. D and m are sums of literals "D[s] ≥ n", "m ≥ n".
``[literal] ⇒`` marks an enforced constraint; nothing uses a big-M, and products with a small
count become one enforced linear constraint per count. g, h and f are bounded from below only:
less is always better.

    minimise T

     (1) y[v,s−1] ≤ y[v,s],  y[v+1,s] ≤ y[v,s],  y[v,S−1] = active      `_add_coverage`
     (2) stage s holds a layer ⇔ used[s];  used[s−1] ≤ used[s]          `_add_coverage`
     (3) Σ_k o[s,k] = used[s];  Σ_a w[s,k,a] = o[s,k];  one micro-batch
         size per pipeline;  a class holds only layers of its window     `_add_choices`
     (4) [w[s,k,a]] ⇒ g[s] ≥ Σ_v time[k,a,v]·x[v,s]                      `_add_times`
     (5) Σ_k′ e[s,k,k′] = o[s,k];  Σ_k e[s,k,k′] ≤ o[s+1,k′];
         [e[s,k,k′]] ⇒ h[s] ≥ Σ_c hop[k,k′,c]·(y[c−1,s] − y[c,s]), with
         the slower hop of a port that two of the hops share             `_add_hops`
     (6) D[S−1] = 1;  [used[s]] ⇒ D[s] ≥ D[s+1] + 1                      `_add_depths`
     (7) τ ≥ g[s];  τ ≥ h[s];  [D[s] − D[j] + 1 ≤ n] ⇒ n·τ ≥ A[s,j]
         with A[s,j] = Σ_{s..j} g + 2·Σ_{s..j−1} h, for all s < j, n     `_add_depths`
     (8) [o[s,k] or z[s,k,r]] ⇒ state + kept[s] + max_v working·x
         + logits + ⌊boundaries⌋ + overhead ≤ usable, where
         [D[s] ≥ n and m ≥ n] ⇒ kept[s] ≥ n·Σ_v activation·x             `_add_memory`
     (9) [z[s,k,r]] ⇒ f ≥ finish[k,i,j,r]·(y[j−1,s] − y[i,s−1]): in full
         where stage s holds the layers i … j−1                          `_add_finish`
    (10) [m ≥ n] ⇒ T ≥ Σ g + 2·Σ h + (n − 1)·τ + f                       `_add_step_time`
    (11) Σ_p rows·m ≥ global batch                                       `_add_batch`
    (12) chips in groups of at least tp ≤ capacity, every packing row    `_add_packing`
    (13) Σ_p active = Σ_r r·R[r];  Σ_r R[r] = 1;  Σ_r z[s,k,r] = o[s,k];
         z[s,k,r] ≤ R[r]                                                 `_add_replicas`
    (14) (rows·m, chips) falls lexicographically from slot to slot       `_add_order`

D[S−1] = 1 costs nothing: the period sees differences of depths only, and memory rises with each.
For the same reason D[s] ≤ 3·(S−1−s) + 1: no g and no h exceeds τ, so A[s,j] ≤ (3·(j−s) + 1)·τ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ortools.sat.python import cp_model

from costmodels.schedules import depth_rule, period
from costmodels.units import PS_PER_S
from planner.costing import OptionTable, sharded_optimizer_bytes
from planner.search.columns import Column, TemplateStage
from planner.search.finish import expected_finish_s
from planner.search.problem import Problem, Setting
from planner.search.space import expected_hop_ps, over_network

Expr = cp_model.LinearExprT


@dataclass(frozen=True, slots=True)
class CompactPipeline:
    """One pipeline of the answer; its column is priced for this many micro-batches."""

    column: Column
    micro_batches: int


@dataclass(frozen=True, slots=True)
class CompactResult:
    """Best formula time (None: none found) in picoseconds, its pipelines, and what is proven.

    ``proven`` with a time means optimal, without one infeasible. ``lower_bound_ps`` holds in any
    case.
    """

    time_ps: int | None
    pipelines: tuple[CompactPipeline, ...]
    proven: bool
    lower_bound_ps: int


@dataclass(frozen=True)
class _Limits:
    """Ranges of the variables, all of them safe."""

    slots: int
    stages: int
    time: int
    hop: int
    finish: int
    memory: int
    micro_batches: int


@dataclass(frozen=True)
class _Slot:
    """The variables of one pipeline; see the module docstring."""

    active: cp_model.IntVar
    size: dict[int, cp_model.IntVar]
    used: list[cp_model.IntVar]
    y: list[list[cp_model.IntVar]]
    option: list[list[cp_model.IntVar]]
    way: list[list[dict[int, cp_model.IntVar]]]
    shared: list[list[dict[int, cp_model.IntVar]]]
    deep: list[list[cp_model.IntVar]]
    time: list[cp_model.IntVar]
    hop: list[cp_model.IntVar]
    period: cp_model.IntVar
    many: list[cp_model.IntVar]
    finish: cp_model.IntVar
    load: cp_model.IntVar

    @property
    def micro_batches(self) -> Expr:
        """m; ``many[n]`` says that m > n."""
        return sum(self.many)

    def depth(self, s: int) -> Expr:
        """D[s]; ``deep[s][n]`` says that D[s] > n + 1."""
        return 1 + sum(self.deep[s])

    def holds(self, v: int, s: int) -> Expr:
        """1 if layer v is in stage s."""
        return self.y[s][v] - self.y[s - 1][v] if s else self.y[s][v]


class _Program:
    """The model under construction: the problem, the ranges, and the shared variables."""

    def __init__(self, problem: Problem, setting: Setting, upper_ps: int | None) -> None:
        self.problem = problem
        self.setting = setting
        self.tables: tuple[OptionTable, ...] = problem.tables.tables
        self.layers = problem.tables.layers
        self.model = cp_model.CpModel()
        self.limits = _limits(problem, setting)
        horizon = self.limits.micro_batches * _fill_limit(self.limits) + self.limits.finish
        self.total = self.model.new_int_var(0, min(horizon, upper_ps or horizon), "T")
        self.replicas = {
            r: self.model.new_bool_var(f"R[{r}]")
            for r in range(max(1, setting.replicas[0]), self.limits.slots + 1)
        }
        self.slots = [_new_slot(self, p) for p in range(self.limits.slots)]
        for slot in self.slots:
            _add_coverage(self, slot)
            _add_choices(self, slot)
            _add_times(self, slot)
            _add_hops(self, slot)
            _add_depths(self, slot)
            _add_memory(self, slot)
            _add_finish(self, slot)
            _add_step_time(self, slot)
        _add_batch(self)
        _add_packing(self)
        _add_replicas(self)
        _add_order(self)
        self.model.minimize(self.total)

    def group_chips(self, slot: _Slot, classes: Sequence[int], least_tp: int) -> Expr:
        """Chips of a slot in groups of at least ``least_tp`` of these classes."""
        return cp_model.LinearExpr.sum(
            [
                stage[k] * table.option.tp
                for stage in slot.option
                for k, table in enumerate(self.tables)
                if table.option.class_index in classes and table.option.tp >= least_tp
            ]
        )


def solve_compact(
    problem: Problem,
    setting: Setting,
    *,
    upper_ps: int | None = None,
    work_limit: float = 60.0,
    seed: int = 0,
) -> CompactResult:
    """The least formula time under a setting, with the depths, cuts and counts that attain it.

    ``upper_ps`` asks for plans no slower than that. One worker and a deterministic ``work_limit``:
    the same input gives the same answer.
    """
    program = _Program(problem, setting, upper_ps)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    # The presolve of 9.15 that this switches off proves wrong optima, see the module docstring.
    solver.parameters.presolve_inclusion_work_limit = 0
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    solver.parameters.max_deterministic_time = work_limit
    status = solver.solve(program.model)
    if status == cp_model.INFEASIBLE:
        return CompactResult(None, (), True, program.limits.time)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return CompactResult(None, (), False, max(0, round(solver.best_objective_bound)))
    pipelines = tuple(
        _decode(program, slot, solver) for slot in program.slots if solver.value(slot.active)
    )
    return CompactResult(
        max(p.column.time_ps(p.micro_batches) for p in pipelines),
        pipelines,
        status == cp_model.OPTIMAL,
        round(solver.best_objective_bound),
    )


def _limits(problem: Problem, setting: Setting) -> _Limits:
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
    return _Limits(
        slots=slots,
        stages=min(problem.max_stages, layers),
        time=max(int((t.forward_ps + t.backward_ps[policies].max(axis=0)).sum()) for t in tables),
        hop=max((h for h in hops if h is not None), default=0),
        finish=max(
            _finish_ps(problem, t, 0, layers, r) for t in tables for r in range(1, slots + 1)
        ),
        memory=max(c.usable_memory_bytes for c in problem.topology.classes),
        micro_batches=-(-problem.global_batch // least_rows),
    )


def _fill_limit(limits: _Limits) -> int:
    return limits.stages * (limits.time + 2 * limits.hop)


def _finish_ps(problem: Problem, table: OptionTable, first: int, end: int, replicas: int) -> int:
    return round(expected_finish_s(problem, table, first, end, replicas) * PS_PER_S)


def _hops_ps(
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


def _new_slot(program: _Program, p: int) -> _Slot:
    model, limits = program.model, program.limits
    positions = range(limits.stages)
    most = limits.micro_batches
    rows = sorted({t.option.rows for t in program.tables})
    return _Slot(
        active=model.new_bool_var(f"active[{p}]"),
        size={r: model.new_bool_var(f"rows[{p},{r}]") for r in rows},
        used=[model.new_bool_var(f"used[{p},{s}]") for s in positions],
        y=[
            [model.new_bool_var(f"y[{p},{v},{s}]") for v in range(program.layers)]
            for s in positions
        ],
        option=[
            [model.new_bool_var(f"o[{p},{s},{k}]") for k in range(len(program.tables))]
            for s in positions
        ],
        way=[
            [
                {a: model.new_bool_var(f"w[{p},{s},{k},{a}]") for a in program.problem.policies}
                for k in range(len(program.tables))
            ]
            for s in positions
        ],
        shared=[
            [
                {r: model.new_bool_var(f"z[{p},{s},{k},{r}]") for r in program.replicas}
                for k in range(len(program.tables))
            ]
            for s in positions
        ],
        deep=[
            [model.new_bool_var(f"D[{p},{s}]>{n + 1}") for n in range(3 * (limits.stages - 1 - s))]
            for s in positions
        ],
        time=[model.new_int_var(0, limits.time, f"g[{p},{s}]") for s in positions],
        hop=[model.new_int_var(0, limits.hop, f"h[{p},{s}]") for s in positions[:-1]],
        period=model.new_int_var(0, _fill_limit(limits), f"tau[{p}]"),
        many=[model.new_bool_var(f"m[{p}]>{n}") for n in range(most)],
        finish=model.new_int_var(0, limits.finish, f"f[{p}]"),
        load=model.new_int_var(0, most * rows[-1], f"load[{p}]"),
    )


def _add_coverage(program: _Program, slot: _Slot) -> None:
    """(1), (2): consecutive layers, each once, empty positions first."""
    model, last = program.model, program.limits.stages - 1
    for s, prefix in enumerate(slot.y):
        for a, b in pairwise(prefix):
            model.add_implication(b, a)
        if s:
            for before, now in zip(slot.y[s - 1], prefix):
                model.add_implication(before, now)
            model.add_implication(slot.used[s - 1], slot.used[s])
        held = cp_model.LinearExpr.sum([slot.holds(v, s) for v in range(program.layers)])
        model.add(held >= 1).only_enforce_if(slot.used[s])
        model.add(held == 0).only_enforce_if(~slot.used[s])
    for v in range(program.layers):
        model.add(slot.y[last][v] == slot.active)


def _add_choices(program: _Program, slot: _Slot) -> None:
    """(3): one option and one policy per stage, one micro-batch size, windows of classes."""
    model = program.model
    model.add_exactly_one([*slot.size.values(), ~slot.active])
    for s, used in enumerate(slot.used):
        model.add_exactly_one([*slot.option[s], ~used])
        for chosen, ways, table in zip(slot.option[s], slot.way[s], program.tables):
            model.add_exactly_one([*ways.values(), ~chosen])
            model.add_implication(chosen, slot.size[table.option.rows])
            first, end = program.setting.windows[table.option.class_index]
            for v in range(program.layers):
                if not first <= v < end:
                    model.add(slot.holds(v, s) == 0).only_enforce_if(chosen)


def _add_times(program: _Program, slot: _Slot) -> None:
    """(4): time of one micro-batch on a stage."""
    for s, time in enumerate(slot.time):
        for ways, table in zip(slot.way[s], program.tables):
            for policy, literal in ways.items():
                each = table.forward_ps + table.backward_ps[policy]
                spent = [slot.holds(v, s) * int(each[v]) for v in range(program.layers)]
                program.model.add(time >= sum(spent)).only_enforce_if(literal)


def _add_hops(program: _Program, slot: _Slot) -> None:
    """(5): transfer of one micro-batch to the next stage, one way."""
    model, topology = program.model, program.problem.topology
    edges: list[dict[tuple[int, int], cp_model.IntVar]] = []
    for s in range(len(slot.hop)):
        edges.append({})
        for a, source in enumerate(program.tables):
            for b, target in enumerate(program.tables):
                joined = expected_hop_ps(topology, source, target, 1) is not None
                if joined and source.option.rows == target.option.rows:
                    edges[s][a, b] = model.new_bool_var("")
        for k in range(len(program.tables)):
            leaving = [e for (a, _), e in edges[s].items() if a == k]
            arriving = [e for (_, b), e in edges[s].items() if b == k]
            model.add(sum(leaving) == slot.option[s][k])
            model.add(sum(arriving) <= slot.option[s + 1][k])
    over = [
        [
            e
            for (a, b), e in found.items()
            if over_network(topology, program.tables[a], program.tables[b])
        ]
        for found in edges
    ]
    for s, hop in enumerate(slot.hop):
        for (a, b), edge in edges[s].items():
            _add_hop(program, slot, s, (a, b), (False, False), edge)
            if edge not in over[s]:
                continue
            # a share is the lesser of both ends', so that one busy end at a time says it all
            for side, busy in ((s - 1, (True, False)), (s + 1, (False, True))):
                if 0 <= side < len(slot.hop) and over[side]:
                    both = model.new_bool_var("")
                    for neighbour in over[side]:
                        model.add_bool_or(~edge, ~neighbour, both)
                    _add_hop(program, slot, s, (a, b), busy, both)


def _add_hop(
    program: _Program,
    slot: _Slot,
    s: int,
    ends: tuple[int, int],
    busy: tuple[bool, bool],
    literal: cp_model.IntVar,
) -> None:
    """The time of one hop between two options at every cut."""
    source, target = (program.tables[k] for k in ends)
    crossing = program.problem.tables.boundary_bytes[source.option.rows]
    spent = 0
    for c in range(1, program.layers):
        time = expected_hop_ps(program.problem.topology, source, target, int(crossing[c]), busy)
        spent += (slot.y[s][c - 1] - slot.y[s][c]) * (time or 0)
    program.model.add(slot.hop[s] >= spent).only_enforce_if(literal)


def _add_depths(program: _Program, slot: _Slot) -> None:
    """(6), (7): depths fall along the pipeline, and the period covers every round trip."""
    model, last = program.model, program.limits.stages - 1
    for s, used in enumerate(slot.used):
        for a, b in pairwise(slot.deep[s]):
            model.add_implication(b, a)
        model.add(slot.period >= slot.time[s])
        if s == last:
            continue
        model.add(slot.period >= slot.hop[s])
        model.add(slot.depth(s) >= slot.depth(s + 1) + 1).only_enforce_if(used)
        for j in range(s + 1, last + 1):
            trip = sum(slot.time[s : j + 1]) + 2 * sum(slot.hop[s:j])
            # D[s] − D[j] + 1 > j − s by (6); above 3·(j−s) the trip always fits
            for n in range(j - s + 1, 3 * (j - s) + 1):
                near = model.new_bool_var("")
                model.add(slot.depth(s) - slot.depth(j) >= n).only_enforce_if(~near)
                model.add(n * slot.period >= trip).only_enforce_if(near)


def _add_memory(program: _Program, slot: _Slot) -> None:
    """(8): the peak of every stage fits the usable memory of its chips."""
    model, tables = program.model, program.problem.tables
    layers, room = range(program.layers), program.limits.memory
    for s in range(program.limits.stages):
        each, kept, working = (model.new_int_var(0, room, "") for _ in range(3))
        model.add(kept >= each)
        for n, (deep, more) in enumerate(zip(slot.deep[s], slot.many[1:]), start=2):
            flying = model.new_bool_var("")
            model.add_bool_or(~deep, ~more, flying)
            model.add(kept >= n * each).only_enforce_if(flying)
        for k, table in enumerate(program.tables):
            for policy, literal in slot.way[s][k].items():
                activation = table.activation_bytes[policy]
                held = sum(slot.holds(v, s) * int(activation[v]) for v in layers)
                model.add(each >= held).only_enforce_if(literal)
                for v in layers:
                    peak = slot.holds(v, s) * int(table.working_bytes[policy][v])
                    model.add(working >= peak).only_enforce_if(literal)
            cls = program.problem.topology.classes[table.option.class_index]
            over = tables.overheads[cls.index]
            overhead = over.context_bytes + over.buffer_bytes + over.fragmentation_bytes
            divisor = table.option.tp if tables.sequence_parallel else 1
            edges = 2 * _boundaries(program, slot, s, table)
            holders = slot.shared[s][k] if tables.zero_level else {1: slot.option[s][k]}
            for shards, literal in holders.items():
                state = (
                    table.parameters * (tables.state.parameter + tables.state.gradient)
                    + sharded_optimizer_bytes(table.parameters, tables.state.optimizer, shards)
                    + table.logits_bytes
                )
                fixed = sum(slot.holds(v, s) * int(state[v]) for v in layers)
                # a + ⌊e/d⌋ ≤ u  ⇔  d·a + e ≤ d·u + d − 1, in integers
                model.add(
                    divisor * (fixed + kept + working) + edges
                    <= divisor * (cls.usable_memory_bytes - overhead) + divisor - 1
                ).only_enforce_if(literal)


def _boundaries(program: _Program, slot: _Slot, s: int, table: OptionTable) -> Expr:
    """Bytes that enter and leave stage s for one micro-batch."""
    crossing = program.problem.tables.boundary_bytes[table.option.rows]
    return sum(
        (slot.y[side][c - 1] - slot.y[side][c]) * int(crossing[c])
        for side in (s - 1, s)
        if side >= 0
        for c in range(1, program.layers)
    )


def _add_finish(program: _Program, slot: _Slot) -> None:
    """(9): synchronisation and update of the slowest stage; rises with every layer held."""
    for k, table in enumerate(program.tables):
        for r in program.replicas:
            for i in range(program.layers):
                for j in range(i + 1, program.layers + 1):
                    least = _finish_ps(program.problem, table, i, j, r)
                    for s in range(program.limits.stages):
                        held = slot.y[s][j - 1] - slot.y[s - 1][i] if s else slot.y[s][j - 1]
                        program.model.add(slot.finish >= least * held).only_enforce_if(
                            slot.shared[s][k][r]
                        )


def _add_step_time(program: _Program, slot: _Slot) -> None:
    """(10): no pipeline ends after T."""
    filling = sum(slot.time) + 2 * sum(slot.hop) + slot.finish
    for n, more in enumerate(slot.many):
        program.model.add(program.total >= filling + n * slot.period).only_enforce_if(more)


def _add_batch(program: _Program) -> None:
    """(11): the pipelines' micro-batches hold the global batch."""
    model = program.model
    for slot in program.slots:
        model.add(slot.many[0] == slot.active)
        for a, b in pairwise(slot.many):
            model.add_implication(b, a)
        model.add(slot.load == 0).only_enforce_if(~slot.active)
        for rows, literal in slot.size.items():
            model.add(slot.load == rows * slot.micro_batches).only_enforce_if(literal)
    model.add(sum(slot.load for slot in program.slots) >= program.problem.global_batch)


def _add_packing(program: _Program) -> None:
    """(12): groups fit into the islands of their class."""
    for class_index, tp, capacity in program.problem.packing_rows:
        chips = [program.group_chips(slot, (class_index,), tp) for slot in program.slots]
        program.model.add(cp_model.LinearExpr.sum(chips) <= capacity)


def _add_replicas(program: _Program) -> None:
    """(13): how many pipelines the plan has."""
    model = program.model
    model.add_exactly_one(program.replicas.values())
    count = sum(slot.active for slot in program.slots)
    model.add(count == sum(r * literal for r, literal in program.replicas.items()))
    for slot in program.slots:
        for options, shared in zip(slot.option, slot.shared):
            for chosen, literals in zip(options, shared):
                model.add_exactly_one([*literals.values(), ~chosen])
                for r, literal in literals.items():
                    model.add_implication(literal, program.replicas[r])


def _add_order(program: _Program) -> None:
    """(14): slots are interchangeable; only one order of them is of interest."""
    chips = program.problem.topology.chips
    every = range(len(program.problem.topology.classes))
    keys = [
        (chips + 1) * slot.load + program.group_chips(slot, every, 1) for slot in program.slots
    ]
    for first, second in pairwise(keys):
        program.model.add(first >= second)


def _decode(program: _Program, slot: _Slot, solver: cp_model.CpSolver) -> CompactPipeline:
    """The pipeline of an active slot as a column, with the least depths for its period."""
    problem = program.problem
    replicas = next(r for r, literal in program.replicas.items() if solver.value(literal))
    micro_batches = sum(solver.value(more) for more in slot.many)
    chosen: list[tuple[OptionTable, int, int, int]] = []
    first = 0
    for s, used in enumerate(slot.used):
        if not solver.value(used):
            continue
        end = sum(solver.value(y) for y in slot.y[s])
        k = next(k for k, o in enumerate(slot.option[s]) if solver.value(o))
        a = next(a for a, w in slot.way[s][k].items() if solver.value(w))
        chosen.append((program.tables[k], a, first, end))
        first = end
    forward = tuple(int(t.forward_ps[i:j].sum()) for t, _, i, j in chosen)
    backward = tuple(int(t.backward_ps[a, i:j].sum()) for t, a, i, j in chosen)
    hops = _hops_ps(problem, [t for t, *_ in chosen], [i for _, _, i, _ in chosen])
    usage = tuple(
        sum(
            t.option.tp
            for t, *_ in chosen
            if t.option.class_index == c and t.option.tp >= tp
        )
        for c, tp, _ in problem.packing_rows
    )
    # The least depths for the period found: the solver's are no less, so that memory admits them.
    depths = depth_rule(forward, backward, hops, solver.value(slot.period))
    return CompactPipeline(
        Column(
            stages=tuple(
                TemplateStage(t.option.class_index, t.option.tp, i, j, a, depth)
                for (t, a, i, j), depth in zip(chosen, depths)
            ),
            rows=chosen[0][0].option.rows,
            forward_ps=forward,
            backward_ps=backward,
            hop_ps=hops,
            fill_ps=sum(forward) + sum(backward) + 2 * sum(hops),
            period_ps=period(forward, backward, hops, depths),
            finish_ps=max(_finish_ps(problem, t, i, j, replicas) for t, _, i, j in chosen),
            usage=usage,
            max_micro_batches=micro_batches,
        ),
        micro_batches,
    )
