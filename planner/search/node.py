"""One setting under search: its columns for plans, its columns for the bound, and their targets.

A node answers three questions about its setting: the best plan found (`best_plan`), the least
target that its relaxation admits over the columns known (`relaxation_target`), and whether a
target is proven out of reach (`refutes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.bound import Candidate, depth_groups, reduced_value, refute
from planner.search.columns import Column, make_columns, relaxed_column
from planner.search.master import (
    Prices,
    least_target,
    solve_integer,
    solve_relaxation,
)
from planner.search.pipelines import Pricer, Stage
from planner.search.problem import Problem, Setting
from planner.search.space import Floats, build_space

TARGET_TOLERANCE = 2e-5
GRID = 40
FOCUS = 12
SEED_SLACKS = (1.06, 1.4, 4.0)
ROWS_SLACK = 0.03
SMALL_SHARE = 6
"""Pipelines with this many times less than an equal share of the batch are left to the proof."""
PLAN_SLACK = 1.02
SEVERAL = 4
"""Numbers of stages per query that become columns of plans: the best may lack memory for depth."""
REFUTE_STEPS = (0.001, 0.003, 0.007, 0.014, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7)
"""How far below the relaxation's target a proof is tried, in turn."""
LATE = 64
"""Where nothing known reaches the batch, prices are taken at so many times the target."""
REFUTE_ROUNDS = 60
FEW_PIPELINES = 8
PROBE_TILTS = (0.9, 0.97, 1.03, 1.1)
PROBE_TAKTS = 10
PROBE_STAGES = 16
"""How far and how finely prices and takts are tilted when looking for equal pipelines."""
COARSE_ROUNDS = 6
"""Rounds of column generation on a coarse grid before the first proof of a setting."""


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


@dataclass(frozen=True)
class _Side:
    """Columns and pricers of one use: real ones for plans, relaxed ones for the bound."""

    columns: dict[object, Column]
    pricers: Callable[[], list[Pricer]]
    add: Callable[[Pricer, Sequence[Stage], int], int]


