"""The quick estimate of what one more chip is worth: the duals of the program, where it has them.

Prices of the linear relaxation hold for small changes only and ignore whole numbers; what a chip
is really worth is found by planning again with one more and one less
(:mod:`planner.explain.marginal`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from planner.solve import Context

ChipPrices = Mapping[str, float]
"""Seconds of step time that one more chip of a kind saves, by catalogue id."""

PriceSource = Callable[[Context], ChipPrices | None]


def dual_prices(context: Context) -> ChipPrices | None:
    """What the search says; None while it does not expose its prices.

    The search exposes them by a function ``planner.search.chip_prices(context)`` that returns
    seconds of step time per chip, by catalogue id.
    """
    source = getattr(import_module("planner.search"), "chip_prices", None)
    return cast(PriceSource, source)(context) if callable(source) else None
