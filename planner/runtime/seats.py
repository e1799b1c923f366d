"""Which process works where: the ranks of a plan's devices.

Rank r belongs to the r-th device that the plan uses, hosts in the order in which the plan first
names them, devices of a host by their number. So node k of a launcher that counts ranks node by
node runs the devices of the k-th host, and its local ranks go up with the device numbers.

Knows no PyTorch: exporters and launchers use it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from planner.plan import Plan


@dataclass(frozen=True, slots=True)
class Seat:
    """One process: its device and its place in the plan.

    ``shard`` counts the tensor-parallel group of the replica.
    """

    rank: int
    device: str
    chip: str
    pipeline: int
    stage: int
    replica: int
    shard: int

    @property
    def host(self) -> str:
        """The node of the device."""
        return host_of(self.device)

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.device}, pipeline {self.pipeline}, stage {self.stage})"


@dataclass(frozen=True)
class Seating:
    """All processes of a plan, by rank."""

    seats: tuple[Seat, ...]

    @cached_property
    def groups(self) -> dict[tuple[int, int, int], tuple[int, ...]]:
        """Ranks of each (pipeline, stage, replica), in the order of their shards."""
        found: dict[tuple[int, int, int], dict[int, int]] = {}
        for seat in self.seats:
            place = (seat.pipeline, seat.stage, seat.replica)
            found.setdefault(place, {})[seat.shard] = seat.rank
        return {
            place: tuple(ranks[shard] for shard in sorted(ranks)) for place, ranks in found.items()
        }

    def ranks(self, pipeline: int, stage: int, replica: int) -> tuple[int, ...]:
        """The tensor-parallel group of one replica."""
        return self.groups[pipeline, stage, replica]

    def hosts(self) -> dict[str, tuple[Seat, ...]]:
        """The processes of every host, in the order of ranks."""
        found: dict[str, list[Seat]] = {}
        for seat in self.seats:
            found.setdefault(seat.host, []).append(seat)
        return {host: tuple(seats) for host, seats in found.items()}


def seating(plan: Plan) -> Seating:
    """Ranks for all devices that the plan uses."""
    places = {place[0]: place for place in _places(plan)}
    hosts = dict.fromkeys(host_of(device) for device in places)
    numbers = {host: index for index, host in enumerate(hosts)}
    order = sorted(places, key=lambda device: (numbers[host_of(device)], _natural(device)))
    return Seating(tuple(Seat(rank, *places[device]) for rank, device in enumerate(order)))


def host_of(device: str) -> str:
    """``node3`` of ``node3/0``."""
    return device.rpartition("/")[0] or device


def local_index(device: str) -> int:
    """0 of ``node3/0``; 0 where the name ends in no number."""
    tail = device.rpartition("/")[2]
    return int(tail) if tail.isdigit() else 0


def _places(plan: Plan) -> Iterator[tuple[str, str, int, int, int, int]]:
    for p, pipeline in enumerate(plan.pipelines):
        for s, stage in enumerate(pipeline.stages):
            for r, replica in enumerate(stage.replicas):
                for shard, device in enumerate(replica.devices):
                    yield device, replica.chip, p, s, r, shard


def _natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts gpu10 after gpu9."""
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)
