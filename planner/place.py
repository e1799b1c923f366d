"""From counts per class to named devices.

The chips of a stage lie inside one island, or on several whole ones. Their numbers are powers of
two, so filling islands with the largest groups first never wastes a place that a smaller group
could not use. Within one size two orders are tried: replicas of a stage side by side (their
gradients meet on the fast fabric before they use the network), or the stages of a pipeline side by
side (activations stay on the fabric). Where columns stand in bundles, a third one groups stages
as each column counts on it. All are priced over the real routes; the fastest one is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.errors import PlannerError
from planner.graphs.topology import Island, IslandClass, Topology
from planner.layout import LayoutPipeline, LayoutPricer, LayoutStage, PricedLayout
from planner.search.columns import Column

Order = Literal["replicas-together", "stages-together", "as-expected"]
ORDERS: tuple[Order, ...] = ("replicas-together", "stages-together")
AS_EXPECTED: Order = "as-expected"


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
    """Name devices for every stage; the best of the orders, by formula then exact time."""
    best: Placement | None = None
    bundled = any(column.beside is not None for column in columns)
    for order in (*ORDERS, *((AS_EXPECTED,) if bundled else ())):
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
    """Fill islands, largest groups of chips first, in the given order within a size."""
    # stages of a column share their mesh and policies, so that pricing sees that they are alike
    policies = [[(stage.policy,) * stage.layers for stage in column.stages] for column in columns]
    room = {c.index: _Room(c) for c in topology.classes}
    taken: list[list[LayoutStage | None]] = [
        [None] * len(columns[load.column].stages) for load in loads
    ]
    for group in _groups(columns, loads, topology, order):
        head = columns[loads[group[0][0]].column].stages[group[0][1]]
        for (p, s), (held, begin) in zip(
            group, room[head.class_index].take(head.chips, len(group)), strict=True
        ):
            stage = columns[loads[p].column].stages[s]
            chips = stage.chips // len(held)
            taken[p][s] = LayoutStage(
                island=held[0],
                devices=tuple(d for island in held for d in island.devices[begin : begin + chips]),
                first=stage.first,
                end=stage.end,
                mesh=stage.mesh,
                policies=policies[loads[p].column][s],
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


Place = tuple[tuple[Island, ...], int]
"""The islands of a stage, and its first chip on each of them."""


class _Room:
    """What is free on the islands of a class. Groups of chips must come largest first."""

    def __init__(self, cls: IslandClass) -> None:
        self._class = cls
        self._filled = [0] * len(cls.islands)
        self._first: dict[tuple[int, int], int] = {}

    def take(self, chips: int, count: int) -> list[Place]:
        """Room for some stages of as many chips: on one island if one has it, else as it comes."""
        if count > 1:
            at = self._next(chips, chips * count)
            if at is not None:
                return [self._seat(at, chips) for _ in range(count)]
        found = []
        for _ in range(count):
            at = self._next(chips, min(chips, self._class.size))
            if at is None:
                raise PlacementError(
                    f"{self._class.name} has no {chips} chips left together although the counts "
                    "fit",
                    where=f"class {self._class.index}",
                )
            found.append(self._seat(at, chips))
        return found

    def _next(self, chips: int, wanted: int) -> int | None:
        """The first island with so many free chips."""
        islands, key = self._class.islands, (chips, wanted)
        at = self._first.get(key, 0)
        while at < len(islands) and len(islands[at].devices) - self._filled[at] < wanted:
            at += 1
        self._first[key] = at
        # groups of whole islands come first, so that the islands behind an untouched one are too
        count = -(-chips // self._class.size)
        return at if at + count <= len(islands) else None

    def _seat(self, at: int, chips: int) -> Place:
        count = -(-chips // self._class.size)
        held, begin = self._class.islands[at : at + count], self._filled[at]
        for k in range(at, at + count):
            self._filled[k] += min(chips, self._class.size)
        return held, begin


Group = list[tuple[int, int]]
"""Stages ``(pipeline, position)`` that should lie on one island."""


def _groups(
    columns: Sequence[Column], loads: Sequence[Load], topology: Topology, order: Order
) -> Iterator[Group]:
    """Stages in the order in which they get their chips."""
    each = [
        [(-stage.chips, stage.first, s) for s, stage in enumerate(column.stages)]
        for column in columns
    ]
    if order == AS_EXPECTED:
        yield from _expected(columns, loads, topology)
    elif order == "stages-together":
        alone = sorted(
            (chips, p, s) for p, load in enumerate(loads) for chips, _, s in each[load.column]
        )
        yield from ([(p, s)] for _, p, s in alone)
    else:
        beside = sorted(
            (chips, first, load.column, p, s)
            for p, load in enumerate(loads)
            for chips, first, s in each[load.column]
        )
        yield from ([(p, s)] for _, _, _, p, s in beside)


def _expected(
    columns: Sequence[Column], loads: Sequence[Load], topology: Topology
) -> Iterator[Group]:
    """Groups as columns count on them: replicas of a stage, or neighbours in a pipeline.

    Of stages with as many chips the largest groups come first, then the first layers.
    """
    of: dict[int, list[int]] = {}
    for p, load in enumerate(loads):
        of.setdefault(load.column, []).append(p)
    found: list[tuple[int, int, int, int, int, Group]] = []
    for c, pipes in sorted(of.items()):
        column = columns[c]
        if column.together:
            groups = [[(p, s) for s in run] for p in pipes for run in _runs(column, topology)]
        else:
            groups = []
            for s, stage in enumerate(column.stages):
                held = max(1, topology.classes[stage.class_index].size // stage.chips)
                most = min(held, column.beside or held)
                for k in range(0, len(pipes), most):
                    groups.append([(p, s) for p in pipes[k : k + most]])
        for group in groups:
            p, s = group[0]
            stage = column.stages[s]
            found.append((-stage.chips, -len(group), stage.first, c, p, group))
    yield from (group for *_, group in sorted(found))


def _runs(column: Column, topology: Topology) -> Iterator[list[int]]:
    """Neighbours on equal groups of one class, as many as an island holds."""
    run: list[int] = []
    for s, stage in enumerate(column.stages):
        if run:
            last = column.stages[run[-1]]
            same = (stage.class_index, stage.chips) == (last.class_index, last.chips)
            full = (len(run) + 1) * stage.chips > topology.classes[stage.class_index].size
            if full or not same:
                yield run
                run = []
        run.append(s)
    yield run
