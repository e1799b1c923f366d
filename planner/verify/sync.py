"""Re-derives the time of every gradient reduction and of the optimizer update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from costmodels.catalog import Fabric
from costmodels.collectives import SyncHost, all_reduce_s, gradient_sync_s
from costmodels.compute import optimizer_update_s
from costmodels.constants import shipped_constants
from costmodels.offload import offloaded_update_s
from costmodels.units import PS_PER_S
from planner.errors import Problem
from planner.graphs.topology import Island, IslandClass
from planner.plan import Plan, Replica, SyncGroup, SyncMember
from planner.restore import Restored
from planner.verify.meshes import Holding, dense, experts, trained
from planner.verify.prices import Prices


def check_sync(plan: Plan, world: Restored, prices: Prices) -> list[Problem]:
    """Times of all groups over the real routes, and the slowest update."""
    forms = list(_forms(plan, world))
    return [*forms, *_groups(plan, world, prices), *_update(plan, world, prices)]


@dataclass(slots=True)
class _Share:
    """What one island holds of a group: its chips, and by part (everything but experts, experts)
    copies, bytes of the largest shard and of all shards; among how many islands its experts are
    divided; how many chips send in its ring (one of each rank); the most that any of its chips
    exchanges, as if the whole host did; the longest time that any of its stages reduces inside the
    island."""

    island: Island
    chips: int = 0
    busiest: int = 0
    longest_s: float = 0.0
    parts: int = 1
    copies: tuple[int, int] = (0, 0)
    shard: tuple[int, int] = (0, 0)
    whole: tuple[int, int] = (0, 0)
    ranks: int = 0

    def inside_s(self, fabric: Fabric) -> float:
        """Seconds to sum the group's layers inside the island, experts after the rest."""
        return all_reduce_s(self.shard[0], self.copies[0], fabric) + self.experts_s(fabric)

    def experts_s(self, fabric: Fabric) -> float:
        """The experts' part of it."""
        return all_reduce_s(self.shard[1], self.copies[1], fabric) if self.shard[1] else 0.0


