"""The best pipeline for given prices: a shortest path, for many takts and weights at once.

For a price per group of chips and a weight λ on the fill, find for each query (τ, λ)

    w(τ, λ) = min over pipelines with every stage and hop ≤ τ of  Σ_s price(o_s) + λ·φ

with φ = Σ_s (f+b)_s + 2·Σ hops + finish of the first stage. Additive over stages, so the dynamic
program runs from the last layer backwards over (stages used, first layer, option of the first
stage). A stage that is r-th from the end holds at least min(r, m) micro-batches in flight
(1F1B), which decides the fastest recomputation that fits; ``depth_cap`` is that m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from planner.search.space import Floats, StageSpace

CHUNK = 64
ALIKE = 1.4
"""Queries of similar takt share one pass: their stages have similar lengths."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers ``[first, end)`` under the option at this index of the space."""

    option: int
    first: int
    end: int


@dataclass(frozen=True)
class Answer:
    """Minimal cost per query and the pipeline that attains it.

    A query whose minimum is not below its cutoff answers infinity and None.
    """

    cost: Floats
    pipelines: tuple[tuple[Stage, ...] | None, ...]


class Pricer:
    """Answers queries over one space; keeps the tables that queries share."""

    def __init__(self, space: StageSpace, max_stages: int) -> None:
        self.space = space
        self._max_stages = max_stages
        self._fastest: dict[int, Floats] = {}
        self._points: dict[int, Floats] = {}

    def stage_times(self, position: int, depth_cap: int) -> Floats:
        """Seconds ``[option, i, n]`` of a stage that is ``position``-th from the end."""
        depth = min(position, depth_cap)
        if depth not in self._fastest:
            self._fastest[depth] = self.space.fastest(depth)
        return self._fastest[depth]

    def breakpoints(self) -> Floats:
        """All distinct stage times and hop times: the takts that a pipeline can have."""
        if 0 not in self._points:
            hop = self.space.hop
            values = [
                self.space.time[np.isfinite(self.space.time) & (self.space.depth > 0)],
                hop[np.isfinite(hop) & (hop > 0)],
            ]
            self._points[0] = np.unique(np.concatenate(values))
        return self._points[0]

    def fluid(self, prices: Floats, takts: Floats, weights: Floats) -> Floats:
        """``[query, i]``: least cost of layers before i if stages could be filled exactly.

        A stage no longer than τ costs at least price · time / τ, so every layer costs at least
        min over options of (price / τ + λ) · time. Hops and finish are left out.
        """
        layer_time = self.stage_times(1, 1)[:, :, 1]
        rate = prices[None, :] / takts[:, None] + weights[:, None]
        with np.errstate(invalid="ignore"):
            each = (rate[:, :, None] * layer_time[None]).min(axis=1)
        return np.concatenate([np.zeros((len(takts), 1)), np.cumsum(each, axis=1)], axis=1)

    def solve(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_cap: int,
        *,
        cutoffs: Floats | None = None,
        trace: bool = True,
    ) -> Answer:
        """Run the dynamic program for all queries; ``prices`` per option of the space."""
        queries = len(takts)
        cost = np.full(queries, np.inf)
        pipelines: list[tuple[Stage, ...] | None] = [None] * queries
        if queries == 0 or not self.space.options:
            return Answer(cost, tuple(pipelines))
        limits = np.full(queries, np.inf) if cutoffs is None else cutoffs
        rest = self.fluid(prices, takts, weights)
        alive = np.flatnonzero(rest[:, -1] < limits)
        alive = alive[np.argsort(takts[alive], kind="stable")]
        start = 0
        while start < len(alive):
            alike = int(np.searchsorted(takts[alive], takts[alive[start]] * ALIKE, side="right"))
            stop = min(max(alike, start + 1), start + CHUNK)
            part = alive[start:stop]
            start = stop
            found, traced = self._chunk(
                prices, takts[part], weights[part], depth_cap, limits[part], rest[part], trace
            )
            cost[part] = found
            for k, pipeline in zip(part, traced):
                pipelines[int(k)] = pipeline
        return Answer(cost, tuple(pipelines))

    def _chunk(
        self,
        prices: Floats,
        takts: Floats,
        weights: Floats,
        depth_cap: int,
        limits: Floats,
        rest: Floats,
        trace: bool,
    ) -> tuple[Floats, list[tuple[Stage, ...] | None]]:
        """Forward over positions from the end; only states that can still beat the cutoff live."""
        space = self.space
        queries, options, length = len(takts), len(space.options), space.layers
        width = self._width(float(takts.max()))
        weight = weights[:, None, None, None]
        best = limits.copy()
        best_at = np.zeros(queries, dtype=np.int64)
        # going[k, o, j - low]: cheapest way on from layer j for a stage of option o before it
        going = np.zeros((queries, options, 1))
        low = length
        entries: list[tuple[int, Floats]] = []
        for position in range(1, min(self._max_stages, length) + 1):
            entries.append((low, going))
            first = max(0, low - width)
            last = low + going.shape[2] - 2  # a stage ends at j > i, so i is at most j_max - 1
            count = last - first + 1
            if count <= 0:
                break
            padded = np.full((queries, options, count + width), np.inf)
            # padded[.., x] stands for layer first + 1 + x
            shift = low - first - 1
            padded[:, :, shift : shift + going.shape[2]] = going
            ahead = sliding_window_view(padded, width, axis=2)[:, :, :count]
            time = self.stage_times(position, depth_cap)[:, first : last + 1, 1 : width + 1]
            with np.errstate(invalid="ignore"):
                cost = weight * time[None]
                cost += ahead
            cost[time[None] > takts[:, None, None, None]] = np.inf
            if first == 0:
                head = cost[:, :, 0, :] + (
                    weights[:, None, None] * space.finish[None, :, 1 : width + 1]
                )
                complete = (head.min(axis=2) + prices[None, :]).min(axis=1)
                better = complete < best
                best = np.where(better, complete, best)
                best_at = np.where(better, position, best_at)
            value = cost.min(axis=3) + prices[None, :, None]
            hopeless = value + rest[:, None, first : last + 1] >= best[:, None, None]
            value[hopeless] = np.inf
            if first == 0:
                value[:, :, 0] = np.inf
            living = np.flatnonzero((value < np.inf).any(axis=(0, 1)))
            if len(living) == 0:
                break
            low = first + int(living[0])
            value = value[:, :, living[0] : living[-1] + 1]
            going = self._enter(value, takts, weights, low)
        pipelines: list[tuple[Stage, ...] | None] = [None] * queries
        found = np.where(best_at > 0, best, np.inf)
        if trace:
            for k in range(queries):
                if best_at[k] > 0:
                    pipelines[k] = self._trace(
                        k, int(best_at[k]), entries, prices, takts[k], weights[k], depth_cap
                    )
        return found, pipelines

    def _enter(self, value: Floats, takts: Floats, weights: Floats, low: int) -> Floats:
        """Add the hop from a stage of option o: min over the next stage's option."""
        hop = self.space.hop[:, :, low : low + value.shape[2]]
        uniform = hop[:, :, :1]
        if np.array_equal(hop, np.broadcast_to(uniform, hop.shape)):
            hop = uniform
        legal = hop[None] <= takts[:, None, None, None]
        toll = 2.0 * weights[:, None, None, None] * np.where(np.isfinite(hop), hop, 0.0)[None]
        toll = np.where(legal, toll, np.inf)
        going: Floats = (value[:, None, :, :] + toll).min(axis=2)
        return going

    def _width(self, takt: float) -> int:
        times = self.stage_times(1, 1)
        fits = (times <= takt).any(axis=(0, 1))
        found = np.flatnonzero(fits)
        return int(found[-1]) if len(found) else 1

    def _trace(
        self,
        k: int,
        position: int,
        entries: list[tuple[int, Floats]],
        prices: Floats,
        takt: float,
        weight: float,
        depth_cap: int,
    ) -> tuple[Stage, ...]:
        """Walk forwards through the states that attained the minimum."""
        space = self.space
        stages: list[Stage] = []
        start = 0
        previous: int | None = None
        for r in range(position, 0, -1):
            low, going = entries[r - 1]
            high = low + going.shape[2]
            begin = max(low, start + 1)
            time = self.stage_times(r, depth_cap)[:, start, begin - start : high - start]
            with np.errstate(invalid="ignore"):
                cost = weight * time + going[k, :, begin - low :] + prices[:, None]
            cost = np.where(time <= takt, cost, np.inf)
            if previous is None:
                cost = cost + weight * space.finish[:, begin - start : high - start]
            else:
                hop = space.hop[previous, :, start]
                toll = np.full(len(hop), np.inf)
                toll[hop <= takt] = 2.0 * weight * hop[hop <= takt]
                cost = cost + toll[:, None]
            option, index = np.unravel_index(int(np.argmin(cost)), cost.shape)
            end = begin + int(index)
            stages.append(Stage(int(option), start, end))
            start = end
            previous = int(option)
        return tuple(stages)
