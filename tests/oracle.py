"""Brute force over everything: what the search must agree with on tiny problems.

All pipelines (options x cuts x recomputation policies), all in-flight depths, all micro-batch
counts, all multisets of pipelines. Memory and hops are computed from the rules themselves, one
layer at a time; only the period and the finish term are the program's own formulas, because they
*are* the objective:

    T = max_p [ fill_p + (m_p − 1)·period(D_p) + finish_p(R) ],    Σ_p rows_p·m_p ≥ batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise, product

from costmodels.offload import offloaded_update_s
from costmodels.schedules import period, takt
from costmodels.units import PS_PER_S
from planner.costing import OptionTable
from planner.graphs.topology import Topology
from planner.mesh import StageMesh
from planner.search.columns import Column
from planner.search.finish import expected_finish_s
from planner.search.problem import Problem, Setting, over_network
from planner.search.space import best_hop_ps, expected_hop_ps

HopRule = Callable[[Topology, Sequence[OptionTable], Sequence[int]], list[int | None]]
"""Hops of a pipeline from its stages' tables and the bytes that cross its cuts."""


def plan_hops(
    topology: Topology, tables: Sequence[OptionTable], crossing: Sequence[int]
) -> list[int | None]:
    """What a plan pays: a stage with network neighbours on both sides halves its port's share."""
    over = [over_network(topology, a, b) for a, b in pairwise(tables)]
    found = []
    for s, bytes_ in enumerate(crossing):
        left = over[s] and s > 0 and over[s - 1]
        right = over[s] and s + 1 < len(over) and over[s + 1]
        found.append(expected_hop_ps(topology, tables[s], tables[s + 1], bytes_, (left, right)))
    return found


def bound_hops(
    topology: Topology, tables: Sequence[OptionTable], crossing: Sequence[int]
) -> list[int | None]:
    """What a bound may assume: every hop at its best anywhere in the cluster."""
    pairs = zip(tables, tables[1:], crossing)
    return [best_hop_ps(topology, a, b, bytes_) for a, b, bytes_ in pairs]


@dataclass(frozen=True)
class BruteStage:
    """Layers ``[first, end)`` under table number ``option`` and a recomputation policy."""

    option: int
    policy: int
    first: int
    end: int


@dataclass(frozen=True)
class BrutePipeline:
    """A sequence of stages with its exact integer times and its chips per packing row."""

    stages: tuple[BruteStage, ...]
    rows: int
    forward_ps: tuple[int, ...]
    backward_ps: tuple[int, ...]
    hop_ps: tuple[int, ...]
    usage: tuple[int, ...]

    @property
    def fill_ps(self) -> int:
        return sum(self.forward_ps) + sum(self.backward_ps) + 2 * sum(self.hop_ps)


@dataclass(frozen=True)
class Run:
    """A pipeline, how many micro-batches it runs, at which depths, and when it ends."""

    pipeline: BrutePipeline
    micro_batches: int
    depths: tuple[int, ...]
    time_ps: int


@dataclass(frozen=True)
class Best:
    """The least formula time (None: nothing is feasible) and the runs that attain it."""

    time_ps: int | None
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class StageFacts:
    """What stages take at one number of replicas: many pipelines have the same stage.

    A ``setting`` says which classes may hold the same layers; without one, any may.
    """

    problem: Problem
    replicas: int
    setting: Setting | None = None
    rooms: dict[tuple[BruteStage, int], int] = field(default_factory=dict)
    ends: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)

    def room(self, stage: BruteStage, enough: int) -> int:
        """:func:`most_in_flight`, worked out once."""
        key = (stage, enough)
        if key not in self.rooms:
            self.rooms[key] = most_in_flight(self.problem, stage, self.replicas, enough)
        return self.rooms[key]

    def after(self, option: int, first: int, end: int) -> tuple[int, int]:
        """Picoseconds after the last backward: that earlier stages hide, and that nobody does."""
        key = (option, first, end)
        if key not in self.ends:
            table = self.problem.tables.tables[option]
            seconds = expected_finish_s(
                self.problem, table, first, end, self.replicas, setting=self.setting
            )
            hosted = host_update_ps(self.problem, table, first, end, self.replicas)
            self.ends[key] = (round(seconds * PS_PER_S), hosted)
        return self.ends[key]


def brute_force(problem: Problem, setting: Setting, hop: HopRule = plan_hops) -> Best:
    """The optimum of a setting."""
    pipelines = list(all_pipelines(problem, setting, hop))
    best = Best(None, ())
    for replicas in range(max(1, setting.replicas[0]), setting.replicas[1] + 1):
        found = _best_of_count(problem, pipelines, replicas, best.time_ps)
        if found is not None:
            best = found
    return best


