"""Peak memory of every stage of a uniform run, itemised, and whether the run fits its chips."""

from __future__ import annotations

from dataclasses import dataclass, replace

from costmodels.memory import (
    MemoryItems,
    boundary_buffer_bytes,
    device_overhead,
    stage_memory,
)
from costmodels.step import Run, StageCost


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a runtime holds beside the tensors of the model.

    ``fixed_bytes``: driver context, libraries and communication buffers together, in place of the
    default overhead. ``share``: what the allocator loses of everything that comes and goes.
    ``held_per_parameter``: copies beside weights, gradients and optimizer (fp32 gradients).
    ``selective_kept``: share of a layer's activations that "selective" keeps where the runtime
    chooses operation by operation (1: only the scores are dropped).
    """

    fixed_bytes: int
    share: float = 0.0
    held_per_parameter: int = 0
    selective_kept: float = 1.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of the worst device of each stage; ``usable`` is what a device offers."""

    stages: tuple[MemoryItems, ...]
    usable: int

    @property
    def worst(self) -> MemoryItems:
        """The stage with the highest peak: the verdict of the whole run."""
        return max(self.stages, key=lambda items: items.peak)

    @property
    def fits(self) -> bool:
        """Whether every device holds what the run puts on it."""
        return self.worst.peak <= self.usable


def run_footprint(
    run: Run,
    stages: tuple[StageCost, ...],
    policy: int | None = None,
    workspace: Workspace | None = None,
) -> Footprint:
    """Itemised memory of a run whose layers are priced.

    ``policy`` replaces its recomputation; ``workspace`` is that of its runtime where it is known,
    else the default overhead of a device counts.
    """
    overhead = device_overhead(run.chip)
    policy = run.policy if policy is None else policy
    boundary = run.boundary_bytes
    shards = run.shard if run.zero else 1
    experts = max(1, shards * run.tp // (run.ep * run.division.expert_slices))
    out = []
    for s, stage in enumerate(stages):
        incoming, outgoing = (0 if s == 0 else boundary), (0 if s == run.pp - 1 else boundary)
        items = stage_memory(
            stage.layers,
            [policy] * len(stage.layers),
            state=run.state,
            overhead=overhead,
            in_flight=in_flight(run, s),
            micro_batches=max(run.micro_batches, in_flight(run, s)),
            zero_level=run.zero,
            replicas=shards,
            expert_replicas=experts if run.ep > 1 else None,
            boundary_bytes=boundary_buffer_bytes(
                incoming, outgoing, tp=run.tp, sequence_parallel=run.sequence_parallel
            ),
        )
        if workspace is not None:
            shared = run.tp if run.sequence_parallel else 1
            waiting = in_flight(run, s) * outgoing // shared
            items = _in_runtime(items, workspace, run, stage, policy, waiting)
        out.append(items)
    return Footprint(tuple(out), run.chip.usable_memory_bytes)


def _in_runtime(
    items: MemoryItems, space: Workspace, run: Run, stage: StageCost, policy: int, waiting: int
) -> MemoryItems:
    """The items under a runtime's own workspace; ``waiting`` outputs stay until gradients come."""
    activations = items.activations + waiting
    if policy == 1 and space.selective_kept < 1.0:
        activations = round(items.activations * space.selective_kept) + waiting
    parameters = sum(p.parameters for p in stage.layers)
    held = parameters * space.held_per_parameter // (run.shard if run.zero >= 3 else 1)
    moving = activations + items.logits + items.buffers
    changed = replace(
        items,
        activations=activations,
        gradients=items.gradients + held,
        context=space.fixed_bytes,
        fragmentation=round(moving * space.share),
        peak=0,
    )
    on_device = [f for f in MemoryItems.__slots__ if f != "host"]
    return replace(changed, peak=sum(getattr(changed, f) for f in on_device))


def in_flight(run: Run, stage: int) -> int:
    """Micro-batches whose activations stage ``stage`` holds at once, in whole stages' worth.

    1F1B: the stages from here to the end. Interleaved: with v chunks a stage starts
    2(p - s - 1) + (v - 1)p + 1 chunks before its first backward (Narayanan et al. 2021), each a
    v-th of a stage. GPipe: all.
    """
    if run.schedule == "gpipe":
        return run.micro_batches
    if run.virtual > 1:
        p, v = run.pp, run.virtual
        chunks = 2 * (p - stage - 1) + (v - 1) * p + 1
        return min(-(-chunks // v), run.micro_batches)
    return min(run.pp - stage, run.micro_batches)
