"""Re-derives the hops of a pipeline over the real routes between its stages."""

from __future__ import annotations

from costmodels.units import PS_PER_S
from planner.graphs.topology import Island
from planner.plan import Pipeline, Replica
from planner.restore import Restored
from planner.verify.parts import is_interleaved


def hops_ps(pipeline: Pipeline, world: Restored) -> tuple[int | None, ...]:
    """Picoseconds from every stage to the next, None where no network joins them.

    The stages of an interleaved pipeline are a ring: what leaves the last one goes back to the
    first. All of its hops carry as much as the largest of its cuts.
    """
    ring = is_interleaved(pipeline)
    count = len(pipeline.stages)
    rows = pipeline.micro_batch_rows
    found = []
    for s in range(count if ring else count - 1):
        cuts = [pipeline.stages[s].layers[1]]
        if ring:
            cuts = [end for stage in pipeline.stages for _, end in stage.parts]
        size = max(crossing_bytes(cut, rows, world) for cut in cuts)
        found.append(_hop(pipeline, s, size, world))
    return tuple(found)


def crossing_bytes(cut: int, rows: int, world: Restored) -> int:
    """Bytes of so many rows that cross a cut; none at either end of the model."""
    if cut in (0, len(world.model.layers)):
        return 0
    return world.boundary_bytes(cut, rows)


def _hop(pipeline: Pipeline, s: int, size: int, world: Restored) -> int | None:
    """From stage s to the next one, over the slowest pair of replicas."""
    stages, ring = pipeline.stages, is_interleaved(pipeline)
    count = len(stages)
    before = stages[s - 1].replicas if ring or s > 0 else ()
    beyond = stages[(s + 2) % count].replicas if ring or s + 2 < count else ()
    slowest = 0
    for sender in stages[s].replicas:
        for receiver in stages[(s + 1) % count].replicas:
            # the other traffic of the two hosts: gradients upstream, activations downstream
            at_once = not world.topology.blocking_transfers
            out = at_once and any(_meet(sender, receiver, sender, r, world) for r in before)
            into = at_once and any(_meet(receiver, sender, receiver, r, world) for r in beyond)
            time = _way(sender, receiver, size, 1 + out, 1 + into, world)
            if time is None:
                return None
            slowest = max(slowest, time)
    return slowest


def _meet(a: Replica, b: Replica, c: Replica, d: Replica, world: Restored) -> bool:
    """Whether the ways a -> b and c -> d use a common resource."""
    used = []
    for sender, receiver in ((a, b), (c, d)):
        ways = [
            world.topology.route(here, there)
            for here, there in _ways(sender, receiver, world)
            if here.name != there.name
        ]
        used.append({name for way in ways if way is not None for name in way.resources})
    return bool(used[0] & used[1])


def _ways(sender: Replica, receiver: Replica, world: Restored) -> list[tuple[Island, Island]]:
    """Which islands send to which: those of both sides in turn."""
    ends = [_places(sender, world), _places(receiver, world)]
    count = max(map(len, ends))
    return [(ends[0][n % len(ends[0])], ends[1][n % len(ends[1])]) for n in range(count)]


def _way(
    sender: Replica, receiver: Replica, size: int, out: int, into: int, world: Restored
) -> int | None:
    here, there = _places(sender, world)[0], _places(receiver, world)[0]
    source, target = (world.topology.classes[i.class_index] for i in (here, there))
    senders, receivers = len(sender.devices), len(receiver.devices)
    if size == 0:
        return 0
    if here.name == there.name:
        fabric = source.fabric
        rate = fabric.pair_bandwidth * fabric.efficiency * min(senders, receivers)
        return _picoseconds(size / rate + fabric.latency_s)
    share = min(senders / source.size / out, receivers / target.size / into)
    slowest = 0
    for a, b in _ways(sender, receiver, world):
        route = world.topology.route(a, b)
        if route is None:
            return None
        slowest = max(slowest, _picoseconds(route.seconds(size, share)))
    return slowest


def _places(replica: Replica, world: Restored) -> list[Island]:
    """All islands of a replica, in the order of its devices."""
    islands = {world.island_of[d].name: world.island_of[d] for d in replica.devices}
    return list(islands.values())


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)
