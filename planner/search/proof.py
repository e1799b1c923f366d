"""The lower bound over all settings: the greatest target that every setting refutes.

A setting that was not reached keeps its immediate bound, work over capacity; so an interrupted
proof still ends with an honest bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from costmodels.units import PS_PER_S
from planner.search.cuts import possible_windows
from planner.search.node import Solution
from planner.search.problem import Setting
from planner.search.settings import Windows

if TYPE_CHECKING:
    from planner.search.engine import Engine


CONCESSIONS = (0.0, 0.006)
"""What a wide setting may cost the bound before it is split: a part of a per cent."""


class Proof:
    """One proof for an incumbent of an engine."""

    def __init__(self, engine: Engine, incumbent: Solution) -> None:
        self._engine = engine
        self._own = incumbent.setting
        self._fluid = {w: int(f * PS_PER_S) for f, w in engine.choices}

    def run(self) -> tuple[int, bool]:
        """The bound in picoseconds, and whether every setting was settled."""
        engine = self._engine
        ceiling = self._best_ps()
        bound = self._bound(self._own, ceiling)
        engine.report("proving", bound, self._own.describe())
        complete = not engine.stop()
        others = self._others(bound) if complete else self._unreached()
        for setting in others:
            if engine.stop():
                complete = False
                bound = min(bound, self._fluid_ps(setting.windows))
                continue
            bound = self._bound(setting, bound)
            engine.report("proving", bound, setting.describe())
        return min(bound, self._best_ps()), complete and not engine.stop()

    def _best_ps(self) -> int:
        best = self._engine.best
        return best.real_ps if best is not None else 0

    def _fluid_ps(self, windows: Windows) -> int:
        """Work over capacity: a bound that needs no search."""
        if windows in self._fluid:
            return self._fluid[windows]
        return min(self._fluid.values())  # a part of the fleet is no faster than the whole

    def _unreached(self) -> list[Setting]:
        intervals = self._engine.intervals
        whole = (intervals[0][0], intervals[-1][1])
        return [Setting(whole, w) for _, w in self._engine.choices]

    def _others(self, target_ps: int) -> list[Setting]:
        """Settings that, with the incumbent's own, cover all plans that reach the target.

        Windows that work over capacity or one vendor's run alone exclude are left away. Around
        the incumbent's interval of replicas the others are merged into two.
        """
        engine = self._engine
        intervals = engine.intervals
        left = [(f, w) for f, w in engine.choices if self._fluid[w] < target_ps]
        if len(left) > 1:
            left = possible_windows(engine.problem, left, engine.runs, target_ps)
        whole = (intervals[0][0], intervals[-1][1])
        found = [Setting(whole, w) for _, w in left if w != self._own.windows]
        low, high = self._own.replicas
        if low > whole[0]:
            found.append(Setting((whole[0], low - 1), self._own.windows))
        if high < whole[1]:
            found.append(Setting((high + 1, whole[1]), self._own.windows))
        return found

    def _bound(self, setting: Setting, ceiling_ps: int) -> int:
        """Greatest target up to the ceiling that the setting refutes, splitting its replicas.

        A wide interval is relaxed at both ends; where that costs more than a little it is halved.
        """
        engine = self._engine
        floor = min(ceiling_ps, self._fluid_ps(setting.windows))
        low, high = setting.replicas
        narrow = high <= 2 * low
        node = engine.node(setting)
        for give in (0.0,) if narrow else CONCESSIONS:
            target = int(ceiling_ps * (1 - give))
            bound = node.bound(
                target,
                engine.start,
                max_queries=engine.limits.max_queries,
                interrupted=engine.stop,
                only_ceiling=not narrow,
            )
            engine.improve_from(node)
            if narrow or bound >= target or engine.stop():
                return max(bound, floor)
        for part in self._parts(low, high):
            ceiling_ps = self._bound(Setting(part, setting.windows), ceiling_ps)
        return max(ceiling_ps, floor)

    def _parts(self, low: int, high: int) -> list[tuple[int, int]]:
        """Smaller intervals: around the incumbent's if that lies inside, else halves (octaves)."""
        own_low, own_high = self._own.replicas
        if low <= own_low and own_high <= high and (own_low, own_high) != (low, high):
            parts = [(own_low, own_high), (low, own_low - 1), (own_high + 1, high)]
        else:
            middle = max(low, math.isqrt(low * high))
            parts = [(low, middle), (middle + 1, high)]
        return [p for p in parts if p[0] <= p[1]]
