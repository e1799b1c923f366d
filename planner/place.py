"""From counts per class to named devices.

The chips of a stage lie inside one island, or on several whole ones. Their numbers are powers of
two, so filling islands with the largest groups first never wastes a place that a smaller group
could not use. Within one
size two orders are tried: replicas of a stage side by side (their gradients meet on the fast
fabric before they use the network), or the stages of a pipeline side by side (activations stay on
the fabric). Both are priced over the real routes; the faster one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from planner.errors import PlannerError
from planner.graphs.topology import Topology
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage, PricedLayout
from planner.search.columns import Column

Order = Literal["replicas-together", "stages-together"]
ORDERS: tuple[Order, ...] = ("replicas-together", "stages-together")


@dataclass(frozen=True, slots=True)
class Load:
    """One pipeline to place: its template, micro-batches and rows of the last one."""

    column: int
    micro_batches: int
    last_rows: int


@dataclass(frozen=True)
class Placement:
    """Placed pipelines with their price."""

    layouts: tuple[LayoutPipeline, ...]
    priced: PricedLayout
    order: Order


class PlacementError(PlannerError):
    """Counts that the packing rows promised could not be placed: a bug, said loudly."""


def place(
    columns: Sequence[Column], loads: Sequence[Load], pricer: LayoutPricer, zero_level: int
) -> Placement:
    """Name devices for every stage; the better of the two orders, by formula then exact time."""
    best: Placement | None = None
    for order in ORDERS:
        layouts = assign(columns, loads, pricer.topology, order)
        priced = pricer.price(layouts, zero_level)
        candidate = Placement(layouts, priced, order)
        if best is None or _rank(candidate) < _rank(best):
            best = candidate
    if best is None:
        raise PlacementError("nothing to place")
    return best


def _rank(placement: Placement) -> tuple[bool, int, int]:
    return (not placement.priced.fits, placement.priced.formula_ps, placement.priced.exact_ps)


def assign(
    columns: Sequence[Column], loads: Sequence[Load], topology: Topology, order: Order
) -> tuple[LayoutPipeline, ...]:
    """Fill islands, largest groups first, in the given order within a size."""
    # stages of a column share their mesh and policies, so that pricing sees that they are alike
    policies = [[(stage.policy,) * stage.layers for stage in column.stages] for column in columns]
    used = {c.index: [0] * len(c.islands) for c in topology.classes}
    first_open: dict[tuple[int, int], int] = {}
    taken: list[list[LayoutStage | None]] = [
        [None] * len(columns[load.column].stages) for load in loads
    ]
    for p, s in _in_order(columns, loads, order):
        column = loads[p].column
        stage = columns[column].stages[s]
        cls = topology.classes[stage.class_index]
        filled = used[stage.class_index]
        count = -(-stage.chips // cls.size)
        chips = min(stage.chips, cls.size)
        at = first_open.get((stage.class_index, stage.chips), 0)
        while at < len(filled) and len(cls.islands[at].devices) - filled[at] < chips:
            at += 1
        first_open[stage.class_index, stage.chips] = at
        # groups of whole islands come first, so that the islands behind an untouched one are too
        if at + count > len(filled):
            raise PlacementError(
                f"{cls.name} has no {stage.chips} chips left together although the counts fit",
                where=f"class {stage.class_index}",
            )
        held, begin = cls.islands[at : at + count], filled[at]
        for k in range(at, at + count):
            filled[k] += chips
        taken[p][s] = LayoutStage(
            island=held[0],
            devices=tuple(d for island in held for d in island.devices[begin : begin + chips]),
            first=stage.first,
            end=stage.end,
            mesh=stage.mesh,
            policies=policies[column][s],
            more=held[1:],
            chunks=stage.chunks,
        )
    return tuple(
        LayoutPipeline(
            stages=tuple(stage for stage in stages if stage is not None),
            rows=columns[load.column].rows,
            micro_batches=load.micro_batches,
            last_rows=load.last_rows,
            schedule="1f1b" if columns[load.column].chunks == 1 else "interleaved",
        )
        for load, stages in zip(loads, taken, strict=True)
    )


def _in_order(
    columns: Sequence[Column], loads: Sequence[Load], order: Order
) -> list[tuple[int, int]]:
    """Stages ``(pipeline, position)`` in the order in which they get their chips."""
    each = [
        [(-stage.chips, stage.first, s) for s, stage in enumerate(column.stages)]
        for column in columns
    ]
    if order == "stages-together":
        alone = sorted(
            (chips, p, s) for p, load in enumerate(loads) for chips, _, s in each[load.column]
        )
        return [(p, s) for _, p, s in alone]
    beside = sorted(
        (chips, first, load.column, p, s)
        for p, load in enumerate(loads)
        for chips, first, s in each[load.column]
    )
    return [(p, s) for _, _, _, p, s in beside]
