"""What a pipeline is worth: from a sequence of stages to fill, period and micro-batches in time.

A column is a template that the master may use any number of times. Its times are exact integers;
its in-flight depths follow the depth rule where memory allows, else the depth's own (longer)
period is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from costmodels.schedules import best_depths, depth_rule, period, takt
from costmodels.units import PS_PER_S
from planner.mesh import StageMesh
from planner.search.problem import Problem, Size
from planner.search.space import UNBOUNDED_DEPTH, Stage, StageSpace
from planner.search.stage_costs import StageCosts, Way


@dataclass(frozen=True, slots=True, order=True)
class TemplateStage:
    """One stage of a template: which chips, which layers, which recomputation, what depth.

    An interleaved one holds its ``chunks`` only, between ``first`` and ``end``.
    """

    class_index: int
    mesh: StageMesh
    first: int
    end: int
    policy: int
    in_flight: int
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Its intervals of layers in order."""
        return self.chunks or ((self.first, self.end),)

    @property
    def layers(self) -> int:
        """How many layers it holds."""
        return sum(end - first for first, end in self.parts)

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
    and update time. ``chunks`` per stage: more than one if its schedule is interleaved.
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
    chunks: int = 1
    together: bool = False
    """Whether hops and finish are those of stages side by side (else of replicas)."""
    beside: int | None = None
    """A bundle: so many lie side by side, and no others (None: as many as there is room for)."""

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
    def size(self) -> Size:
        """The size of the pipeline."""
        return Size(self.rows, self.chunks)

    @property
    def key(self) -> tuple[object, ...]:
        """Identity of the template: what it is made of, whatever it costs."""
        return (self.size, self.stages, self.max_micro_batches, self.together)


def make_columns(
    problem: Problem,
    space: StageSpace,
    pipeline: Sequence[Stage],
    micro_batches: int,
    costs: StageCosts | None = None,
) -> list[Column]:
    """Columns for a sequence of stages: memory decides between depth and recomputation.

    Candidates: keep the fastest recomputation that fits the classic depth and charge the period
    of the depth that fits; or recompute more where the depth rule needs the room. Both with the
    hops and synchronisation of either placement: replicas of a stage side by side, or stages of
    the pipeline. At most ``micro_batches`` are ever in flight. Empty where memory forbids it.
    ``costs`` of the space, if its stages are priced more than once.
    """
    costs = costs or StageCosts(problem, space)
    count = len(pipeline)
    cap = max(1, micro_batches)
    ways = [costs.ways(stage) for stage in pipeline]
    least: list[int] = []
    for s, way in enumerate(ways):
        policy = _policy(way, min(count - s, cap), None)
        if policy is None:
            return []
        least.append(policy)
    found: list[Column] = []
    for together in (False, True):
        hops = costs.hops_ps(pipeline, together)
        if hops is None or (together and found and found[0].hop_ps == hops):
            continue
        choice, seen = list(least), set()
        own: list[Column] = []
        for _ in range(count * len(space.policies) + 1):
            if tuple(choice) in seen:
                break
            seen.add(tuple(choice))
            column, wanted, limit = _column(costs, pipeline, ways, choice, cap, hops, together)
            if column is not None:
                own.append(column)
            changed = False
            for s, way in enumerate(ways):
                need = min(wanted[s], cap)
                if way[choice[s]][0] < need:
                    policy = _policy(way, need, limit)
                    if policy is not None and policy != choice[s]:
                        choice[s] = policy
                        changed = True
            if not changed:
                break
        own.sort(key=lambda c: (c.time_ps(cap), c.stages))
        found += own[:2]
    return found


def _policy(ways: Sequence[Way], need: int, limit: int | None) -> int | None:
    """Index (in ``space.policies``) of the fastest policy that fits ``need`` in flight.

    With a ``limit``, policies slower than it are no help and are left out.
    """
    best: tuple[int, int] | None = None
    for p, (depth, forward, backward) in enumerate(ways):
        if depth < need:
            continue
        total = forward + backward
        if limit is not None and total > limit:
            continue
        if best is None or total < best[0]:
            best = (total, p)
    return None if best is None else best[1]


