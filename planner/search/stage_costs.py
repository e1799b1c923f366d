"""What stages and hops of one space cost in whole picoseconds, each found once.

A search prices thousands of pipelines over a few hundred kinds of stages. Where inner layers are
alike, a stage that touches neither end of the model is told apart by its length alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from costmodels.units import PS_PER_S
from planner.costing import fabric_hop_ps, shares_port
from planner.search.finish import expected_exchange_s, expected_finish_s, unhidden_s
from planner.search.problem import Problem, over_network
from planner.search.space import Stage, StageSpace, expected_hop_ps

TRUST = 1.02
"""Guesses of a synchronisation that are closer than this are as good as equal."""
Way = tuple[int, int, int]
"""Of a stage under one policy: most micro-batches in flight, forward and backward (ps)."""


@dataclass(frozen=True, slots=True)
class Chips:
    """Of an option: class, chips of a stage and of an island, packing rows that it counts in."""

    class_index: int
    chips: int
    island: int
    rows: tuple[int, ...]


class StageCosts:
    """Exact prices over one space, for plans."""

    def __init__(self, problem: Problem, space: StageSpace) -> None:
        self.problem = problem
        self.space = space
        self.chips = [self._chips(k) for k in range(len(space.options))]
        self._ways: dict[tuple[int, int, int], tuple[Way, ...]] = {}
        self._finish: dict[tuple[int, int, int, bool, bool, int | None], tuple[int, int]] = {}
        self._shared: dict[tuple[int, int, int, bool], int] = {}
        self._hops: dict[tuple[int, int, int, bool, bool], int | None] = {}
        self._inside: dict[tuple[int, int, int], int] = {}
        self._over: dict[tuple[int, int], bool] = {}
        self._ports: dict[tuple[int, int, int], bool] = {}
        self._sums: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def _chips(self, option: int) -> Chips:
        own = self.space.options[option].option
        rows = tuple(self.problem.rows_of(own.class_index, own.chips))
        size = self.problem.topology.classes[own.class_index].size
        return Chips(own.class_index, own.chips, size, rows)

    def usage(self, pipeline: Sequence[Stage]) -> tuple[int, ...]:
        """Chips of a pipeline by packing row."""
        out = [0] * len(self.problem.packing_rows)
        for stage in pipeline:
            own = self.chips[stage.option]
            for row in own.rows:
                out[row] += own.chips
        return tuple(out)

    def _kind(self, stage: Stage) -> tuple[int, int, int]:
        """Stages with equal keys cannot be told apart by what they cost."""
        if not self.space.uniform or stage.first == 0 or stage.end == self.space.layers:
            return (stage.option, stage.first, stage.end)
        return (stage.option, 1, stage.end - stage.first + 1)

    def ways(self, stage: Stage) -> tuple[Way, ...]:
        """By policy of the space (index, not name); no depth where the stage never fits."""
        space = self.space
        first, end = stage.first, stage.end
        if not (space.starts[stage.option, first] and space.ends[stage.option, end]):
            return ((0, 0, 0),) * len(space.policies)
        kind = self._kind(stage)
        if kind not in self._ways:
            found = []
            for p in range(len(space.policies)):
                forward, backward = self._running(stage.option, p)
                depth = space.stage_depth(stage.option, first, end, p)
                found.append(
                    (depth, forward[end] - forward[first], backward[end] - backward[first])
                )
            self._ways[kind] = tuple(found)
        return self._ways[kind]

    def _running(self, option: int, policy: int) -> tuple[list[int], list[int]]:
        """Sums of forwards and backwards of the layers before each one."""
        if (option, policy) not in self._sums:
            table, way = self.space.options[option], self.space.policies[policy]
            both = (table.forward_ps[way].tolist(), table.backward_ps[way].tolist())
            forward, backward = (list(accumulate(each, initial=0)) for each in both)
            self._sums[option, policy] = (forward, backward)
        return self._sums[option, policy]

    def finish_ps(
        self, stage: Stage, together: bool, alone: bool = False, beside: int | None = None
    ) -> tuple[int, int]:
        """Synchronisation and update, and the part of it that nothing can hide.

        ``alone``: where all pipelines are equal, so that replicas lie on one class.
        """
        key = (*self._kind(stage), together, alone, beside)
        if key not in self._finish:
            table, setting = self.space.options[stage.option], self.space.setting
            first, end, replicas = stage.first, stage.end, setting.replicas[0]
            if alone:
                own = table.option.class_index
                windows = tuple((w if c == own else (0, 0)) for c, w in enumerate(setting.windows))
                setting = replace(setting, windows=windows)
            seconds = expected_finish_s(
                self.problem,
                table,
                first,
                end,
                replicas,
                together=together,
                beside=beside,
                setting=setting,
            )
            rest = unhidden_s(self.problem, table, first, end, replicas)
            self._finish[key] = (round(seconds * PS_PER_S), round(rest * PS_PER_S))
        return self._finish[key]

    def within(self, allowance_ps: Sequence[int]) -> StageSpace:
        """The space without stages that exchange for longer than any of their layers may.

        Of inner stages where layers are alike only what no layers allow is left out.
        """
        space, length = self.space, self.space.layers
        middle, tail, head = (part.copy() for part in space.time)

        def longer(k: int, first: int, end: int, allowed: int) -> bool:
            ways = (self.finish_ps(Stage(k, first, end), together)[0] for together in (False, True))
            return min(ways) > allowed * TRUST

        for k in range(len(space.options)):
            for first in range(length):
                if longer(k, first, length, min(allowance_ps[first:])):
                    tail[:, k, first] = np.inf
            for end in range(1, length + 1):
                if longer(k, 0, end, min(allowance_ps[:end])):
                    head[:, k, end] = np.inf
            for at in range(middle.shape[-1]):
                for n in range(1, middle.shape[1] + 1):
                    first = 1 if space.uniform else at
                    if first < 1 or first + n >= length:
                        continue
                    own = allowance_ps if space.uniform else allowance_ps[first : first + n]
                    if longer(k, first, first + n, max(own) if space.uniform else min(own)):
                        middle[:, n - 1 :, k, at] = np.inf
                        break
        left = (middle, tail, head)
        depth = [np.where(np.isfinite(t), d, 0) for t, d in zip(left, space.depth, strict=True)]
        return replace(space, time=left, depth=(depth[0], depth[1], depth[2]), _times={})

    def shared_ps(self, pipeline: Sequence[Stage], together: bool) -> dict[int, int]:
        """By position: how long a stage exchanges weights that it shares with another stage.

        It begins when both are through, and reduces all its gradients afterwards.
        """
        out: dict[int, int] = {}
        if not self.problem.tables.tied:
            return out
        replicas = self.space.setting.replicas[0]
        over = [self._leaves(a.option, b.option) for a, b in pairwise(pipeline)]
        over = self._filling(pipeline, over) if together else over
        for first, second in self.problem.tables.tied:
            a, b = (
                next(s for s, stage in enumerate(pipeline) if stage.first <= layer < stage.end)
                for layer in (first, second)
            )
            if a == b:
                continue
            inside = not any(over[min(a, b) : max(a, b)])
            key = (first, pipeline[a].option, pipeline[b].option, inside)
            if key not in self._shared:
                ends = tuple(self.space.options[o] for o in key[1:3])
                seconds = expected_exchange_s(self.problem, ends, first, replicas, inside=inside)
                self._shared[key] = round(seconds * PS_PER_S)
            for s in (a, b):
                out[s] = out.get(s, 0) + self._shared[key]
        return out

    def hops_ps(self, pipeline: Sequence[Stage], together: bool) -> tuple[int, ...] | None:
        """Hops of a placement; a middle stage halves its share of a port that both neighbours use.

        ``together``: neighbours on equal groups of one class fill an island before the next one.
        """
        expected = [self._leaves(a.option, b.option) for a, b in pairwise(pipeline)]
        over = self._filling(pipeline, expected) if together else expected
        last = len(over) - 1
        cuts = self.problem.tables.boundary_bytes[self.space.rows]
        hops = []
        for s, (a, b) in enumerate(pairwise(pipeline)):
            bytes_ = int(cuts[b.first])
            if not over[s] and expected[s]:
                hops.append(self._fabric_hop(a.option, b.option, bytes_))
                continue
            before = over[s] and s > 0 and over[s - 1]
            before = before and self._share_port(a.option, pipeline[s - 1].option, b.option)
            after = over[s] and s < last and over[s + 1]
            after = after and self._share_port(b.option, a.option, pipeline[s + 2].option)
            hop = self._hop(a.option, b.option, bytes_, before, after)
            if hop is None:
                return None
            hops.append(hop)
        return tuple(hops)

    def back_ps(self, pipeline: Sequence[Stage], together: bool) -> int | None:
        """The hop from the last stage to the first, of stages that hold several chunks."""
        over = [self._leaves(a.option, b.option) for a, b in pairwise(pipeline)]
        over = self._filling(pipeline, over) if together else over
        last, first = pipeline[-1].option, pipeline[0].option
        bytes_ = int(self.problem.tables.boundary_bytes[self.space.rows][1])
        if not self._leaves(last, first) or (together and not any(over)):
            return self._fabric_hop(last, first, bytes_)
        before = over[-1] and self._share_port(last, pipeline[-2].option, first)
        after = over[0] and self._share_port(first, last, pipeline[1].option)
        return self._hop(last, first, bytes_, before, after)

    def _filling(self, pipeline: Sequence[Stage], over: Sequence[bool]) -> list[bool]:
        """Which hops leave their island if the stages of a pipeline fill one after the other."""
        out = list(over)
        filled = self.chips[pipeline[0].option].chips
        for s, (a, b) in enumerate(pairwise(pipeline)):
            one, two = self.chips[a.option], self.chips[b.option]
            same = one.class_index == two.class_index and one.chips == two.chips
            if same and filled + two.chips <= two.island:
                out[s] = False
                filled += two.chips
            else:
                filled = two.chips
        return out

    def _leaves(self, a: int, b: int) -> bool:
        if (a, b) not in self._over:
            options, topology = self.space.options, self.problem.topology
            self._over[a, b] = over_network(topology, options[a], options[b])
        return self._over[a, b]

    def _share_port(self, option: int, one: int, other: int) -> bool:
        """Whether a stage sends to two neighbours on other islands by the same port."""
        at, a, b = (self.chips[o].class_index for o in (option, one, other))
        if (at, a, b) not in self._ports:
            topology = self.problem.topology
            here = topology.classes[at].islands[0]
            ways = [
                topology.route(here, next(i for i in topology.classes[c].islands if i != here))
                for c in (a, b)
            ]
            named = all(way is None or way.resources for way in ways)
            self._ports[at, a, b] = shares_port(*ways) or not named
        return self._ports[at, a, b]

    def _fabric_hop(self, a: int, b: int, bytes_: int) -> int:
        key = (a, b, bytes_)
        if key not in self._inside:
            one, two = self.chips[a], self.chips[b]
            fabric = self.problem.topology.classes[one.class_index].fabric
            self._inside[key] = fabric_hop_ps(bytes_, fabric, one.chips, two.chips)
        return self._inside[key]

    def _hop(self, a: int, b: int, bytes_: int, before: bool, after: bool) -> int | None:
        key = (a, b, bytes_, before, after)
        if key not in self._hops:
            options, topology = self.space.options, self.problem.topology
            busy = (before, after)
            found = expected_hop_ps(topology, options[a], options[b], bytes_, busy)
            self._hops[key] = found
        return self._hops[key]
