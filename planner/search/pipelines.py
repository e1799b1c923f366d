"""The best pipeline for given prices: a shortest path, for many takts and weights at once.

For a price per group of chips and a weight λ on the fill, find for each query (τ, λ)

    w(τ, λ) = min over pipelines with every stage and hop ≤ τ of  Σ_s price(o_s) + λ·φ

with φ = Σ_s (f+b)_s + 2·Σ hops + finish of the first stage. Additive over stages, so the dynamic
program runs from the last layer backwards over (stages used, first layer, option of the first
stage). A stage that is r-th from the end holds at least min(r, m) micro-batches in flight
(1F1B), which decides the fastest recomputation that fits; ``depth_cap`` is that m.

A relaxation without positions comes first: the least cost of the layers before a stage. Its answer
alone settles many queries; for the others it tells which states can still beat the cutoff, usually
a few per cent, and only those are extended. Both are compiled, one query at a time
(:mod:`planner.search.passes`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from planner.aside import cpus
from planner.costing import Ints
from planner.search.pass_tables import Items, tables_of
from planner.search.passes import SLACK, Tables, ask
from planner.search.space import Floats, Stage, StageSpace

ROUNDING = 1e-9
"""Relative error of a difference of sums, amply."""
SHARED = 8
"""From so many queries on two threads answer them."""

_BESIDE = ThreadPoolExecutor(max_workers=1)


@dataclass(frozen=True)
class Answer:
    """Minimal cost per query and, where asked for, the pipeline that attains it.

    A query whose minimum is not below its cutoff answers infinity and None.
    """

    cost: Floats
    pipelines: tuple[tuple[Stage, ...] | None, ...]


class _Queries(NamedTuple):
    """Queries as the compiled passes take them: see :func:`planner.search.passes.ask`."""

    takts: Floats
    weights: Floats
    caps: Ints
    rooms: Floats
    limits: Floats
    rests: Floats
    longest: Ints

    def every_other(self, first: int) -> _Queries:
        """Every second one, from the first or from the second on."""
        arrays: list[Any] = [np.ascontiguousarray(array[first::2]) for array in self]
        return _Queries(*arrays)


class Pricer:
    """Answers queries over one space; keeps the tables that queries share."""

    def __init__(self, space: StageSpace, max_stages: int) -> None:
        self.space = space
        self.max_stages = max_stages
        self._points: Floats | None = None
        self._lengths: tuple[Floats, Ints] | None = None
        self.firsts: dict[tuple[int, int], object] = {}
        """What a proof remembers from one round to the next (``bound``)."""
        self.items = Items(space) if space.uniform and space.layers > 2 else None

    @cached_property
    def tables(self) -> Tables:
        """The space as the compiled passes read it."""
        return tables_of(self.space, self.items, self.max_stages)

    def breakpoints(self) -> Floats:
        """All distinct stage times and hop times: the takts that a pipeline can have."""
        if self._points is None:
            space = self.space
            values = [
                time[np.isfinite(time) & (depth > 0)]
                for time, depth in zip(space.time, space.depth, strict=True)
            ]
            hop = space.hop
            values.append(hop[np.isfinite(hop) & (hop > 0)])
            if space.back is not None:
                values.append(space.back[np.isfinite(space.back) & (space.back > 0)])
            self._points = np.unique(np.concatenate(values))
        return self._points

    def longest(self, takts: Floats) -> Ints:
        """Most layers of any stage within each takt, with one micro-batch in flight; at least 1."""
        if self._lengths is None:
            times, length = self.space.times(1), self.space.layers
            seconds, counts = [], []
            for table, count in (
                (times.middle, np.arange(1, len(times.middle) + 1)[:, None, None]),
                (times.tail, length - np.arange(length)[None, :]),
                (times.head, np.arange(length + 1)[None, :]),
            ):
                seconds.append(table.ravel())
                counts.append(np.broadcast_to(count, table.shape).ravel())
            flat, count = np.concatenate(seconds), np.concatenate(counts)
            order = np.argsort(flat, kind="stable")
            self._lengths = (flat[order], np.maximum.accumulate(count[order]))
        found = np.searchsorted(self._lengths[0], takts * SLACK, side="right")
        out: Ints = np.maximum(1, np.concatenate([[1], self._lengths[1]])[found])
        return out

    def fluid(self, prices: Floats, takts: Floats, weights: Floats) -> Floats:
        """``[query, i]``: least cost of layers before i if stages could be filled exactly.

        A stage no longer than τ costs at least price · time / τ, so every layer costs at least
        min over options of (price / τ + λ) · time. Hops, memory and finish are left out.
        """
        rate = np.maximum(prices, 0.0)[None, :] / takts[:, None] + weights[:, None]
        with np.errstate(invalid="ignore"):
            each = rate[:, :, None] * self.space.layer_time[None]
        each[np.isnan(each)] = np.inf  # free layers that no option may run
        each = each.min(axis=1)
        return np.concatenate([np.zeros((len(takts), 1)), np.cumsum(each, axis=1)], axis=1)

    def floor(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_caps: Ints,
        limits: Floats,
        rooms: Floats | None = None,
    ) -> Floats:
        """Lower bounds on the cost of every query, without positions; rough where over the limit.

        ``depth_caps``: the least number of micro-batches that each query speaks about. ``rooms``:
        the seconds that these leave for the last one, in which every stage must synchronise.
        """
        if len(takts) == 0 or not self.space.options:
            return np.full(len(takts), np.inf)
        fluid = self.fluid(prices, takts, weights)
        out: Floats = fluid[:, -1].copy()
        alive = np.flatnonzero(out < limits)
        queries = self._queries(takts, weights, depth_caps, rooms, limits, fluid, alive)
        out[alive] = np.maximum(out[alive], self._ask(prices, queries, exact=False)[0])
        return out

    def solve(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_caps: Ints | int,
        *,
        cutoffs: Floats | None = None,
        trace: bool = True,
        slope: int = 1,
        rooms: Floats | None = None,
    ) -> Answer:
        """Run the dynamic program for all queries; ``prices`` per option of the space.

        ``depth_caps``: the least number of micro-batches that each query speaks about. ``slope``
        asks for room for slope·(r − 1) + 1 micro-batches r stages from the end instead of r: what
        slow hops and stages filled to the takt really need (a guide for plans, never for bounds).
        """
        cost = np.full(len(takts), np.inf)
        pipelines: list[tuple[Stage, ...] | None] = [None] * len(takts)
        if len(takts) == 0 or not self.space.options:
            return Answer(cost, tuple(pipelines))
        limits = np.full(len(takts), np.inf) if cutoffs is None else cutoffs
        caps = np.broadcast_to(np.asarray(depth_caps, dtype=np.int64), (len(takts),))
        fluid = self.fluid(prices, takts, weights)
        alive = np.flatnonzero(fluid[:, -1] < limits)
        queries = self._queries(takts, weights, caps, rooms, limits, fluid, alive)
        cost[alive], count, stages = self._ask(prices, queries, slope=slope, trace=trace)
        for k in np.flatnonzero(count) if trace else ():
            own = stages[k, : count[k]].tolist()
            pipelines[alive[k]] = tuple(Stage(*stage) for stage in own)
        return Answer(cost, tuple(pipelines))

    def _ask(
        self,
        prices: Floats,
        queries: _Queries,
        *,
        exact: bool = True,
        slope: int = 1,
        trace: bool = False,
    ) -> tuple[Floats, Ints, Ints]:
        """The compiled passes."""
        tables, how = self.tables, (slope, self.max_stages, exact, trace)
        if len(queries.takts) < SHARED or cpus() == 1:
            return ask(tables, prices, *queries, *how)
        # every other query on a second thread: the compiled passes hold no lock
        mine, theirs = (queries.every_other(k) for k in (0, 1))
        begun = _BESIDE.submit(ask, tables, prices, *theirs, *how)
        own = ask(tables, prices, *mine, *how)
        return _woven(own, begun.result())

    def _longest_of(self, takts: Floats) -> Ints:
        """What the passes ask about the longest stage, where layers are not alike."""
        return self.longest(takts) if self.items is None else np.zeros(len(takts), dtype=np.int64)

    def _queries(
        self,
        takts: Floats,
        weights: Floats,
        caps: Ints,
        rooms: Floats | None,
        limits: Floats,
        fluid: Floats,
        chosen: Ints,
    ) -> _Queries:
        """The chosen queries; ``fluid[query, i]`` is what the layers before i cost at least."""
        return _Queries(
            takts=takts[chosen],
            weights=weights[chosen],
            caps=caps[chosen],
            rooms=np.full(len(chosen), np.inf) if rooms is None else rooms[chosen],
            limits=limits[chosen],
            rests=(fluid[chosen, -1:] - fluid[chosen]) * (1 - ROUNDING),
            longest=self._longest_of(takts[chosen]),
        )


def _woven(
    even: tuple[Floats, Ints, Ints], odd: tuple[Floats, Ints, Ints]
) -> tuple[Floats, Ints, Ints]:
    """Answers of every other query, and of those between, in their order."""
    out: list[Any] = []
    for one, other in zip(even, odd, strict=True):
        both = np.empty((len(one) + len(other), *one.shape[1:]), one.dtype)
        both[::2], both[1::2] = one, other
        out.append(both)
    return out[0], out[1], out[2]
