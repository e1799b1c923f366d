"""The loop over settings: find the best plan, then prove how far anything can be below it.

1. Settings are ordered by an immediate bound (work over capacity).
2. Column generation and the integer master give the best plan of the promising settings.
3. The bound: the greatest target that every setting refutes. A setting refuted at a target stays
   refuted at every lower one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from costmodels.units import PS_PER_S
from planner.search.cuts import Runs, balanced_windows
from planner.search.infeasible import nothing_fits
from planner.search.master import Prices, least_target
from planner.search.node import Node, Solution
from planner.search.problem import Problem, Setting
from planner.search.proof import Proof
from planner.search.settings import (
    Windows,
    chip_seconds,
    fluid_bound_s,
    replica_intervals,
    vendor_windows,
)

SAME_LEAGUE = 1.03
"""Settings whose relaxation is this much worse than the best one's are left to the proof."""
ROOT_ROUNDS = 6
FEW_PIPELINES = 12
WINDOWS_RELAXED = 12
WINDOWS_SEARCHED = 3
"""Vendor cuts of which a rough relaxation, and then a search, is made before the proof."""
MISSES = 3
"""So many replica intervals out of the league in a row end the exploration."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """When to stop. Work limits are deterministic; ``interrupted`` is the wall clock's voice."""

    gap: float
    seed: int
    rounds: int = 14
    integer_work: float = 0.6
    max_queries: int = 60_000
    only_classes: tuple[int, ...] | None = None
    use_all: bool = False
    uniform_tried: int = 5
    """Plans of equal pipelines priced for real beside the integer master's."""


@dataclass(frozen=True)
class Progress:
    """How far the search is: best formula time and proven bound in seconds so far."""

    stage: str
    best_s: float | None
    bound_s: float | None
    detail: str = ""


@dataclass
class SearchOutcome:
    """Best solution, proven bound (picoseconds), and what was explored."""

    solution: Solution | None
    lower_bound_ps: int
    complete: bool
    nodes: int
    queries: int
    proven_infeasible: bool = False
    notes: list[str] = field(default_factory=list)


