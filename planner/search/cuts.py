"""Where pipelines may change vendor: which cuts a target leaves possible.

Without cross-vendor collectives the first vendor holds layers [0, k) in every pipeline. Look at
one vendor's run alone: its layers on its chips, everything else free. A pipeline for a longer run
becomes one for a shorter run by dropping layers, so if a target is refuted for a run it is refuted
for every longer one at the same end of the model, and bisection over k finds the limit. Only cuts
that neither vendor's limit excludes are left for the search and the full proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.costing import CostTables, OptionTable
from planner.search.node import Node
from planner.search.problem import Problem, Setting
from planner.search.settings import Windows

Run = tuple[tuple[int, ...], int, int]
"""Classes of one vendor, first layer, end."""

RUN_ROUNDS = 3


def run_problem(problem: Problem, classes: tuple[int, ...], first: int, end: int) -> Problem:
    """The part of the problem that concerns layers ``[first, end)`` on some classes.

    Relaxed so that it only shrinks with the run: nothing crosses its ends, nothing is paid after
    the last backward.
    """
    tables = problem.tables
    cut = slice(first, end)

    def part(t: OptionTable) -> OptionTable:
        return replace(
            t,
            costs=t.costs[cut],
            forward_ps=t.forward_ps[cut],
            backward_ps=t.backward_ps[:, cut],
            parameters=t.parameters[cut],
            activation_bytes=t.activation_bytes[:, cut],
            working_bytes=t.working_bytes[:, cut],
            logits_bytes=t.logits_bytes[cut],
        )

    boundaries = {}
    for rows, bytes_ in tables.boundary_bytes.items():
        inner = bytes_[cut].copy()
        inner[0] = 0
        # a uniform least crossing keeps shorter runs no harder than longer ones
        inner[1:] = int(np.min(bytes_[1:])) if len(bytes_) > 1 else 0
        boundaries[rows] = inner
    kept = tuple(part(t) for t in tables.tables if t.option.class_index in classes)
    return replace(
        problem,
        tables=CostTables(
            tables=kept,
            boundary_bytes=boundaries,
            state=tables.state,
            overheads=tables.overheads,
            zero_level=tables.zero_level,
            sequence_parallel=tables.sequence_parallel,
        ),
        free_finish=True,
    )


class Runs:
    """Runs of layers alone on one vendor's chips: their relaxed targets, and refutations."""

    def __init__(
        self, problem: Problem, *, max_queries: int, interrupted: Callable[[], bool]
    ) -> None:
        self._problem = problem
        self._max_queries = max_queries
        self._interrupted = interrupted
        self._nodes: dict[Run, Node | None] = {}
        self._targets: dict[Run, int | None] = {}
        self._refuted: dict[Run, tuple[int, int]] = {}

    def _node(self, run: Run) -> Node | None:
        """The search node of a run; None where no option can run it."""
        if run not in self._nodes:
            classes, first, end = run
            part = run_problem(self._problem, classes, first, end)
            length = end - first
            windows = tuple(
                (0, length) if c.index in classes else (0, 0)
                for c in self._problem.topology.classes
            )
            chips = sum(self._problem.topology.classes[c].chips for c in classes)
            setting = Setting((1, min(chips, self._problem.global_batch)), windows)
            rows = sorted({t.option.rows for t in part.tables.tables})
            self._nodes[run] = Node(part, setting, rows) if rows else None
        return self._nodes[run]

    def target(self, run: Run, guess_ps: int) -> int | None:
        """Roughly converged target of the run's relaxation; None if nothing fits."""
        if run not in self._targets:
            node = self._node(run)
            found = None if node is None else node.relax(guess_ps, RUN_ROUNDS)
            self._targets[run] = None if found is None else found[0]
        return self._targets[run]

    def refuted(self, run: Run, target_ps: int) -> bool:
        """Whether the run alone is proven impossible by the target."""
        proven, failed = self._refuted.get(run, (0, 1 << 62))
        if target_ps <= proven:
            return True
        if target_ps >= failed:
            return False
        node = self._node(run)
        if node is None:
            return True
        guess = self.target(run, target_ps)
        if guess is not None and guess <= target_ps:
            answer = False
        else:
            bound = node.bound(
                target_ps,
                None,
                max_queries=self._max_queries,
                interrupted=self._interrupted,
                only_ceiling=True,
            )
            answer = bound >= target_ps
        self._refuted[run] = (target_ps, failed) if answer else (proven, target_ps)
        return answer

    def best_cut(
        self, one: tuple[int, ...], two: tuple[int, ...], ends: list[int], guess_ps: int
    ) -> list[int]:
        """Cuts around which the first run becomes slower than the second one.

        ``ends`` are the possible cuts in order. Longer runs take longer, so bisection finds it.
        """
        length = self._problem.tables.layers

        def first_slower(k: int) -> bool:
            head = self.target((one, 0, k), guess_ps)
            tail = self.target((two, k, length), guess_ps)
            return head is None or (tail is not None and head >= tail)

        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high) // 2
            if first_slower(ends[middle]):
                high = middle
            else:
                low = middle + 1
        return ends[max(0, low - 1) : low + 2]

    def longest(self, runs: list[Run], target_ps: int) -> int:
        """How many of ever longer runs the target leaves possible."""
        low, high = 0, len(runs)
        while low < high:
            middle = (low + high) // 2
            if self.refuted(runs[middle], target_ps):
                high = middle
            else:
                low = middle + 1
        return low