class Node:
    """Search state of one setting."""

    def __init__(self, problem: Problem, setting: Setting, rows_choices: Sequence[int]) -> None:
        self.problem = problem
        self.setting = setting
        self.rows_choices = tuple(rows_choices)
        self._plan: dict[object, Column] = {}
        self._bound: dict[object, Column] = {}
        self._plan_pricers: list[Pricer] | None = None
        self._bound_pricers: list[Pricer] | None = None
        self._plan_side = _Side(self._plan, lambda: self.plan_pricers, self.add_plan_pipeline)
        self._bound_side = _Side(self._bound, lambda: self.bound_pricers, self.add_bound_pipeline)
        self.queries = 0
        self._seeded = False
        self._any_size = False
        self.active_rows: frozenset[int] | None = None
        self._news = 0

    # -- spaces -----------------------------------------------------------------------------

    @property
    def plan_pricers(self) -> list[Pricer]:
        """Pricers over what a plan may really use, one per micro-batch size."""
        if self._plan_pricers is None:
            self._plan_pricers = [
                Pricer(
                    build_space(self.problem, self.setting, rows, optimistic=False),
                    self.problem.max_stages,
                )
                for rows in self.rows_choices
            ]
        return self._plan_pricers

    @property
    def bound_pricers(self) -> list[Pricer]:
        """Pricers over the relaxation, one per micro-batch size."""
        if self._bound_pricers is None:
            self._bound_pricers = [
                Pricer(
                    build_space(self.problem, self.setting, rows, optimistic=True),
                    self.problem.max_stages,
                )
                for rows in self.rows_choices
            ]
        return self._bound_pricers

    # -- columns ----------------------------------------------------------------------------

    def _admit(self, column: Column) -> bool:
        """Whether the fleet could hold a single copy at all."""
        return all(
            used <= capacity
            for used, (_, _, capacity) in zip(column.usage, self.problem.packing_rows, strict=True)
        )

    def add_plan_pipeline(self, pricer: Pricer, pipeline: Sequence[Stage], count: int) -> int:
        """Columns of a pipeline for plans; returns how many are new."""
        new = 0
        for column in make_columns(self.problem, pricer.space, pipeline, count):
            if column.key not in self._plan and (self._any_size or self._admit(column)):
                self._plan[column.key] = column
                new += 1
        return new

    def add_bound_pipeline(self, pricer: Pricer, pipeline: Sequence[Stage], count: int) -> int:
        """The relaxed column of a pipeline; returns 1 if it is new."""
        most = -(-self.problem.global_batch // pricer.space.rows)
        group = next(
            g
            for g in depth_groups(most, self.problem.max_stages)
            if g[0] <= min(max(1, count), most) <= g[1]
        )
        size = len(pipeline)
        times = []
        for s, stage in enumerate(pipeline):
            table = pricer.stage_times(size - s, group[0])
            times.append(float(table[stage.option, stage.first, stage.end - stage.first]))
        if not np.all(np.isfinite(times)):
            return 0
        limit = None if group[1] == most else group[1]
        column = relaxed_column(self.problem, pricer.space, times, pipeline, limit)
        if column.key in self._bound:
            return 0
        self._bound[column.key] = column
        return 1

    @property
    def columns(self) -> list[Column]:
        """Columns for plans in order of discovery."""
        return list(self._plan.values())

    # -- relaxation -------------------------------------------------------------------------

    def relaxation_target(
        self,
        columns: Sequence[Column],
        low_ps: int,
        high_ps: int,
        *,
        stretch: bool = True,
    ) -> int | None:
        """Least target (to a relative tolerance) at which the relaxation reaches the batch.

        None if even ``high_ps`` does not suffice and may not be stretched, or nothing ever does.
        """
        goal = self.problem.global_batch * (1 - 1e-9)

        def reaches(target: int) -> bool:
            prices = solve_relaxation(self.problem, self.setting, columns, target)
            return prices is not None and prices.rows >= goal

        if not columns:
            return None
        if not reaches(high_ps):
            if not stretch:
                return None
            for _ in range(12):
                low_ps, high_ps = high_ps, high_ps * 2
                if reaches(high_ps):
                    break
            else:
                return None
        elif reaches(low_ps):
            for _ in range(40):
                high_ps, low_ps = low_ps, low_ps // 2
                if low_ps <= 1 or not reaches(low_ps):
                    break
        while high_ps - low_ps > TARGET_TOLERANCE * high_ps:
            middle = (low_ps + high_ps) // 2
            if reaches(middle):
                high_ps = middle
            else:
                low_ps = middle
        return high_ps

    def seed(self, target_ps: int, prices: Prices | None = None) -> None:
        """First columns for plans, at given prices or at prices proportional to speed."""
        if self._seeded:
            return
        self._seeded = True
        self._start(self._plan_side, target_ps, prices)
        if not self._plan:
            # only pipelines larger than the fleet so far: they still teach the prices
            self._any_size = True
            self._start(self._plan_side, target_ps, prices)

    def _start(self, side: _Side, target_ps: int, prices: Prices | None) -> None:
        for slack in SEED_SLACKS if prices is not None else SEED_SLACKS[1:]:
            for pricer in self._active(side):
                if prices is None:
                    option_prices = self._nominal_prices(pricer)
                else:
                    option_prices = pricer.space.option_prices(prices.packing)
                self._query(side, pricer, option_prices, target_ps, slack=slack)
            if side.columns:
                return

    def _active(self, side: _Side) -> list[Pricer]:
        """Pricers of the micro-batch sizes that column generation looks at (a proof at all)."""
        return [
            p
            for p in side.pricers()
            if self.active_rows is None or p.space.rows in self.active_rows
        ]

    def worthwhile_rows(self, prices: Prices, target_ps: int) -> frozenset[int]:
        """Micro-batch sizes with a relaxed column within a few per cent of its price."""
        return frozenset(
            c.rows
            for c in self._bound.values()
            if c.micro_batches(target_ps)
            and reduced_value(c, prices, 1.0, target_ps)
            > -ROWS_SLACK * c.rows * c.micro_batches(target_ps)
        )

    def relax(self, guess_ps: int, rounds: int) -> tuple[int, Prices] | None:
        """Converge the relaxation roughly: its target and its prices there."""
        side = self._bound_side
        if not side.columns:
            self._start(side, guess_ps, None)
        best: tuple[int, Prices] | None = None
        low, high = int(guess_ps * 0.8), guess_ps
        for _ in range(rounds):
            columns = list(side.columns.values())
            target = self.relaxation_target(columns, low, high)
            if target is None:
                # the columns known never reach the batch: go on at the prices of a late target
                late = high * LATE
                prices = solve_relaxation(self.problem, self.setting, columns, late)
                if prices is None or not self._query_side(side, prices, columns, late):
                    return best
                continue
            prices = solve_relaxation(self.problem, self.setting, columns, target)
            if prices is None:
                return best
            low, high = int(target * 0.97), target
            done = best is not None and target > best[0] * (1 - 5e-4)
            best = (target, prices)
            if done or not self._query_side(side, prices, columns, target):
                break
        return best

    def _query_side(
        self,
        side: _Side,
        prices: Prices,
        columns: Sequence[Column],
        target_ps: int,
        *,
        deep: bool = False,
    ) -> int:
        """One round of column generation on one side; how many columns are new."""
        return sum(
            self._query(
                side,
                pricer,
                pricer.space.option_prices(prices.packing),
                target_ps,
                slack=PLAN_SLACK if side is self._plan_side else 1.0,
                pipeline_price=prices.most + prices.least,
                focus=self._focus(pricer, prices, columns, target_ps),
                deep=deep,
            )
            for pricer in self._active(side)
        )

    def _nominal_prices(self, pricer: Pricer) -> Floats:
        space = pricer.space
        speed: dict[int, float] = {}
        for k, table in enumerate(space.options):
            times = space.time[:, k, :, 1]
            usual = float(np.median(times[np.isfinite(times)])) if np.isfinite(times).any() else 0.0
            if usual > 0:
                rate = 1.0 / (usual * table.option.tp)
                c = table.option.class_index
                speed[c] = max(speed.get(c, 0.0), rate)
        total = sum(speed.get(c.index, 0.0) * c.chips for c in self.problem.topology.classes)
        scale = self.problem.global_batch / total if total else 1.0
        return np.array(
            [speed.get(t.option.class_index, 0.0) * scale * t.option.tp for t in space.options]
        )

    def _query(
        self,
        side: _Side,
        pricer: Pricer,
        option_prices: Floats,
        target_ps: int,
        *,
        slack: float = 1.0,
        pipeline_price: float = 0.0,
        focus: Floats | None = None,
        deep: bool = False,
    ) -> int:
        """Ask the pricer at a grid of takts and add what it finds; returns how many are new.

        Only pipelines worth more than ``1 / slack`` of their price are asked for.
        """
        target = target_ps / PS_PER_S
        rows = pricer.space.rows
        most = -(-self.problem.global_batch // rows)
        points = pricer.breakpoints()
        points = points[(points > 0) & (points <= target)]
        if len(points) == 0:
            return 0
        low = max(float(points[0]), target / (most + self.problem.max_stages))
        takts = np.geomspace(low, float(points[-1]), GRID)
        if focus is not None:
            takts = np.unique(np.concatenate([takts, focus]))
        windows, groups = [], []
        for group in depth_groups(most, self.problem.max_stages):
            low_count, high_count = group
            if high_count * rows * self.setting.replicas[1] * SMALL_SHARE < (
                self.problem.global_batch
            ):
                continue
            window = takts[(takts * low_count <= target)]
            if high_count < most:
                window = window[window * (high_count + self.problem.max_stages) >= target]
            windows.append(window)
            groups += [group] * len(window)
        if not groups:
            return 0
        asked = np.concatenate(windows)
        high = np.array([g[1] for g in groups], dtype=np.float64)
        worth = rows * np.minimum(target / asked + 1, high + 1) - pipeline_price
        answer = pricer.solve(
            option_prices,
            asked,
            rows / asked,
            np.array([g[0] for g in groups]),
            cutoffs=slack * worth,
            deep=deep,
            several=1 if side is self._bound_side else SEVERAL,
        )
        self.queries += len(asked)
        found = [(k, p) for k, p in enumerate(answer.pipelines) if p is not None]
        new = 0
        for k, pipeline in (*found, *answer.others):
            low_count, high_count = groups[k]
            count = int(target / asked[k]) - len(pipeline) + 1
            new += side.add(pricer, pipeline, min(high_count, max(low_count, count)))
        return new

    def generate(
        self, low_ps: int, high_ps: int, rounds: int, *, limit_ps: int | None = None
    ) -> int | None:
        """Column generation for plans; returns the relaxation's target, None if nothing fits.

        With ``limit_ps`` only plans faster than it are of interest: columns are priced at the
        limit until the relaxation reaches it, and None says that it did not.
        """
        best: int | None = None
        stalled = 0
        worth = 0.0
        for turn in range(rounds):
            columns = self.columns
            target = self.relaxation_target(columns, low_ps, high_ps, stretch=limit_ps is None)
            at = limit_ps if target is None else target
            if at is None:
                at = high_ps * LATE
            prices = solve_relaxation(self.problem, self.setting, columns, at)
            if target is not None:
                stalled = stalled + 1 if best is not None and target > best * (1 - 2e-4) else 0
                best = target if best is None else min(best, target)
                low_ps, high_ps = int(target * 0.97), target
            elif prices is not None:
                stalled = stalled + 1 if prices.rows < worth * (1 + 1e-3) else 0
                worth = max(worth, prices.rows)
            if prices is None or stalled >= 3:
                break
            new = self._query_side(self._plan_side, prices, columns, at, deep=turn % 2 == 0)
            if not new:
                stalled += 1
        return best

    def _focus(
        self, pricer: Pricer, prices: Prices, columns: Sequence[Column], target_ps: int
    ) -> Floats | None:
        """A finer grid of takts around those of the best columns so far."""
        scored = [
            (
                reduced_value(c, prices, 1.0, target_ps)
                / max(1, c.rows * c.micro_batches(target_ps)),
                c.period_ps,
            )
            for c in columns
            if c.rows == pricer.space.rows and c.micro_batches(target_ps)
        ]
        if not scored:
            return None
        scored.sort(reverse=True)
        near = [p for score, p in scored[:4] if score > -0.02]
        if not near:
            return None
        low, high = min(near) / PS_PER_S * 0.96, max(near) / PS_PER_S * 1.04
        return np.geomspace(low, high, FOCUS)

    # -- integer plans ----------------------------------------------------------------------

    def best_plan(
        self,
        relaxed_ps: int,
        limit_ps: int | None,
        *,
        seed: int,
        work_limit: float,
        use_all: bool = False,
        columns: Sequence[Column] | None = None,
        steps: int = 9,
    ) -> list[Solution]:
        """Ever better multisets over the known columns, better than ``limit_ps`` if given."""
        columns = self.columns if columns is None else list(columns)
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
                self.setting, tuple(c for c, _ in pairs), tuple(z for _, z in pairs), exact, exact
            )

        low = relaxed_ps
        found: list[Solution] = []
        step = 0.001
        while step < 64 and not found:
            target = int(relaxed_ps * (1 + step))
            last = limit_ps is not None and target >= limit_ps
            first = attempt(limit_ps - 1 if limit_ps is not None and last else target)
            if first is not None:
                found.append(first)
            elif last:
                return []
            else:
                low = target
            step *= 2
        for _ in range(steps if found else 0):
            high = found[-1].target_ps
            if high - low <= 2e-4 * high:
                break
            middle = (low + high) // 2
            better = attempt(middle)
            if better is None:
                low = middle
            else:
                found.append(better)
        return found

    def probe_uniform(self, target_ps: int) -> None:
        """Columns that R equal pipelines could use: prices tilted towards every class in turn.

        The relaxation mixes templates; a single one that divides the fleet among R pipelines
        lies near its prices but not always at them.
        """
        copies = self.setting.replicas[1]
        columns = self.columns
        prices = solve_relaxation(self.problem, self.setting, columns, target_ps)
        if prices is None:
            return
        classes = sorted({c for c, _, _ in self.problem.packing_rows})
        target = target_ps / PS_PER_S
        for pricer in self._active(self._plan_side):
            rows = pricer.space.rows
            count = -(-self.problem.global_batch // (copies * rows))
            takts = np.geomspace(target / (count + PROBE_STAGES), target / count, PROBE_TAKTS)
            for tilted in classes:
                for factor in PROBE_TILTS:
                    tilt = [factor if c == tilted else 1.0 for c, _, _ in self.problem.packing_rows]
                    option_prices = pricer.space.option_prices(prices.packing * np.array(tilt))
                    answer = pricer.solve(option_prices, takts, rows / takts, count)
                    self.queries += len(takts)
                    for pipeline in answer.pipelines:
                        if pipeline is not None:
                            self.add_plan_pipeline(pricer, pipeline, count)

    def uniform_plans(self, most: int) -> list[Solution]:
        """Plans of equal pipelines, best first: their replicas meet stage by stage."""
        found = []
        low, high = self.setting.replicas
        for column in self._plan.values():
            copies = min(
                capacity // used
                for used, (_, _, capacity) in zip(
                    column.usage, self.problem.packing_rows, strict=True
                )
                if used
            )
            most_copies = min(copies, high, self.problem.global_batch // column.rows)
            even = next(
                (
                    r
                    for r in range(most_copies, low - 1, -1)
                    if self.problem.global_batch % (r * column.rows) == 0
                ),
                0,
            )
            for copies in sorted({most_copies, even}):
                if copies < max(low, 1):
                    continue
                count = -(-self.problem.global_batch // (copies * column.rows))
                if column.max_micro_batches is not None and count > column.max_micro_batches:
                    continue
                found.append((column.time_ps(count), column, copies))
        found.sort(key=lambda f: (f[0], f[2], f[1].rows, f[1].stages))
        return [
            Solution(self.setting, (column,), (copies,), time, time)
            for time, column, copies in found[:most]
        ]

    # -- bound ------------------------------------------------------------------------------

    def bound(
        self,
        ceiling_ps: int,
        start: Prices | None,
        *,
        max_queries: int,
        interrupted: Callable[[], bool] = lambda: False,
        only_ceiling: bool = False,
    ) -> int:
        """Greatest target found, up to ``ceiling_ps``, by which no plan of the setting finishes.

        Column generation and proof are one loop: a failed proof leaves columns, columns lower the
        target that the relaxation admits, and the next proof is tried a little below that. The
        prices of another setting (``start``) often refute at once. 0 where the limits end it, or
        where the ceiling is not refuted and nothing lower is asked for (``only_ceiling``).
        """

        def proven(prices: Prices, target: int) -> bool:
            outcome = refute(
                self.problem,
                self.setting,
                self.bound_pricers,
                prices,
                target,
                max_queries=max_queries,
                interrupted=interrupted,
            )
            self.queries += outcome.queries
            self._news = sum(self._learn(candidate) for candidate in outcome.candidates)
            return outcome.proven

        side = self._bound_side
        if start is not None and not side.columns:
            if only_ceiling and proven(replace(start, most=0.0, least=0.0), ceiling_ps):
                return ceiling_ps
            if not side.columns:
                self._start(side, ceiling_ps, start)
        most = self.setting.replicas[1]
        if most <= FEW_PIPELINES:
            # so few pipelines may be limited by how much one of them can do, whatever it costs
            alone = np.zeros(len(self.problem.packing_rows))
            if proven(Prices(0.0, alone, self.problem.global_batch / most, 0.0, 0.0), ceiling_ps):
                return ceiling_ps
        tried = 0
        low = int(ceiling_ps * 0.9)
        for attempt in range(REFUTE_ROUNDS):
            if interrupted():
                return 0
            columns = list(side.columns.values())
            reach = self.relaxation_target(columns, low, ceiling_ps, stretch=False)
            if reach is not None:
                low = int(reach * 0.97)
            if only_ceiling and (reach is not None or tried):
                return 0
            target = min(ceiling_ps, reach or ceiling_ps)
            if target < ceiling_ps or tried:
                target = int(target * (1 - REFUTE_STEPS[tried]))
            prices = solve_relaxation(self.problem, self.setting, columns, target)
            if prices is None or not prices.packing.any():
                prices = (
                    self._fallback_prices()
                    if start is None
                    else replace(start, most=0.0, least=0.0)
                )
            elif attempt < COARSE_ROUNDS and self._query_side(side, prices, columns, target):
                continue
            if proven(prices, target):
                return target
            if not self._news:
                tried += 1
                if tried == len(REFUTE_STEPS):
                    return 0
        return 0

    def _learn(self, candidate: Candidate) -> int:
        """Columns of a pipeline that a proof failed on; how many are new to the bound."""
        new = 0
        for pricer in self.bound_pricers:
            if pricer.space.rows == candidate.rows:
                new += self.add_bound_pipeline(pricer, candidate.pipeline, candidate.micro_batches)
        for pricer in self.plan_pricers:
            if pricer.space.rows == candidate.rows:
                self.add_plan_pipeline(pricer, candidate.pipeline, candidate.micro_batches)
        return new

    def _fallback_prices(self) -> Prices:
        per_class: dict[int, float] = {}
        for pricer in self.bound_pricers:
            nominal = self._nominal_prices(pricer)
            for k, table in enumerate(pricer.space.options):
                c = table.option.class_index
                per_class[c] = max(per_class.get(c, 0.0), float(nominal[k]) / table.option.tp)
        packing = np.array(
            [per_class.get(c, 0.0) if tp == 1 else 0.0 for c, tp, _ in self.problem.packing_rows]
        )
        if not packing.any():
            packing = np.ones(len(self.problem.packing_rows))
        return Prices(0.0, packing, 0.0, 0.0, 0.0)
