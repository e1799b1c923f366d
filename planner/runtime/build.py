"""From a plan and a model to what one rank runs: layers, channels, buckets.

Every rank walks the plan in the same order, so that groups are made in the same order everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import nn

from planner.errors import InputError, Problem
from planner.plan import Pipeline, Plan, Recompute, Stage
from planner.runtime.channels import Channel, Holding, Side
from planner.runtime.chunks import Chunk, RunLayer
from planner.runtime.comm import Groups
from planner.runtime.model import LayeredModel
from planner.runtime.regions import Region
from planner.runtime.rows import Box, replica_rows, rows_in, sequence_shares
from planner.runtime.seats import Seat, Seating
from planner.runtime.shards import Bucket, Cut, Holder, buckets
from planner.runtime.weights import Weights, take
from planner.runtime.wires import Wires


@dataclass(frozen=True)
class Frame:
    """What all builders need: the plan, the model, this rank's place, and how to talk."""

    plan: Plan
    model: LayeredModel
    seating: Seating
    seat: Seat
    groups: Groups
    wires: Wires
    region: Region
    device: torch.device
    dtype: torch.dtype
    seq_len: int
    sequence_parallel: bool
    repeat: int = 1

    @property
    def pipeline(self) -> Pipeline:
        """This rank's pipeline."""
        return self.plan.pipelines[self.seat.pipeline]

    @property
    def stage(self) -> Stage:
        """This rank's stage."""
        return self.pipeline.stages[self.seat.stage]


def make_region(plan: Plan, seating: Seating, groups: Groups, *, split: bool) -> Region:
    """This rank's tensor-parallel group; all ranks make all groups."""
    mine = None
    for place in seating.groups:
        ranks = seating.groups[place]
        group = groups.make(ranks, "tensor")
        if group is not None:
            mine = Region(group, ranks.index(groups.rank), split)
    if mine is None:
        raise ValueError(f"rank {groups.rank} has no place in the plan")
    return mine


def check_model(plan: Plan, model: LayeredModel) -> None:
    """Raise InputError unless the model has the plan's layers."""
    if len(plan.layer_order) != len(model.names):
        message = f"has {len(model.names)} layers, the plan was made for {len(plan.layer_order)}"
        raise InputError([Problem("model", message, "give the model of the plan")])


def holders_of(
    plan: Plan, model: LayeredModel, seating: Seating, *, split: bool
) -> dict[str, tuple[Holder, ...]]:
    """By weight, every rank that holds some of it. The same on all ranks."""
    found: dict[str, dict[int, Holder]] = {}

    @cache
    def cuts(layer: int, shards: int, shard: int) -> Mapping[str, Cut]:
        return model.cuts(layer, shards, shard, split=split and shards > 1)

    names = [model.weights(layer) for layer in range(len(model.names))]
    for (p, s, _), ranks in seating.groups.items():
        for layer in _layers(plan.pipelines[p].stages[s]):
            for shard, rank in enumerate(ranks):
                for inner, cut in cuts(layer, len(ranks), shard).items():
                    counts = cut.axis is not None or cut.partial or shard == 0
                    entry = found.setdefault(names[layer][inner], {})
                    entry.setdefault(rank, Holder(rank, cut, counts))
    return {weight: tuple(entry.values()) for weight, entry in found.items()}


def make_buckets(
    plan: Plan, model: LayeredModel, holders: Mapping[str, tuple[Holder, ...]]
) -> tuple[Bucket, ...]:
    """Spans to reduce, sharded where the stages of a weight's layer run ZeRO level 1."""
    levels: dict[str, set[int]] = {}
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            for layer in _layers(stage):
                for weight in model.weights(layer).values():
                    levels.setdefault(weight, set()).add(stage.zero.level)
    mixed = next((w for w, found in levels.items() if len(found) > 1), None)
    if mixed is not None:
        message = f"{mixed} is under different levels of ZeRO in different stages"
        raise InputError([Problem("zero", message, "give all holders of a layer one level")])
    # What one rank alone holds has no replicas to be sharded over.
    sharded = {w: found == {1} and len(holders[w]) > 1 for w, found in levels.items()}
    return buckets(holders, sharded)


