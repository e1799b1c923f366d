"""The cheapest plan, in money or energy per token, that is fast enough; and how cheap one could be.

Candidates come from four sides: the fastest plans of the whole fleet and of every kind of chip,
the fastest plans of the sub-fleets that the relaxation's cheapest mixes name, and multisets of
pipelines of least rate. Each is placed on named devices, and its real price is what counts. The
bound on time x rate is proved beside them (``search.rate_bound``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from costmodels.units import PS_PER_S
from planner import assemble, beside
from planner.errors import InfeasibleError, NoPlanFound
from planner.inputs.goal import Goal
from planner.place import Placement
from planner.plan import Baseline
from planner.search.engine import Progress, SearchLimits
from planner.search.planning import Solution
from planner.search.problem import Problem
from planner.search.rate_bound import Mix, RateBound, RateSearch
from planner.search.rate_plans import RatePlans
from planner.search.regions import most_alike
from planner.searches import engine_for, fleet_parts, place_solution

if TYPE_CHECKING:
    from planner.solve import Context, SolveParams

TARGETS = 6
"""Step times between the fastest plan's and the floor at which cheap mixes are looked for."""
PROBES = (1.0, 0.6, 1.6)
"""Numbers of pipelines, relative to the mix's, at which multisets are chosen."""
LATER = (1.0, 0.985, 0.95)
"""Parts of a target that are tried in turn where a placement takes longer than its columns."""
MAX_QUERIES = 60_000
LITTLE = 1e-3
"""Chips of a mix that are none."""


@dataclass(frozen=True)
class Candidate:
    """A plan in time: where it came from, its placement, its formula time x rate."""

    name: str
    placement: Placement
    product: float


@dataclass(frozen=True)
class Economy:
    """The best candidate, what it competed with (best per name), and the proven bound."""

    best: Candidate
    others: tuple[Candidate, ...]
    fastest: Placement
    bound: RateBound
    fastest_bound_ps: int


def chips_of(context: Context, placement: Placement) -> dict[str, int]:
    """Chips in use by kind (catalogue id)."""
    out: dict[str, int] = {}
    for stage in (s.stage for p in placement.priced.pipelines for s in p.stages):
        chip = context.topology.classes[stage.island.class_index].chip.id
        out[chip] = out.get(chip, 0) + stage.chips
    return out


def product_of(context: Context, goal: Goal, placement: Placement) -> float:
    """Formula time (s) x rate of the chips in use."""
    return placement.priced.formula_ps / PS_PER_S * goal.rate(chips_of(context, placement))


def cheapest(
    context: Context,
    goal: Goal,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
    known: Iterable[Placement] = (),
) -> Economy | None:
    """The cheapest plan that was found within the floor, and a proven bound.

    None where no plan at all was found. Raises InfeasibleError where every plan is proven to be
    slower than the floor, NoPlanFound where none in time was found.
    """
    limits = SearchLimits(gap=params.gap, seed=params.seed, use_all=not context.job.idle_chips)
    engine = engine_for(context, limits, progress, interrupted)
    engine.find()
    shapes = beside.rectangular(context)
    placements = [("fastest plan", place_solution(context, s)) for s in _solutions(engine.best)]
    placements += [("given plan", p) for p in known]
    if shapes.best is not None:
        placements.append(("equal split", beside.as_placement(shapes.best)))
    every = context.topology.chips
    legal = [
        (name, p)
        for name, p in placements
        if p.priced.fits
        and assemble.allowed(p.priced, context.job, context.topology)
        and (context.job.idle_chips or beside.chips_used(p) == every)
    ]
    if not legal:
        return None
    fastest = min((p for _, p in legal), key=lambda p: (p.priced.formula_ps, p.priced.exact_ps))
    engine.know(fastest.priced.formula_ps)
    if fastest.priced.formula_ps > goal.latest_ps:
        raise _too_slow(context, goal, fastest, engine.prove().lower_bound_ps)
    found = _Found(context, goal)
    for name, placement in legal:
        found.offer(name, placement)
    rates = [goal.per_second(c.chip.id) for c in context.topology.classes]
    search = RateSearch(context.problem, rates, goal.latest_ps, interrupted)
    if context.job.idle_chips:
        _look(context, found, search, fastest, limits, progress, interrupted)
    best = found.best
    progress(Progress("proving", best.placement.priced.formula_ps / PS_PER_S, None))
    bound = search.prove(best.product, params.gap, MAX_QUERIES)
    others = tuple(sorted(found.by_name.values(), key=lambda c: (c.product, c.name)))
    return Economy(best, others, fastest, bound, search.fastest_ps)


