"""A lower bound on time x rate: no plan costs less than this per step, whatever its step time.

Let P(T) be the least rate of chips in use that delivers the batch by T (``rate_master``). P falls
with T, and a plan with step time T costs at least T · P(T). For an interval of step times

    min over T in [T₁, T₂] of T · P(T)  ≥  T₁ · P(T₂)

and prices prove P(T) ≥ p for all T up to the greatest one at which no pipeline is worth more than
its price: that is what ``bound.refute`` answers, for prices r + y per chip in units of θ. So the
sweep goes upwards from the least step time: at T₁ it asks for the rate p = goal / T₁, takes the
prices of the linear program at the T where that rate is least, and goes on from the T₂ that they
reach. Every interval passed has T · P(T) ≥ T₁ · p, whether or not the prices were the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.units import PS_PER_S
from planner.search.bound import depth_groups, refute
from planner.search.boxes import Candidate
from planner.search.columns import relaxed_column
from planner.search.master import Prices
from planner.search.pipelines import Pricer
from planner.search.problem import Problem, Setting, Size
from planner.search.rate_master import Duals, RateMaster, row_rates
from planner.search.regions import Region, fluid_bound_s, roots
from planner.search.relaxation import Relaxation
from planner.search.space import Stage

COARSE = 0.03
TOLERANCE = 0.0015
"""Width of takt intervals at which a proof stops looking."""
HEADROOM = 0.8
"""Part of the gap that a proof uses up."""
ROUNDS = 12
"""Rounds of new columns at one interval."""
BISECTIONS = 12
ATTEMPTS = 4
STRETCHES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
"""How far beyond the end of an interval its prices are taken, in turn."""
TIME_ROUNDS = 16
TIME_WIDTH = 0.004
"""How well the least step time is bounded first."""
WIDE = 0.4
"""Width of an interval in parts of what the bound lacks already."""
LEAST_STEP = 0.1
"""An interval narrower than this part of the gap is no progress."""
QUERIES = 20_000
"""Queries of one refutation, at most."""
ROUNDING = 1e-9
BEYOND = 1e-6
"""How far above the latest time, relatively, a proof goes."""


@dataclass(frozen=True)
class RateBound:
    """``product``: no plan of the space has a lower time x rate, in seconds times rate."""

    product: float
    complete: bool


@dataclass(frozen=True)
class Mix:
    """The relaxation's cheapest mix at a target: chips per class, and how many pipelines."""

    target_ps: int
    chips: tuple[float, ...]
    pipelines: float


