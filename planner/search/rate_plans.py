"""Plans of little time x rate: columns priced for what chips cost, and whole numbers of them.

The pipelines that the bound has met become columns as they will really be; at a target more are
asked for at the prices of the linear program over them; then the integer master chooses the counts
of least rate that do the batch by the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.boxes import Candidate
from planner.search.columns import Column, make_columns
from planner.search.pipelines import Pricer
from planner.search.planning import Solution
from planner.search.problem import Problem, Setting
from planner.search.rate_master import RateMaster, least_rate, row_rates
from planner.search.space import Stage, build_space

TAKTS = 24
"""Takts per micro-batch size that are asked for."""
ROUNDS = 4
"""Rounds of new columns per target."""
SCALE = 10**9
"""Whole units that the rate of the whole fleet is counted in."""
WORK = 1.0
"""Deterministic seconds of one integer program."""


class RatePlans:
    """Columns of one setting, priced at the rates of their chips."""

    def __init__(self, problem: Problem, setting: Setting, rates: Sequence[float]) -> None:
        self.problem, self.setting = problem, setting
        self._rates = row_rates(problem, rates)
        self._master = RateMaster(problem, setting, self._rates, divisible=False)
        self._columns: dict[object, Column] = {}
        self._pricers: dict[int, Pricer] = {}

    def seed(self, pipelines: Iterable[Candidate]) -> None:
        """Columns of pipelines that the bound has met."""
        for candidate in pipelines:
            self._add(candidate.size.rows, candidate.pipeline, candidate.micro_batches)

    def solve(
        self, target_ps: int, seed: int, interrupted: Callable[[], bool] = lambda: False
    ) -> Solution | None:
        """The multiset of least rate by the target that was found; None where there is none."""
        for turn in range(ROUNDS):
            if interrupted() or not self._ask(target_ps, slope=1 + turn % 2):
                break
        columns = list(self._columns.values())
        if not columns:
            return None
        fleet = float(np.dot(self._rates, [c for _, _, c in self.problem.packing_rows]))
        rates = [
            max(1, round(float(np.dot(self._rates, c.usage)) / fleet * SCALE)) for c in columns
        ]
        counts = least_rate(
            self.problem, self.setting, columns, rates, target_ps, work_limit=WORK, seed=seed
        )
        if counts is None:
            return None
        chosen = [(c, n) for c, n in zip(columns, counts, strict=True) if n]
        return Solution(
            self.setting,
            tuple(c for c, _ in chosen),
            tuple(n for _, n in chosen),
            target_ps,
            target_ps,
        )

    def _pricer(self, rows: int) -> Pricer:
        if rows not in self._pricers:
            space = build_space(self.problem, self.setting, rows, optimistic=False)
            self._pricers[rows] = Pricer(space, self.problem.max_stages)
        return self._pricers[rows]

    def _add(self, rows: int, pipeline: Sequence[Stage], count: int) -> int:
        """Columns of a pipeline that the fleet could hold at all; how many are new."""
        capacity = [c for _, _, c in self.problem.packing_rows]
        new = 0
        for column in make_columns(self.problem, self._pricer(rows).space, pipeline, count):
            fits = all(u <= c for u, c in zip(column.usage, capacity, strict=True))
            if fits and column.key not in self._columns:
                self._columns[column.key] = column
                self._master.add(column)
                new += 1
        return new

    def _ask(self, target_ps: int, slope: int) -> int:
        """The best pipeline of every takt that is worth its price; how many columns are new."""
        duals = self._master.solve(target_ps)
        if duals is None or duals.row <= 0:
            return 0
        prices = duals.as_prices(self._rates)
        target, new = target_ps / PS_PER_S, 0
        for rows in self.problem.micro_batch_rows:
            pricer = self._pricer(rows)
            most = -(-self.problem.global_batch // rows)
            points = pricer.breakpoints()
            points = points[(points > 0) & (points <= target)]
            if len(points) == 0:
                continue
            low = max(float(points[0]), target / (most + self.problem.max_stages))
            takts = np.geomspace(min(low, float(points[-1])), float(points[-1]), TAKTS)
            counts = np.clip(np.floor(0.7 * target / takts), 1, most).astype(np.int64)
            worth = rows * np.minimum(target / takts + 1, most) - prices.most - prices.least
            answer = pricer.solve(
                pricer.space.option_prices(prices.packing),
                takts,
                rows / takts,
                counts,
                cutoffs=1.02 * worth,
                slope=slope,
            )
            for takt, pipeline in zip(takts, answer.pipelines, strict=True):
                if pipeline is not None:
                    count = min(most, max(1, int(target / takt) - len(pipeline) + 1))
                    new += self._add(rows, pipeline, count)
        return new
