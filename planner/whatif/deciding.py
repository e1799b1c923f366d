"""Whether a fleet is as fast as a target: a plan proves that it is, a bound that it is not.

That takes less than the best plan. A rectangular layout that is fast enough ends the question in
a second; otherwise only faster plans than the target are searched for, and the first one ends it;
and regions of the space are looked into no further than the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costmodels.units import PS_PER_S
from planner.place import Placement
from planner.scenario.inputs import PlanInputs
from planner.whatif.rectangles import fastest_rectangle

if TYPE_CHECKING:
    from planner.plan import Plan
    from planner.search.engine import Engine, SearchOutcome
    from planner.solve import Context
    from planner.whatif.evaluation import Effort

SHARPNESS = 0.1
"""Part of the gap of a plan to which a target is decided."""

MOST_QUERIES = 25_000
"""Pricing queries of one decision at most: what is open then stays open."""


@dataclass(frozen=True)
class Decision:
    """The best plan met, None where there is none, and the bound that is proven (seconds).

    ``infeasible``: nothing fits, proven.
    """

    plan: Plan | None
    bound_s: float
    infeasible: bool = False


def decide(
    inputs: PlanInputs,
    target_s: float | None,
    effort: Effort,
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> Decision:
    """Search for a plan whose step takes at most ``target_s``, no further than that.

    Without a target: for the fastest, to the gap of the effort, so that fleets are compared by
    the same means. Raises InputError for inputs that contradict one another.
    """
    from planner.certify import stopwatch
    from planner.solve import prepare

    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    stop = stopwatch(effort.time_limit_s, interrupted)
    target_ps = None if target_s is None else round(target_s * PS_PER_S)
    known = rectangle(context, target_ps)
    engine = _engine(context, target_ps, effort, stop)
    if known is not None and (target_ps is None or known.priced.formula_ps <= target_ps):
        engine.know(known.priced.formula_ps)
    if target_ps is None or not _enough(known, target_ps):
        engine.find()
        if target_ps is None or engine.best is None:
            engine.prove()
    return _decision(context, known, engine, effort, stop)


def glance(inputs: PlanInputs, effort: Effort) -> Decision:
    """The fastest rectangular layout and a bound by work over capacity: no search, seconds.

    Raises InputError for inputs that contradict one another.
    """
    from planner.beside import as_placement, rectangular
    from planner.solve import prepare

    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    known = rectangle(context)
    if len(context.topology.classes) > 1 and (shaped := rectangular(context).best) is not None:
        known = as_placement(shaped)
    engine = _engine(context, None, effort, _never)
    if known is not None:
        engine.know(known.priced.formula_ps)
    return _decision(context, known, engine, effort, _never)


def _never() -> bool:
    return False


def rectangle(context: Context, target_ps: int | None = None) -> Placement | None:
    """A rectangular layout where the fleet is of one kind of node."""
    if len(context.topology.classes) != 1:
        return None
    return fastest_rectangle(context, target_ps)


def _enough(placed: Placement | None, target_ps: int) -> bool:
    return placed is not None and placed.priced.exact_ps <= target_ps


def _engine(
    context: Context, target_ps: int | None, effort: Effort, stop: Callable[[], bool]
) -> Engine:
    """A search engine; with a target, one for faster plans only, that ends with the first."""
    from planner.search.engine import SearchLimits
    from planner.searches import engine_for

    gap = effort.gap if target_ps is None else effort.gap * SHARPNESS
    limits = SearchLimits(
        gap=gap, seed=effort.seed, use_all=not context.job.idle_chips, max_queries=MOST_QUERIES
    )

    def ended() -> bool:
        return stop() or (
            target_ps is not None and engine.best is not None and engine.best.real_ps <= target_ps
        )

    engine = engine_for(context, limits, lambda _: None, ended)
    if target_ps is not None:
        # the proof aims a part of the gap below what is known: that is to be the target
        engine.know(int(target_ps / (1 - gap)) + 1)
    return engine


def _decision(
    context: Context,
    known: Placement | None,
    engine: Engine,
    effort: Effort,
    stop: Callable[[], bool],
) -> Decision:
    """The better of what was known and what was found, as a plan, with what is proven."""
    from planner.search.engine import SearchOutcome
    from planner.searches import place_solution

    placed = [known] if known is not None else []
    if engine.best is not None:
        placed.append(place_solution(context, engine.best))
    bound_ps = engine.bound_ps()
    if not placed:
        return Decision(None, bound_ps / PS_PER_S, _nothing_fits(context, effort, stop))
    best = min(placed, key=lambda p: (p.priced.exact_ps, p.priced.formula_ps))
    outcome = SearchOutcome(engine.best, min(bound_ps, best.priced.formula_ps), False, 0, 0)
    return Decision(_plan(context, best, outcome, effort, stop), bound_ps / PS_PER_S)


def _nothing_fits(context: Context, effort: Effort, stop: Callable[[], bool]) -> bool:
    """Whether no plan exists at all, proven."""
    from planner.search.engine import SearchLimits
    from planner.searches import engine_for

    limits = SearchLimits(gap=effort.gap, seed=effort.seed)
    return engine_for(context, limits, lambda _: None, stop).prove().proven_infeasible


def _plan(
    context: Context,
    placement: Placement,
    outcome: SearchOutcome,
    effort: Effort,
    stop: Callable[[], bool],
) -> Plan:
    """A placement as a verified plan with its certificate."""
    from planner.aside import Aside
    from planner.beside import Rectangular
    from planner.search.engine import SearchLimits
    from planner.searches import first_plan
    from planner.solve import Found, finish

    with Aside(context, processes=1, interrupted=stop) as aside:
        unasked = aside.ask(first_plan, SearchLimits(gap=effort.gap, seed=effort.seed))
        found = Found(outcome, {}, Rectangular((), "", ()), (placement,), unasked)
        return finish(context, found, placement, effort.params(), lambda _: None, stop)
