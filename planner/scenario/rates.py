"""What an hour of a chip costs and what it draws: from the catalogue or from the user.

An unknown figure is None all the way to the report, which says "unknown"; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from costmodels.units import W_PER_KW
from planner.errors import InputError, Problem
from planner.inputs.cluster import ClusterInput
from planner.scenario import changes as c
from planner.scenario.chips import chip_in, chips_of

GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class ChipRates:
    """USD per hour and watts of one kind of chip; None where nobody said."""

    chip: str
    usd_per_hour: Figure | None
    watts: Figure | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates by kind of chip.

    ``power_factor`` is what the building draws per watt of a chip (hosts, cooling); 1 counts the
    chips alone.
    """

    chips: tuple[ChipRates, ...] = ()
    power_factor: float = 1.0

    def of(self, chip: str) -> ChipRates:
        """The rates of a chip; unknown ones where nothing is said of it."""
        return next((r for r in self.chips if r.chip == chip), ChipRates(chip, None, None))

    def usd_per_hour(self, counts: Mapping[str, int]) -> float | None:
        """What so many chips cost per hour; None as soon as one price is unknown."""
        prices = [(self.of(chip).usd_per_hour, n) for chip, n in counts.items() if n]
        if any(price is None for price, _ in prices):
            return None
        return math.fsum(price.value * n for price, n in prices if price is not None)

    def kilowatts(self, counts: Mapping[str, int]) -> float | None:
        """What so many chips draw; None as soon as one of them is unknown."""
        draws = [(self.of(chip).watts, n) for chip, n in counts.items() if n]
        if any(draw is None for draw, _ in draws):
            return None
        watts = math.fsum(draw.value * n for draw, n in draws if draw is not None)
        return watts * self.power_factor / W_PER_KW


def catalogue_rates(cluster: ClusterInput, chips: Iterable[str]) -> Rates:
    """What the catalogue knows: prices with their source, and rated power as the draw."""
    found = []
    for chip_id in dict.fromkeys(chips):
        record = cluster.catalog.record(chip_id)
        sources = record.get("sources")
        known = sources if isinstance(sources, Mapping) else {}
        figures: list[Figure | None] = []
        for field, what in (
            ("price_usd_per_hour", "catalogue"),
            ("tdp_w", "catalogue, rated power (an upper bound of the draw)"),
        ):
            value = record.get(field)
            usable = isinstance(value, int | float) and value > 0
            source = f"{what}: {known[field]}" if field in known else what
            figures.append(Figure(float(value), source) if usable else None)  # type: ignore[arg-type]
        found.append(ChipRates(chip_id, figures[0], figures[1]))
    return Rates(tuple(found))


def known_rates(cluster: ClusterInput, rates: Rates | None = None) -> Rates:
    """Rates for every chip of a cluster: the given ones, else what the catalogue knows."""
    given = rates or Rates()
    mine = {r.chip for r in given.chips}
    others = [chip for chip in chips_of(cluster) if chip not in mine]
    return Rates((*given.chips, *catalogue_rates(cluster, others).chips), given.power_factor)


def with_rates(
    rates: Rates, cluster: ClusterInput, changes: Iterable[c.Change], *, source: str = GIVEN
) -> Rates:
    """The rates with every price and power of the changes in place.

    Figures of chips that the cluster does not have (any more) are left out. InputError for bad
    ones.
    """
    chips = {r.chip: r for r in rates.chips}
    for change in changes:
        if not isinstance(change, c.SetPrice | c.SetPower):
            continue
        value = change.usd_per_hour if isinstance(change, c.SetPrice) else change.watts
        if not 0 < value < math.inf:
            message = f"{value:g} is no figure: what is free or unknown is left out, never 0"
            raise InputError([Problem(f"change '{change.text}'", message, "give it above 0")])
        try:
            chip = chip_in(cluster, change.chip)
        except InputError:
            continue  # a scenario took it away
        old = chips.get(chip, ChipRates(chip, None, None))
        figure = Figure(value, source)
        if isinstance(change, c.SetPrice):
            chips[chip] = ChipRates(chip, figure, old.watts)
        else:
            chips[chip] = ChipRates(chip, old.usd_per_hour, figure)
    return Rates(tuple(chips.values()), rates.power_factor)
