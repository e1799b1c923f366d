"""Re-derives the time of every gradient reduction and of the optimizer update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from costmodels.collectives import SyncHost, gradient_sync_s
from costmodels.compute import optimizer_update_s
from costmodels.units import PS_PER_S
from planner.errors import Problem
from planner.graphs.topology import Island
from planner.plan import Plan, Replica, SyncGroup, SyncMember
from planner.restore import Restored
from planner.verify.prices import Prices


def check_sync(plan: Plan, world: Restored, prices: Prices) -> list[Problem]:
    """Times of all groups over the real routes, and the slowest update."""
    return [*_groups(plan, world, prices), *_update(plan, world, prices)]


@dataclass(slots=True)
class _Share:
    """What one island holds of a group: copies, their chips, bytes of the largest shard and of
    all shards, how many chips send in its ring (one of each tensor-parallel rank), and the most
    that any of its chips exchanges, as if the whole host did."""

    island: Island
    copies: int = 0
    chips: int = 0
    busiest: int = 0
    shard: int = 0
    whole: int = 0
    ranks: int = 0


def _groups(plan: Plan, world: Restored, prices: Prices) -> Iterator[Problem]:
    shares = [_shares(plan, group, world, prices) for group in plan.sync_groups]
    on_host = world.topology.host_chips
    # a stage exchanges all its layers over its chips' even share of their host's port
    loads: Counter[tuple[int, int]] = Counter()
    for group, held in zip(plan.sync_groups, shares):
        for member in group.members if len(held) > 1 and group.kind != "tied" else ():
            share = next(h for h in held if h.island == _island(plan, member, world))
            whole = -(-share.whole * on_host[share.island.host] // share.chips)
            loads[member.pipeline, member.stage] += whole
    for group, held in zip(plan.sync_groups, shares):
        for member in group.members:
            share = next(h for h in held if h.island == _island(plan, member, world))
            load = loads[member.pipeline, member.stage]
            if group.kind == "tied":  # summed before the replicas reduce: nothing else is sent
                load = -(-share.whole * on_host[share.island.host] // share.chips)
            share.busiest = max(share.busiest, load)
    for k, (group, held) in enumerate(zip(plan.sync_groups, shares)):
        where = f"sync_groups[{k}].time_s"
        time = _ring_s(held, world)
        if time is None:
            yield Problem(where, "no network joins the islands of the group")
        elif round(group.time_s * PS_PER_S) != round(time * PS_PER_S):
            yield Problem(where, f"says {group.time_s!r} s, re-derived {time!r} s")


def _ring_s(held: Sequence[_Share], world: Restored) -> float | None:
    """Seconds of one group: inside every island, then a ring over the islands by name."""
    hosts, latency = [], 0.0
    for share, after in zip(held, [*held[1:], *held[:1]]):
        port = None
        if len(held) > 1:
            route = world.topology.route(share.island, after.island)
            if route is None:
                return None
            host = share.island.host
            senders = max(1, share.ranks * world.topology.host_chips[host] // share.chips)
            port = route.rate(share.busiest / len(held), senders)
            latency = max(latency, route.latency_s)
        hosts.append(
            SyncHost(
                replicas=share.copies,
                shard_bytes=share.shard,
                fabric=world.topology.classes[share.island.class_index].fabric,
                exchanged_bytes=share.busiest,
                port_bytes_per_s=port,
            )
        )
    return gradient_sync_s(hosts, latency_s=latency)


def _island(plan: Plan, member: SyncMember, world: Restored) -> Island:
    """Where a member lies."""
    replica = plan.pipelines[member.pipeline].stages[member.stage].replicas[0]
    return world.island_of[replica.devices[0]]


def _shares(plan: Plan, group: SyncGroup, world: Restored, prices: Prices) -> list[_Share]:
    state = world.job.state_bytes
    each = -(-(state.gradient + state.parameter) // 2) if group.level else state.gradient
    held: dict[str, _Share] = {}
    for member in group.members:
        pipeline = plan.pipelines[member.pipeline]
        for replica in pipeline.stages[member.stage].replicas:
            island = world.island_of[replica.devices[0]]
            share = held.setdefault(island.name, _Share(island))
            size = each * _parameters(replica, group.layers, world, prices)
            share.copies += 1
            share.chips += replica.mesh.tensor_parallel
            share.shard = max(share.shard, size)
            share.whole = max(share.whole, size * replica.mesh.tensor_parallel)
            share.ranks = max(share.ranks, replica.mesh.tensor_parallel)
    return [held[name] for name in sorted(held)]


def _parameters(replica: Replica, layers: tuple[int, int], world: Restored, prices: Prices) -> int:
    """Trained parameters of these layers on one device of a replica."""
    cls = world.topology.classes[world.island_of[replica.devices[0]].class_index]
    priced = prices.layers(cls, replica.mesh.tensor_parallel, replica.rows)
    return sum(layer.trained_parameters for layer in priced[slice(*layers)])


def _update(plan: Plan, world: Restored, prices: Prices) -> Iterator[Problem]:
    slowest = 0.0
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            copies = len(plan.pipelines) * len(stage.replicas)
            for replica in stage.replicas:
                island = world.island_of[replica.devices[0]]
                cls = world.topology.classes[island.class_index]
                update = optimizer_update_s(
                    _parameters(replica, stage.layers, world, prices),
                    world.job.state_bytes,
                    cls.chip,
                    copies if stage.zero.level else 1,
                    derate=cls.derate,
                )
                slowest = max(slowest, update * cls.update_scale)
    stated = plan.estimate.breakdown_s.update
    if round(stated * PS_PER_S) != round(slowest * PS_PER_S):
        message = f"says {stated!r} s, re-derived {slowest!r} s"
        yield Problem("estimate.breakdown_s.update", message)
