"""Equal pipelines, built stage by stage: first plans of large fleets, in seconds.

Each of R equal pipelines has an R-th of every class of chips. For a takt the best stage of a class
is the one that holds most layers per chip. From the last layer to the first, class after class in
some order, every stage takes as many layers as takt and memory allow. The least takt at which all
layers find a place is found by bisection; orders and selections of classes are tried in turn.

No search: what it finds is priced like any other plan, and it proves nothing. Only where inner
layers are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, permutations, product

import numpy as np

from planner.costing import Bools, Ints
from planner.search.neighbours import FEW
from planner.search.pass_tables import Items
from planner.search.passes import SLACK
from planner.search.pipelines import Pricer
from planner.search.planning import Planning, Solution
from planner.search.problem import Problem, Size
from planner.search.regions import Region, most_replicas
from planner.search.relaxation import Relaxation
from planner.search.space import Floats, Stage, StageSpace, alike

SELECTED = 4
"""Up to so many classes every selection of them is tried, of more only the fastest ones."""
ORDERED = 3
"""Up to so many classes of a vendor every order of them is tried, else fastest first and last."""
TURNS = 4
"""Times that a pipeline is built anew with the number of stages that it came to."""
SIZES = 2
"""Micro-batches of so many sizes are tried, the smallest ones."""
STRIDE = 3
"""How many numbers of pipelines are stepped over at first; those beside the best follow."""
BEST = 2
"""So many numbers of pipelines have their neighbours looked at."""
NEVER = 1 << 62
"""The time of a number of pipelines of which none could be built."""


def equal_plans(
    problem: Problem,
    region: Region,
    classes: Sequence[int] | None,
    most: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Solution]:
    """The best plans of equal pipelines that lie in a region, best first, by guessed time."""
    every = numbers(problem, region)
    found: dict[tuple[int, int], list[Solution]] = {}

    def look(copies: int, chunks: int) -> int:
        """The least time found with so many pipelines; each is looked at once."""
        if (copies, chunks) not in found and not interrupted():
            single = replace(region, replicas=(copies, copies))
            found[copies, chunks] = _of(problem, single, classes, chunks, interrupted)
        plans = found.get((copies, chunks), [])
        return min((s.target_ps for s in plans), default=NEVER)

    if not _alike(problem):
        return []
    for chunks in (1, *problem.chunks) if region.chunks is None else (region.chunks,):
        times = {k: look(every[k], chunks) for k in range(0, len(every), STRIDE)}
        for k in sorted(times, key=lambda k: (times[k], k))[:BEST]:
            if times[k] < NEVER:
                for near in range(max(0, k - STRIDE + 1), min(len(every), k + STRIDE)):
                    look(every[near], chunks)
    plans = [plan for own in found.values() for plan in own]
    return sorted(plans, key=lambda s: (s.target_ps, s.counts))[:most]


def _alike(problem: Problem) -> bool:
    """Whether there are inner layers, and all of them are alike."""
    tables = problem.tables
    return tables.layers > 2 and all(
        alike(problem, [t for t in tables.tables if t.option.rows == rows], rows)
        for rows in _rows(problem, 1)
    )


def numbers(problem: Problem, region: Region) -> list[int]:
    """Numbers of pipelines worth a look: those that share the batch evenly, and every small one."""
    low, high = region.replicas
    high = min(high, most_replicas(problem))
    batch = problem.global_batch
    return [r for r in range(max(1, low), high + 1) if r <= FEW or batch % r == 0]


def _rows(problem: Problem, copies: int) -> list[int]:
    """Rows per micro-batch that so many pipelines are tried with."""
    return [r for r in problem.micro_batch_rows if r * copies <= problem.global_batch][:SIZES]


def _of(
    problem: Problem,
    region: Region,
    classes: Sequence[int] | None,
    chunks: int,
    interrupted: Callable[[], bool],
) -> list[Solution]:
    """The best plan of one number of pipelines with so many chunks per stage."""
    setting, copies = region.setting(problem, classes), region.replicas[0]
    planning = Planning(problem, setting, Relaxation(problem, setting, (), 1))
    for rows in _rows(problem, copies):
        try:
            pricer = planning.pricer(Size(rows, chunks))
        except LookupError:
            continue
        items = pricer.items
        if items is None:
            continue
        count = -(-problem.global_batch // (copies * rows))
        builder = _Builder(problem, pricer, items, copies, count * chunks)
        for members in selections(problem, region, pricer.space):
            pipeline = None if interrupted() else builder.tightest(members)
            if pipeline is not None:
                planning.add(pricer, pipeline, count)
    return planning.equal(1)


def selections(problem: Problem, region: Region, space: StageSpace) -> Iterator[tuple[int, ...]]:
    """Classes in the order of the pipeline: those of a vendor side by side."""
    speed: dict[int, float] = {}
    for k, table in enumerate(space.options):
        own, layer = table.option, float(space.layer_time[k, 1:-1].min())
        if np.isfinite(layer):
            rate = 1.0 / (layer * own.chips)
            speed[own.class_index] = max(speed.get(own.class_index, 0.0), rate)
    every = sorted(speed, key=lambda c: (-speed[c], c))
    if len(every) <= SELECTED:
        sets = [s for n in range(len(every), 0, -1) for s in combinations(every, n)]
    else:
        sets = [tuple(every[:n]) for n in range(len(every), 0, -1)]
    vendor = {c.index: c.chip.vendor for c in problem.topology.classes}
    for chosen in sets:
        names = {vendor[c] for c in chosen}
        if region.vendors and names != set(region.vendors):
            continue
        for vendors in [region.vendors] if region.vendors else permutations(sorted(names)):
            members = [[c for c in chosen if vendor[c] == name] for name in vendors]
            for runs in product(*map(_orders, members)):
                yield tuple(chain.from_iterable(runs))


def _orders(classes: Sequence[int]) -> Iterable[tuple[int, ...]]:
    """Which class comes first: the ends of a vendor's run have the slow hops."""
    if len(classes) <= ORDERED:
        return permutations(classes)
    return tuple(classes), tuple(reversed(classes))


