"""Which input matters: each one lower and higher by itself, planned again; and where the chosen
plan stops being the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from planner.errors import InfeasibleError, InputError
from planner.plan import Plan
from planner.scenario.apply import apply_all
from planner.scenario.changes import (
    Change,
    ScaleEfficiency,
    ScaleLink,
    ScaleMemory,
    ScaleSpeed,
)
from planner.scenario.inputs import PlanInputs
from planner.scenario.links import links_of
from planner.scenario.measured import measured_chips
from planner.scenario.rates import Figure, Rates
from planner.terms import used_chips
from planner.whatif.evaluation import Effort, Planned, plan_inputs
from planner.whatif.pricing import Kept, kept
from planner.whatif.together import plan_together
from planner.whatif.worth import usd_per_million_tokens

DEFAULT_SPREAD = 1.25
FLIP_PRECISION = 0.01
MAX_DERATE = 1.5
"""What a cluster may say of a chip's speed at most."""

WORTH = 1e-3
"""A rival has to be better by this share: ties are no reason to change a plan."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input that is varied by a factor, at most by ``most``."""

    name: str
    change: Callable[[float], Change]
    most: float = math.inf


@dataclass(frozen=True)
class Side:
    """An input at ``factor`` times its value (less than asked for where more is impossible).

    ``kept_s`` is the step time of the chosen plan left as it is (None: it does not fit there);
    ``planned`` is the plan made anew.
    """

    factor: float
    kept_s: float | None
    planned: Planned | None
    reason: str = ""

    @property
    def best_s(self) -> float | None:
        """The shorter of both."""
        planned = self.planned.outcome.step_time_s if self.planned else None
        times = [t for t in (self.kept_s, planned) if t is not None]
        return min(times, default=None)


@dataclass(frozen=True)
class Bar:
    """One input of the tornado.

    ``flips`` holds, for lower and higher, the factor at which a plan that was found at that side
    becomes better than the chosen one; None where the chosen plan stays ahead to that side's end.
    """

    input: Input
    low: Side
    high: Side
    flips: tuple[float | None, float | None]

    @property
    def swing_s(self) -> float:
        """Seconds between the step times of both sides; the largest bar is on top."""
        times = [t for t in (self.low.best_s, self.high.best_s) if t is not None]
        return max(times) - min(times) if len(times) == 2 else math.inf


@dataclass(frozen=True, slots=True)
class PriceBar:
    """What a kind of chip's price does to the cost of a token: cost with the price at both sides.

    None where a price is unknown.
    """

    chip: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tornado:
    """All bars, the largest swing first. ``spread`` is the factor up and its inverse down."""

    chosen: Plan
    spread: float
    bars: tuple[Bar, ...]
    prices: tuple[PriceBar, ...]
    usd_per_million_tokens: float | None


