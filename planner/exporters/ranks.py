"""Which rank runs on which device, and how the processes of each host are started.

A runtime derives a rank's place in the grid from the rank alone. The plan names the device of
every place, so the order of ranks is given; what is free is who starts them. ``torchrun`` counts
ranks host by host: it does where all ranks of a host follow one another. Where they do not, every
process is started with its own RANK.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from planner.errors import ExportError, Problem
from planner.exporters.grid import Grid
from planner.exporters.hosts import VISIBLE, Host
from planner.exporters.view import View

Order = Literal["pp slowest", "dp slowest"]
"""What changes last from rank to rank: the stage or the replica. Tensor parallel is fastest."""


@dataclass(frozen=True, slots=True)
class HostRanks:
    """The processes of one host in rank order: rank, device name, number for the driver.

    ``visible`` are the driver's numbers in the order in which processes count them.
    """

    host: Host
    ranks: tuple[int, ...]
    devices: tuple[str, ...]
    visible: tuple[int, ...]

    @property
    def vendor(self) -> str:
        """The vendor of the host's devices."""
        return next(d.chip.vendor for d in self.host.devices if d.name == self.devices[0])

    @property
    def variable(self) -> str:
        """The environment variable that chooses and orders the devices, "" if none is known."""
        return VISIBLE.get(self.vendor, "")


@dataclass(frozen=True, slots=True)
class Launch:
    """All ranks by host, hosts in the order of their first rank.

    ``torchrun``: whether hosts hold consecutive ranks. ``order`` is how a grid was numbered.
    """

    hosts: tuple[HostRanks, ...]
    devices: tuple[str, ...]
    torchrun: bool
    order: Order | None = None

    @property
    def world(self) -> int:
        """Number of processes."""
        return len(self.devices)


def launch_of(view: View, devices: Sequence[str], order: Order | None = None) -> Launch:
    """How to start one process per device, ``devices`` in rank order.

    Raises ExportError for a host with devices of two vendors, or of one without a variable that
    orders devices, unless the order is the driver's own.
    """
    by_host: dict[str, list[int]] = {}
    for rank, device in enumerate(devices):
        by_host.setdefault(device.rpartition("/")[0], []).append(rank)
    named = {h.name: h for h in view.hosts}
    hosts = tuple(_host_ranks(named[name], ranks, devices) for name, ranks in by_host.items())
    consecutive = all(h.ranks == tuple(range(h.ranks[0], h.ranks[-1] + 1)) for h in hosts)
    return Launch(hosts, tuple(devices), consecutive, order)


def _host_ranks(host: Host, ranks: list[int], devices: Sequence[str]) -> HostRanks:
    own = {device.name: device for device in host.devices}
    names = tuple(devices[r] for r in ranks)
    vendors = list(dict.fromkeys(own[n].chip.vendor for n in names))
    if len(vendors) > 1:
        message = f"{' and '.join(vendors)} devices in one host are not started by one script"
        remedy = "describe them as two nodes of the cluster file"
        problem = Problem(f"host {host.name}", message, remedy)
        raise ExportError("", problems=[problem])
    visible = tuple(own[n].index for n in names)
    if vendors[0] not in VISIBLE and visible != tuple(range(len(visible))):
        message = (
            f"no variable is known that orders {vendors[0]} devices, and the plan uses {names}"
        )
        problem = Problem(f"host {host.name}", message, "use the first devices of the host")
        raise ExportError("", problems=[problem])
    return HostRanks(host, tuple(ranks), names, visible)


def grid_launch(view: View, orders: Sequence[Order]) -> Launch:
    """The launch of a grid: the first order (and numbering of replicas) that torchrun can start.

    Replicas of a grid are interchangeable, so they may be numbered along the hosts. Without an
    order that fits, ranks are started one by one in the first order.
    """
    grid = view.even_grid
    for order in orders:
        for replicas in numberings(view, grid):
            launch = launch_of(view, tuple(_ranks(grid, order, replicas)), order)
            if launch.torchrun:
                return launch
    return launch_of(view, tuple(_ranks(grid, orders[0], range(grid.dp))), orders[0])


def numberings(view: View, grid: Grid) -> Iterator[Sequence[int]]:
    """Ways to number the replicas: the plan's own, then along the hosts of each stage."""
    yield range(grid.dp)
    if grid.ep > 1:
        return  # devices that share experts follow one another
    place = {h.name: i for i, h in enumerate(view.hosts)}
    for stage in (s for s in grid.stages if s.data_parallel == grid.dp):
        hosts = [place[d[0].rpartition("/")[0]] for d in stage.devices]
        yield sorted(range(grid.dp), key=lambda d: (hosts[d], d))


def _ranks(grid: Grid, order: Order, replicas: Sequence[int]) -> Iterator[str]:
    if order == "pp slowest":
        for stage in grid.stages:
            for d in replicas:
                yield from stage.devices[d]
    else:
        for d in replicas:
            for stage in grid.stages:
                yield from stage.devices[d]


def compact(numbers: Sequence[int]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8."""
    parts = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        values = [value for _, value in run]
        parts.append(str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}")
    return ",".join(parts)
