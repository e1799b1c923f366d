"""Plans of one setting: columns as they will really be, and whole numbers of them.

Starts from the pipelines that the relaxation met, asks for more at the prices of its own columns
(real depths, expected hops and synchronisation), then rounds with the integer master.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from costmodels.units import PS_PER_S
from planner.mesh import StageMesh
from planner.search.bound import reduced_value
from planner.search.columns import Column, finish_ps, make_columns
from planner.search.folded import beside_one_another, folded, interleaved_columns
from planner.search.master import (
    Prices,
    RelaxedMaster,
    least_target,
    solve_integer,
)
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size
from planner.search.relaxation import Relaxation
from planner.search.space import Floats, Stage, StageSpace, build_space
from planner.search.stage_costs import TRUST, StageCosts

GRID = 28
"""Takts per micro-batch size that are asked for over the whole useful range."""
ROUNDING = 1e-9
WHOLE = 16
"""Up to so many layers on the largest groups a takt is asked for that they fill exactly."""
FEWEST_TAKTS = 4
"""A takt of which fewer fit into the target leaves a pipeline little but its fill."""
FOCUS = 14
"""Takts that are asked for near those of good columns."""
SEEDS = 60
"""Pipelines of the relaxation that become columns first."""
ROWS_SLACK = 0.03
"""Micro-batch sizes whose columns stay this far below their price are not asked for."""
HOPED = 1.3
"""How far above its relaxation a first plan is hoped for: columns are priced there first."""
NEAR = 2e-4
"""Relative progress below which column generation has stalled."""
LITTLE = 0.02
"""Relative progress below which a rough column generation ends."""
DEPTHS = (1, 2)
"""Room per stage that the pricing asks for: 1F1B's least, and what slow hops need."""
PATIENT = len(DEPTHS) + 1
"""Rounds before columns are priced at whatever target they admit: when asking has stalled."""
STEPS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8)
"""How far above the relaxation whole numbers are looked for, in turn."""
HALVINGS = 7
LAST = 2
"""So many pipelines from the end the free chips, not prices, say what a pipeline should use."""
SQUEEZES = 4
DEARER = 3.0
"""How much dearer chips become where every pipeline asked for uses more of them than there are."""
DIVES = 12
"""Pipelines that are fixed one after the other, at most."""
TILTS = (0.93, 1.07)
TAKTS = 8
DEEPEST = 16
"""How finely prices and takts are tilted when looking for equal pipelines."""


Intervals = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Solution:
    """Columns with their counts, and the target (picoseconds) by which they finish the batch.

    ``real_ps`` is the formula time once placed on named devices (the target until then).
    """

    setting: Setting
    columns: tuple[Column, ...]
    counts: tuple[int, ...]
    target_ps: int
    real_ps: int
    keep_all: bool = False
    """Whether every pipeline must have work: no chip may stay idle."""