class Engine:
    """One search over a problem."""

    def __init__(
        self,
        problem: Problem,
        limits: SearchLimits,
        *,
        realise: Callable[[Solution], int | None] | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem = problem
        self._realise = realise or (lambda solution: solution.target_ps)
        self.limits = limits
        self._progress = progress
        self._interrupted = interrupted
        self._rows = sorted({t.option.rows for t in problem.tables.tables})
        self._nodes: dict[Setting, Node] = {}
        self.best: Solution | None = None
        self.relaxed: dict[Setting, int] = {}
        self._stopped = False
        self.start: Prices | None = None
        self._rows_worth: frozenset[int] | None = None
        work = chip_seconds(problem)
        self.choices = sorted(
            ((fluid_bound_s(problem, work, w), w) for w in self._windows()),
            key=lambda pair: (pair[0], pair[1]),
        )
        self.intervals = replica_intervals(problem)
        self.runs = Runs(problem, max_queries=limits.max_queries, interrupted=self.stop)

    # -- finding a plan -----------------------------------------------------------------------

    def run(self) -> SearchOutcome:
        """Find, then prove."""
        self.find()
        return self.prove()

    def find(self) -> Solution | None:
        """The best solution over the promising settings."""
        for fluid, windows in self._promising():
            if self.stop():
                break
            if self.best is not None and fluid * PS_PER_S >= self.best.real_ps:
                continue
            if self._explore(windows, self.intervals, fluid):
                self.report("searching", None)
        return self.best

    def _promising(self) -> list[tuple[float, Windows]]:
        """The windows to search: of the best by work over capacity, the best by relaxation."""
        if len(self.choices) <= WINDOWS_SEARCHED:
            return self.choices
        guess = int(self.choices[0][0] * 1.3 * PS_PER_S)
        relaxed = []
        near = balanced_windows(self.problem, self.choices, self.runs, guess)
        for fluid, windows in near[:WINDOWS_RELAXED]:
            if self.stop():
                break
            found = self._root(windows).relax(guess, 3)
            if found is not None:
                relaxed.append((found[0], fluid, windows))
        relaxed.sort()
        return [(fluid, windows) for _, fluid, windows in relaxed[:WINDOWS_SEARCHED]]

    def _root(self, windows: Windows) -> Node:
        """The node over any number of replicas."""
        whole = (self.intervals[0][0], self.intervals[-1][1])
        return self.node(Setting(whole, windows))

    def prove(self) -> SearchOutcome:
        """The proven bound on what :meth:`find` looked for, or that nothing fits."""
        if self.best is None:
            impossible = nothing_fits(self.problem, self.choices, self.intervals, self.stop)
            return SearchOutcome(None, 0, False, len(self._nodes), self._queries(), impossible)
        bound, complete = Proof(self, self.best).run()
        return SearchOutcome(self.best, bound, complete, len(self._nodes), self._queries())

    def _windows(self) -> list[Windows]:
        """Choices of windows, with the classes that the limits leave out made empty."""
        keep = self.limits.only_classes
        found = vendor_windows(self.problem)
        if keep is None:
            return found
        length = self.problem.tables.layers
        kept = [
            tuple(w if c in keep else (0, 0) for c, w in enumerate(windows)) for windows in found
        ]
        covering = [w for w in kept if sum(b - a for a, b in set(w) if b > a) >= length]
        return list(dict.fromkeys(covering))

    def stop(self) -> bool:
        """Whether the user or the clock asked to stop; remembered."""
        self._stopped = self._stopped or self._interrupted()
        return self._stopped

    def _queries(self) -> int:
        return sum(n.queries for n in self._nodes.values())

    def node(self, setting: Setting) -> Node:
        """The node of a setting, made on first use."""
        if setting not in self._nodes:
            self._nodes[setting] = Node(self.problem, setting, self._rows)
        return self._nodes[setting]

    def _explore(self, windows: Windows, intervals: list[tuple[int, int]], fluid: float) -> bool:
        """Relax the promising replica intervals, then solve the integer master where it may pay.

        The relaxation over any number of replicas says how many there should be; from there the
        intervals are tried outwards until they are out of the league of the best.
        """
        low = int(fluid * PS_PER_S * 0.9)
        guess = self.best.real_ps if self.best is not None else int(fluid * 1.3 * PS_PER_S)
        root = self._root(windows)
        relaxation = root.relax(guess, ROOT_ROUNDS)
        if relaxation is None:
            return False
        guess, start = relaxation
        if self.best is not None and guess >= self.best.real_ps:
            return False
        self.start = start
        self._rows_worth = root.worthwhile_rows(start, guess) or None
        center = start.pipelines
        order = sorted(finer_intervals(intervals, center), key=lambda i: (_distance(i, center), i))
        relaxed: list[tuple[int, Setting]] = []
        limit = self.best.real_ps if self.best is not None else None
        misses = 0
        for interval in order:
            if self.stop() or misses >= MISSES:
                break
            setting = Setting(interval, windows)
            node = self.node(setting)
            node.active_rows = self._rows_worth
            node.seed(guess, start)
            target = node.generate(low, limit or guess, 6, limit_ps=limit)
            if target is None or (limit is not None and target > limit):
                misses += 1
                continue
            self.relaxed[setting] = target
            relaxed.append((target, setting))
            league = int(target * SAME_LEAGUE)
            limit = league if limit is None else min(limit, league)
        relaxed.sort(key=lambda pair: (pair[0], pair[1].replicas))
        improved = False
        for target, setting in relaxed:
            if self.stop():
                break
            if self.best is not None and target >= self.best.real_ps * (1 - 1e-3):
                break
            improved |= self._solve(setting, target)
        return improved

    def _solve(self, setting: Setting, target: int) -> bool:
        """Refine the columns of a setting, round to integers, and price the result for real."""
        node = self.node(setting)
        refined = node.generate(int(target * 0.97), target, self.limits.rounds) or target
        self.relaxed[setting] = min(target, refined)
        if setting.replicas[0] == setting.replicas[1]:
            node.probe_uniform(self.relaxed[setting])
        limit = self.best.real_ps if self.best is not None else None
        found = node.best_plan(
            self.relaxed[setting],
            limit,
            seed=self.limits.seed,
            work_limit=self.limits.integer_work,
            use_all=self.limits.use_all,
        )
        improved = self._offer_all(found)
        if not self.limits.use_all:
            improved |= self._offer_each(node.uniform_plans(self.limits.uniform_tried))
        return improved

    def _offer_all(self, solutions: list[Solution]) -> bool:
        """Price the last few of ever better solutions for real: targets guess synchronisation."""
        return self._offer_each(solutions[:-4:-1])

    def _offer_each(self, solutions: list[Solution]) -> bool:
        """Offer all of them; whether any was kept."""
        kept = [self.offer(s) for s in solutions]
        return any(kept)

    def offer(self, solution: Solution) -> bool:
        """Keep a solution if it is the best once placed: its target becomes the real one."""
        real = self._realise(solution)
        if real is None or (self.best is not None and real >= self.best.real_ps):
            return False
        self.best = replace(solution, real_ps=real)
        return True

    def improve_from(self, node: Node) -> None:
        """A failed refutation left new columns: see whether they make a better plan."""
        if self.best is None:
            return
        limit = self.best.real_ps
        relaxed = node.relaxation_target(node.columns, int(limit * 0.95), limit)
        if relaxed is None or relaxed >= limit * (1 - 5e-4):
            return
        found = node.best_plan(
            relaxed, limit, seed=self.limits.seed, work_limit=self.limits.integer_work, steps=5
        )
        improved = self._offer_all(found)
        if not self.limits.use_all:
            improved |= self._offer_each(node.uniform_plans(self.limits.uniform_tried))
        if improved:
            self.report("proving", None, "better plan from the proof")

    def report(self, stage: str, bound: int | None, detail: str = "") -> None:
        """Tell the caller how far the search is."""
        self._progress(
            Progress(
                stage,
                self.best.real_ps / PS_PER_S if self.best else None,
                bound / PS_PER_S if bound else None,
                detail,
            )
        )


def finer_intervals(intervals: list[tuple[int, int]], center: float) -> list[tuple[int, int]]:
    """The intervals, with single counts instead where there are few pipelines anyway.

    With few pipelines their number decides how the fleet divides, so each count is searched.
    """
    if center > FEW_PIPELINES:
        return intervals
    most = intervals[-1][1]
    near = range(max(1, math.floor(center) - 1), min(most, math.ceil(center) + 2) + 1)
    return [(r, r) for r in near]


def _distance(interval: tuple[int, int], center: float) -> float:
    """How far an interval is from a number of replicas, in octaves."""
    low, high = interval
    if low <= center <= high + 1:
        return 0.0
    edge = low if center < low else high
    return abs(math.log2(edge / max(center, 1.0)))


def assign_micro_batches(solution: Solution, global_batch: int) -> list[tuple[int, int, int]]:
    """Micro-batches of every pipeline: ``(column index, micro-batches, rows of the last one)``.

    Starts from what finishes by the target and takes the surplus away where it shortens the
    longest pipelines; pipelines left without work are dropped.
    """
    target = least_target(solution.columns, solution.counts, global_batch, solution.target_ps)
    loads: list[list[int]] = []
    for k, (column, count) in enumerate(zip(solution.columns, solution.counts)):
        loads += [[k, column.micro_batches(target)] for _ in range(count)]
    loads = [load for load in loads if load[1] > 0]
    surplus = sum(solution.columns[k].rows * m for k, m in loads) - global_batch
    while True:
        candidates = [
            (solution.columns[k].time_ps(m), -at)
            for at, (k, m) in enumerate(loads)
            if solution.columns[k].rows <= surplus and m > 1
        ]
        if not candidates:
            break
        at = -max(candidates)[1]
        loads[at][1] -= 1
        surplus -= solution.columns[loads[at][0]].rows
    out = []
    for k, m in loads:
        rows = solution.columns[k].rows
        last = rows
        if 0 < surplus < rows:
            last = rows - surplus
            surplus = 0
        out.append((k, m, last))
    return out
