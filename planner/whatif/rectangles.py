"""Rectangular layouts of one kind of chip, found in order of promise: first plans without a search.

A layout of ``pp`` stages of ``tp`` chips in ``dp`` replicas takes about its fill and its slowest
stage once for every further micro-batch. Sorted by that (or by chips), and sifted by the price of
one replica alone, only few layouts are priced on named devices before a good one is known. What
is passed over rests on expectations: a layout that is found is a plan, one that is not proves
nothing. Chips may stay idle, so that more of them are never slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costmodels.memory import device_overhead, stage_memory
from planner import assemble
from planner.baselines import block_intervals, rectangular_layout, tp_groups
from planner.graphs.topology import Island
from planner.layout import LayoutPipeline
from planner.mesh import StageMesh
from planner.place import Placement

if TYPE_CHECKING:
    from planner.solve import Context

MOST_PRICED = 200
"""Layouts that are priced on named devices for one question at most."""

MOST_ALONE = 300
"""Layouts of which one replica is priced for one question at most."""

NEVER = 1 << 62
"""Later, and more, than anything."""

TRUSTED = 0.7
"""Part of a guess of what follows the last backward that is counted on."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """One shape. ``micro_batches`` of its first replica; times count no hop and no gradient.

    ``about_ps`` is fill and takts, ``least_ps`` what comes before the slowest stage and its work:
    no layout of the shape is faster.
    """

    tp: int
    pp: int
    dp: int
    rows: int
    policy: int
    micro_batches: int
    about_ps: int
    least_ps: int

    @property
    def chips(self) -> int:
        """Chips that it uses."""
        return self.tp * self.pp * self.dp

    @property
    def order(self) -> tuple[int, ...]:
        """Shapes that promise most come first."""
        return (self.about_ps, self.chips, self.pp, self.tp, self.rows, self.policy)


def least_rectangle(context: Context, target_ps: int) -> Placement | None:
    """A rectangular layout that takes at most ``target_ps``, of as few chips as one was met.

    First those that promise to be as fast, by chips; then, of fewer chips, those that may be.
    """
    found = _Shapes(context)
    shapes = [r for r in found.shapes() if r.least_ps <= target_ps]
    sure = sorted((r for r in shapes if r.about_ps <= target_ps), key=lambda r: r.chips)
    best: Placement | None = None
    fewest = NEVER
    for shape in (*sure, *sorted(shapes, key=lambda r: r.order)):
        if shape.chips >= fewest:
            continue
        placed = found.priced(shape, target_ps)
        if placed is not None and placed.priced.exact_ps <= target_ps:
            best, fewest = placed, shape.chips
    return best


def fastest_rectangle(context: Context, target_ps: int | None = None) -> Placement | None:
    """The fastest rectangular layout met; with a target, the first one that is as fast as that.

    Where none is as fast as the target, the best of those that might have been, or the first one
    that fits.
    """
    found = _Shapes(context)
    best: Placement | None = None
    limit_ps = NEVER
    for shape in sorted(found.shapes(), key=lambda r: r.order):
        placed = found.priced(shape, limit_ps)
        if placed is None:
            continue
        if best is None or placed.priced.exact_ps < best.priced.exact_ps:
            best = placed
        limit_ps = best.priced.exact_ps
        if target_ps is not None:
            if best.priced.exact_ps <= target_ps:
                break
            limit_ps = min(limit_ps, target_ps)
    return best


class _Shapes:
    """The shapes that a fleet of one class allows, and their prices."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.layers = len(context.model.graph.layers)
        self.chips = context.topology.chips
        self.options = [o for o in context.options.options if o.mesh.plain]
        self.groups: dict[int, list[tuple[Island, tuple[str, ...]]]] = {}
        self.busy: dict[tuple[int, int, int], list[int]] = {}
        self.tails: dict[tuple[int, int, int], int] = {}
        self.full: dict[tuple[int, int, int, int], int] = {}
        self.count = 0
        self.alone = 0

    def _tail(self, shape: Rectangle) -> int:
        """What may follow the last backward, from what did in others.

        More stages have less each to exchange, more replicas less to update, fewer replicas a
        shorter ring: in proportion at best.
        """
        dp = shape.dp
        known = (
            tail * min(1.0, pp / shape.pp) * min(1.0, other / dp, (dp - 1) / dp / (1 - 1 / other))
            for (tp, pp, other), tail in self.tails.items()
            if tp == shape.tp and other > 1
        )
        return int(TRUSTED * max(known, default=0.0))

    def shapes(self) -> Iterator[Rectangle]:
        """Every shape that fits the number of chips, at the fewest replicas of each length."""
        job = self.context.job
        longest = min(self.layers, job.max_pipeline_stages or self.layers)
        for option in self.options:
            groups = self._groups(option.tp)
            for pp in range(1, min(longest, len(groups)) + 1):
                intervals = block_intervals(self.layers, pp)
                if intervals is None:
                    continue
                counts = list(_replicas(job.global_batch, option.rows, len(groups) // pp))
                for policy in self.context.options.policies:
                    fill, slowest, before = self._pace(option.tp, option.rows, policy, intervals)
                    for dp, m in counts:
                        about = fill + (m - 1) * slowest
                        least = before + m * slowest
                        yield Rectangle(option.tp, pp, dp, option.rows, policy, m, about, least)

    def priced(self, shape: Rectangle, limit_ps: int) -> Placement | None:
        """The shape on named devices; None where it does not fit, is not allowed, or may be slower.

        One replica alone is priced first; what follows its last backward is guessed from others.
        """
        context = self.context
        if not context.job.idle_chips and shape.chips != self.chips:
            return None
        if shape.least_ps > limit_ps or self.count >= MOST_PRICED or self.alone >= MOST_ALONE:
            return None
        tail = self._tail(shape)
        if shape.least_ps + tail > limit_ps or not self._room(shape):
            return None
        self.alone += 1
        first = self._layouts(shape, only_first=True)[0]
        alone_ps = context.pricer.alone_ps(first, context.options.zero_level, shape.dp)
        if alone_ps + tail > limit_ps:
            return None
        layouts = self._layouts(shape)
        priced = context.pricer.price(layouts, context.options.zero_level)
        self.count += 1
        after = priced.exact_ps - max(p.exact.total for p in priced.pipelines)
        self.tails[shape.tp, shape.pp, shape.dp] = after
        if not priced.fits or not assemble.allowed(priced, context.job, context.topology):
            return None
        return Placement(tuple(layouts), priced, "replicas-together")

    def _layouts(self, shape: Rectangle, *, only_first: bool = False) -> list[LayoutPipeline]:
        return rectangular_layout(
            self._groups(shape.tp),
            block_intervals(self.layers, shape.pp) or [],
            shape.dp,
            shape.rows,
            self.context.job.global_batch,
            shape.policy,
            only_first=only_first,
        )

    def _groups(self, tp: int) -> list[tuple[Island, tuple[str, ...]]]:
        if tp not in self.groups:
            self.groups[tp] = tp_groups(self.context.topology, (0,), tp)
        return self.groups[tp]

    def _pace(
        self, tp: int, rows: int, policy: int, intervals: list[tuple[int, int]]
    ) -> tuple[int, int, int]:
        """Picoseconds of one micro-batch: through all stages, the slowest, and those before it."""
        key = (tp, rows, policy)
        if key not in self.busy:
            total = [0]
            for c in self.context.pricer.costs(0, StageMesh(tp), rows):
                total.append(total[-1] + c.forward_total_ps(policy) + c.backward_total_ps(policy))
            self.busy[key] = total
        total = self.busy[key]
        slowest, before = max((total[end] - total[first], total[first]) for first, end in intervals)
        return total[-1], slowest, before

    def _room(self, shape: Rectangle) -> bool:
        """Whether the first and the last stage fit at the least depth that they may have."""
        key = (shape.tp, shape.pp, shape.rows, shape.policy)
        if shape.dp <= self.full.get(key, 0):
            return False
        if self._fits(shape):
            return True
        self.full[key] = shape.dp  # fewer replicas share the optimizer's state and hold no less
        return False

    def _fits(self, shape: Rectangle) -> bool:
        context, topology = self.context, self.context.topology
        cls = topology.classes[0]
        intervals = block_intervals(self.layers, shape.pp) or []
        costs = context.pricer.costs(0, StageMesh(shape.tp), shape.rows)
        for s in {0, len(intervals) - 1}:
            first, end = intervals[s]
            items = stage_memory(
                [c.price for c in costs[first:end]],
                (shape.policy,) * (end - first),
                state=context.job.state_bytes,
                overhead=device_overhead(cls.chip, cls.usable_memory_bytes),
                in_flight=shape.pp - s,
                micro_batches=shape.micro_batches,
                zero_level=context.options.zero_level,
                replicas=shape.dp,
                boundary_bytes=0,
            )
            if items.peak > cls.usable_memory_bytes:
                return False
        return True


def _replicas(batch: int, rows: int, most: int) -> Iterator[tuple[int, int]]:
    """``(replicas, micro-batches)``: the fewest replicas of every number of micro-batches.

    And the most replicas there can be, among which an optimizer's state is sharded furthest.
    """
    known, last = 0, min(most, batch // rows)
    for dp in range(1, last + 1):
        share = -(-batch // dp)
        m = -(-share // rows)
        if m != known or dp == last:
            yield dp, m
        known = m


__all__ = ["MOST_PRICED", "Rectangle", "fastest_rectangle", "least_rectangle"]