class _Builder:
    """Pipelines of one size, each with an R-th of every class of chips.

    ``counts``: micro-batches of a pipeline, or pairs of a chunk and a micro-batch.
    """

    def __init__(
        self, problem: Problem, pricer: Pricer, items: Items, copies: int, counts: int
    ) -> None:
        self.problem, self.space, self.items = problem, pricer.space, items
        self.copies, self.counts, self.max_stages = copies, counts, pricer.max_stages
        points = pricer.breakpoints()
        self.points: Floats = points[points > 0]
        self._near = len(self.points) // 2

    def tightest(self, order: Sequence[int]) -> tuple[Stage, ...] | None:
        """The pipeline of the least takt whose stages lie on classes in this order, if any fits."""
        low, high = 0, len(self.points)
        best, at, stride = None, self._near, 1
        while low < high:
            found = self._built(order, float(self.points[at]) * SLACK)
            if found is None:
                low = at + 1
            else:
                best, high = found, at
            # orders of the same classes differ by little: begin near the last answer
            reach = at + stride if found is None else at - stride
            near = low <= reach < high and (low == 0 or high == len(self.points))
            at, stride = (reach, stride * 4) if near else ((low + high) // 2, stride)
        if best is not None:
            self._near = high
        return best

    def _built(self, order: Sequence[int], takt: float) -> tuple[Stage, ...] | None:
        """The pipeline at a takt, with as much in flight as its own number of stages asks for."""
        within = self.items.within(np.array([takt]))[:, :, 0]
        options = [self._densest(c, within) for c in order]
        chosen = [(o, self._groups(o)) for o in options if o is not None]
        if len(chosen) < len(options):
            return None
        stages = 1
        for _ in range(TURNS):
            found = self._from_the_end(chosen, within, takt, stages)
            if found is None or self.space.chunks == 1 or len(found) <= stages:
                return found
            stages = len(found)
        return None

    def _densest(self, class_index: int, within: Ints) -> int | None:
        """The option of a class that holds most inner layers per chip within the takt."""
        layers = within.max(axis=0)
        members = [
            (-int(layers[k]) / t.option.chips, -t.option.chips, k)
            for k, t in enumerate(self.space.options)
            if t.option.class_index == class_index and layers[k]
        ]
        return min(members)[2] if members else None

    def _groups(self, option: int) -> int:
        """Stages of an option that one of the equal pipelines may have."""
        own = self.space.options[option].option
        rows = self.problem.rows_of(own.class_index, own.chips)
        capacity = min(self.problem.packing_rows[k][2] for k in rows)
        return capacity // (own.chips * self.copies)

    def _from_the_end(
        self, chosen: Sequence[tuple[int, int]], within: Ints, takt: float, stages: int
    ) -> tuple[Stage, ...] | None:
        """Stages as long as takt and memory allow, until the first layer is placed."""
        space, out, end = self.space, list[Stage](), self.space.layers
        for option, left in reversed(chosen):
            for _ in range(left):
                position = len(out) + 1
                if position > self.max_stages:
                    return None
                depth = int(space.held(position, stages, self.counts))
                times = space.times(depth)
                if space.ends[option, end] and times.head[option, end] <= takt:
                    out.append(Stage(option, 0, end))
                    return tuple(reversed(out))
                if end == space.layers:
                    first = _earliest(times.tail[option], space.starts[option], takt)
                else:
                    most = np.minimum(self.items.most(depth)[:, option], within[:, option]).max()
                    first = max(end - int(most), 1)
                # a vendor's layers end where its window does
                while first < end and not (space.starts[option, first] and space.ends[option, end]):
                    first += 1
                if first >= end:
                    break
                out.append(Stage(option, first, end))
                end = first
        return None


def _earliest(tail: Floats, starts: Bools, takt: float) -> int:
    """Where the longest last stage begins that is not the whole model; its end where none fits."""
    begins = 1 + np.flatnonzero((tail[1:] <= takt) & starts[1:])
    return int(begins[0]) if len(begins) else len(tail)
