"""How long every layer may take to synchronise: plans of many pipelines that wait for each other.

The replicas of a layer end their reduction together, when the slowest of them is through. Given an
**allowance**, a time per layer, pipelines are independent again: one whose stages all exchange
within it is done when the allowance of its layers is over, less what hides behind earlier stages. A
short allowance forbids long stages, a long one makes everybody wait.

The allowance by which the fleet finishes most rows by a target is looked for by steps up and down
at a few layers, with the linear master over bundles of pipelines as the judge; then pipelines are
asked for at its prices, and it is looked for again. A heuristic: what it finds is placed and priced
like any other solution, and the proof knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from planner.costing import Ints
from planner.search.columns import Column
from planner.search.master import Prices, RelaxedMaster
from planner.search.planning import Planning
from planner.search.space import Floats
from planner.search.stage_costs import TRUST

KNOTS = 5
"""Layers at which an allowance is chosen; between them it is a line."""
STEPS = (0.5, 0.7, 0.85, 1.2, 1.5)
"""Factors that are tried at some of them at once."""
SWEEPS = 3
"""How often all of them are tried, as long as rows grow."""
WORTH_A_STEP = 1e-4
"""Relative growth of the rows that makes a step."""
ROUNDS = 4
"""Rounds of column generation under one allowance."""
ANY_NUMBER = 1 << 40


class Allowances:
    """Allowances for the columns of one setting, in bundles."""

    def __init__(self, planning: Planning) -> None:
        self._planning = planning
        self._layers = planning.problem.tables.layers
        self._known = 0
        self._master = RelaxedMaster(planning.problem, planning.setting)
        self._own = self._hidden = np.zeros((0, self._layers), dtype=np.int64)
        # by bundle: what nothing hides, rows, fill, period, most micro-batches
        self._after = np.zeros((5, 0), dtype=np.int64)
        self._catch_up()

    def _catch_up(self) -> None:
        """Bundles of the columns that the planning has met since."""
        planning = self._planning
        fresh = [
            bundle
            for column in list(planning.columns.values())[self._known :]
            for bundle in planning.bundles(column)
        ]
        self._known = len(planning.columns)
        if not fresh:
            return
        for bundle in fresh:
            self._master.add(bundle)
        own, hidden, rest = zip(*map(self._exchanged, fresh), strict=True)
        most = [c.max_micro_batches or ANY_NUMBER for c in fresh]
        runs = [(c.rows, c.fill_ps, c.period_ps, m) for c, m in zip(fresh, most, strict=True)]
        self._own = np.vstack([self._own, own])
        self._hidden = np.vstack([self._hidden, hidden])
        self._after = np.hstack([self._after, np.vstack([rest, np.array(runs).T])])

    def _exchanged(self, column: Column) -> tuple[Ints, Ints, int]:
        """Of a column: how long each layer's stage exchanges, what hides it, what nothing hides."""
        own, hidden = np.zeros((2, self._layers), dtype=np.int64)
        most = 0
        for parts, exchanged, behind, rest in self._planning.exchanges(column):
            for first, end in parts:
                own[first:end], hidden[first:end] = exchanged, behind
            most = max(most, rest)
        return own, hidden, most

    def _rows(self, allowance: Ints, target_ps: int) -> list[int]:
        """Rows that a pipeline of every bundle finishes by the target; 0 where it may not stand."""
        rest, rows, fill, period, most = self._after
        finish = np.maximum((allowance - self._hidden).max(axis=1), rest)
        room = target_ps - finish - fill
        stands = (self._own <= allowance * TRUST).all(axis=1) & (room >= 0)
        out: list[int] = (rows * np.where(stands, np.minimum(room // period + 1, most), 0)).tolist()
        return out

    def _prices(self, allowance: Ints, target_ps: int) -> Prices | None:
        return self._master.worth(self._rows(allowance, target_ps))

    def _spread(self, heights: Floats) -> Ints:
        """An allowance of these heights at the knots."""
        at = np.linspace(0, self._layers - 1, len(heights))
        out: Ints = np.interp(np.arange(self._layers), at, heights).astype(np.int64)
        return out

    def _improved(
        self, heights: Floats, target_ps: int, sweeps: int, interrupted: Callable[[], bool]
    ) -> Floats:
        """Better heights, by steps up and down: all knots, one of them, or the first few."""

        def rows(heights: Floats) -> float | None:
            found = self._prices(self._spread(heights), target_ps)
            return None if found is None else found.rows

        count = len(heights)
        chosen = [
            np.ones(count, dtype=bool),
            *np.eye(count, dtype=bool),
            *(np.arange(count) < k for k in range(2, count)),
        ]
        best = rows(heights)
        for _ in range(sweeps):
            before = best
            for some in chosen:
                for step in STEPS:
                    if interrupted():
                        return heights
                    tried = np.where(some, heights * step, heights)
                    found = rows(tried)
                    if found is None:
                        continue  # nothing may stand
                    if best is None or found > best + WORTH_A_STEP * abs(best):
                        best, heights = found, tried
            if best == before:
                break
        return heights

    def search(
        self, start_ps: Sequence[int], target_ps: int, interrupted: Callable[[], bool]
    ) -> Iterator[list[int]]:
        """Allowances in picoseconds by layer, from what layers take in some plan.

        Each begins at the one before, with the columns that were added to the planning meanwhile.
        Ends where none are found.
        """
        # no lower between two knots than what layers there take
        at = np.linspace(0, self._layers - 1, min(KNOTS, self._layers))
        low, high = np.floor([at[0], *at[:-1]]), np.ceil([*at[1:], at[-1]])
        ranges = zip(low.astype(int).tolist(), high.astype(int).tolist(), strict=True)
        heights = np.array([max(start_ps[a : b + 1]) for a, b in ranges], dtype=np.float64)
        sweeps = SWEEPS
        while not interrupted():
            heights = self._improved(heights, target_ps, sweeps, interrupted)
            allowance = self._spread(heights)
            yield allowance.tolist()
            narrow = self._planning.narrowed(allowance.tolist())
            new = 0
            for turn in range(ROUNDS):
                prices = self._prices(allowance, target_ps)
                if prices is None or interrupted():
                    break
                found = narrow.ask(prices, target_ps, turn)
                self._catch_up()
                if not found:
                    break
                new += found
            self._planning.queries += narrow.queries
            if not new:
                return
            sweeps = 1
