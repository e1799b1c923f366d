"""Who holds which part of a micro-batch, and what neighbours must send one another.

All intervals are half open. A box is a part of one micro-batch at a boundary between stages: an
interval of its rows and one of its sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.plan import Interval, Pipeline, Plan, Stage


@dataclass(frozen=True, slots=True)
class Box:
    """Rows ``[row0, row1)`` and sequence positions ``[seq0, seq1)`` of a micro-batch."""

    row0: int
    row1: int
    seq0: int
    seq1: int

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return self.row0 >= self.row1 or self.seq0 >= self.seq1

    def meet(self, other: Box) -> Box:
        """What both hold."""
        return Box(
            max(self.row0, other.row0),
            min(self.row1, other.row1),
            max(self.seq0, other.seq0),
            min(self.seq1, other.seq1),
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """A box that goes from one rank to another."""

    sender: int
    receiver: int
    box: Box


def micro_batch_rows(plan: Plan, pipeline: int, micro_batch: int) -> Interval:
    """Rows of the global batch that a pipeline's micro-batch holds.

    Pipelines take consecutive shares of the batch in their order.
    """
    first = sum(pipeline_rows(p) for p in plan.pipelines[:pipeline])
    pipe = plan.pipelines[pipeline]
    first += micro_batch * pipe.micro_batch_rows
    return first, first + rows_in(pipe, micro_batch)


def pipeline_rows(pipeline: Pipeline) -> int:
    """Rows that a pipeline runs per step."""
    return (pipeline.micro_batches - 1) * pipeline.micro_batch_rows + pipeline.last_micro_batch_rows


def global_rows(plan: Plan) -> int:
    """Rows per step of the whole plan."""
    return sum(map(pipeline_rows, plan.pipelines))


def rows_in(pipeline: Pipeline, micro_batch: int) -> int:
    """Rows of one micro-batch; only the last one may have fewer than the others."""
    last = micro_batch == pipeline.micro_batches - 1
    return pipeline.last_micro_batch_rows if last else pipeline.micro_batch_rows


def replica_rows(stage: Stage, rows: int) -> tuple[Interval, ...]:
    """How the replicas of a stage share the rows of one micro-batch, in their order.

    A full micro-batch is shared as the plan says. A smaller last one is shared in the same
    proportion by largest remainder, ties to the earlier replica; a replica may get none.
    """
    weights = [replica.rows for replica in stage.replicas]
    total = sum(weights)
    shares = [rows * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda r: (-(rows * weights[r] % total), r))
    for r in by_remainder[: rows - sum(shares)]:
        shares[r] += 1
    ends = [sum(shares[: r + 1]) for r in range(len(shares))]
    return tuple((end - share, end) for end, share in zip(ends, shares))


def sequence_shares(length: int, shards: int) -> tuple[Interval, ...]:
    """The sequence cut into equal parts, one per member of a tensor-parallel group.

    Raises ``ValueError`` where it does not divide.
    """
    if length % shards:
        raise ValueError(f"a sequence of {length} does not divide by {shards}")
    part = length // shards
    return tuple((k * part, (k + 1) * part) for k in range(shards))


def transfers(
    senders: Sequence[tuple[int, Box]], receivers: Sequence[tuple[int, Box]]
) -> tuple[Transfer, ...]:
    """Every non-empty meeting of what is held with what is wanted: (rank, box) each.

    Receivers that want the same rows are served by every sender that holds some of them, so boxes
    of senders must not overlap.
    """
    return tuple(
        Transfer(sender, receiver, held.meet(wanted))
        for sender, held in senders
        for receiver, wanted in receivers
        if not held.meet(wanted).empty
    )
