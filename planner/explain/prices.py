"""The quick estimate of what one more node or chip is worth: the duals of the program.

The linear relaxation over pipelines that the bound rests on has, at its least target T, a price
``y[k]`` in rows of the batch for every packing row k (chips of a class in groups of at least tp).
One more island of g chips adds to its class's rows what it can hold in such groups: it carries
``Σ y[k] · ⌊g/tp⌋ · tp`` rows by T. Prices ignore whole numbers of pipelines and hold for small
changes; what chips are really worth is found by planning again with more and fewer
(:mod:`planner.explain.marginal`).
"""

from __future__ import annotations

from collections.abc import Mapping

from costmodels.units import PS_PER_S
from planner.search.master import Prices, RelaxedMaster
from planner.search.regions import Region, fluid_bound_s, roots
from planner.search.relaxation import Relaxation
from planner.solve import Context

ChipPrices = Mapping[str, float]
"""Share of the batch that one more chip of a kind carries, in an island of its own kind."""

ROUNDS = 24
QUERIES = 50_000
FINEST = 0.004


def dual_prices(context: Context) -> ChipPrices | None:
    """What a chip of every kind carries by the program's duals; None where it gives no price.

    Where vendors have to follow one another along pipelines, the order with the least target
    counts.
    """
    found = [priced for region in roots(context.problem) if (priced := _priced(context, region))]
    if not found:
        return None
    return min(found, key=lambda pair: pair[0])[1]


def _priced(context: Context, region: Region) -> tuple[int, ChipPrices] | None:
    """The least target of a region's relaxation, and its prices there."""
    problem = context.problem
    setting = region.setting(problem)
    floor_s = fluid_bound_s(problem, setting)
    if not 0 < floor_s < float("inf"):
        return None
    guess = int(floor_s * PS_PER_S * 1.25) + 1
    relaxation = Relaxation(problem, setting, problem.sizes_of(setting), guess)
    relaxation.improve(None, rounds=ROUNDS, max_queries=QUERIES, finest=FINEST)
    master = RelaxedMaster(problem, setting)
    for met in relaxation.met.values():
        master.add(met.column)
    target = master.least_target(guess)
    if target is None:
        return None
    prices = master.solve(target)
    return None if prices is None else (target, _per_chip(context, prices))


def _per_chip(context: Context, prices: Prices) -> ChipPrices:
    """The share of the batch per chip by kind: the most that any of its classes carries."""
    worth: dict[str, float] = {}
    for cls in context.topology.classes:
        rows = sum(
            float(y) * (capacity / cls.count)
            for y, (c, _, capacity) in zip(
                prices.packing, context.problem.packing_rows, strict=True
            )
            if c == cls.index
        )
        share = rows / cls.size / context.problem.global_batch
        worth[cls.chip.id] = max(worth.get(cls.chip.id, 0.0), share)
    return worth
