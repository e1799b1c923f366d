"""The bound of one setting: prices, the bound that they prove, better prices, until it suffices.

The relaxation's columns see the most favourable end of everything (see ``bound``). The linear
master over the columns met so far gives prices; ``refute`` turns any prices into a proven bound
and hands back pipelines that the prices undervalue. The bound is the best of all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.bound import depth_groups, refute
from planner.search.boxes import Candidate
from planner.search.columns import Column, relaxed_column
from planner.search.folded import size_space
from planner.search.master import Prices, RelaxedMaster
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size
from planner.search.space import Stage, StageSpace

TOLERANCES = (0.03, 0.01, 0.004, 0.0015, 0.0005, 0.0001)
"""Widths of takt intervals at which a round stops looking, in turn."""
SHIFT = 0.5
"""How far below the least target prices are taken, in widths of a round."""
PATIENCE = 1
"""Rounds without new pipelines before the next finer width."""
LATER = 1.15
"""How much later than a target that nothing reaches the next one is, at first."""
NEARER = 0.98
"""How much nearer a horizon must be for everything to be priced anew."""
LATE = 64
"""Where nothing known reaches the batch, prices are taken at so many times the target."""


@dataclass(frozen=True, slots=True)
class Met:
    """A pipeline of the relaxation: its column, its stages and the micro-batches assumed."""

    column: Column
    pipeline: tuple[Stage, ...]
    micro_batches: int


class Relaxation:
    """The relaxed problem of one setting, solved as far as it was asked for.

    ``bound_ps``: no plan of the setting is faster (proven). ``target_ps``: the least target that
    the columns met so far admit, None while they admit none. ``prices``: those of the last round.
    ``done_width``: looking at takts no finer than this brings nothing more. ``horizon_ps``: only
    plans that end by then are spoken about (None: any).
    """

    def __init__(
        self,
        problem: Problem,
        setting: Setting,
        sizes: Sequence[Size],
        guess_ps: int,
        horizon_ps: int | None = None,
    ) -> None:
        self.problem = problem
        self.setting = setting
        self._sizes = tuple(sizes)
        self._pricers: list[Pricer] | None = None
        self.met: dict[object, Met] = {}
        self.bound_ps = 0
        self.target_ps: int | None = None
        self.prices: Prices | None = None
        self.queries = 0
        self.horizon_ps = horizon_ps
        self.done_width = 1.0
        self._guess_ps = guess_ps
        self._master = RelaxedMaster(problem, setting, divisible=True)
        self._level = 0
        self._later = LATER
        self._stale = 0

    @property
    def pricers(self) -> list[Pricer]:
        """One per size of pipelines; made when they are first needed."""
        if self._pricers is None:
            most = self.problem.max_stages
            spaces = [self._space(size) for size in self._sizes]
            self._pricers = [Pricer(space, most) for space in spaces if space is not None]
        return self._pricers

    def _space(self, size: Size) -> StageSpace | None:
        horizon = None if self.horizon_ps is None else self.horizon_ps / PS_PER_S
        return size_space(self.problem, self.setting, size, optimistic=True, horizon_s=horizon)

    def within(self, horizon_ps: int) -> None:
        """Speak only about plans that end by this time: what was met is priced anew."""
        if self.horizon_ps is not None and horizon_ps > self.horizon_ps * NEARER:
            return
        self.horizon_ps, self._pricers = horizon_ps, None
        known, self.met = self.met, {}
        self._master = RelaxedMaster(self.problem, self.setting, divisible=True)
        for met in known.values():
            self._learn(Candidate(met.column.size, met.pipeline, met.micro_batches))

    def rest(self) -> None:
        """Let go of the tables, which are large, until they are needed again."""
        self._pricers = None

    def inherit(self, parent: Relaxation) -> None:
        """Start from what a wider setting has met, as far as it is legal here."""
        for met in parent.met.values():
            self._learn(Candidate(met.column.size, met.pipeline, met.micro_batches))
        self.bound_ps = parent.bound_ps
        self.prices = parent.prices
        self._guess_ps = parent.target_ps or parent._guess_ps

    def improve(
        self,
        goal_ps: int | None,
        *,
        rounds: int,
        max_queries: int,
        finest: float = TOLERANCES[-1],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Raise the bound, at most to the goal; whether the goal is proven.

        Without a goal: converge. Stops when the bound meets what the columns admit, when the
        finest width brings nothing, or at the limits.
        """
        for _ in range(rounds):
            if goal_ps is not None and self.bound_ps >= goal_ps:
                return True
            if self.done_width <= finest or interrupted() or self.queries >= max_queries:
                break
            self._round(goal_ps, max_queries - self.queries, finest, interrupted)
        return goal_ps is not None and self.bound_ps >= goal_ps

    def _round(
        self,
        goal_ps: int | None,
        max_queries: int,
        finest: float,
        interrupted: Callable[[], bool],
    ) -> None:
        """Prices, the bound they prove, and the pipelines they undervalue."""
        target, prices = self._price(goal_ps)
        outcome = refute(
            self.problem,
            self.setting,
            self.pricers,
            prices,
            target,
            max_queries=max_queries,
            tolerance=TOLERANCES[self._level],
            interrupted=interrupted,
        )
        self.queries += outcome.queries
        self.bound_ps = max(self.bound_ps, self._reached(outcome.bound_ps))
        self.prices = prices
        if interrupted():
            return
        new = sum(self._learn(c) for c in outcome.candidates)
        nothing = outcome.proven or not self.met
        if nothing and (self.target_ps is None or target < self.target_ps):
            # nothing by then: look later, and ever later
            self._guess_ps = max(self._guess_ps, int(target * self._later))
            self._later = min(self._later**2, LATE)
            if goal_ps is None or target < goal_ps:
                return
        width, met = TOLERANCES[self._level], self.target_ps
        self._stale = 0 if new else self._stale + 1
        near = met is not None and self.bound_ps >= met * (1 - 1.5 * width)
        if not near and self._stale < PATIENCE and outcome.candidates:
            return
        self._stale = 0
        if not new or (met is not None and self.bound_ps >= met * (1 - 2 * finest)):
            self.done_width = min(self.done_width, width)
        if self._level + 1 < len(TOLERANCES):
            self._level += 1

    def _reached(self, bound_ps: int) -> int:
        """A bound on any plan, from one on those that end by the horizon."""
        return bound_ps if self.horizon_ps is None else min(bound_ps, self.horizon_ps)

    def _price(self, goal_ps: int | None) -> tuple[int, Prices]:
        """The target of a round and its prices: where the columns just reach the batch."""
        guess = self._guess_ps if goal_ps is None else min(self._guess_ps, goal_ps)
        if not self.met:
            return guess, self.prices or nominal_prices(self.problem, self.pricers)
        found = self._master.least_target(self.target_ps or guess)
        if found is None:
            late = self._master.solve(guess * LATE)
            return guess, late or nominal_prices(self.problem, self.pricers)
        self.target_ps = self._guess_ps = found
        target = found if goal_ps is None else min(found, goal_ps)
        # just below, where the columns do not reach the batch, the fleet is worth less than it:
        # room for the proof that prices of the least target itself do not have
        below = int(target * (1 - SHIFT * TOLERANCES[self._level]))
        prices = self._master.solve(below) or self._master.solve(found)
        if prices is None or not prices.packing.any():
            return target, self.prices or nominal_prices(self.problem, self.pricers)
        return target, prices

    def _learn(self, candidate: Candidate) -> int:
        """The relaxed column of a pipeline; 1 if it is new and legal here."""
        pricer = next((p for p in self.pricers if p.space.size == candidate.size), None)
        if pricer is None:
            return 0
        space, pipeline = pricer.space, candidate.pipeline
        most = -(-self.problem.global_batch // space.rows)
        count = min(max(1, candidate.micro_batches), most)
        group = next(
            g for g in depth_groups(most, self.problem.max_stages) if g[0] <= count <= g[1]
        )
        size, least = len(pipeline), group[0] * space.chunks
        times = [
            space.stage_time(st.option, st.first, st.end, int(space.held(size - s, size, least)))
            for s, st in enumerate(pipeline)
        ]
        if not np.all(np.isfinite(times)):
            return 0
        limit = None if group[1] == most else group[1]
        column = relaxed_column(self.problem, space, times, pipeline, limit)
        if column.key in self.met:
            return 0
        self.met[column.key] = Met(column, pipeline, count)
        self._master.add(column)
        return 1

    @property
    def pipelines(self) -> float:
        """How many pipelines the relaxation's last optimum has."""
        return self.prices.pipelines if self.prices is not None else 0.0

    def used(self) -> list[tuple[float, Met]]:
        """The columns of the relaxation's optimum and how much of each it uses."""
        if self.target_ps is None or self._master.solve(self.target_ps) is None:
            return []
        pairs = zip(self._master.amounts(), self.met.values(), strict=True)
        return [(amount, met) for amount, met in pairs if amount > 1e-7]


def nominal_prices(problem: Problem, pricers: Sequence[Pricer]) -> Prices:
    """Prices proportional to the speed of the chips, the fleet being worth the whole batch."""
    speed: dict[int, float] = {}
    for pricer in pricers:
        space = pricer.space
        for k, table in enumerate(space.options):
            times = space.layer_time[k][np.isfinite(space.layer_time[k])]
            usual = float(np.median(times)) if len(times) else 0.0
            if usual > 0:
                c = table.option.class_index
                rate = space.rows / (usual * table.option.chips)
                speed[c] = max(speed.get(c, 0.0), rate)
    packing = np.array([speed.get(c, 0.0) if t == 1 else 0.0 for c, t, _ in problem.packing_rows])
    if not packing.any():
        packing = np.ones(len(problem.packing_rows))
    worth = sum(y * n for y, (_, _, n) in zip(packing, problem.packing_rows, strict=True))
    return Prices(0.0, packing * (problem.global_batch / worth), 0.0, 0.0, 0.0)