def make_chunks(frame: Frame, weights: Weights) -> tuple[Chunk, ...]:
    """This rank's chunks with their layers and channels."""
    channels = _channels(frame)
    stages = len(frame.pipeline.stages)
    policies = {
        layer: part.policy for part in frame.stage.recompute for layer in range(*part.layers)
    }
    chunks = []
    for number, (first, end) in enumerate(frame.stage.parts):
        virtual = number * stages + frame.seat.stage
        layers = [_layer(frame, weights, k, policies[k]) for k in range(first, end)]
        chunks.append(
            Chunk(
                layers,
                channels.get((virtual - 1, False)),
                channels.get((virtual, False)),
                channels.get((virtual, True)),
                channels.get((virtual - 1, True)),
                frame.repeat,
            )
        )
    return tuple(chunks)


def _layer(frame: Frame, weights: Weights, index: int, policy: Recompute) -> RunLayer:
    """Cut, install, move to the device, and share weights that this rank already has."""
    region, model = frame.region, frame.model
    module = model.full(index, frame.dtype)
    cuts = model.cuts(index, region.shards, region.shard, split=region.split_sequence)
    names = model.weights(index)
    for inner in names:
        owner, _, name = inner.rpartition(".")
        parent = module.get_submodule(owner)
        full = getattr(parent, name)
        setattr(parent, name, nn.Parameter(take(full, cuts[inner]), full.requires_grad))
    model.install(index, module, region, policy)
    module = module.to(frame.device)
    module.train()
    for inner, weight in names.items():
        owner, _, name = inner.rpartition(".")
        parent = module.get_submodule(owner)
        parameter = getattr(parent, name)
        setattr(parent, name, weights.add(weight, parameter, cuts[inner]))
    return RunLayer(index, module, policy)


def _channels(frame: Frame) -> dict[tuple[int, bool], Channel]:
    """This rank's channels by boundary and direction (True for gradients).

    Boundary k lies behind the k-th chunk of the pipeline.
    """
    found = {}
    tag = 1
    for p, pipeline in enumerate(frame.plan.pipelines):
        for boundary, upper, lower in _boundaries(pipeline):
            sides = [_side(frame, p, s) for s in (upper, lower)]
            for gradients in (False, True):
                senders, receivers = reversed(sides) if gradients else sides
                purpose = f"{'gradients' if gradients else 'activations'} {p}.{boundary}"
                _connect(frame, senders, receivers, pipeline, purpose)
                if p == frame.seat.pipeline and frame.seat.stage in (upper, lower):
                    found[boundary, gradients] = Channel(
                        wires=frame.wires,
                        purpose=purpose,
                        tag=tag,
                        rank=frame.seat.rank,
                        senders=senders,
                        receivers=receivers,
                        rows=lambda i, pipe=pipeline: rows_in(pipe, i),  # type: ignore[misc]
                        region=frame.region,
                        gradients=gradients,
                    )
                tag += pipeline.micro_batches + 1
    return found


def _boundaries(pipeline: Pipeline) -> Iterator[tuple[int, int, int]]:
    """Number of the boundary, stage before it, stage behind it."""
    stages = len(pipeline.stages)
    total = stages * len(pipeline.stages[0].parts)
    for boundary in range(total - 1):
        yield boundary, boundary % stages, (boundary + 1) % stages


def _connect(
    frame: Frame, senders: Side, receivers: Side, pipeline: Pipeline, purpose: str
) -> None:
    """Make the groups of all pairs that will ever talk over this boundary."""
    pairs = set()
    for rows in (pipeline.micro_batch_rows, pipeline.last_micro_batch_rows):
        for sender, held in senders.holdings(rows):
            for receiver, wanted in receivers.holdings(rows):
                if sender != receiver and not held.meet(wanted).empty:
                    pairs.add((sender, receiver))
    for sender, receiver in sorted(pairs):
        frame.wires.connect(sender, receiver, purpose)


def _side(frame: Frame, pipeline: int, stage: int) -> Side:
    """What the ranks of a stage hold of a micro-batch at a boundary."""
    plan_stage = frame.plan.pipelines[pipeline].stages[stage]
    length = frame.seq_len

    @lru_cache(maxsize=4)
    def holdings(rows: int) -> tuple[Holding, ...]:
        found: list[Holding] = []
        for replica, (first, end) in enumerate(replica_rows(plan_stage, rows)):
            ranks = frame.seating.ranks(pipeline, stage, replica)
            if first == end:
                continue
            if frame.sequence_parallel and len(ranks) > 1:
                shares = sequence_shares(length, len(ranks))
                found += [(r, Box(first, end, *share)) for r, share in zip(ranks, shares)]
            else:
                found.append((ranks[0], Box(first, end, 0, length)))
        return tuple(found)

    return Side(holdings, length)


def _layers(stage: Stage) -> Iterator[int]:
    for first, end in stage.parts:
        yield from range(first, end)
