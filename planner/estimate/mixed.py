"""ZeRO 2 and 3 over replicas on unlike chips: equal shards, so equal memory and unequal room.

Every replica is one chip. Each kind of chip is priced as if the whole group were of its kind, with
the slowest way among all of them; the slowest kind sets the pace, the one with the least room the
verdict. That is what a runtime with equal shards and equal batches does. More than one stage is
refused: which chips would share a stage is not said by the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from costmodels.catalog import Chip
from costmodels.collectives import Links
from costmodels.step import Run
from costmodels.uniform import UniformPrice, price_uniform
from planner.graphs.topology import IslandClass, Topology


@dataclass(frozen=True, slots=True)
class KindPrice:
    """The group priced as if all of it were chips of one kind."""

    cls: IslandClass
    price: UniformPrice

    @property
    def left_bytes(self) -> int:
        """Room on the fullest device of this kind; below 0 where it does not fit."""
        return self.price.footprint.usable - self.price.footprint.worst.peak


def chip_of(cls: IslandClass) -> Chip:
    """The chip of a class with the memory that the cluster leaves to it."""
    return replace(cls.chip, usable_memory_bytes=cls.usable_memory_bytes)


def price_kinds(run: Run, topology: Topology) -> tuple[KindPrice, ...]:
    """The run on every kind of chip; ValueError or LookupError where it cannot exist there."""
    links, found = slowest_links(topology), []
    for cls in topology.classes:
        own = replace(
            run,
            chip=chip_of(cls),
            derate=cls.derate,
            links=links,
            flash=cls.chip.flash_attention,
            grouped_experts=run.grouped_experts and cls.chip.grouped_gemm,
        )
        found.append(KindPrice(cls, price_uniform(own)))
    return tuple(found)


def slowest_links(topology: Topology) -> Links:
    """One chip's share of the slowest way between islands; a ring passes over all of them.

    ValueError where no network joins two kinds.
    """
    shares: list[tuple[float, float]] = []
    classes: Sequence[IslandClass] = topology.classes
    for (a, b), route in topology.class_routes.items():
        if a == b and classes[a].count == 1:
            continue
        if route is None:
            names = f"{classes[a].name} and {classes[b].name}"
            raise ValueError(f"no network joins {names}, and a group must exchange shards")
        shares.append((route.bandwidth / classes[a].size, route.latency_s))
    port, _ = min(shares)
    latency = max(latency for _, latency in shares)
    # An island of one: every hop of the ring is counted at the slowest way.
    return Links(classes[0].fabric, 1, port, latency)
