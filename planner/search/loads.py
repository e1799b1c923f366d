"""How many micro-batches every pipeline of a solution gets."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from planner.search.master import least_target
from planner.search.planning import Solution


def assign_micro_batches(solution: Solution, global_batch: int) -> list[tuple[int, int, int]]:
    """Micro-batches of every pipeline: ``(column index, micro-batches, rows of the last one)``.

    Starts from what finishes by the target and takes the surplus away where it shortens the
    longest pipelines; pipelines left without work are dropped, unless all are to be kept.
    """
    target = least_target(solution.columns, solution.counts, global_batch, solution.target_ps)
    least = 1 if solution.keep_all else 0
    loads: list[list[int]] = []
    for k, (column, count) in enumerate(zip(solution.columns, solution.counts)):
        loads += [[k, max(least, column.micro_batches(target))] for _ in range(count)]
    surplus = sum(solution.columns[k].rows * m for k, m in loads) - global_batch
    longest = [
        (-solution.columns[k].time_ps(m), at) for at, (k, m) in enumerate(loads) if m > least
    ]
    heapify(longest)
    while longest and surplus > 0:
        _, at = heappop(longest)
        column = solution.columns[loads[at][0]]
        if column.rows > surplus:
            continue
        loads[at][1] -= 1
        surplus -= column.rows
        if loads[at][1] > least:
            heappush(longest, (-column.time_ps(loads[at][1]), at))
    loads = [load for load in loads if load[1] > 0]
    out = []
    for k, m in loads:
        rows = solution.columns[k].rows
        last = rows
        if 0 < surplus < rows:
            last = rows - surplus
            surplus = 0
        out.append((k, m, last))
    return out
