"""The constraints of the compact model; ``compact`` states the whole program.

The numbers in the docstrings are those of that statement. Every constraint has at most one
enforcement literal; see ``compact`` for the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ortools.sat.python import cp_model

from costmodels.price import hosted
from planner.costing import (
    OptionTable,
    fixed_bytes,
    gathered_bytes,
    host_bytes,
    host_limit,
)
from planner.search.compact_variables import (
    Expr,
    Slot,
    fill_limit,
    find_limits,
    finish_ps,
    new_slot,
    unhidden_ps,
)
from planner.search.problem import Problem, Setting, over_network
from planner.search.space import expected_hop_ps


class Program:
    """The model under construction: the problem, the ranges, and the shared variables."""

    def __init__(self, problem: Problem, setting: Setting, upper_ps: int | None) -> None:
        self.problem = problem
        self.setting = setting
        self.tables: tuple[OptionTable, ...] = problem.tables.tables
        self.layers = problem.tables.layers
        self.model = cp_model.CpModel()
        self.limits = find_limits(problem, setting)
        horizon = self.limits.micro_batches * fill_limit(self.limits) + self.limits.finish
        self.total = self.model.new_int_var(0, min(horizon, upper_ps or horizon), "T")
        self.replicas = {
            r: self.model.new_bool_var(f"R[{r}]")
            for r in range(max(1, setting.replicas[0]), self.limits.slots + 1)
        }
        self.slots = [
            new_slot(self.model, problem, self.limits, list(self.replicas), p)
            for p in range(self.limits.slots)
        ]
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

    def group_chips(self, slot: Slot, classes: Sequence[int], least: int) -> Expr:
        """Chips of a slot in groups of at least ``least`` of these classes."""
        return Expr.sum(
            [
                stage[k] * table.option.chips
                for stage in slot.option
                for k, table in enumerate(self.tables)
                if table.option.class_index in classes and table.option.chips >= least
            ]
        )


def _add_coverage(program: Program, slot: Slot) -> None:
    """(1), (2): consecutive layers, each once, empty positions first."""
    model, last = program.model, program.limits.stages - 1
    for s, prefix in enumerate(slot.y):
        for a, b in pairwise(prefix):
            model.add_implication(b, a)
        if s:
            for before, now in zip(slot.y[s - 1], prefix):
                model.add_implication(before, now)
            model.add_implication(slot.used[s - 1], slot.used[s])
        held = slot.weigh(s, [1] * program.layers)
        model.add(held >= 1).only_enforce_if(slot.used[s])
        model.add(held == 0).only_enforce_if(~slot.used[s])
    for v in range(program.layers):
        model.add(slot.y[last][v] == slot.active)


def _add_choices(program: Program, slot: Slot) -> None:
    """(3): one option and one policy per stage, one micro-batch size, windows and barred layers."""
    model = program.model
    model.add_exactly_one([*slot.size.values(), ~slot.active])
    for s, used in enumerate(slot.used):
        model.add_exactly_one([*slot.option[s], ~used])
        for chosen, ways, table in zip(slot.option[s], slot.way[s], program.tables):
            model.add_exactly_one([*ways.values(), ~chosen])
            model.add_implication(chosen, slot.size[table.option.rows])
            first, end = program.setting.windows[table.option.class_index]
            for v in range(program.layers):
                if not first <= v < end or table.barred[v]:
                    model.add(slot.holds(v, s) == 0).only_enforce_if(chosen)


def _add_times(program: Program, slot: Slot) -> None:
    """(4): time of one micro-batch on a stage."""
    for s, time in enumerate(slot.time):
        for ways, table in zip(slot.way[s], program.tables):
            for policy, literal in ways.items():
                each = table.forward_ps[policy] + table.backward_ps[policy]
                program.model.add(time >= slot.weigh(s, each)).only_enforce_if(literal)


def _add_hops(program: Program, slot: Slot) -> None:
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
            model.add(Expr.sum(leaving) == slot.option[s][k])
            model.add(Expr.sum(arriving) <= slot.option[s + 1][k])
    over = [
        [
            e
            for (a, b), e in found.items()
            if over_network(topology, program.tables[a], program.tables[b])
        ]
        for found in edges
    ]
    for s in range(len(slot.hop)):
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
    program: Program,
    slot: Slot,
    s: int,
    ends: tuple[int, int],
    busy: tuple[bool, bool],
    literal: cp_model.IntVar,
) -> None:
    """The time of one hop between two options at every cut."""
    source, target = (program.tables[k] for k in ends)
    times = [
        expected_hop_ps(program.problem.topology, source, target, int(size), busy) or 0
        for size in program.problem.tables.boundary_bytes[source.option.rows]
    ]
    program.model.add(slot.hop[s] >= slot.crossing(s, times)).only_enforce_if(literal)


def _add_depths(program: Program, slot: Slot) -> None:
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
            trip = Expr.sum(slot.time[s : j + 1]) + 2 * Expr.sum(slot.hop[s:j])
            # D[s] − D[j] + 1 > j − s by (6); above 3·(j−s) the trip always fits
            for n in range(j - s + 1, 3 * (j - s) + 1):
                near = model.new_bool_var("")
                model.add(slot.depth(s) - slot.depth(j) >= n).only_enforce_if(~near)
                model.add(n * slot.period >= trip).only_enforce_if(near)


def _add_memory(program: Program, slot: Slot) -> None:
    """(8): every stage's peak fits the usable memory of its chips, what it offloads its host's."""
    model, tables = program.model, program.problem.tables
    room = program.limits.memory
    for s in range(program.limits.stages):
        each, kept, working, gathered = (model.new_int_var(0, room, "") for _ in range(4))
        model.add(kept >= each)
        leaves = any(map(hosted, program.problem.policies))
        away, on_hosts = (
            [model.new_int_var(0, program.limits.host, "") for _ in range(2)] if leaves else (0, 0)
        )
        if leaves:
            model.add(on_hosts >= away)
        for n, (deep, more) in enumerate(zip(slot.deep[s], slot.many[1:]), start=2):
            flying = model.new_bool_var("")
            model.add_bool_or(~deep, ~more, flying)
            model.add(kept >= n * each).only_enforce_if(flying)
            if leaves:
                model.add(on_hosts >= n * away).only_enforce_if(flying)
        for k, table in enumerate(program.tables):
            for policy, literal in slot.way[s][k].items():
                held = slot.weigh(s, table.activation_bytes[policy])
                model.add(each >= held).only_enforce_if(literal)
                if hosted(policy):
                    left = slot.weigh(s, table.hosted_bytes[policy])
                    model.add(away >= left).only_enforce_if(literal)
                for v in range(program.layers):
                    peak = slot.holds(v, s) * int(table.working_bytes[policy][v])
                    model.add(working >= peak).only_enforce_if(literal)
            cls = program.problem.topology.classes[table.option.class_index]
            for policy, literal in slot.way[s][k].items():
                if hosted(policy) and not cls.host_known:
                    model.add(literal == 0)
            over = tables.overheads[cls.index]
            overhead = over.context_bytes + over.buffer_bytes + over.fragmentation_bytes
            overhead += tables.offload_buffer(table.option)
            divisor = table.option.mesh.boundary_parts(sequence_parallel=tables.sequence_parallel)
            edges = 2 * _boundaries(program, slot, s, table)
            if table.option.mesh.zero3:
                for v, bytes_ in enumerate(gathered_bytes(tables, table)):
                    at_work = slot.holds(v, s) * int(bytes_)
                    model.add(gathered >= at_work).only_enforce_if(slot.option[s][k])
            holders = slot.shared[s][k] if tables.zero_level else {1: slot.option[s][k]}
            for shards, literal in holders.items():
                state = fixed_bytes(tables, table, shards)
                # a + ⌊e/d⌋ ≤ u  ⇔  d·a + e ≤ d·u + d − 1, in integers
                model.add(
                    divisor * (slot.weigh(s, state) + kept + working + gathered) + edges
                    <= divisor * (cls.usable_memory_bytes - overhead) + divisor - 1
                ).only_enforce_if(literal)
                if table.option.mesh.offload:
                    on_host = slot.weigh(s, host_bytes(tables, table, shards)) + on_hosts
                    model.add(on_host <= host_limit(cls)).only_enforce_if(literal)
                elif leaves:
                    model.add(on_hosts <= host_limit(cls)).only_enforce_if(literal)


def _boundaries(program: Program, slot: Slot, s: int, table: OptionTable) -> Expr:
    """Bytes that enter and leave stage s for one micro-batch."""
    bytes_ = [int(size) for size in program.problem.tables.boundary_bytes[table.option.rows]]
    return Expr.sum([slot.crossing(side, bytes_) for side in (s - 1, s) if side >= 0])


def _add_finish(program: Program, slot: Slot) -> None:
    """(9): synchronisation and update, less the backwards of the stages before."""
    for s in range(program.limits.stages):
        program.model.add(slot.backward[s] == 0).only_enforce_if(~slot.used[s])
        for k, table in enumerate(program.tables):
            for a, chosen in slot.way[s][k].items():
                own = slot.weigh(s, table.backward_ps[a])
                program.model.add(slot.backward[s] == own).only_enforce_if(chosen)
    for k, table in enumerate(program.tables):
        for r in program.replicas:
            for i in range(program.layers):
                for j in range(i + 1, program.layers + 1):
                    least = finish_ps(program.problem, table, i, j, r)
                    rest = unhidden_ps(program.problem, table, i, j, r)
                    for s in range(program.limits.stages):
                        held = slot.y[s][j - 1] - (slot.y[s - 1][i] if s else 0)
                        lead = Expr.sum(slot.backward[:s])
                        program.model.add(slot.finish >= least * held - lead).only_enforce_if(
                            slot.shared[s][k][r]
                        )
                        if rest:
                            program.model.add(slot.finish >= rest * held).only_enforce_if(
                                slot.shared[s][k][r]
                            )


def _add_step_time(program: Program, slot: Slot) -> None:
    """(10): no pipeline ends after T."""
    filling = Expr.sum(slot.time) + 2 * Expr.sum(slot.hop) + slot.finish
    for n, more in enumerate(slot.many):
        program.model.add(program.total >= filling + n * slot.period).only_enforce_if(more)


def _add_batch(program: Program) -> None:
    """(11): the pipelines' micro-batches hold the global batch."""
    model = program.model
    for slot in program.slots:
        model.add(slot.many[0] == slot.active)
        for a, b in pairwise(slot.many):
            model.add_implication(b, a)
        model.add(slot.load == 0).only_enforce_if(~slot.active)
        for rows, literal in slot.size.items():
            model.add(slot.load == rows * slot.micro_batches).only_enforce_if(literal)
    loads = [slot.load for slot in program.slots]
    model.add(Expr.sum(loads) >= program.problem.global_batch)


def _add_packing(program: Program) -> None:
    """(12): groups fit into the islands of their class."""
    for class_index, group, capacity in program.problem.packing_rows:
        chips = [program.group_chips(slot, (class_index,), group) for slot in program.slots]
        program.model.add(Expr.sum(chips) <= capacity)


def _add_replicas(program: Program) -> None:
    """(13): how many pipelines the plan has."""
    model = program.model
    model.add_exactly_one(program.replicas.values())
    count = Expr.sum([slot.active for slot in program.slots])
    model.add(count == Expr.sum([r * literal for r, literal in program.replicas.items()]))
    for slot in program.slots:
        for options, shared in zip(slot.option, slot.shared):
            for chosen, literals in zip(options, shared):
                model.add_exactly_one([*literals.values(), ~chosen])
                for r, literal in literals.items():
                    model.add_implication(literal, program.replicas[r])


def _add_order(program: Program) -> None:
    """(14): slots are interchangeable; only one order of them is of interest."""
    chips = program.problem.topology.chips
    every = range(len(program.problem.topology.classes))
    keys = [(chips + 1) * slot.load + program.group_chips(slot, every, 1) for slot in program.slots]
    for first, second in pairwise(keys):
        program.model.add(first >= second)
