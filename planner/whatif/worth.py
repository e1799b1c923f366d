"""The price per hour at which a chip becomes worth using: the same cost per token with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from costmodels.units import S_PER_HOUR
from planner.errors import InfeasibleError, InputError, Problem
from planner.scenario.apply import apply_all
from planner.scenario.changes import Change, SetNodes, SetTechnique
from planner.scenario.chips import chip_in
from planner.scenario.inputs import PlanInputs
from planner.scenario.rates import Rates
from planner.whatif.evaluation import Effort, Planned, plan_inputs
from planner.whatif.together import plan_together


@dataclass(frozen=True)
class Worth:
    """With and without a chip.

    ``usd_per_hour`` is the price at which a token costs the same with the chip as without; None
    where other prices are unknown, and below 0 where it is not worth using even for nothing.
    ``times_other`` is that price as a multiple of the price of ``other``, where that is the only
    other kind in use: it needs no prices.
    """

    chip: str
    chips: int
    with_it: Planned
    without_it: Planned
    usd_per_hour: float | None
    other: str
    times_other: float | None
    unknown: tuple[str, ...]

    @property
    def speedup(self) -> float:
        """Tokens per second with the chip over those without."""
        return _rate(self.with_it) / _rate(self.without_it)


def worth_price(
    inputs: PlanInputs,
    chip: str,
    rates: Rates,
    effort: Effort | None = None,
    *,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Worth:
    """The break-even price of a kind of chip in a cluster that has others too.

    Chips in use are paid for; ``workers`` searches run at a time. Raises
    InputError for a chip that is not there or is the only kind, InfeasibleError where nothing fits
    without it (it is then worth any price).
    """
    chip_id = chip_in(inputs.cluster, chip)
    alias = inputs.cluster.catalog.alias(chip_id)
    if len(inputs.chips) < 2:
        message = "it is the only kind of chip: there is nothing to compare it with"
        raise InputError([Problem(alias, message, "name a cluster with another kind beside it")])
    asked = [
        (f"without {alias}", apply_all(inputs, [SetNodes(chip_id, 0)])),
        (f"with {alias}", inputs),
    ]
    without, found = plan_together(
        asked, effort, workers=workers, progress=progress, interrupted=interrupted
    )
    if without is None or found is None:
        raise KeyboardInterrupt
    if without.plan is None:
        raise InfeasibleError(
            f"without {alias} there is no plan, so no price is too high: {without.outcome.reason}"
        )
    if found.plan is None or chip_id not in dict(found.outcome.used):
        # the fastest plan leaves it out: price what is lost when it has to be used
        progress(f"with every {alias}")
        every: list[Change] = [SetTechnique("idle_chips", allowed=False)]
        found = plan_inputs(apply_all(inputs, every), effort, interrupted=interrupted)
        if found.plan is None:
            raise InfeasibleError(f"no plan uses {alias}: {found.outcome.reason}")
    return _worth(chip_id, found, without, rates)


def _worth(chip: str, found: Planned, without: Planned, rates: Rates) -> Worth:
    """From ``(others + n·p)/rate == others_without/rate_without``."""
    used, used_without = dict(found.outcome.used), dict(without.outcome.used)
    count = used.pop(chip)
    speedup = _rate(found) / _rate(without)
    unknown = tuple(
        c for c in dict.fromkeys((*used, *used_without)) if rates.of(c).usd_per_hour is None
    )
    before, beside = rates.usd_per_hour(used_without), rates.usd_per_hour(used)
    price = None
    if before is not None and beside is not None:
        price = (before * speedup - beside) / count
    others = list(dict.fromkeys((*used, *used_without)))
    times = None
    if len(others) == 1:
        times = (used_without[others[0]] * speedup - used.get(others[0], 0)) / count
    other = others[0] if len(others) == 1 else ""
    return Worth(chip, count, found, without, price, other, times, unknown)


def _rate(planned: Planned) -> float:
    rate = planned.outcome.tokens_per_s
    if rate is None:
        raise InfeasibleError(planned.outcome.reason)
    return rate


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float:
    """What a million tokens cost."""
    return usd_per_hour * 1e6 / tokens_per_s / S_PER_HOUR