def all_pipelines(
    problem: Problem, setting: Setting, hop: HopRule = plan_hops
) -> Iterator[BrutePipeline]:
    """Every sequence of stages that the windows and the network admit, memory not yet asked."""
    tables = problem.tables
    for rows in sorted(tables.boundary_bytes):
        ways = [
            (k, policy)
            for k, table in enumerate(tables.tables)
            if table.option.rows == rows
            for policy in problem.policies
        ]
        for cuts in all_cuts(tables.layers, problem.max_stages):
            intervals = list(zip((0, *cuts), (*cuts, tables.layers)))
            for choice in product(ways, repeat=len(intervals)):
                stages = tuple(BruteStage(k, a, i, j) for (k, a), (i, j) in zip(choice, intervals))
                pipeline = _priced(problem, setting, stages, rows, hop)
                if pipeline is not None:
                    yield pipeline


def all_cuts(layers: int, max_stages: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut a chain of layers into at most ``max_stages`` stages."""
    for stages in range(1, min(layers, max_stages) + 1):
        yield from combinations(range(1, layers), stages - 1)


def _priced(
    problem: Problem,
    setting: Setting,
    stages: tuple[BruteStage, ...],
    rows: int,
    hop: HopRule,
) -> BrutePipeline | None:
    tables = problem.tables
    for stage in stages:
        low, high = setting.windows[tables.tables[stage.option].option.class_index]
        if not (low <= stage.first and stage.end <= high):
            return None
        if any(tables.tables[stage.option].barred[stage.first : stage.end]):
            return None
    used = [tables.tables[s.option] for s in stages]
    crossing = [int(tables.boundary_bytes[rows][s.first]) for s in stages[1:]]
    hops = [ps for ps in hop(problem.topology, used, crossing) if ps is not None]
    if len(hops) < len(crossing):
        return None
    return BrutePipeline(
        stages=stages,
        rows=rows,
        forward_ps=tuple(
            sum(
                c.forward_total_ps(s.policy) for c in tables.tables[s.option].costs[s.first : s.end]
            )
            for s in stages
        ),
        backward_ps=tuple(
            sum(
                c.backward_total_ps(s.policy)
                for c in tables.tables[s.option].costs[s.first : s.end]
            )
            for s in stages
        ),
        hop_ps=tuple(hops),
        usage=_usage(problem, stages),
    )


def stage_ps(problem: Problem, stage: BruteStage) -> int:
    """Forward and backward of one micro-batch on a stage."""
    costs = problem.tables.tables[stage.option].costs[stage.first : stage.end]
    return sum(c.forward_total_ps(stage.policy) + c.backward_total_ps(stage.policy) for c in costs)


def _usage(problem: Problem, stages: Sequence[BruteStage]) -> tuple[int, ...]:
    options = [problem.tables.tables[s.option].option for s in stages]
    return tuple(
        sum(o.chips for o in options if o.class_index == c and o.chips >= n)
        for c, n, _ in problem.packing_rows
    )


LEAVES = {3: 1, 4: 2}
"""Ways that leave in host memory what selective and full recomputation keep."""

NEVER_FITS = 1 << 62
"""Bytes of a stage whose offloaded state is too large for its host."""


def peak_bytes(problem: Problem, stage: BruteStage, in_flight: int, replicas: int) -> int:
    """Peak memory of one device of a stage, layer by layer."""
    tables = problem.tables
    table = tables.tables[stage.option]
    over = tables.overheads[table.option.class_index]
    layers = [cost.price for cost in table.costs[stage.first : stage.end]]
    crossing = [*(int(b) for b in tables.boundary_bytes[table.option.rows]), 0]
    buffers = 2 * (crossing[stage.first] + crossing[stage.end])
    mesh = table.option.mesh
    buffers //= (mesh.tp if tables.sequence_parallel else 1) * mesh.cp * mesh.dp
    copies = (mesh.cp * mesh.dp, mesh.chips // (mesh.ep * mesh.expert_tp))
    total = over.context_bytes + over.buffer_bytes + over.fragmentation_bytes + buffers
    on_host = working = 0
    if mesh.offload:
        total += tables.offload_bytes
    if mesh.zero3:
        largest = max(layer.parameters for layer in layers)
        total += largest * (2 * tables.state.parameter + tables.state.gradient)
    for layer in layers:
        parts = (layer.parameters - layer.expert_parameters, layer.expert_parameters)
        for own, held in zip(parts, copies):
            inside = held if mesh.zero3 else 1
            total += -(-own * tables.state.parameter // inside)
            total += -(-own * tables.state.gradient // inside)
            over_all = replicas * held if tables.zero_level else inside
            if mesh.offload:
                on_host += -(-own * tables.state.total // over_all)
            else:
                total += -(-own * tables.state.optimizer // over_all)
        leaves = layer.activation_bytes[LEAVES[stage.policy]] if stage.policy in LEAVES else 0
        kept = 0 if stage.policy in LEAVES else layer.activation_bytes[stage.policy]
        on_host += in_flight * leaves
        total += in_flight * kept
        total += layer.logits_bytes
        at_work = layer.working_bytes[LEAVES.get(stage.policy, stage.policy)]
        working = max(working, at_work + 2 * leaves)
    host = problem.topology.classes[table.option.class_index].host
    if stage.policy in LEAVES and (host is None or host.memory_bytes is None):
        return NEVER_FITS
    if on_host and (host is None or host.memory_bytes is None or on_host > host.memory_bytes):
        return NEVER_FITS
    return total + working


def most_in_flight(problem: Problem, stage: BruteStage, replicas: int, enough: int) -> int:
    """How many micro-batches fit at once, at most ``enough``; 0 if the stage does not fit."""
    index = problem.tables.tables[stage.option].option.class_index
    usable = problem.topology.classes[index].usable_memory_bytes
    count = 0
    while count < enough and peak_bytes(problem, stage, count + 1, replicas) <= usable:
        count += 1
    return count


def all_depths(stages: int) -> Iterator[tuple[int, ...]]:
    """Strictly falling depths that end at 1, none deeper than any period asks for.

    A round trip over d stages takes at most d + 1 stage times and 2·d hops, all of them at most
    one period, so that three more in flight per stage are always enough.
    """
    if stages == 1:
        yield (1,)
        return
    for rest in all_depths(stages - 1):
        for first in range(rest[0] + 1, 3 * (stages - 1) + 2):
            yield (first, *rest)


@cache
def _periods(
    forward: tuple[int, ...], backward: tuple[int, ...], hop: tuple[int, ...]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Depths worth having, fastest first: (period, depths) that no other one dominates."""
    every = sorted((period(forward, backward, hop, d), d) for d in all_depths(len(forward)))
    kept: list[tuple[int, tuple[int, ...]]] = []
    for tau, depths in every:
        if not any(all(a <= b for a, b in zip(k, depths)) for _, k in kept):
            kept.append((tau, depths))
        if tau > takt(forward, backward, hop) and depths[0] == len(depths):
            break
    return tuple(kept)


def runs_of(facts: StageFacts, pipeline: BrutePipeline, most: int) -> list[Run]:
    """The best run of a pipeline for 1 … ``most`` micro-batches, as far as memory reaches."""
    room = [facts.room(s, most) for s in pipeline.stages]
    finish = finish_ps(facts, pipeline)
    found = []
    for m in range(1, most + 1):
        for tau, depths in _periods(pipeline.forward_ps, pipeline.backward_ps, pipeline.hop_ps):
            if all(min(d, m) <= r for d, r in zip(depths, room)):
                time = pipeline.fill_ps + (m - 1) * tau + finish
                found.append(Run(pipeline, m, depths, time))
                break
        else:
            break
    return found


def host_update_ps(
    problem: Problem, table: OptionTable, first: int, end: int, replicas: int
) -> int:
    """An update on the host waits for all stages: norm, gradients down, Adam, weights up."""
    mesh, tables = table.option.mesh, problem.tables
    cls = problem.topology.classes[table.option.class_index]
    if not mesh.offload:
        return 0
    assert cls.host is not None
    layers = [cost.price for cost in table.costs[first:end]]
    experts = sum(layer.expert_parameters for layer in layers)
    copies = (mesh.cp * mesh.dp, mesh.chips // (mesh.ep * mesh.expert_tp))
    seconds = 0.0
    for number, held in zip((sum(p.parameters for p in layers) - experts, experts), copies):
        own = -(-number // held) if mesh.zero3 else number
        left = 1 if mesh.zero3 else held
        sharers = replicas * left if tables.zero_level else 1
        if number or held == copies[0]:
            seconds += offloaded_update_s(
                own, tables.state, cls.chip, cls.host, sharers, derate=cls.derate
            )
            if not experts:
                break
    return round(seconds * PS_PER_S)


def finish_ps(facts: StageFacts, pipeline: BrutePipeline) -> int:
    """Synchronisation and update that no earlier stage's backward hides, in picoseconds."""
    places = [(s.option, s.first, s.end) for s in pipeline.stages]
    return _latest(facts, places, pipeline.backward_ps)


def _latest(
    facts: StageFacts, places: Sequence[tuple[int, int, int]], backward_ps: Sequence[int]
) -> int:
    latest = 0
    for s, place in enumerate(places):
        hidden, hosted = facts.after(*place)
        latest = max(latest, hidden - sum(backward_ps[:s]), hosted)
    return latest


def finish_ps_of(
    problem: Problem, column: Column, replicas: int, setting: Setting | None = None
) -> int:
    """The same for a column of the search, with the actual number of replicas."""
    places = [
        (table_index(problem, s.class_index, s.mesh, column.rows), s.first, s.end)
        for s in column.stages
    ]
    return _latest(StageFacts(problem, replicas, setting), places, column.backward_ps)


def table_index(problem: Problem, class_index: int, mesh: StageMesh, rows: int) -> int:
    """Which table prices a stage."""
    wanted = (class_index, mesh, rows)
    for k, table in enumerate(problem.tables.tables):
        if (table.option.class_index, table.option.mesh, table.option.rows) == wanted:
            return k
    raise LookupError(f"no option {wanted}")


def _best_of_count(
    problem: Problem, pipelines: Sequence[BrutePipeline], replicas: int, known: int | None
) -> Best | None:
    """The best plan of exactly ``replicas`` pipelines that is faster than ``known``."""
    # Of two runs with equal chips and rows only the faster one matters.
    fastest: dict[tuple[tuple[int, ...], int], Run] = {}
    capacity = [c for _, _, c in problem.packing_rows]
    facts = StageFacts(problem, replicas)
    for pipeline in pipelines:
        if any(u > c for u, c in zip(pipeline.usage, capacity)):
            continue
        most = -(-problem.global_batch // pipeline.rows)
        for run in runs_of(facts, pipeline, most):
            key = (pipeline.usage, pipeline.rows * run.micro_batches)
            if key not in fastest or run.time_ps < fastest[key].time_ps:
                fastest[key] = run
    times = sorted({run.time_ps for run in fastest.values()})
    times = [t for t in times if known is None or t < known]
    low, high = 0, len(times)
    plan: tuple[Run, ...] | None = None
    while low < high:
        middle = (low + high) // 2
        found = _multiset(problem, fastest, replicas, times[middle])
        if found is None:
            low = middle + 1
        else:
            plan, high = found, middle
    return None if plan is None else Best(times[high], plan)


def _multiset(
    problem: Problem,
    fastest: dict[tuple[tuple[int, ...], int], Run],
    replicas: int,
    target_ps: int,
) -> tuple[Run, ...] | None:
    """Exactly ``replicas`` runs within the chips that reach the batch by the target, or None."""
    capacity = tuple(c for _, _, c in problem.packing_rows)
    best: dict[tuple[int, ...], Run] = {}
    for (usage, rows), run in sorted(fastest.items(), key=lambda item: item[0]):
        if run.time_ps <= target_ps and (
            usage not in best or rows > best[usage].pipeline.rows * best[usage].micro_batches
        ):
            best[usage] = run
    reached: dict[tuple[int, ...], tuple[int, tuple[Run, ...]]] = {(0,) * len(capacity): (0, ())}
    for _ in range(replicas):
        following: dict[tuple[int, ...], tuple[int, tuple[Run, ...]]] = {}
        for used, (rows, runs) in reached.items():
            for usage, run in best.items():
                chips = tuple(a + b for a, b in zip(used, usage))
                if any(a > b for a, b in zip(chips, capacity)):
                    continue
                total = rows + run.pipeline.rows * run.micro_batches
                if chips not in following or total > following[chips][0]:
                    following[chips] = (total, (*runs, run))
        reached = following
    for rows, runs in reached.values():
        if rows >= problem.global_batch:
            return runs
    return None


def packs(sizes: Sequence[int], island: int, count: int) -> bool:
    """Whether groups of these sizes fit into ``count`` islands, by trying everything."""
    order = sorted(sizes, reverse=True)

    def place(index: int, room: tuple[int, ...]) -> bool:
        if index == len(order):
            return True
        return any(
            place(index + 1, tuple(sorted((*room[:k], left - order[index], *room[k + 1 :]))))
            for k, left in enumerate(room)
            if left >= order[index] and left not in room[:k]
        )

    return place(0, (island,) * count)
