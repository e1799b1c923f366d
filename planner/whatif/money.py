"""What a plan costs in money and energy; unknown stays unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from costmodels.units import S_PER_HOUR
from planner.scenario.rates import Rates
from planner.whatif.outcome import Outcome

Charge = Literal["used", "fleet"]
"""Which chips are paid for: those that work, or all that are there."""

MILLION = 10**6


@dataclass(frozen=True, slots=True)
class Costs:
    """Per hour and per million tokens; None where a price or power of some chip is unknown."""

    usd_per_hour: float | None
    kilowatts: float | None
    usd_per_million_tokens: float | None
    kwh_per_million_tokens: float | None


def costs_of(outcome: Outcome, rates: Rates, charge: Charge = "used") -> Costs:
    """The costs of an outcome; all unknown where there is no plan.

    Idle chips draw nothing here: only the power of chips that work is counted.
    """
    rate = outcome.tokens_per_s
    if rate is None:
        return Costs(None, None, None, None)
    paid = dict(outcome.used if charge == "used" else outcome.fleet)
    usd, kilowatts = rates.usd_per_hour(paid), rates.kilowatts(dict(outcome.used))
    hours = MILLION / rate / S_PER_HOUR
    return Costs(
        usd_per_hour=usd,
        kilowatts=kilowatts,
        usd_per_million_tokens=None if usd is None else usd * hours,
        kwh_per_million_tokens=None if kilowatts is None else kilowatts * hours,
    )