class _Found:
    """Candidates as they come: the best of each name."""

    def __init__(self, context: Context, goal: Goal) -> None:
        self._context, self._goal = context, goal
        self.by_name: dict[str, Candidate] = {}

    @property
    def best(self) -> Candidate:
        """The least product; of equal ones the faster."""
        return min(
            self.by_name.values(),
            key=lambda c: (c.product, c.placement.priced.formula_ps, c.name),
        )

    def offer(self, name: str, placement: Placement) -> None:
        """Keep a placement that is legal and in time if it is the best of its name."""
        priced, job = placement.priced, self._context.job
        if not priced.fits or priced.formula_ps > self._goal.latest_ps:
            return
        if not assemble.allowed(priced, job, self._context.topology):
            return
        product = product_of(self._context, self._goal, placement)
        known = self.by_name.get(name)
        if known is None or product < known.product:
            self.by_name[name] = Candidate(name, placement, product)


def _solutions(solution: Solution | None) -> Iterator[Solution]:
    if solution is not None:
        yield solution


def _look(
    context: Context,
    found: _Found,
    search: RateSearch,
    fastest: Placement,
    limits: SearchLimits,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> None:
    """Fill ``found`` from sub-fleets and multisets of least rate."""
    for classes, islands in fleet_parts(context):
        if interrupted():
            return
        only = replace(limits, only_classes=classes, follow=False)
        engine = engine_for(context, only, lambda _: None, interrupted, islands)
        for solution in _solutions(engine.find()):
            kind = context.topology.classes[classes[0]].chip.name
            found.offer(f"{kind} alone", place_solution(context, solution))
    tried: set[tuple[int, ...]] = set()
    for mix in search.mixes(fastest.priced.formula_ps, TARGETS):
        if interrupted():
            return
        best = found.best
        progress(Progress("searching", best.placement.priced.formula_ps / PS_PER_S, None))
        for chips in _sub_fleets(context, mix):
            if chips not in tried and not interrupted():
                tried.add(chips)
                only = replace(limits, follow=False)
                part = replace(context, problem=_shrunk(context.problem, chips))
                engine = engine_for(part, only, lambda _: None, interrupted, part.problem.islands)
                for solution in _solutions(engine.find()):
                    found.offer("part of the fleet", place_solution(context, solution))
        _multisets(context, found, search, mix, limits.seed, interrupted)


def _sub_fleets(context: Context, mix: Mix) -> Iterator[tuple[int, ...]]:
    """Chips per class that hold a mix, rounded up: to whole islands, and inside the last one.

    Inside an island to any number, and to a power of two, which divides into equal groups.
    """
    classes = context.topology.classes
    for rounded in (_whole, _even, _next):
        chips = tuple(
            min(c.chips, rounded(n - LITTLE, c.size)) if n > LITTLE else 0
            for c, n in zip(classes, mix.chips, strict=True)
        )
        if any(chips):
            yield chips


def _whole(chips: float, size: int) -> int:
    return math.ceil(chips / size) * size


def _even(chips: float, size: int) -> int:
    """Whole islands where there is more than one; inside one the next power of two."""
    if chips > size:
        return _whole(chips, size)
    return int(min(size, 2 ** math.ceil(math.log2(max(math.ceil(chips), 1)))))


def _next(chips: float, size: int) -> int:
    """Whole islands where there is more than one; inside one the next number."""
    return _whole(chips, size) if chips > size else math.ceil(chips)


def _shrunk(problem: Problem, chips: tuple[int, ...]) -> Problem:
    """The problem with so many chips per class: whole islands, or a part of one."""
    classes, islands = [], []
    for cls, count in zip(problem.topology.classes, chips, strict=True):
        inside = 0 < count < cls.size
        classes.append(replace(cls, size=count) if inside else cls)
        islands.append(1 if inside else count // cls.size)
    # stages over several islands as far as there are so many chips
    most = {cls.index: max(cls.size, count) for cls, count in zip(classes, chips, strict=True)}
    tables = tuple(t for t in problem.tables.tables if t.option.chips <= most[t.option.class_index])
    return replace(
        problem,
        tables=replace(problem.tables, tables=tables),
        topology=replace(problem.topology, classes=tuple(classes)),
        islands=tuple(islands),
    )


def _multisets(
    context: Context,
    found: _Found,
    search: RateSearch,
    mix: Mix,
    seed: int,
    interrupted: Callable[[], bool],
) -> None:
    """Multisets of least rate near a mix's number of pipelines."""
    for region, pipelines in search.met():
        if not region.same_cuts:
            continue
        low, high = region.replicas
        counts = {min(max(round(mix.pipelines * f), low, 1), high) for f in PROBES}
        for count in sorted(counts):
            narrow = replace(region, replicas=(count, min(high, most_alike(count))))
            plans = RatePlans(context.problem, narrow.setting(context.problem), search.rates)
            plans.seed(pipelines)
            for part in LATER:
                if interrupted():
                    return
                solution = plans.solve(int(mix.target_ps * part), seed, interrupted)
                if solution is None:
                    break
                placement = place_solution(context, solution)
                found.offer("pipelines of least rate", placement)
                if placement.priced.formula_ps <= mix.target_ps:
                    break


def _too_slow(
    context: Context, goal: Goal, fastest: Placement, bound_ps: int
) -> InfeasibleError | NoPlanFound:
    """No plan meets the floor, proven or not."""
    best, latest = fastest.priced.formula_ps / PS_PER_S, goal.latest_ps / PS_PER_S
    tokens = context.job.global_batch * context.job.seq_len
    allowed = math.ceil(best * 100) / 100
    remedy = (
        f"--min-tokens-per-s {math.floor(tokens / best)}, or job.max_step_time_s={allowed:g}: "
        "checked, a plan exists"
    )
    if bound_ps > goal.latest_ps:
        message = (
            f"no plan is fast enough, proven: a step takes {bound_ps / PS_PER_S:.4g} s at least, "
            f"and the floor of the objective allows {latest:.4g} s"
        )
        return InfeasibleError(message, where="job: objective", remedies=[remedy])
    message = (
        f"no plan was found that is fast enough: the fastest takes {best:.4g} s, the floor allows "
        f"{latest:.4g} s; that none exists could not be proven"
    )
    return NoPlanFound(message, where="job: objective", remedies=[remedy])


def goal_baselines(context: Context, goal: Goal, economy: Economy) -> tuple[Baseline, ...]:
    """The other candidates with what they cost, and the fastest plan of all."""
    tokens = context.job.global_batch * context.job.seq_len
    unit = "USD per million tokens" if goal.kind == "cost" else "J per token"

    def told(name: str, placement: Placement, product: float) -> Baseline:
        value = goal.value(product, tokens)
        return Baseline(
            name=name,
            step_time_s=placement.priced.exact_ps / PS_PER_S,
            description=f"{value:.4g} {unit}; {beside.describe(placement)}",
        )

    fastest = told("fastest plan", economy.fastest, product_of(context, goal, economy.fastest))
    others = [
        told(c.name, c.placement, c.product)
        for c in economy.others
        if c.name not in ("fastest plan", economy.best.name)
    ]
    return (fastest, *others)