def tornado(
    inputs: PlanInputs,
    effort: Effort | None = None,
    *,
    chosen: Plan | None = None,
    spread: float = DEFAULT_SPREAD,
    only: Sequence[str] = (),
    rates: Rates | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tornado:
    """Vary every input (or those whose names contain one of ``only``) down and up by ``spread``.

    ``workers`` searches run at a time; inputs that an interruption left undone have no bar.

    Raises InfeasibleError where there is no plan to begin with.
    """
    if chosen is None:
        progress("the inputs as they are")
        first = plan_inputs(inputs, effort, interrupted=interrupted)
        if first.plan is None:
            raise InfeasibleError(first.outcome.reason, remedies=first.outcome.remedies)
        chosen = first.plan
    shown = [
        varied
        for varied in inputs_of_tornado(inputs)
        if not only or any(word.lower() in varied.name.lower() for word in only)
    ]
    ends = [_changed(inputs, v, min(f, v.most)) for v in shown for f in (1 / spread, spread)]
    planned = iter(
        plan_together(
            [(end.name, end.inputs) for end in ends if end.inputs is not None],
            effort,
            workers=workers,
            progress=progress,
            interrupted=interrupted,
        )
    )
    sides = [_side(end, chosen, next(planned) if end.inputs is not None else None) for end in ends]
    bars = []
    for n, varied in enumerate(shown):
        low, high = sides[2 * n : 2 * n + 2]
        if low is not None and high is not None:
            flips = (_flip(inputs, varied, low, chosen), _flip(inputs, varied, high, chosen))
            bars.append(Bar(varied, low, high, flips))
    return Tornado(
        chosen,
        spread,
        tuple(sorted(bars, key=lambda bar: (-bar.swing_s, bar.input.name))),
        price_bars(chosen, rates or Rates(), spread),
        _cost(chosen, rates or Rates()),
    )


def inputs_of_tornado(inputs: PlanInputs) -> tuple[Input, ...]:
    """Links, and per kind of chip its computing, its matrix efficiency and its memory.

    A chip whose layers were measured has no matrix efficiency that would count.
    """
    measured = measured_chips(inputs.profile, inputs.cluster) if inputs.profile else frozenset()
    found = [
        Input(f"bandwidth of {link}", partial(ScaleLink, link)) for link in links_of(inputs.cluster)
    ]
    for chip_id in inputs.chips:
        chip = inputs.cluster.catalog.chips[chip_id]
        groups = [g for n in inputs.cluster.spec.nodes for g in n.devices if g.chip == chip_id]
        fastest = MAX_DERATE / max(g.derate for g in groups)
        alias = inputs.cluster.catalog.alias(chip_id)
        found.append(Input(f"speed of {alias}", partial(ScaleSpeed, chip_id), fastest))
        if chip_id not in measured:
            most = 1 / chip.gemm_fraction
            scale = partial(ScaleEfficiency, chip_id)
            found.append(Input(f"matrix efficiency of {alias}", scale, most))
        found.append(Input(f"memory of {alias}", partial(ScaleMemory, chip_id)))
    return tuple(found)


@dataclass(frozen=True)
class _End:
    """An input at a factor: the inputs with it, or the reason why they are not possible."""

    name: str
    factor: float
    inputs: PlanInputs | None
    reason: str = ""


def _changed(inputs: PlanInputs, varied: Input, factor: float) -> _End:
    name = f"{varied.name} x{factor:.3g}"
    try:
        return _End(name, factor, apply_all(inputs, [varied.change(factor)]))
    except InputError as error:
        return _End(name, factor, None, "; ".join(p.message for p in error.problems))


def _side(end: _End, chosen: Plan, planned: Planned | None) -> Side | None:
    """What became of an end; None where it was not planned any more."""
    if end.inputs is None:
        return Side(end.factor, None, None, end.reason)
    if planned is None:
        return None
    reason = planned.outcome.reason if planned.plan is None else ""
    return Side(end.factor, _fitting(kept(chosen, end.inputs)), planned, reason)


def _fitting(priced: Kept | None) -> float | None:
    return priced.step_time_s if priced is not None and priced.fits else None


def _flip(inputs: PlanInputs, varied: Input, side: Side, chosen: Plan) -> float | None:
    """The factor nearest to 1 at which the side's plan beats the chosen one, both just priced."""
    rival = side.planned.plan if side.planned else None
    if rival is None or rival.pipelines == chosen.pipelines:
        return None

    def beaten(factor: float) -> bool:
        changed = apply_all(inputs, [varied.change(factor)])
        own, other = _fitting(kept(chosen, changed)), _fitting(kept(rival, changed))
        return other is not None and (own is None or other < own * (1 - WORTH))

    if not beaten(side.factor):
        return None
    near, far = 1.0, side.factor
    while abs(math.log(far / near)) > FLIP_PRECISION:
        middle = math.sqrt(near * far)
        if beaten(middle):
            far = middle
        else:
            near = middle
    return far


def price_bars(plan: Plan, rates: Rates, spread: float) -> tuple[PriceBar, ...]:
    """The cost of a million tokens with each price varied; the plan stays, for its goal is time."""
    used = used_chips(plan)
    return tuple(
        PriceBar(
            chip,
            _cost(plan, _scaled(rates, chip, 1 / spread)),
            _cost(plan, _scaled(rates, chip, spread)),
        )
        for chip in used
    )


def _scaled(rates: Rates, chip: str, factor: float) -> Rates:
    """The rates with one price at ``factor`` times its value, if it is known."""
    found = []
    for own in rates.chips:
        price = own.usd_per_hour
        if own.chip == chip and price is not None:
            own = replace(own, usd_per_hour=Figure(price.value * factor, price.source))
        found.append(own)
    return replace(rates, chips=tuple(found))


def _cost(plan: Plan, rates: Rates) -> float | None:
    total = rates.usd_per_hour(used_chips(plan))
    return None if total is None else usd_per_million_tokens(total, plan.estimate.tokens_per_s)