def _groups(plan: Plan, world: Restored, prices: Prices) -> Iterator[Problem]:
    shares = [_shares(plan, group, world, prices) for group in plan.sync_groups]
    on_host = world.topology.host_chips
    # a stage exchanges all its layers over its chips' even share of their host's port
    loads: Counter[tuple[int, int]] = Counter()
    # and reduces one run of layers after the other inside its island
    inside: dict[tuple[int, int], float] = {}
    for group, held in zip(plan.sync_groups, shares):
        for member in group.members:
            at = (member.pipeline, member.stage)
            share = held[_island(plan, member, world).name]
            if group.kind == "tied":
                continue
            if len(held) > 1:
                whole = -(-_exchanged(share, held) * on_host[share.island.host] // share.chips)
                loads[at] += whole
            fabric = world.topology.classes[share.island.class_index].fabric
            inside[at] = inside.get(at, 0.0) + share.inside_s(fabric)
    for group, held in zip(plan.sync_groups, shares):
        for member in group.members:
            at = (member.pipeline, member.stage)
            lying = _homes(plan, [member], world)
            for name in lying:
                share = held[name]
                load = loads[at]
                if group.kind == "tied":  # summed before the replicas reduce: nothing else is sent
                    whole = _exchanged(share, held)
                    load = -(-whole * on_host[share.island.host] // share.chips)
                else:
                    share.longest_s = max(share.longest_s, inside[at])
                share.busiest = max(share.busiest, load)
    for k, (group, held) in enumerate(zip(plan.sync_groups, shares)):
        where = f"sync_groups[{k}].time_s"
        time = _ring_s(list(held.values()), world, group)
        if time is None:
            yield Problem(where, "no network joins the islands of the group")
        elif round(group.time_s * PS_PER_S) != round(time * PS_PER_S):
            yield Problem(where, f"says {group.time_s!r} s, re-derived {time!r} s")


def _ring_s(held: Sequence[_Share], world: Restored, group: SyncGroup) -> float | None:
    """Seconds of one group: inside every island, then a ring over the islands by name."""
    hosts, latency = [], 0.0
    each = _each(group, world)
    for share, after in zip(held, [*held[1:], *held[:1]]):
        port, packing, sent = None, 0.0, share.busiest
        if group.compression != "none":
            on_host = world.topology.host_chips[share.island.host]
            cls = world.topology.classes[share.island.class_index]
            packing = _packing_s(-(-sent // (on_host * each)), group, world, cls)
            sent = _packed(sent, group, world)
        if len(held) > 1:
            route = world.topology.route(share.island, after.island)
            if route is None:
                return None
            host = share.island.host
            senders = max(1, share.ranks * world.topology.host_chips[host] // share.chips)
            port = route.rate(sent / len(held), senders)
            latency = max(latency, route.latency_s)
        fabric = world.topology.classes[share.island.class_index].fabric
        others = max(0.0, share.longest_s - share.inside_s(fabric))
        hosts.append(
            SyncHost(
                replicas=share.copies[0],
                shard_bytes=share.shard[0],
                fabric=fabric,
                exchanged_bytes=sent,
                port_bytes_per_s=port,
                extra_s=share.experts_s(fabric) + (others + packing),
            )
        )
    return gradient_sync_s(hosts, latency_s=latency)


def _each(group: SyncGroup, world: Restored) -> int:
    """Bytes per parameter of which a ring carries 2(n-1)/n."""
    state = world.job.state_bytes
    return -(-(state.gradient + state.parameter) // 2) if group.level else state.gradient


def _packed(plain: int, group: SyncGroup, world: Restored) -> int:
    """Bytes between hosts: gradients packed, in blocks of 256 with a scale of 4 bytes below 16
    bits; under ZeRO the weights that come back are not."""
    state = world.job.state_bytes
    small = {"fp16": (2, 1), "fp8": (256 + 4, 256), "int4": (128 + 4, 256)}[group.compression]
    gradient, block = small
    weight = state.parameter if group.level else 0
    return -(-plain * (gradient + weight * block) // ((state.gradient + weight) * block))


def _packing_s(gradients: int, group: SyncGroup, world: Restored, cls: IslandClass) -> float:
    """Each pass reads gradients and writes packed ones, and the other way round."""
    state, constants = world.job.state_bytes, shipped_constants()
    packed = {"fp16": 2.0, "fp8": 260 / 256, "int4": 132 / 256}[group.compression]
    moved = 2 * gradients * (state.gradient + packed)
    once = moved / (cls.chip.memory_bandwidth * constants.stream) + 2 * constants.launch_s
    return (1 if group.level else 2) * once / cls.derate


def _forms(plan: Plan, world: Restored) -> Iterator[Problem]:
    """Gradients are packed as the job allows, only between islands, and then on all of them."""
    allowed = world.job.gradient_compression
    homes = [_homes(plan, group.members, world) for group in plan.sync_groups]
    crossing = {
        group.compression
        for group, home in zip(plan.sync_groups, homes)
        if len(home) > 1 and group.kind == "gradients"
    }
    for k, (group, home) in enumerate(zip(plan.sync_groups, homes)):
        where = f"sync_groups[{k}].compression"
        if group.compression == "none":
            continue
        if group.compression != allowed:
            yield Problem(where, f"{group.compression} is not what the job allows ({allowed})")
        elif group.kind == "tied" or len(home) == 1:
            yield Problem(where, "gradients are packed between islands, and shared weights never")
        elif len(crossing) > 1:
            yield Problem(where, "other groups reduce otherwise; a plan packs all or none")


def _homes(plan: Plan, members: Sequence[SyncMember], world: Restored) -> set[str]:
    """Names of all islands on which members of a group lie."""
    stages = (plan.pipelines[m.pipeline].stages[m.stage] for m in members)
    devices = (d for stage in stages for replica in stage.replicas for d in replica.devices)
    return {world.island_of[d].name for d in devices}


def _island(plan: Plan, member: SyncMember, world: Restored) -> Island:
    """Where a member lies."""
    replica = plan.pipelines[member.pipeline].stages[member.stage].replicas[0]
    return world.island_of[replica.devices[0]]


def _shares(plan: Plan, group: SyncGroup, world: Restored, prices: Prices) -> dict[str, _Share]:
    """What every island holds of a group, by name of the island and in that order."""
    each = _each(group, world)
    # of a shared weight every replica exchanges the shard that it updates
    shards = len(plan.pipelines) if group.kind == "tied" and group.level else 1
    held: dict[str, _Share] = {}
    for member in group.members:
        pipeline = plan.pipelines[member.pipeline]
        for replica in pipeline.stages[member.stage].replicas:
            islands = {world.island_of[d].name: world.island_of[d] for d in replica.devices}
            found = _parameters(replica, group.layers, world, prices)
            sizes = [-(-each * holding.on_a_chip(n) // shards) for n, holding in found]
            holdings = (dense(replica.mesh), experts(replica.mesh))
            lanes = [h.lanes * h.shares for h in holdings]
            sizes += [0] * (2 - len(sizes))
            chips = len(replica.devices) // len(islands)
            local = [max(1, h.to_sum // len(islands)) for h in holdings]
            for name, island in islands.items():
                share = held.setdefault(name, _Share(island))
                share.chips += chips
                share.copies = _both(int.__add__, share.copies, local)
                share.shard = _both(max, share.shard, sizes)
                own = [n * min(w, chips) for n, w in zip(sizes, lanes)]
                share.whole = _both(max, share.whole, own)
                share.ranks = max(share.ranks, lanes[0])
                share.parts = max(share.parts, -(-lanes[1] // chips))
    return {name: held[name] for name in sorted(held)}


def _exchanged(share: _Share, held: dict[str, _Share]) -> int:
    """Distinct bytes that a ring over all islands of the group would carry of this one.

    An island with a part of the experts sums it with the islands of the same part alone: a ring
    of n instead of N, which takes (n − 1)/n of the bytes and not (N − 1)/N.
    """
    dense_bytes, expert_bytes = share.whole
    count = len(held)
    if count > 1 and any(other.parts > 1 for other in held.values()):
        same = round(sum(1 / other.parts for other in held.values()))
        expert_bytes = -(-expert_bytes * (same - 1) * count // (same * (count - 1)))
    return dense_bytes + expert_bytes


def _both(
    join: Callable[[int, int], int], one: tuple[int, int], other: Sequence[int]
) -> tuple[int, int]:
    return join(one[0], other[0]), join(one[1], other[1])


def _parameters(
    replica: Replica, layers: tuple[int, int], world: Restored, prices: Prices
) -> list[tuple[int, Holding]]:
    """Trained parameters of these layers on one device of a replica, by how they are held."""
    cls = world.topology.classes[world.island_of[replica.devices[0]].class_index]
    priced = prices.layers(cls, replica.mesh, replica.rows, prices.way(replica.devices))
    return trained(priced[slice(*layers)], replica.mesh)


def _update_s(
    parameters: int, sharers: int, world: Restored, cls: IslandClass, *, on_host: bool
) -> float:
    """Seconds of one device's update, on the device or, over its link, on its host."""
    state = world.job.state_bytes
    if not on_host:
        own = optimizer_update_s(parameters, state, cls.chip, sharers, derate=cls.derate)
        return own * cls.update_scale
    if cls.host is None:
        return float("inf")  # the layout check has said so
    return offloaded_update_s(parameters, state, cls.chip, cls.host, sharers, derate=cls.derate)


def _update(plan: Plan, world: Restored, prices: Prices) -> Iterator[Problem]:
    slowest = 0.0
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            copies = len(plan.pipelines) * len(stage.replicas)
            for replica in stage.replicas:
                island = world.island_of[replica.devices[0]]
                cls = world.topology.classes[island.class_index]
                update = sum(
                    _update_s(
                        holding.on_a_chip(parameters),
                        copies * holding.to_sum if stage.zero.level else 1,
                        world,
                        cls,
                        on_host=stage.offload == "optimizer",
                    )
                    for part in stage.parts
                    for parameters, holding in _parameters(replica, part, world, prices)
                )
                slowest = max(slowest, update)
    stated = plan.estimate.breakdown_s.update
    if round(stated * PS_PER_S) != round(slowest * PS_PER_S):
        message = f"says {stated!r} s, re-derived {slowest!r} s"
        yield Problem("estimate.breakdown_s.update", message)