class Planning:
    """Column generation and rounding for one setting."""

    def __init__(self, problem: Problem, setting: Setting, relaxation: Relaxation) -> None:
        self.problem = problem
        self.setting = setting
        self.columns: dict[object, Column] = {}
        self.target_ps: int | None = None
        self.queries = 0
        self._relaxation = relaxation
        self._master = RelaxedMaster(problem, setting)
        self._pricers: dict[Size, Pricer | None] = {}
        self._costs: dict[int, StageCosts] = {}
        self._options: dict[int, dict[tuple[int, StageMesh], int]] = {}
        self._seen: set[tuple[Size, tuple[Stage, ...], int]] = set()

    @property
    def sizes(self) -> list[Size]:
        """Sizes of which the setting has pipelines."""
        sizes = self.problem.sizes_of(self.setting)
        return [size for size in sizes if self._known(size) is not None]

    def pricer(self, size: Size) -> Pricer:
        """Pricer over what a plan may really use; LookupError where there is no such pipeline."""
        found = self._known(size)
        if found is None:
            raise LookupError(f"no pipelines with {size.chunks} chunks per stage")
        return found

    def _known(self, size: Size) -> Pricer | None:
        if size not in self._pricers:
            space: StageSpace | None
            if size.chunks == 1:
                space = build_space(self.problem, self.setting, size.rows, optimistic=False)
                self._costs[size.rows] = StageCosts(self.problem, space)
                self._options[size.rows] = {
                    (t.option.class_index, t.option.mesh): k for k, t in enumerate(space.options)
                }
            else:
                own = self.pricer(Size(size.rows)).space
                space = folded(self.problem, own, size.chunks, optimistic=False)
            made = None if space is None else Pricer(space, self.problem.max_stages)
            self._pricers[size] = made
        return self._pricers[size]

    def narrowed(self, allowance_ps: Sequence[int]) -> Planning:
        """The same columns, to which only pipelines are added that exchange within an allowance.

        Those of several chunks per stage are asked for as before.
        """
        narrow = copy(self)
        narrow.queries = 0
        narrow._pricers = {}
        for size in self.problem.sizes_of(self.setting):
            pricer = self._known(size)
            if pricer is not None and size.chunks == 1:
                space = self._costs[size.rows].within(allowance_ps)
                pricer = Pricer(space, self.problem.max_stages)
            narrow._pricers[size] = pricer
        return narrow

    def ask(self, prices: Prices, target_ps: int, turn: int) -> int:
        """One round of column generation at prices from elsewhere; how many columns are new."""
        return self._ask(prices.never_free(self.problem), target_ps, DEPTHS[turn % len(DEPTHS)])

    def add(self, pricer: Pricer, pipeline: Sequence[Stage], count: int) -> int:
        """Columns of a pipeline that the fleet could hold at all; how many are new."""
        new = 0
        space = pricer.space
        asked = (space.size, tuple(pipeline), count)
        if asked in self._seen:
            return 0
        self._seen.add(asked)
        costs = self._costs[space.rows]
        make = make_columns if space.chunks == 1 else interleaved_columns
        for column in make(self.problem, space, pipeline, count, costs):
            fits = all(
                used <= capacity
                for used, (_, _, capacity) in zip(
                    column.usage, self.problem.packing_rows, strict=True
                )
            )
            if fits and column.key not in self.columns:
                self.columns[column.key] = column
                self._master.add(column)
                new += 1
        return new

    def generate(
        self,
        limit_ps: int | None,
        rounds: int,
        interrupted: Callable[[], bool],
        *,
        rough: bool = False,
        guess_ps: int | None = None,
    ) -> int | None:
        """Column generation; the least target that the columns' relaxation admits, or None.

        With ``limit_ps`` only plans faster than it are of interest: columns are priced at the
        limit until the relaxation reaches it, and None says that it did not. ``rough``: a round
        that brings little is the last. ``guess_ps``: where columns are priced first.
        """
        self._seed()
        near = self._relaxation.target_ps or self._relaxation.bound_ps
        guess = limit_ps or guess_ps or int(near * HOPED)
        stalled = 0
        for turn in range(rounds):
            if interrupted():
                break
            found = self._master.least_target(
                self.target_ps or guess,
                stretch=self.target_ps is not None or (limit_ps is None and turn >= PATIENT),
            )
            if found is not None:
                if self.target_ps is not None and found > self.target_ps * (1 - NEAR):
                    stalled += 1
                last = (
                    rough and self.target_ps is not None and found > self.target_ps * (1 - LITTLE)
                )
                self.target_ps = found
                if last:
                    break
            at = found or guess
            prices = self._master.solve(at) or self._relaxation.prices
            if prices is None or stalled > len(DEPTHS):
                break
            if not self._ask(prices.never_free(self.problem), at, DEPTHS[turn % len(DEPTHS)]):
                stalled += 1
        if self.target_ps is None and limit_ps is None:  # stopped before it was patient enough
            self.target_ps = self._master.least_target(guess)
        if limit_ps is not None and self.target_ps is not None and self.target_ps > limit_ps:
            return None
        return self.target_ps

    def _seed(self) -> None:
        """Columns of the relaxation's best pipelines."""
        relaxation = self._relaxation
        target, prices = relaxation.target_ps, relaxation.prices
        if target is None or prices is None:
            return
        scored = [
            (-reduced_value(m.column, prices, 1.0, target) / (m.column.rows * n), k, m)
            for k, m in enumerate(relaxation.met.values())
            if (n := m.column.micro_batches(target))
        ]
        used = [m for _, m in relaxation.used()]
        for met in [*used, *(m for _, _, m in sorted(scored)[:SEEDS])]:
            self.add(self.pricer(met.column.size), met.pipeline, met.micro_batches)

    def _worthwhile(self, prices: Prices, target_ps: int) -> list[Size]:
        """Sizes with a column within a few per cent of its price."""
        met = [m.column for m in self._relaxation.met.values()]
        target = self._relaxation.target_ps or target_ps
        known = self._relaxation.prices or prices
        good = {
            c.size
            for c in met
            if (n := c.micro_batches(target))
            and reduced_value(c, known, 1.0, target) > -ROWS_SLACK * c.rows * n
        }
        if not good:
            return self.sizes
        # of sizes that a rough look has not met nothing is known
        rows = {size.rows for size in good}
        unmet = set(self.sizes) - {c.size for c in met}
        return sorted(good | {size for size in unmet if size.rows in rows})

    def _ask(self, prices: Prices, target_ps: int, slope: int) -> int:
        """One round of column generation; how many columns are new."""
        return sum(
            self._query(
                self.pricer(size),
                self.pricer(size).space.option_prices(prices.packing),
                target_ps,
                prices.most + prices.least,
                self._takts(size, prices, target_ps),
                slope,
            )
            for size in self._worthwhile(prices, target_ps)
        )

    def _takts(
        self, size: Size, prices: Prices, target_ps: int, *, everywhere: bool = True
    ) -> Floats:
        """Takts over the useful range, and more of them near those of the best columns."""
        target = target_ps / PS_PER_S
        most = -(-self.problem.global_batch // size.rows) * size.chunks
        points = self.pricer(size).breakpoints()
        points = points[(points > 0) & (points <= target)]
        if len(points) == 0:
            return np.zeros(0)
        low = max(float(points[0]), target / (most + self.problem.max_stages))
        takts = np.geomspace(low, float(points[-1]), GRID)
        takts = np.unique(np.concatenate([takts, self._whole(size, low, target)]))
        scored = sorted(
            (
                (reduced_value(c, prices, 1.0, target_ps) / (c.rows * n), c.period_ps / c.chunks)
                for c in self.columns.values()
                if c.size == size and (n := c.micro_batches(target_ps))
            ),
            reverse=True,
        )
        near = [p / PS_PER_S for score, p in scored[:4] if score > -0.02]
        if near:
            focus = np.geomspace(min(near) * 0.96, max(near) * 1.04, FOCUS)
            takts = np.unique(np.concatenate([*([takts] if everywhere else []), near, focus]))
        return takts

    def _whole(self, size: Size, low: float, target: float) -> Floats:
        """Takts that whole layers on the largest groups of each class fill exactly.

        Those inside an island and those over several. A grid misses most of them where stages have
        few layers, and with them the pipelines that waste nothing. Only where inner layers are
        alike.
        """
        space = self.pricer(size).space
        if not space.uniform or space.layers <= 2:
            return np.zeros(0)
        largest: dict[tuple[int, bool], int] = {}
        for k, table in enumerate(space.options):
            own = self.problem.topology.classes[table.option.class_index]
            c = own.index, table.option.chips > own.size
            if c not in largest or table.option.chips > space.options[largest[c]].option.chips:
                largest[c] = k
        layers = np.arange(1, min(space.layers, WHOLE) + 1)
        each = [space.layer_time[k, 1] * layers for k in largest.values()]
        found = np.concatenate(each) * (1 + ROUNDING)
        return found[(found >= low) & (found <= target / FEWEST_TAKTS)]

    def _query(
        self,
        pricer: Pricer,
        option_prices: Floats,
        target_ps: int,
        pipeline_price: float,
        takts: Floats,
        slope: int,
    ) -> int:
        """The best pipeline of every takt that is worth its price becomes a column."""
        target, space = target_ps / PS_PER_S, pricer.space
        rows, chunks = space.worth, space.chunks
        most = -(-self.problem.global_batch // space.rows) * chunks
        counts = np.clip(np.floor(0.7 * target / np.maximum(takts, 1e-12)), 1, most)
        worth = rows * np.minimum(target / takts + 1, most) - pipeline_price
        answer = pricer.solve(
            option_prices,
            takts,
            rows / takts,
            counts.astype(np.int64),
            cutoffs=1.02 * worth,
            slope=slope,
        )
        self.queries += len(takts)
        new = 0
        for takt, pipeline in zip(takts, answer.pipelines, strict=True):
            if pipeline is not None:
                count = min(most, max(1, int(target / takt) - len(pipeline) + 1))
                new += self.add(pricer, pipeline, -(-count // chunks))
        return new

    def dive(self, interrupted: Callable[[], bool]) -> None:
        """Columns that fill up what rounding leaves: fix whole pipelines, price for the rest.

        The relaxation mixes templates that together use every chip; whole numbers of them leave
        chips and rows over that other templates must take.
        """
        if self.target_ps is None:
            return
        fixed: list[tuple[Column, int]] = []
        free = [c for _, _, c in self.problem.packing_rows]
        target = self.target_ps
        whole = self._master.solve(target)

        def granted(at: int) -> int:
            return sum(c.rows * c.micro_batches(at) * n for c, n in fixed)

        for _ in range(DIVES):
            low, high = (max(0, r - sum(n for _, n in fixed)) for r in self.setting.replicas)
            if high == 0 or interrupted():
                return
            rest = replace(self.setting, replicas=(low, high))
            master = RelaxedMaster(self.problem, rest, capacity=free, granted=granted)
            usable = [
                c
                for c in self.columns.values()
                if all(u <= f for u, f in zip(c.usage, free, strict=True))
            ]
            for column in usable:
                master.add(column)
            found = master.least_target(target)
            prices = master.solve(found or target)
            if prices is None:
                return
            target = found or target
            known = len(self.columns)
            if high <= LAST and whole is not None:
                self._squeeze(free, high, whole, target)
            else:
                self._ask(prices, target, DEPTHS[0])
            fresh = list(self.columns.values())[known:]
            for column in fresh:
                if all(u <= f for u, f in zip(column.usage, free, strict=True)):
                    master.add(column)
                    usable.append(column)
            found = master.least_target(target)
            if found is None or master.solve(found) is None:
                return
            target = found
            amounts = master.amounts()
            chosen = [(c, int(z + 1e-6)) for c, z in zip(usable, amounts, strict=True) if z >= 1]
            if not chosen:
                at = max(range(len(usable)), key=lambda k: (round(amounts[k], 6), -k))
                chosen = [(usable[at], 1)]
            for column, count in chosen:
                fixed.append((column, count))
                free = [f - count * u for f, u in zip(free, column.usage, strict=True)]

    def _squeeze(self, free: Sequence[int], count: int, prices: Prices, target_ps: int) -> None:
        """Columns for the last few pipelines: each should use its part of the free chips.

        A price per class decides how a pipeline mixes the classes. Prices of classes of which the
        best fitting pipeline uses more than its part rise, the others fall.
        """
        part = np.array([f / count for f in free])
        known = prices.never_free(self.problem).packing
        packing = np.where(known > 0, known, 1e-9)
        target = target_ps / PS_PER_S
        for size in self._worthwhile(prices, target_ps):
            pricer = self.pricer(size)
            rows, chunks = pricer.space.worth, size.chunks
            own = packing.copy()
            takts = self._takts(size, prices, target_ps, everywhere=False)
            counts = np.clip(np.floor(0.7 * target / np.maximum(takts, 1e-12)), 1, None)
            for _ in range(SQUEEZES):
                answer = pricer.solve(
                    pricer.space.option_prices(own), takts, rows / takts, counts.astype(np.int64)
                )
                self.queries += len(takts)
                best: tuple[float, int, Floats] | None = None
                for k, pipeline in enumerate(answer.pipelines):
                    if pipeline is None:
                        continue
                    used = np.sum([pricer.space.packing[s.option] for s in pipeline], axis=0)
                    pairs = max(1, int(target / takts[k]) - len(pipeline) + 1)
                    self.add(pricer, pipeline, -(-pairs // chunks))
                    if used.sum() <= part.sum() and (best is None or used.sum() > best[0]):
                        best = (float(used.sum()), k, used)
                if best is None:  # too cheap to be spared
                    own = own * DEARER
                    continue
                share = (best[2] + 0.5) / (part + 0.5)
                own = own * (share / share.mean()) ** 0.5

    def exchanges(self, column: Column) -> Iterator[tuple[Intervals, int, int, int]]:
        """Of every stage its layers, how long they exchange, behind what, and what nothing hides.

        What hides it is negative where a shared weight is summed first, behind nothing.
        """
        self.pricer(Size(column.rows))
        costs = self._costs[column.rows]
        beside = beside_one_another(column, self._options[column.rows])
        shared = costs.shared_ps(beside, column.together)
        lead = 0
        for s, (stage, same) in enumerate(zip(column.stages, beside, strict=True)):
            own, rest = costs.finish_ps(same, column.together, beside=column.beside)
            yield stage.parts, own, -shared[s] if s in shared else lead, rest
            lead += column.backward_ps[s] // column.chunks

    def _under(self, column: Column, demand_ps: Sequence[int], *, strictly: bool) -> Column | None:
        """The column when layer l takes ``demand_ps[l]`` to synchronise; None if it needs more.

        ``strictly``: more than any one of its layers takes, not only than all of them. Replicas of
        a layer end their reduction together, when the slowest of them is through: a pipeline with
        little behind which to hide it waits for the load of another.
        """
        latest = 0
        for parts, own, hidden, rest in self.exchanges(column):
            wanted = max(max(demand_ps[first:end]) for first, end in parts)
            least = min(min(demand_ps[first:end]) for first, end in parts)
            if own > (least if strictly else wanted) * TRUST:
                return None
            latest = max(latest, wanted - hidden, rest)
        return replace(column, finish_ps=latest)

    def bundles(self, column: Column) -> list[Column]:
        """The column in bundles of 1, 2, 4, … pipelines: as many of their replicas lie together.

        On its own a column expects that others fill the islands of its stages up.
        """
        if column.together:
            return [column]
        self.pricer(Size(column.rows))
        costs = self._costs[column.rows]
        stages = beside_one_another(column, self._options[column.rows])
        backward = [b // column.chunks for b in column.backward_ps]
        chips = [costs.chips[s.option] for s in stages]
        most = min(max(c.island // c.chips for c in chips), self.setting.replicas[1])
        found: list[Column] = []
        known: tuple[int, ...] = ()
        for power in range(max(most, 1).bit_length()):
            count = 1 << power
            each = tuple(costs.finish_ps(s, False, beside=count)[0] for s in stages)
            if not found or any(a < b for a, b in zip(each, known, strict=True)):
                finish = finish_ps(costs, stages, backward, False, beside=count)
                found.append(replace(column, finish_ps=finish, beside=count))
                known = each
        return found

    def whole(
        self,
        limit_ps: int | None,
        *,
        seed: int,
        work_limit: float,
        use_all: bool = False,
        demand_ps: Sequence[int] | None = None,
        bundled: bool = False,
    ) -> list[Solution]:
        """Ever better multisets over the known columns, better than the limit if given.

        ``demand_ps``: how long every layer takes to synchronise, where that is known; columns
        that would take longer are left out. ``bundled``: in bundles that fill islands alone.
        """
        if self.target_ps is None:
            return []
        columns = list(self.columns.values())
        if bundled:
            columns = [b for c in columns for b in self.bundles(c)]
        if demand_ps is not None:
            held = [self._under(c, demand_ps, strictly=bundled) for c in columns]
            columns = [c for c in held if c is not None]
            if not columns:
                return []
        goal = self.problem.global_batch

        def attempt(target: int) -> Solution | None:
            counts = solve_integer(
                self.problem,
                self.setting,
                columns,
                target,
                goal=goal,
                work_limit=work_limit,
                seed=seed,
                use_all=use_all,
            )
            if counts is None:
                return None
            exact = least_target(columns, counts, goal, target)
            pairs = [(c, z) for c, z in zip(columns, counts) if z]
            return Solution(
                self.setting,
                tuple(c for c, _ in pairs),
                tuple(z for _, z in pairs),
                exact,
                exact,
                keep_all=use_all,
            )

        low = self.target_ps
        found: list[Solution] = []
        for step in STEPS:
            target = int(self.target_ps * (1 + step))
            last = limit_ps is not None and target >= limit_ps
            first = attempt(limit_ps - 1 if limit_ps is not None and last else target)
            if first is not None:
                found.append(first)
                break
            if last:
                return []
            low = target
        for _ in range(HALVINGS if found else 0):
            high = found[-1].target_ps
            if high - low <= NEAR * high:
                break
            better = attempt((low + high) // 2)
            if better is None:
                low = (low + high) // 2
            else:
                found.append(better)
        return found

    def probe_uniform(self) -> None:
        """Columns that R equal pipelines could use: prices tilted towards every class in turn.

        The relaxation mixes templates; a single one that divides the fleet among R pipelines
        lies near its prices but not always at them.
        """
        copies = self.setting.replicas[1]
        prices = self._master.solve(self.target_ps) if self.target_ps is not None else None
        if prices is None or self.target_ps is None:
            return
        target = self.target_ps / PS_PER_S
        classes = [c for c, _, _ in self.problem.packing_rows]
        for size in self._worthwhile(prices, self.target_ps):
            pricer = self.pricer(size)
            rows = pricer.space.worth
            m = -(-self.problem.global_batch // (copies * size.rows))
            count = m * size.chunks
            takts = np.geomspace(target / (count + DEEPEST), target / count, TAKTS)
            for tilted in sorted(set(classes)):
                for factor in TILTS:
                    tilt = np.array([factor if c == tilted else 1.0 for c in classes])
                    option_prices = pricer.space.option_prices(prices.packing * tilt)
                    answer = pricer.solve(option_prices, takts, rows / takts, count)
                    self.queries += len(takts)
                    for pipeline in answer.pipelines:
                        if pipeline is not None:
                            self.add(pricer, pipeline, m)

    def _alone(self, column: Column) -> Column:
        """The column among equal ones: replicas of a layer lie on chips of one class."""
        self.pricer(Size(column.rows))
        finish = finish_ps(
            self._costs[column.rows],
            beside_one_another(column, self._options[column.rows]),
            [b // column.chunks for b in column.backward_ps],
            column.together,
            alone=True,
        )
        return replace(column, finish_ps=finish)

    def equal(self, most: int) -> list[Solution]:
        """Plans of equal pipelines, best first: their replicas meet stage by stage."""
        found = []
        low, high = self.setting.replicas
        batch = self.problem.global_batch
        for column in map(self._alone, self.columns.values()):
            copies = min(
                capacity // used
                for used, (_, _, capacity) in zip(
                    column.usage, self.problem.packing_rows, strict=True
                )
                if used
            )
            most_copies = min(copies, high, batch // column.rows)
            even = next(
                (r for r in range(most_copies, low - 1, -1) if batch % (r * column.rows) == 0),
                0,
            )
            for copies in sorted({most_copies, even}):
                if copies < max(low, 1):
                    continue
                count = -(-batch // (copies * column.rows))
                if column.max_micro_batches is not None and count > column.max_micro_batches:
                    continue
                found.append((column.time_ps(count), column, copies))
        found.sort(key=lambda f: (f[0], f[2], f[1].rows, f[1].stages))
        return [
            Solution(self.setting, (column,), (copies,), time, time)
            for time, column, copies in found[:most]
        ]
