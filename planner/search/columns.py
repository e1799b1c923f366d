"""What a pipeline is worth: from a sequence of stages to fill, period and micro-batches in time.

A column is a template that the master may use any number of times. Its times are exact integers;
its in-flight depths follow the depth rule where memory allows, else the depth's own (longer)
period is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from costmodels.schedules import depth_rule, period, takt
from costmodels.units import PS_PER_S
from planner.costing import OptionTable, fabric_hop_ps
from planner.mesh import StageMesh
from planner.search.finish import expected_finish_s, unhidden_s
from planner.search.problem import Problem, Setting
from planner.search.space import (
    UNBOUNDED_DEPTH,
    Stage,
    StageSpace,
    expected_hop_ps,
    over_network,
)

PERIOD_TOLERANCE = 1e-5
"""Relative precision of the least period within depth limits."""


@dataclass(frozen=True, slots=True, order=True)
class TemplateStage:
    """One stage of a template: which chips, which layers, which recomputation, what depth."""

    class_index: int
    mesh: StageMesh
    first: int
    end: int
    policy: int
    in_flight: int

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""
        return self.mesh.tp

    @property
    def chips(self) -> int:
        """Chips of the stage."""
        return self.mesh.chips


@dataclass(frozen=True, slots=True)
class Column:
    """A pipeline template with its price in time (picoseconds) and in chips.

    ``usage[k]`` counts chips in packing row k. ``max_micro_batches`` limits how many micro-batches
    the memory check holds for (None: any number). ``finish_ps`` is the expected synchronisation
    and update time.
    """

    stages: tuple[TemplateStage, ...]
    rows: int
    forward_ps: tuple[int, ...]
    backward_ps: tuple[int, ...]
    hop_ps: tuple[int, ...]
    fill_ps: int
    period_ps: int
    finish_ps: int
    usage: tuple[int, ...]
    max_micro_batches: int | None
    together: bool = False
    """Whether hops and finish are those of stages side by side (else of replicas)."""

    def micro_batches(self, target_ps: int) -> int:
        """Most micro-batches that finish within ``target_ps`` (0 if none)."""
        room = target_ps - self.finish_ps - self.fill_ps
        if room < 0:
            return 0
        count = room // self.period_ps + 1
        return count if self.max_micro_batches is None else min(count, self.max_micro_batches)

    def divisible_micro_batches(self, target_ps: int) -> float:
        """As many if micro-batches could be cut: what a proof can rule out at best."""
        room = target_ps - self.finish_ps - self.fill_ps
        if room < 0:
            return 0.0
        count = room / self.period_ps + 1
        return count if self.max_micro_batches is None else min(count, self.max_micro_batches)

    def time_ps(self, micro_batches: int) -> int:
        """Formula time with this many micro-batches, synchronisation and update included."""
        return self.fill_ps + (micro_batches - 1) * self.period_ps + self.finish_ps

    @property
    def key(self) -> tuple[object, ...]:
        """Identity of the template: what it is made of, whatever it costs."""
        return (self.rows, self.stages, self.max_micro_batches, self.together)


def make_columns(
    problem: Problem, space: StageSpace, pipeline: Sequence[Stage], micro_batches: int
) -> list[Column]:
    """Columns for a sequence of stages: memory decides between depth and recomputation.

    Candidates: keep the fastest recomputation that fits the classic depth and charge the period
    of the depth that fits; or recompute more where the depth rule needs the room. Both with the
    hops and synchronisation of either placement: replicas of a stage side by side, or stages of
    the pipeline. At most ``micro_batches`` are ever in flight. Empty where memory forbids it.
    """
    count = len(pipeline)
    cap = max(1, micro_batches)
    least: list[int] = []
    for s, stage in enumerate(pipeline):
        policy = _policy(space, stage, min(count - s, cap), None)
        if policy is None:
            return []
        least.append(policy)
    found: list[Column] = []
    for together in (False, True):
        hops = _hops_ps(problem, space, pipeline, together)
        if hops is None or (together and found and found[0].hop_ps == hops):
            continue
        choice, seen = list(least), set()
        own: list[Column] = []
        for _ in range(count * len(space.policies) + 1):
            if tuple(choice) in seen:
                break
            seen.add(tuple(choice))
            column, wanted = _column(problem, space, pipeline, choice, cap, hops, together)
            if column is not None:
                own.append(column)
            limit = takt(*_times(space, pipeline, choice), hops)
            changed = False
            for s, stage in enumerate(pipeline):
                need = min(wanted[s], cap)
                if _depth(space, stage, choice[s]) < need:
                    policy = _policy(space, stage, need, limit)
                    if policy is not None and policy != choice[s]:
                        choice[s] = policy
                        changed = True
            if not changed:
                break
        own.sort(key=lambda c: (c.time_ps(cap), c.stages))
        found += own[:2]
    return found


def _depth(space: StageSpace, stage: Stage, policy: int) -> int:
    return space.stage_depth(stage.option, stage.first, stage.end, policy)


def _stage_time(space: StageSpace, stage: Stage, policy: int) -> tuple[int, int]:
    table = space.options[stage.option]
    way, layers = space.policies[policy], slice(stage.first, stage.end)
    forward = int(table.forward_ps[way, layers].sum())
    backward = int(table.backward_ps[way, layers].sum())
    return forward, backward


def _policy(space: StageSpace, stage: Stage, need: int, limit: int | None) -> int | None:
    """Index (in ``space.policies``) of the fastest policy that fits ``need`` in flight.

    With a ``limit``, policies slower than it are no help and are left out.
    """
    best: tuple[int, int] | None = None
    for p in range(len(space.policies)):
        if _depth(space, stage, p) < need:
            continue
        total = sum(_stage_time(space, stage, p))
        if limit is not None and total > limit:
            continue
        if best is None or total < best[0]:
            best = (total, p)
    return None if best is None else best[1]


def _times(
    space: StageSpace, pipeline: Sequence[Stage], choice: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = [_stage_time(space, stage, p) for stage, p in zip(pipeline, choice)]
    return tuple(f for f, _ in pairs), tuple(b for _, b in pairs)


def _hops_ps(
    problem: Problem, space: StageSpace, pipeline: Sequence[Stage], together: bool
) -> tuple[int, ...] | None:
    """Hops of a placement; a middle stage with two network neighbours halves its port share.

    ``together``: neighbours on equal groups of one class fill an island before the next one.
    """
    tables = [space.options[s.option] for s in pipeline]
    over = [over_network(problem.topology, a, b) for a, b in pairwise(tables)]
    if together:
        filled = tables[0].option.chips
        for s, (a, b) in enumerate(pairwise(tables)):
            size = problem.topology.classes[b.option.class_index].size
            alike = a.option.chips == b.option.chips
            same = a.option.class_index == b.option.class_index and alike
            if same and filled + b.option.chips <= size:
                over[s] = False
                filled += b.option.chips
            else:
                filled = b.option.chips
    hops = []
    for s, (a, b) in enumerate(pairwise(tables)):
        bytes_ = int(problem.tables.boundary_bytes[space.rows][pipeline[s + 1].first])
        if not over[s] and over_network(problem.topology, a, b):
            fabric = problem.topology.classes[a.option.class_index].fabric
            hops.append(fabric_hop_ps(bytes_, fabric, a.option.chips, b.option.chips))
            continue
        busy = over[s] and (s > 0 and over[s - 1], s + 1 < len(over) and over[s + 1])
        hop = expected_hop_ps(problem.topology, a, b, bytes_, busy or (False, False))
        if hop is None:
            return None
        hops.append(hop)
    return tuple(hops)


def best_depths(
    forward: Sequence[int],
    backward: Sequence[int],
    hops: Sequence[int],
    limits: Sequence[int],
) -> tuple[int, ...] | None:
    """Depths within ``limits`` with the least period; None where the classic depths do not fit.

    The depth rule asks for no more as the period grows, so bisection finds the least period that
    it grants within the limits.
    """
    count = len(forward)
    if any(limit < count - s for s, limit in enumerate(limits)):
        return None
    low = takt(forward, backward, hops)

    def within(tau: int) -> tuple[int, ...] | None:
        depths = depth_rule(forward, backward, hops, tau)
        return depths if all(d <= m for d, m in zip(depths, limits)) else None

    best = within(low)
    if best is not None:
        return best
    classic = tuple(range(count, 0, -1))
    high = period(forward, backward, hops, classic)
    best = within(high) or classic
    while high - low > 1 and (high - low) > high * PERIOD_TOLERANCE:
        middle = (low + high) // 2
        found = within(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def finish_ps(
    problem: Problem,
    tables: Sequence[OptionTable],
    intervals: Sequence[tuple[int, int]],
    backward: Sequence[int],
    setting: Setting,
    together: bool,
) -> int:
    """When the last stage has synchronised and updated, after the last backward of the first.

    A stage ends its last backward before the earlier stages run theirs: what it exchanges hides
    behind them, but for an update on the host.
    """
    latest, lead = 0, 0
    for table, (first, end), own in zip(tables, intervals, backward, strict=True):
        replicas = setting.replicas[0]
        seconds = expected_finish_s(
            problem, table, first, end, replicas, together=together, setting=setting
        )
        rest = unhidden_s(problem, table, first, end, replicas)
        latest = max(latest, round(seconds * PS_PER_S) - lead, round(rest * PS_PER_S))
        lead += own
    return latest


def _column(
    problem: Problem,
    space: StageSpace,
    pipeline: Sequence[Stage],
    choice: Sequence[int],
    cap: int,
    hops: tuple[int, ...],
    together: bool,
) -> tuple[Column | None, tuple[int, ...]]:
    """The column of these policies and the depths that the depth rule wanted."""
    forward, backward = _times(space, pipeline, choice)
    wanted = depth_rule(forward, backward, hops, takt(forward, backward, hops))
    limits = []
    for stage, policy in zip(pipeline, choice):
        room = _depth(space, stage, policy)
        # at most `cap` are in flight at once, so room for `cap` is room for any depth
        limits.append(UNBOUNDED_DEPTH if room >= cap else room)
    depths = best_depths(forward, backward, hops, limits)
    if depths is None:
        return None, wanted
    limited = any(
        min(d, cap) < d and d > _depth(space, st, p) for d, st, p in zip(depths, pipeline, choice)
    )
    usage = [0] * len(problem.packing_rows)
    stages = []
    for stage, policy, depth in zip(pipeline, choice, depths):
        option = space.options[stage.option].option
        for row in problem.rows_of(option.class_index, option.chips):
            usage[row] += option.chips
        stages.append(
            TemplateStage(
                option.class_index,
                option.mesh,
                stage.first,
                stage.end,
                space.policies[policy],
                depth,
            )
        )
    return (
        Column(
            stages=tuple(stages),
            rows=space.rows,
            forward_ps=forward,
            backward_ps=backward,
            hop_ps=hops,
            fill_ps=sum(forward) + sum(backward) + 2 * sum(hops),
            period_ps=period(forward, backward, hops, depths),
            finish_ps=finish_ps(
                problem,
                [space.options[s.option] for s in pipeline],
                [(s.first, s.end) for s in pipeline],
                backward,
                space.setting,
                together,
            ),
            usage=tuple(usage),
            max_micro_batches=cap if limited else None,
            together=together,
        ),
        wanted,
    )


def relaxed_column(
    problem: Problem,
    space: StageSpace,
    stage_times: Sequence[float],
    pipeline: Sequence[Stage],
    max_micro_batches: int | None,
) -> Column:
    """The pipeline as the bound sees it: least times, hops and finish, the takt as its period.

    Only used to steer the prices of a proof, never in a plan; times are rounded down.
    """
    hops = [int(space.hop[a.option, b.option, b.first] * PS_PER_S) for a, b in pairwise(pipeline)]
    times = [int(t * PS_PER_S) for t in stage_times]
    fill = sum(times) + 2 * sum(hops)
    usage = [0] * len(problem.packing_rows)
    for stage in pipeline:
        option = space.options[stage.option].option
        for row in problem.rows_of(option.class_index, option.chips):
            usage[row] += option.chips
    return Column(
        stages=tuple(
            TemplateStage(
                space.options[s.option].option.class_index,
                space.options[s.option].option.mesh,
                s.first,
                s.end,
                -1,
                0,
            )
            for s in pipeline
        ),
        rows=space.rows,
        forward_ps=tuple(times),
        backward_ps=(0,) * len(times),
        hop_ps=tuple(hops),
        fill_ps=fill,
        period_ps=max(1, *times, *hops),
        finish_ps=int(space.finish_after(pipeline, stage_times, fill / PS_PER_S) * PS_PER_S),
        usage=tuple(usage),
        max_micro_batches=max_micro_batches,
    )