def vendor_runs(problem: Problem, windows: Windows) -> list[Run]:
    """``(classes, first, end)`` of every vendor that holds layers, in order of the model."""
    by_vendor: dict[str, list[int]] = {}
    for c in problem.topology.classes:
        if windows[c.index][0] < windows[c.index][1]:
            by_vendor.setdefault(c.chip.vendor, []).append(c.index)
    return sorted(((tuple(v), *windows[v[0]]) for v in by_vendor.values()), key=lambda r: r[1])


def possible_windows(
    problem: Problem, choices: list[tuple[float, Windows]], runs: Runs, target_ps: int
) -> list[tuple[float, Windows]]:
    """The choices that no vendor's first or last run excludes at the target."""
    length = problem.tables.layers
    prefixes: dict[tuple[int, ...], set[int]] = {}
    suffixes: dict[tuple[int, ...], set[int]] = {}
    for _, windows in choices:
        order = vendor_runs(problem, windows)
        prefixes.setdefault(order[0][0], set()).add(order[0][2])
        suffixes.setdefault(order[-1][0], set()).add(length - order[-1][1])
    first_ok: set[Run] = set()
    last_ok: set[Run] = set()
    for classes, ends in prefixes.items():
        ladder: list[Run] = [(classes, 0, k) for k in sorted(ends)]
        first_ok |= set(ladder[: runs.longest(ladder, target_ps)])
    for classes, sizes in suffixes.items():
        ladder = [(classes, length - n, length) for n in sorted(sizes)]
        last_ok |= set(ladder[: runs.longest(ladder, target_ps)])
    left = [
        (fluid, windows)
        for fluid, windows in choices
        if (order := vendor_runs(problem, windows))[0] in first_ok and order[-1] in last_ok
    ]
    return [
        (fluid, windows)
        for fluid, windows in left
        if not _squeezed(problem, vendor_runs(problem, windows), runs, target_ps)
    ]


def _squeezed(problem: Problem, order: list[Run], runs: Runs, target_ps: int) -> bool:
    """Whether some run is refuted by what the others' share of the fill leaves of the target."""
    for run in order:
        others = sum(least_fill_ps(problem, other) for other in order if other != run)
        if others and runs.refuted(run, target_ps - others):
            return True
    return False


def least_fill_ps(problem: Problem, run: Run) -> int:
    """Least time that one micro-batch spends in a run: every layer on its fastest option."""
    classes, first, end = run
    best = None
    for table in problem.tables.tables:
        if table.option.class_index in classes:
            each = table.forward_ps[first:end] + table.backward_ps[:, first:end].min(axis=0)
            best = each if best is None else np.minimum(best, each)
    return 0 if best is None else int(best.sum())


def balanced_windows(
    problem: Problem, choices: list[tuple[float, Windows]], runs: Runs, guess_ps: int
) -> list[tuple[float, Windows]]:
    """For two vendors, the choices around the balanced cut of each order; else all of them."""
    orders: dict[tuple[tuple[int, ...], ...], dict[int, tuple[float, Windows]]] = {}
    kept: list[tuple[float, Windows]] = []
    for choice in choices:
        order = vendor_runs(problem, choice[1])
        if len(order) == 2:
            classes = tuple(run[0] for run in order)
            orders.setdefault(classes, {})[order[0][2]] = choice
        else:
            kept.append(choice)
    for (one, two), by_cut in sorted(orders.items()):
        for k in runs.best_cut(one, two, sorted(by_cut), guess_ps):
            kept.append(by_cut[k])
    return sorted(kept, key=lambda pair: (pair[0], pair[1]))
