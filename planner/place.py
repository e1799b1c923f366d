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
from planner.graphs.topology import Island, Topology
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
    groups = [
        (p, s) for p, load in enumerate(loads) for s in range(len(columns[load.column].stages))
    ]

    def key(group: tuple[int, int]) -> tuple[int, ...]:
        p, s = group
        load = loads[p]
        stage = columns[load.column].stages[s]
        middle = (stage.first, load.column, p) if order == "replicas-together" else (p, s)
        return (-stage.chips, *middle)

    free: dict[int, list[list[str]]] = {
        c.index: [list(i.devices) for i in c.islands] for c in topology.classes
    }
    names: dict[int, tuple[Island, ...]] = {c.index: c.islands for c in topology.classes}
    first_open: dict[tuple[int, int], int] = {}
    taken: dict[tuple[int, int], tuple[tuple[Island, ...], tuple[str, ...]]] = {}
    for p, s in sorted(groups, key=key):
        stage = columns[loads[p].column].stages[s]
        islands = free[stage.class_index]
        at = first_open.get((stage.class_index, stage.chips), 0)
        size = topology.classes[stage.class_index].size
        count = -(-stage.chips // size)
        while at < len(islands) and len(islands[at]) < min(stage.chips, size):
            at += 1
        first_open[stage.class_index, stage.chips] = at
        # groups of whole islands come first, so that the islands behind an untouched one are too
        if at + count > len(islands):
            cls = topology.classes[stage.class_index]
            raise PlacementError(
                f"{cls.name} has no {stage.chips} chips left together although the counts fit",
                where=f"class {stage.class_index}",
            )
        held = islands[at : at + count]
        devices = tuple(d for free_ in held for d in free_[: min(stage.chips, size)])
        for free_ in held:
            del free_[: min(stage.chips, size)]
        taken[p, s] = (names[stage.class_index][at : at + count], devices)
    return tuple(
        LayoutPipeline(
            stages=tuple(
                LayoutStage(
                    island=taken[p, s][0][0],
                    devices=taken[p, s][1],
                    first=stage.first,
                    end=stage.end,
                    mesh=stage.mesh,
                    policies=(stage.policy,) * (stage.end - stage.first),
                    more=taken[p, s][0][1:],
                )
                for s, stage in enumerate(columns[load.column].stages)
            ),
            rows=columns[load.column].rows,
            micro_batches=load.micro_batches,
            last_rows=load.last_rows,
        )
        for p, load in enumerate(loads)
    )
