"""Peak memory of every stage of a uniform run, itemised, and whether the run fits its chips."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.memory import (
    MemoryItems,
    boundary_buffer_bytes,
    device_overhead,
    stage_memory,
)
from costmodels.step import Run, StageCost
from costmodels.units import bytes_of


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


def run_footprint(run: Run, stages: tuple[StageCost, ...], policy: int | None = None) -> Footprint:
    """Itemised memory of a run whose layers are priced; ``policy`` replaces its recomputation."""
    overhead = device_overhead(run.chip)
    policy = run.policy if policy is None else policy
    out = []
    for s, stage in enumerate(stages):
        boundary = _boundary_bytes(run)
        incoming, outgoing = (0 if s == 0 else boundary), (0 if s == run.pp - 1 else boundary)
        shards = run.shard if run.zero else 1
        experts = max(1, shards * run.tp // (run.ep * run.config.division.expert_slices))
        out.append(
            stage_memory(
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
        )
    return Footprint(tuple(out), run.chip.usable_memory_bytes)


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


def _boundary_bytes(run: Run) -> int:
    hidden = max(shape.hidden for shape in run.layers)
    return run.rows * run.seq_len * hidden * bytes_of(run.precision) // run.cp
