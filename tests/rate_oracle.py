"""Brute force over step time x rate: what objectives other than the step time must agree with."""

from __future__ import annotations

from collections.abc import Sequence

from planner.search.problem import Problem, Setting
from tests.oracle import StageFacts, all_pipelines, runs_of


def least_product(
    problem: Problem, setting: Setting, rates: Sequence[float], latest_ps: int | None
) -> float | None:
    """The least step time (seconds) times rate of the chips in use; None: nothing is in time.

    ``rates`` per class and chip.
    """
    pipelines = list(all_pipelines(problem, setting))
    capacity = tuple(c for _, _, c in problem.packing_rows)
    first = {}
    for k, (c, _, _) in enumerate(problem.packing_rows):
        first.setdefault(c, k)
    best: float | None = None
    for replicas in range(max(1, setting.replicas[0]), setting.replicas[1] + 1):
        facts = StageFacts(problem, replicas)
        runs = [
            (run.time_ps, p.usage, p.rows * run.micro_batches)
            for p in pipelines
            if all(u <= c for u, c in zip(p.usage, capacity, strict=True))
            for run in runs_of(facts, p, -(-problem.global_batch // p.rows))
        ]
        for time in sorted({t for t, _, _ in runs}):
            if latest_ps is not None and time > latest_ps:
                break
            most: dict[tuple[int, ...], int] = {}
            for t, usage, rows in runs:
                if t <= time:
                    most[usage] = max(most.get(usage, 0), rows)
            reached = {(0,) * len(capacity): 0}
            for _ in range(replicas):
                following: dict[tuple[int, ...], int] = {}
                for used, rows in reached.items():
                    for usage, own in most.items():
                        chips = tuple(a + b for a, b in zip(used, usage, strict=True))
                        if all(a <= b for a, b in zip(chips, capacity, strict=True)):
                            following[chips] = max(following.get(chips, 0), rows + own)
                reached = following
            for chips, rows in reached.items():
                if rows >= problem.global_batch:
                    rate = sum(rates[c] * chips[k] for c, k in first.items())
                    product = time / 1e12 * rate
                    best = product if best is None else min(best, product)
    return best
