"""Reads launch scripts back: which rank really starts on which device, and is it the plan's?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from planner.exporters.hosts import VISIBLE, Host
from planner.exporters.ranks import Order
from planner.exporters.view import View

_VISIBLE = re.compile(rf"^export (?:{'|'.join(sorted(set(VISIBLE.values())))})=([\d,]+)$", re.M)
_DEVICES = re.compile(r"--devices ([\d,]+)")
_NODE = re.compile(r"--(?:node-)?rank (\d+)")
_PROCESSES = re.compile(r"--nproc-per-node (\d+)")
_RANKS = re.compile(r"^ranks=\(([\d ]+)\)$", re.M)


def started(view: View, files: Mapping[str, str]) -> tuple[str, ...]:
    """Devices by rank, as the scripts of ``nodes/`` start them; "" where a rank is missing.

    ValueError where a script cannot be understood or two start the same rank.
    """
    hosts = {host.name: host for host in view.hosts}
    scripts = {
        path.removeprefix("nodes/").removesuffix(".sh"): text
        for path, text in files.items()
        if path.startswith("nodes/")
    }
    ranks: dict[str, list[int]] = {}
    begin = 0
    for name, processes in counted(files):
        ranks[name] = list(range(begin, begin + processes))
        begin += processes
    for name, text in scripts.items():
        if match := _RANKS.search(text):
            ranks[name] = [int(r) for r in match[1].split()]
    found: dict[int, str] = {}
    for name, own in ranks.items():
        numbers = _visible(scripts[name], len(own))
        if len(numbers) != len(own):
            raise ValueError(f"{name} starts {len(own)} processes on {len(numbers)} devices")
        for rank, number in zip(own, numbers):
            if rank in found:
                raise ValueError(f"rank {rank} is started twice")
            found[rank] = _device(hosts[name], number)
    return tuple(found.get(rank, "") for rank in range(max(found, default=-1) + 1))


def counted(files: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Hosts and how many processes each starts, in the order in which torchrun counts them."""
    found = []
    for path, text in files.items():
        match = _NODE.search(text)
        if path.startswith("nodes/") and match:
            name = path.removeprefix("nodes/").removesuffix(".sh")
            found.append((int(match[1]), name, _processes(name, text)))
    return tuple((name, processes) for _, name, processes in sorted(found))


def _processes(name: str, text: str) -> int:
    if devices := _DEVICES.search(text):
        return len(devices[1].split(","))
    match = _PROCESSES.search(text)
    if match is None:
        raise ValueError(f"nodes/{name}.sh does not say how many processes it starts")
    return int(match[1])


def _visible(text: str, count: int) -> list[int]:
    match = _VISIBLE.search(text) or _DEVICES.search(text)
    return [int(n) for n in match[1].split(",")] if match else list(range(count))


def _device(host: Host, number: int) -> str:
    return next((d.name for d in host.devices if d.index == number), "")


def broken_placement(view: View, devices: tuple[str, ...], order: Order) -> str:
    """Whether the ranks of a grid, numbered as ``order`` says, lie where the plan puts them.

    The runtime computes (stage, replica, place) from the rank. All stages of one replica must be
    one pipeline's, and every tensor-parallel group one replica's devices in their order.
    """
    grid = view.even_grid
    width, pp, dp = grid.stages[0].width, grid.pp, grid.dp
    if len(devices) != grid.world:
        return f"{len(devices)} ranks are started, the plan has {grid.world} devices"
    planned = {
        device: (s, d, i)
        for s, stage in enumerate(grid.stages)
        for d, group in enumerate(stage.devices)
        for i, device in enumerate(group)
    }
    numbered: dict[int, int] = {}
    for rank, device in enumerate(devices):
        group, i = divmod(rank, width)
        s, d = divmod(group, dp) if order == "pp slowest" else divmod(group, pp)[::-1]
        if device not in planned:
            return f"rank {rank} starts on {device or 'nothing'}, which the plan does not use"
        stage, replica, place = planned[device]
        if (stage, place) != (s, i) or numbered.setdefault(d, replica) != replica:
            where = f"stage {s}, replica {d}, place {i}"
            return f"rank {rank} is {where} for the runtime, but {device} is not there in the plan"
    return ""
