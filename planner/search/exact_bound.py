"""A lower bound on the exact step time of every plan: Farley's argument with exact schedules.

As in ``bound``: at any prices of chips, if no pipeline brings more rows by T than its price is
worth, no plan delivers the batch by T. Here a pipeline brings as many micro-batches as its schedule
could do at least (``exact_paths``), not what the formula charges. For every size of pipelines and
every number of micro-batches the cheapest pipeline that could be through is asked for; intervals
of numbers take the time limits of their least and the worth of their greatest number, and are
split where that does not settle them. The pipelines found become columns of a master, whose
duals are the next prices.

Regions are those that the search for the formula's bound has left: together they hold the declared
space. The lowest one is tightened until it is as good as was asked for, or gains nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.bound import ROW_MARGIN
from planner.search.columns import Column, relaxed_column
from planner.search.exact_paths import ExactPaths, Query
from planner.search.folded import size_space
from planner.search.master import Prices, RelaxedMaster
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size, largest_share
from planner.search.regions import Region, fluid_bound_s
from planner.search.relaxation import nominal_prices
from planner.search.space import Floats, Stage, StageSpace

GROUP = 1.12
"""Ratio of the numbers of micro-batches that are asked for together, at first."""
PRECISION = 3e-4
"""Relative precision of the time that a pipeline leaves to the bound."""
TAUGHT = 12
"""New pipelines of a size after which a round of learning goes on to the next size."""
ROUNDS = 40
"""Rounds of learning between two bounds."""
SHIFT = 1e-3
"""How far below the least target prices are taken."""
GAIN = 5e-4
"""Relative gain of a bound that counts."""
FILL_SPLITS = 12
"""How often an interval of fills is cut where its pipeline does not hold what it promises."""
FINER, FINEST = 4, 16
"""Steps to finer buckets where rounding alone lets a pipeline be in time, and the last one."""
ROUGH_GROUP = 1.03
"""Ratio of the numbers of micro-batches that a rough look does not tell apart."""
ROUGH_PRECISION = 2e-3
"""Relative precision of a rough look."""
ABORT = 0.01
"""Where new pipelines take so much off a bound, prices are learned first."""
MAX_QUERIES = 60_000


@dataclass(frozen=True, slots=True)
class Leaf:
    """A region that a search has left, with the prices and pipelines that it met there."""

    region: Region
    setting: Setting
    prices: Prices | None
    met: tuple[tuple[Size, tuple[Stage, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """A stage under one recomputation: seconds of a micro-batch and its forward, depth."""

    seconds: float
    forward: float
    depth: int


@dataclass(frozen=True, slots=True)
class ExactColumn(Column):
    """A pipeline worth the micro-batches that its schedule could do at least.

    ``ways[s]``: what stage s may be; ``before[s]``: finish_0 and the stages and hops before it.
    """

    ways: tuple[tuple[_Way, ...], ...] = ()
    before: tuple[float, ...] = ()
    whole: float = 0.0

    def micro_batches(self, target_ps: int) -> int:
        """Most micro-batches by the target that (1) and (2) of ``exact_paths`` allow."""
        seconds = target_ps / PS_PER_S
        low, high = 0, int(self.limit_pairs(seconds)) // self.chunks
        while low < high:
            middle = (low + high + 1) // 2
            if self.through(middle * self.chunks, seconds):
                low = middle
            else:
                high = middle - 1
        return low

    def limit_pairs(self, seconds: float) -> float:
        """Pairs that no stage can exceed."""
        slowest = max(min((w.seconds for w in ways), default=np.inf) for ways in self.ways)
        return max(0.0, seconds / max(slowest, 1e-12))

    def through(self, count: int, seconds: float) -> bool:
        """Whether so many micro-batches (or pairs) could be done by then."""
        return self.most_fill(count, seconds) >= self.whole

    def most_fill(self, count: int, seconds: float) -> float:
        """The greatest finish_0 + φ at which (2) lets so many be done; -1 if (1) does not.

        Infinite where nothing is said of the fill.
        """
        return min(
            max((self._fill(way, before, count, seconds) for way in ways), default=-1.0)
            for ways, before in zip(self.ways, self.before, strict=True)
        )

    def _fill(self, way: _Way, before: float, count: int, seconds: float) -> float:
        if before + count * way.seconds > seconds:
            return -1.0
        if self.chunks > 1:
            return np.inf
        return seconds - (count - 1) * way.seconds + (min(way.depth, count) - 1) * way.forward


@dataclass(frozen=True, slots=True)
class _Case:
    """Pipelines of one size with ``count`` micro-batches (or pairs) that cost less than a cutoff.

    ``costs`` per option. ``rough``: the first answer of a pass is taken for one that stands.
    """

    paths: ExactPaths
    costs: Floats
    count: int
    cutoff: float
    rough: bool = False


class ExactRelaxation:
    """The relaxed problem of one region. ``bound_ps``: no plan of it is faster (proven)."""

    def __init__(self, problem: Problem, leaf: Leaf, limit_ps: int) -> None:
        self.problem, self.leaf, self.setting = problem, leaf, leaf.setting
        self.limit_ps = limit_ps
        fluid = min(fluid_bound_s(problem, self.setting), limit_ps / PS_PER_S)
        self.bound_ps = min(limit_ps, int(fluid * PS_PER_S * (1 - 1e-9)))
        self.done = self.bound_ps >= limit_ps
        self._paths: list[ExactPaths] | None = None
        self._master = RelaxedMaster(problem, self.setting)
        self._known: set[object] = set()
        self._met: list[tuple[Size, tuple[Stage, ...]]] = []
        self._last = leaf.prices
        self._looked = False
        self._columns: list[ExactColumn] = []

    @property
    def paths(self) -> list[ExactPaths]:
        """One per size of pipelines."""
        if self._paths is None:
            horizon = self.limit_ps / PS_PER_S
            sizes = self.problem.sizes_of(self.setting)
            spaces = [
                size_space(self.problem, self.setting, size, optimistic=True, horizon_s=horizon)
                for size in sizes
            ]
            self._paths = [ExactPaths(space) for space in spaces if space is not None]
            for size, pipeline in self.leaf.met:
                for paths in self._paths:
                    if paths.space.size == size:
                        self._learn(paths.space, pipeline)
        return self._paths

    @property
    def queries(self) -> int:
        """Shortest paths asked for so far."""
        return sum(p.queries for p in self._paths or ())

    def parts(self) -> list[ExactRelaxation]:
        """Its halves, each with what this one has met; none where nothing is left to split."""
        region, prices = self.leaf.region, self._last
        if region.single and not region.splits_on:
            return []
        cuts = [0.5 * (low + high) for low, high in region.cuts]
        pipelines = prices.pipelines if prices is not None else 0.0
        out = []
        for part in region.parts(pipelines, cuts):
            leaf = Leaf(part, part.setting(self.problem), prices, tuple(self._met))
            out.append(ExactRelaxation(self.problem, leaf, self.limit_ps))
            out[-1].bound_ps = max(out[-1].bound_ps, self.bound_ps)
        return out

    def improve(self, goal_ps: int, interrupted: Callable[[], bool]) -> None:
        """Learn pipelines, then raise the bound, at most to the goal."""
        if not self.paths:
            self.bound_ps, self.done = self.limit_ps, True
            return
        prices, target = self._price(goal_ps)
        if not self._looked:
            # seconds of work, so that a proof that is cut short says something of every region
            self._looked = True
            found = self._refute(prices, target, interrupted, rough=True)
            self.bound_ps = max(self.bound_ps, found)
            self.done = self.bound_ps >= goal_ps
            return
        for _ in range(ROUNDS):
            if interrupted() or not self._teach(prices, target, interrupted):
                break
            prices, target = self._price(goal_ps)
        if interrupted():
            return
        known = len(self._columns)
        found = self._refute(prices, target, interrupted)
        gained = found > self.bound_ps * (1 + GAIN) or len(self._columns) > known
        self.bound_ps = max(self.bound_ps, found)
        self.done = not gained or self.bound_ps >= goal_ps

    def _price(self, goal_ps: int) -> tuple[Prices, int]:
        """Prices where the columns just reach the batch, and that time."""
        target = self._master.least_target(goal_ps) if self._columns else None
        if target is None or target >= goal_ps:
            target = goal_ps
        prices = self._master.solve(int(target * (1 - SHIFT))) if self._columns else None
        if prices is None or not prices.packing.any():
            prices = self.leaf.prices
        if prices is None or not prices.packing.any():
            prices = nominal_prices(self.problem, [Pricer(p.space, 1) for p in self.paths])
        self._last = prices
        return prices, target

    def _costs(self, prices: Prices, paths: ExactPaths) -> tuple[Floats, float, float]:
        """Prices per option and per pipeline in rows, and what the busiest one has less to pay."""
        goal = self.problem.global_batch - ROW_MARGIN
        worth = prices.value(self.problem, self.setting)
        theta, extra = 1.0, (goal - worth) / self.setting.replicas[1]
        if worth > 0.5 * goal:
            theta, extra = goal / worth, 0.0
        each = theta * (prices.most + prices.least) + extra
        return theta * paths.space.option_prices(prices.packing), each, theta * prices.busiest

    def _groups(self, space: StageSpace) -> list[tuple[int, int]]:
        """Intervals of numbers of micro-batches."""
        most = -(-self.problem.global_batch // space.rows)
        groups, low = [], 1
        while low <= most:
            high = min(most, max(low, int(low * GROUP)))
            groups.append((low, high))
            low = high + 1
        return groups

    def _cutoff(self, space: StageSpace, count: int, each: float, busiest: float) -> float:
        """What a pipeline with so many micro-batches may cost, its own price taken off."""
        share = largest_share(self.problem.global_batch, self.setting)
        own = each + (busiest if count * space.rows >= share else 0.0)
        return space.rows * count - own

    def _teach(self, prices: Prices, target_ps: int, interrupted: Callable[[], bool]) -> int:
        """Learn pipelines that bring more than their price by the target; how many."""
        seconds, new = target_ps * (1 - SHIFT) / PS_PER_S, 0
        for paths in self.paths:
            costs, each, busiest = self._costs(prices, paths)
            own = 0
            stack = self._groups(paths.space)
            while stack and own < TAUGHT and not interrupted():
                low, high = stack.pop()
                cutoff = self._cutoff(paths.space, high, each, busiest)
                query = Query(seconds, low * paths.space.chunks, cutoff)
                pipeline = paths.least(costs, query)
                if pipeline is None:
                    continue
                column = self._column(paths.space, pipeline)
                count = column.micro_batches(int(seconds * PS_PER_S))
                price = sum(float(costs[s.option]) for s in pipeline)
                if count and price < self._cutoff(paths.space, count, each, busiest) * (1 - 1e-9):
                    own += self._add(column, pipeline)
                elif low < high:
                    stack += [(low, (low + high) // 2), ((low + high) // 2 + 1, high)]
                else:
                    before = len(self._columns)
                    case = _Case(paths, costs, low * paths.space.chunks, cutoff)
                    self._stands(case, seconds)
                    own += len(self._columns) - before
            new += own
        return new

    def _refute(
        self,
        prices: Prices,
        target_ps: int,
        interrupted: Callable[[], bool],
        *,
        rough: bool = False,
    ) -> int:
        """The greatest time, up to the target, that these prices rule out; 0 if interrupted."""
        seconds, known = target_ps / PS_PER_S, len(self._columns)
        enough = self.bound_ps / PS_PER_S
        for paths in self.paths:
            costs, each, busiest = self._costs(prices, paths)
            stack = self._groups(paths.space)
            while stack:
                taught = (
                    not rough
                    and len(self._columns) > known
                    and seconds * PS_PER_S < target_ps * (1 - ABORT)
                )
                if interrupted() or taught or seconds <= enough:
                    return 0
                low, high = stack.pop()
                cutoff = self._cutoff(paths.space, high, each, busiest)
                case = _Case(paths, costs, low * paths.space.chunks, cutoff, rough)
                if low < high and not (rough and high <= low * ROUGH_GROUP):
                    if paths.least(costs, Query(seconds, case.count, cutoff)) is not None:
                        stack += [(low, (low + high) // 2), ((low + high) // 2 + 1, high)]
                elif self._stands(case, seconds):
                    seconds = self._ruled_out(case, seconds)
        if seconds == target_ps / PS_PER_S:
            return target_ps
        return int(seconds * PS_PER_S * (1 - 1e-12)) - 2

    def _ruled_out(self, case: _Case, seconds: float) -> float:
        """The greatest time before at which no pipeline of the case stands."""
        precision = ROUGH_PRECISION if case.rough else PRECISION
        high, width = seconds, precision * seconds
        low = high - width
        while low > 0 and self._stands(case, low):
            high, width = low, 2 * width
            low = high - width
        low = max(low, 0.0)
        while high - low > precision * seconds:
            middle = 0.5 * (low + high)
            if self._stands(case, middle):
                high = middle
            else:
                low = middle
        return low

    def _stands(self, case: _Case, seconds: float) -> bool:
        """Whether some pipeline of the case may be through by then.

        Where the one found could not be through because of its fill, fills are told apart: with
        more it is illegal, with less it is out of reach, but for the rounding of a pass.
        """
        stack = [(0.0, np.inf, 1)]
        splits = 0
        while stack:
            low, high, finer = stack.pop()
            query = Query(seconds, case.count, case.cutoff, (low, high), finer)
            pipeline = case.paths.least(case.costs, query)
            if pipeline is None:
                continue
            if case.rough:
                return True
            column = self._column(case.paths.space, pipeline)
            fill = column.most_fill(case.count, seconds)
            if fill >= column.whole:
                self._add(column, pipeline)
                return True
            if low < fill < high * (1 - 1e-9) and splits < FILL_SPLITS:
                splits += 1
                stack += [(low, fill, finer), (fill * (1 + 1e-9), high, finer)]
            elif finer < FINEST:
                stack.append((low, high, finer * FINER))
            else:
                return True
        return False

    def _learn(self, space: StageSpace, pipeline: tuple[Stage, ...]) -> None:
        """Add a pipeline that was met elsewhere, if it is legal here."""
        column = self._column(space, pipeline)
        if all(column.ways):
            self._add(column, pipeline)

    def _add(self, column: ExactColumn, pipeline: tuple[Stage, ...]) -> int:
        """1 if it is new."""
        if column.key in self._known:
            return 0
        self._known.add(column.key)
        self._columns.append(column)
        self._met.append((column.size, pipeline))
        self._master.add(column)
        return 1

    def _column(self, space: StageSpace, pipeline: Sequence[Stage]) -> ExactColumn:
        """The pipeline as this bound sees it."""
        ways = [_ways(space, stage) for stage in pipeline]
        times = [min((w.seconds for w in own), default=np.inf) for own in ways]
        hops = [float(space.hop[a.option, b.option, b.first]) for a, b in pairwise(pipeline)]
        legal = bool(np.isfinite(times + hops).all())
        base = relaxed_column(
            self.problem, space, times if legal else [0.0] * len(times), pipeline, None
        )
        finish = float(space.finish[pipeline[0].option, pipeline[0].end])
        steps = [t + 2 * h for t, h in zip(times, [*hops, 0.0], strict=True)]
        before = np.cumsum([finish, *steps])
        fields = {name: getattr(base, name) for name in Column.__dataclass_fields__}
        return ExactColumn(
            **fields,
            ways=tuple(ways) if legal else ((),) * len(ways),
            before=tuple(before[:-1].tolist()),
            whole=float(before[-1]),
        )


def _ways(space: StageSpace, stage: Stage) -> tuple[_Way, ...]:
    """The recomputations under which a stage has room at all.

    How much it must hold depends on its place, of which a pass knows less than a pipeline tells:
    prices must see as much in a pipeline as the pass does, or they never rule it out.
    """
    out = []
    for p, policy in enumerate(space.policies):
        depth = space.stage_depth(stage.option, stage.first, stage.end, p)
        seconds = space.policy_time(stage.option, stage.first, stage.end, p)
        if depth < 1 or not np.isfinite(seconds):
            continue
        forward = space.options[stage.option].forward_ps[policy][stage.first : stage.end]
        out.append(_Way(seconds, float(forward.sum()) / PS_PER_S, depth))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class ExactBound:
    """A time that no plan is below (picoseconds), and whether nothing interrupted its proof."""

    bound_ps: int
    complete: bool
    queries: int


def exact_bound(
    problem: Problem,
    leaves: Sequence[Leaf],
    limit_ps: int,
    gap: float,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
) -> ExactBound:
    """The least bound of all regions, up to the exact step time ``limit_ps`` of a known plan.

    Stops where it is within ``gap`` of that, or the lowest region gains nothing more.
    """
    goal = int(limit_ps * (1 - gap)) + 1
    regions = [ExactRelaxation(problem, leaf, limit_ps) for leaf in leaves]
    done = 0
    while regions:
        lowest = min(regions, key=lambda r: (r.bound_ps, r.leaf.region))
        queries = done + sum(r.queries for r in regions)
        if lowest.bound_ps >= goal or queries >= MAX_QUERIES or interrupted():
            break
        if lowest.done:
            parts = lowest.parts()
            if not parts:
                break
            regions = [r for r in regions if r is not lowest] + parts
            done += lowest.queries
        else:
            lowest.improve(goal, interrupted)
        progress(min(r.bound_ps for r in regions))
    bound = min([limit_ps, *(r.bound_ps for r in regions)])
    return ExactBound(bound, not interrupted(), done + sum(r.queries for r in regions))
