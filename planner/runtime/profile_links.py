"""Messages between processes and reductions over them, by size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from planner.runtime.clock import synchronize
from planner.runtime.comm import Group, all_reduce
from planner.runtime.profile_request import LinkFound, ReductionFound
from planner.runtime.wires import Wires

SMALLEST = 2**10
LARGEST = {"cpu": 2**24}
LARGEST_ELSEWHERE = 2**28
TAG = 2**20
REPEATS = 5


def sizes(device: torch.device) -> tuple[int, ...]:
    """Bytes of the messages that are tried: powers of four."""
    top = LARGEST.get(device.type, LARGEST_ELSEWHERE)
    found = [SMALLEST]
    while found[-1] * 4 <= top:
        found.append(found[-1] * 4)
    return tuple(found)


def measure_links(
    wires: Wires, chips: Sequence[str], nodes: Sequence[str]
) -> tuple[LinkFound, ...]:
    """One link per pair of chips and kind of way, between the first processes that have it.

    ``chips`` and ``nodes`` by rank. Every process calls it; all get the same answer.
    """
    rank = wires.groups.rank
    found = []
    for number, (a, b) in enumerate(_pairs(chips, nodes)):
        purpose = f"profile {number}"
        wires.connect(a, b, purpose)
        wires.connect(b, a, purpose)
        dist.barrier()
        points = _ping_pong(wires, rank, (a, b), purpose) if rank in (a, b) else []
        shared = [points]
        dist.broadcast_object_list(shared, src=a)
        where = "in_node" if nodes[a] == nodes[b] else "between_nodes"
        for source, target in dict.fromkeys(((chips[a], chips[b]), (chips[b], chips[a]))):
            found.append(
                LinkFound(
                    source=source,
                    target=target,
                    where="in_node" if where == "in_node" else "between_nodes",
                    chips=1,
                    points=increasing(shared[0]),
                )
            )
    return tuple(found)


def measure_reductions(group: Group, device: torch.device) -> tuple[ReductionFound, ...]:
    """All-reduce over all processes; every process calls it."""
    if group.size == 1:
        return ()
    points = []
    for size in sizes(device):
        tensor = torch.zeros(size // 4, device=device)
        times = []
        for _ in range(REPEATS + 1):
            dist.barrier()
            start = time.perf_counter()
            all_reduce(tensor, group)
            synchronize(device)
            times.append(time.perf_counter() - start)
        points.append((size, statistics.median(times[1:])))
    return (ReductionFound(processes=group.size, points=increasing(points)),)


def increasing(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Points whose times rise: a smaller message cannot take longer than a larger one."""
    kept: list[tuple[int, float]] = []
    for size, seconds in points:
        while kept and kept[-1][1] >= seconds:
            kept.pop()
        kept.append((size, seconds))
    return tuple(kept)


def _pairs(chips: Sequence[str], nodes: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The first two processes for every two chips and way between them."""
    seen = set()
    for a in range(len(chips)):
        for b in range(a + 1, len(chips)):
            key = (*sorted((chips[a], chips[b])), nodes[a] == nodes[b])
            if key not in seen:
                seen.add(key)
                yield a, b


def _ping_pong(
    wires: Wires, rank: int, pair: tuple[int, int], purpose: str
) -> list[tuple[int, float]]:
    """Half of the time there and back, by size."""
    first, second = pair
    points = []
    for size in sizes(wires.device):
        message = torch.zeros(size // 4, device=wires.device)
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            if rank == first:
                wires.send(message, second, TAG, purpose)
                wires.receive((size // 4,), message.dtype, second, TAG, purpose).wait()
            else:
                wires.receive((size // 4,), message.dtype, first, TAG, purpose).wait()
                wires.send(message, first, TAG, purpose)
            wires.drain()
            synchronize(wires.device)
            times.append((time.perf_counter() - start) / 2)
        points.append((size, statistics.median(times[1:])))
    return points