class RateSweep:
    """The sweep over step times of one region."""

    def __init__(
        self,
        problem: Problem,
        setting: Setting,
        rates: Sequence[float],
        latest_ps: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """``rates`` per second and chip by class; only plans up to ``latest_ps`` count."""
        self.problem, self.setting = problem, setting
        # prices speak of times below a target: a plan that takes all of the time counts
        self.latest_ps = int(latest_ps * (1 + BEYOND)) + 1000
        self.queries = 0
        self._interrupted = interrupted
        self._rates = row_rates(problem, rates)
        self._master = RateMaster(problem, setting, self._rates, divisible=True)
        self._met: dict[object, tuple[Stage, ...]] = {}
        self._counts: dict[object, tuple[int, int]] = {}
        seconds = fluid_bound_s(problem, setting)
        self.impossible = seconds == float("inf")
        self.start_ps = 1
        self._least = self._work(rates)
        self._pricers: dict[int, Pricer] = {}
        if not self.impossible:
            self._begin(max(1, int(seconds * PS_PER_S * (1 - ROUNDING))))

    def _begin(self, fluid_ps: int) -> None:
        """The least step time, and the pipelines that bounding it has met."""
        rows = [Size(r) for r in self.problem.micro_batch_rows]
        fastest = Relaxation(self.problem, self.setting, rows, min(fluid_ps * 2, self.latest_ps))
        fastest.bound_ps = fluid_ps
        fastest.improve(
            self.latest_ps,
            rounds=TIME_ROUNDS,
            max_queries=QUERIES,
            finest=TIME_WIDTH,
            interrupted=self._interrupted,
        )
        self.queries += fastest.queries
        self.start_ps = max(fluid_ps, fastest.bound_ps)
        self._pricers = {p.space.rows: p for p in fastest.pricers}
        for met in fastest.met.values():
            self._learn(Candidate(met.column.size, met.pipeline, met.micro_batches))
        self._seed()

    def _work(self, rates: Sequence[float]) -> float:
        """Every layer of every row on the chips that do it for least, paid for its own time.

        Chips in use are paid for the whole step, so no plan costs less, whatever its step time.
        """
        work = self.problem.chip_seconds * np.array(rates)[:, None]
        for c, (first, end) in enumerate(self.setting.windows):
            work[c, :first] = work[c, end:] = np.inf
        least = float(work.min(axis=0).sum()) * self.problem.global_batch
        return least * (1 - ROUNDING) if np.isfinite(least) else 0.0

    def inherit(self, parent: RateSweep) -> None:
        """Start from the pipelines that a wider region has met."""
        for candidate in parent.pipelines:
            self._learn(candidate)

    def run(self, best: float, gap: float, max_queries: int) -> RateBound:
        """Raise the bound to within the gap of ``best`` (seconds times rate), as far as it goes."""
        goal = best * (1 - HEADROOM * gap)
        at, lowest = self.start_ps, best
        if self.impossible or self._least >= goal:
            return RateBound(best if self.impossible else min(best, self._least), True)
        complete = True
        while at < self.latest_ps:
            if self._interrupted() or self.queries >= max_queries:
                reached, rate = at, 0.0
            else:
                # far below the goal nothing is won by small steps
                width = max(gap, WIDE * (1 - lowest / best))
                wanted = min(goal, lowest) / (at / PS_PER_S)
                reached, rate = self._step(at, wanted, width)
            if reached <= at:
                rate, complete = self._last_rate(), False
            lowest = min(lowest, max(rate * at / PS_PER_S, self._least))
            at = reached if complete else self.latest_ps
        return RateBound(lowest, complete)

    @property
    def pipelines(self) -> list[Candidate]:
        """The pipelines met so far."""
        return [Candidate(*self._counts_of(key)) for key in self._met]

    def _counts_of(self, key: object) -> tuple[Size, tuple[Stage, ...], int]:
        rows, count = self._counts[key]
        return Size(rows), self._met[key], count

    def cheapest_mix(self, target_ps: int) -> Mix | None:
        """The mix at a target after asking for the pipelines that its prices undervalue."""
        for _ in range(ROUNDS):
            duals = self._master.solve(target_ps)
            if duals is None or self._interrupted():
                break
            rate = duals.value(self.problem, self.setting)
            if (
                rate <= 0
                or not self._reach(duals.worth(self.problem, self.setting, rate), target_ps)[1]
            ):
                break
        return self.mix(target_ps)

    def mix(self, target_ps: int) -> Mix | None:
        """The cheapest mix of the columns met at a target; None where they do not suffice."""
        duals = self._master.solve(target_ps)
        if duals is None or not self._master.complete:
            return None
        used = [0.0] * len(self.problem.topology.classes)
        seen: set[int] = set()
        for (c, _, _), chips in zip(self.problem.packing_rows, duals.chips, strict=True):
            if c not in seen:
                seen.add(c)
                used[c] = float(chips)
        return Mix(target_ps, tuple(used), duals.pipelines)

    # -- one interval ---------------------------------------------------------------------------

    def _step(self, at_ps: int, wanted: float, gap: float) -> tuple[int, float]:
        """From T₁ to a T₂ with P ≥ rate up to it, and that rate: the wanted one or less."""
        best = (at_ps, wanted)
        least = 1 + LEAST_STEP * gap
        for _ in range(ROUNDS):
            target, rate = self._target(at_ps, wanted, gap)
            found = self._master.solve(target)
            if found is None or rate <= 0:
                break
            duals = found.worth(self.problem, self.setting, rate)
            reached, new = self._reach(duals, min(self.latest_ps, int(target * (1 + gap)) + 1))
            if reached > best[0] and (best[0] == at_ps or rate * 1.0001 >= best[1]):
                best = (reached, rate)
            if reached >= min(target * (1 - LEAST_STEP * gap), self.latest_ps) or not new:
                break
            if self._interrupted():
                break
        if best[0] >= min(at_ps * least, self.latest_ps):
            return best
        # the last prices prove less than the wanted rate: take what they do prove a bit further
        end = min(self.latest_ps, int(at_ps * (1 + gap / 2)) + 1)
        return self._less(at_ps, end, wanted)

    def _less(self, at_ps: int, end_ps: int, wanted: float) -> tuple[int, float]:
        """A lower rate that is proven up to the end of an interval.

        Prices of a later target leave room at the end. Where the fleet only just suffices a little
        room is much: a row is then worth far more than what chips cost.
        """
        for stretch in STRETCHES:
            for _ in range(ATTEMPTS):
                found = self._master.solve(int(end_ps * (1 + stretch)))
                if found is None or self._interrupted():
                    return at_ps, 0.0
                rate = min(wanted, found.value(self.problem, self.setting) * (1 - ROUNDING))
                if rate <= 0:
                    break
                reached, new = self._reach(found.worth(self.problem, self.setting, rate), end_ps)
                if reached >= end_ps:
                    return reached, rate
                if not new:
                    break
        return at_ps, 0.0

    def _last_rate(self) -> float:
        """A rate that every plan in time needs at least: what the latest target proves."""
        end, rate = self._less(self.latest_ps - 1, self.latest_ps, float("inf"))
        return rate if end >= self.latest_ps else 0.0

    def _target(self, at_ps: int, wanted: float, gap: float) -> tuple[int, float]:
        """The T at which the columns' least rate falls to the wanted one, or a lower rate."""
        near = min(self.latest_ps, int(at_ps * (1 + gap / 2)) + 1)
        value = self._value(near)
        if value < wanted:
            return near, value * (1 - 1e-6)
        low, high = near, self.latest_ps
        if self._value(high) >= wanted:
            return high, wanted
        for _ in range(BISECTIONS):
            middle = int((low * high) ** 0.5)
            if self._value(middle) >= wanted:
                low = middle
            else:
                high = middle
        return low, wanted

    def _value(self, target_ps: int) -> float:
        duals = self._master.solve(target_ps)
        return 0.0 if duals is None else duals.value(self.problem, self.setting)

    def _reach(self, duals: Duals, target_ps: int) -> tuple[int, int]:
        """The greatest T, up to the target, at which all pipelines obey; how many met are new."""
        outcome = refute(
            self.problem,
            self.setting,
            list(self._pricers.values()),
            duals.as_prices(self._rates),
            target_ps,
            max_queries=QUERIES,
            tolerance=TOLERANCE,
            interrupted=self._interrupted,
            unscaled=True,
        )
        self.queries += outcome.queries
        return outcome.bound_ps, sum(self._learn(c) for c in outcome.candidates)

    # -- columns --------------------------------------------------------------------------------

    def _seed(self) -> None:
        """Pipelines that prices in proportion to the rates undervalue."""
        fleet = sum(
            float(r) * n
            for r, (_, _, n) in zip(self._rates, self.problem.packing_rows, strict=True)
        )
        packing = self._rates * (self.problem.global_batch / fleet)
        outcome = refute(
            self.problem,
            self.setting,
            list(self._pricers.values()),
            Prices(0.0, packing, 0.0, 0.0, 0.0),
            self.latest_ps,
            max_queries=QUERIES,
            tolerance=COARSE,
            interrupted=self._interrupted,
        )
        self.queries += outcome.queries
        for candidate in outcome.candidates:
            self._learn(candidate)

    def _learn(self, candidate: Candidate) -> int:
        """The relaxed column of a pipeline; 1 if it is new and legal here."""
        space, pipeline = self._pricers[candidate.size.rows].space, candidate.pipeline
        most = -(-self.problem.global_batch // space.rows)
        count = min(max(1, candidate.micro_batches), most)
        groups = depth_groups(most, self.problem.max_stages)
        group = next(g for g in groups if g[0] <= count <= g[1])
        size = len(pipeline)
        times = [
            space.stage_time(st.option, st.first, st.end, min(size - s, group[0]))
            for s, st in enumerate(pipeline)
        ]
        if not np.all(np.isfinite(times)):
            return 0
        limit = group[1]
        column = relaxed_column(self.problem, space, times, pipeline, limit)
        if column.key in self._met:
            return 0
        self._met[column.key] = pipeline
        self._counts[column.key] = (candidate.size.rows, count)
        self._master.add(column)
        return 1


@dataclass
class _Node:
    """A region with its sweep; ``product`` is proven."""

    region: Region
    sweep: RateSweep
    product: float


class RateSearch:
    """Branch and bound over regions, as ``engine`` does for the step time."""

    def __init__(
        self,
        problem: Problem,
        rates: Sequence[float],
        latest_ps: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem, self.rates, self.latest_ps = problem, tuple(rates), latest_ps
        self._interrupted = interrupted
        self.nodes = [self._node(region, None) for region in roots(problem)]

    def _node(self, region: Region, parent: _Node | None) -> _Node:
        setting = region.setting(self.problem)
        sweep = RateSweep(self.problem, setting, self.rates, self.latest_ps, self._interrupted)
        if parent is not None and not sweep.impossible:
            sweep.inherit(parent.sweep)
        return _Node(region, sweep, 0.0)

    @property
    def queries(self) -> int:
        """Shortest paths asked for so far."""
        return sum(n.sweep.queries for n in self.nodes)

    @property
    def fastest_ps(self) -> int:
        """No plan of the space is faster, as far as the sweeps know."""
        starts = [n.sweep.start_ps for n in self.nodes if not n.sweep.impossible]
        return min([self.latest_ps, *starts])

    def met(self) -> list[tuple[Region, list[Candidate]]]:
        """The pipelines met in every region."""
        return [(n.region, n.sweep.pipelines) for n in self.nodes if not n.sweep.impossible]

    def mixes(self, first_ps: int, count: int) -> list[Mix]:
        """Cheapest mixes at step times up to the latest one, the most promising first."""
        ratio = max(self.latest_ps / max(first_ps, 1), 1.0)
        targets = [int(self.latest_ps * ratio ** (-k / max(count - 1, 1))) for k in range(count)]
        found: dict[tuple[float, ...], tuple[float, Mix]] = {}
        for target in dict.fromkeys(targets):
            for node in self.nodes:
                mix = None if node.sweep.impossible else node.sweep.cheapest_mix(target)
                if mix is not None:
                    rate = sum(r * n for r, n in zip(self.rates, mix.chips, strict=True))
                    key = tuple(round(n, 3) for n in mix.chips)
                    if key not in found:
                        found[key] = (rate * target, mix)
        return [mix for _, mix in sorted(found.values(), key=lambda f: f[0])]

    def prove(self, best: float, gap: float, max_queries: int) -> RateBound:
        """The least product that any plan in time has: at most ``best``, which some plan has."""
        spent = 0
        complete = True
        for node in self.nodes:
            found = node.sweep.run(best, gap, max_queries)
            node.product, complete = found.product, complete and found.complete
            spent += node.sweep.queries
        while spent < max_queries and not self._interrupted():
            worst = min(self.nodes, key=lambda n: (n.product, n.region))
            if worst.product >= best * (1 - gap) or worst.region.single:
                break
            self.nodes.remove(worst)
            low, high = worst.region.replicas
            middles = [0.5 * (a + b) for a, b in worst.region.cuts]
            for region in worst.region.parts((low * high) ** 0.5, middles):
                child = self._node(region, worst)
                found = child.sweep.run(best, gap, max_queries - spent)
                child.product = max(found.product, worst.product)
                spent += child.sweep.queries
                self.nodes.append(child)
        product = min([best, *(n.product for n in self.nodes)])
        return RateBound(product, complete and product >= best * (1 - gap))