def finish_ps(
    costs: StageCosts,
    pipeline: Sequence[Stage],
    backward: Sequence[int],
    together: bool,
    *,
    alone: bool = False,
    beside: int | None = None,
) -> int:
    """When the last stage has synchronised and updated, after the last backward of the first.

    A stage ends its last backward before the earlier stages run theirs: what it exchanges hides
    behind them, but for an update on the host, and for what follows the exchange of a weight that
    it shares with an earlier stage. ``alone``: among equal pipelines. ``beside``: in bundles of
    so many.
    """
    latest, lead = 0, 0
    shared = costs.shared_ps(pipeline, together)
    for s, (stage, own) in enumerate(zip(pipeline, backward, strict=True)):
        seconds, rest = costs.finish_ps(stage, together, alone, beside)
        latest = max(latest, seconds + shared.get(s, -lead), rest)
        lead += own
    return latest


def _column(
    costs: StageCosts,
    pipeline: Sequence[Stage],
    ways: Sequence[tuple[Way, ...]],
    choice: Sequence[int],
    cap: int,
    hops: tuple[int, ...],
    together: bool,
) -> tuple[Column | None, tuple[int, ...], int]:
    """The column of these policies, the depths that the depth rule wanted, and the takt."""
    space = costs.space
    chosen = [way[p] for way, p in zip(ways, choice, strict=True)]
    room = [depth for depth, _, _ in chosen]
    forward = tuple(f for _, f, _ in chosen)
    backward = tuple(b for _, _, b in chosen)
    low = takt(forward, backward, hops)
    wanted = depth_rule(forward, backward, hops, low)
    # at most `cap` are in flight at once, so room for `cap` is room for any depth
    limits = [UNBOUNDED_DEPTH if depth >= cap else depth for depth in room]
    depths = best_depths(forward, backward, hops, limits, wanted)
    if depths is None:
        return None, wanted, low
    limited = any(min(d, cap) < d and d > most for d, most in zip(depths, room, strict=True))
    stages = []
    for stage, policy, depth in zip(pipeline, choice, depths, strict=True):
        own = costs.chips[stage.option]
        mesh = space.options[stage.option].option.mesh
        way = space.policies[policy]
        stages.append(
            TemplateStage(own.class_index, mesh, stage.first, stage.end, way, depth),
        )
    # the depths that the rule grants at the takt sustain it
    slow = low if depths == wanted else period(forward, backward, hops, depths)
    return (
        Column(
            stages=tuple(stages),
            rows=space.rows,
            forward_ps=forward,
            backward_ps=backward,
            hop_ps=hops,
            fill_ps=sum(forward) + sum(backward) + 2 * sum(hops),
            period_ps=slow,
            finish_ps=finish_ps(costs, pipeline, backward, together),
            usage=costs.usage(pipeline),
            max_micro_batches=cap if limited else None,
            together=together,
        ),
        wanted,
        low,
    )


def relaxed_column(
    problem: Problem,
    space: StageSpace,
    stage_times: Sequence[float],
    pipeline: Sequence[Stage],
    max_micro_batches: int | None,
) -> Column:
    """The pipeline as the bound sees it: least times, hops and finish, the takt as its period.

    ``stage_times`` of a folded space are those of pairs; the column's are of micro-batches.
    Only used to steer the prices of a proof, never in a plan; times are rounded down.
    """
    hops = [int(space.hop[a.option, b.option, b.first] * PS_PER_S) for a, b in pairwise(pipeline)]
    times = [int(t * PS_PER_S) for t in stage_times]
    shortest = max(1, *times, *hops, int(space.back_s(pipeline) * PS_PER_S))
    round_ps = sum(times) + 2 * space.chunks * sum(hops)
    fill = round_ps + (space.chunks - 1) * shortest
    after = space.finish_after(pipeline, stage_times, round_ps / PS_PER_S)
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
        period_ps=space.chunks * shortest,
        finish_ps=int(after * PS_PER_S),
        usage=tuple(usage),
        max_micro_batches=max_micro_batches,
        chunks=space.chunks,
    )
