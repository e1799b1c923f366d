"""What no input can see alone: the job against the chips, the model and the network.

``check_*`` return what cannot be planned with, ``warn_*`` what a person should know before they
trust the plan. Every message says where, which value, and what to try.
"""

from __future__ import annotations

from collections.abc import Iterator

from costmodels.catalog import Catalog, cross_vendor
from planner.errors import Problem
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.job import ResolvedJob
from planner.inputs.model import ModelInput
from planner.inputs.training import check_training

LONGEST_MICRO_BATCH_S = 9_000
"""Up to 2**53 ps a plan's seconds hold whole picoseconds exactly; nobody waits for longer."""

PRECISIONS = ("bf16", "fp16", "fp32")
"""Proposed in this order when a stated precision cannot run everywhere."""


def check_inputs(
    model: ModelInput, cluster: ClusterInput, job: ResolvedJob, topology: Topology
) -> tuple[list[Problem], list[str]]:
    """All problems of the inputs together, and all warnings, those of the cluster file first."""
    problems = [
        *check_precision(job, topology),
        *check_micro_batches(job),
        *check_training(model.graph, job),
        *check_measured_rates(job, model.graph, topology),
    ]
    warnings = [
        *warn_seq_len(job, model.graph),
        *warn_micro_batches(job),
        *warn_attention(job, model.graph, topology),
        *warn_measured_rates(topology),
        *warn_unreachable(topology),
        *warn_tcp(topology),
        *warn_mixed_generations(topology),
        *warn_low_confidence(topology),
    ]
    return problems, [*cluster.warnings, *map(str, warnings)]


def check_precision(job: ResolvedJob, topology: Topology) -> Iterator[Problem]:
    """One precision for the whole job; a chip that lacks it cannot take part."""
    chips = {c.chip.id: c.chip for c in topology.classes}
    without = [i for i in sorted(chips) if not chips[i].supports(job.precision)]
    if not without:
        return
    common = [p for p in PRECISIONS if all(c.supports(p) for c in chips.values())]
    remedy = (
        f"--set job.precision={common[0]}, which every chip of the cluster has"
        if common
        else "leave these chips out of the cluster: no precision runs on all of them"
    )
    for chip_id in without:
        has = ", ".join(name for name, _ in chips[chip_id].peak_flops)
        yield Problem(
            "job: precision",
            f"{_alias(chip_id)} has no {job.precision} matrix units (it has {has})",
            remedy,
        )


def check_micro_batches(job: ResolvedJob) -> Iterator[Problem]:
    """A micro-batch cannot be larger than the batch."""
    if min(job.micro_batch_rows) > job.global_batch:
        yield Problem(
            "job: micro_batch_rows",
            f"the smallest micro-batch, {min(job.micro_batch_rows)} rows, is larger than the "
            f"global batch of {job.global_batch}",
            f"--set job.micro_batch_rows=[{job.global_batch}]",
        )


def check_measured_rates(
    job: ResolvedJob, model: ModelGraph, topology: Topology
) -> Iterator[Problem]:
    """A measured rate cannot ask for more FLOP/s than the chip's dense peak, nor for hours.

    FLOPs per row as the plan's MFU counts them: 6 · parameters + 6 · layers · hidden · seq a token.
    """
    needed = _flops_per_row(job, model)
    for cls in topology.classes:
        rate = cls.measured_rows_per_s
        if rate is None or not cls.chip.supports(job.precision):
            continue
        peak = cls.chip.peak(job.precision)
        if rate * needed > peak:
            yield Problem(
                f"cluster: measured_rows_per_s of {_alias(cls.chip.id)}",
                f"{rate:g} rows/s of {model.name} are {rate * needed / peak:.0%} of the dense peak "
                f"({peak / 1e12:g} TFLOP/s)",
                f"a row is one sequence of {job.seq_len:,} tokens, forward and backward; "
                f"at most {peak / needed:.3g} rows/s",
            )
        longest = max(job.micro_batch_rows)
        if longest / rate > LONGEST_MICRO_BATCH_S:
            yield Problem(
                f"cluster: measured_rows_per_s of {_alias(cls.chip.id)}",
                f"at {rate:g} rows/s a micro-batch of {longest} rows takes "
                f"{longest / rate / 3600:,.1f} hours",
                "give rows (sequences) per second, not seconds per row",
            )


def _flops_per_row(job: ResolvedJob, model: ModelGraph) -> float:
    """FLOPs that one row needs, forward and backward, recomputation left out."""
    given = [layer.shape.generic for layer in model.layers if layer.shape.generic is not None]
    if given:
        return sum(3.0 * work.forward_flops_per_row for work in given)
    attention = sum(
        6.0 * layer.shape.hidden * job.seq_len
        for layer in model.layers
        if layer.shape.attention is not None
    )
    return job.seq_len * (6.0 * model.active_parameters + attention)


def warn_seq_len(job: ResolvedJob, model: ModelGraph) -> Iterator[Problem]:
    """Longer sequences than the configuration declares need other position embeddings."""
    if model.max_seq_len and job.seq_len > model.max_seq_len:
        yield Problem(
            "job: seq_len",
            f"{job.seq_len} tokens are more than the {model.max_seq_len} of {model.name}",
            f"--set job.seq_len={model.max_seq_len}, or scale the position embeddings",
        )


def warn_micro_batches(job: ResolvedJob) -> Iterator[Problem]:
    """Where no micro-batch divides the batch, the last one of a pipeline is smaller."""
    batch = job.global_batch
    if all(batch % rows for rows in job.micro_batch_rows):
        size = job.micro_batch_rows[0]
        near = " or ".join(str(n) for n in (batch // size * size, -(-batch // size) * size) if n)
        yield Problem(
            "job: global_batch",
            f"no allowed micro-batch ({', '.join(map(str, job.micro_batch_rows))} rows) divides "
            f"{batch}: last micro-batches are smaller and gradients must be weighted by rows",
            f"--set job.global_batch={near}",
        )


def warn_attention(job: ResolvedJob, model: ModelGraph, topology: Topology) -> Iterator[Problem]:
    """Chips without a fused attention keep the score matrix, which grows with seq_len squared."""
    if not any(layer.shape.attention for layer in model.layers):
        return
    chips = sorted({c.chip.id for c in topology.classes if not c.chip.flash_attention})
    if chips:
        yield Problem(
            f"cluster: {', '.join(map(_alias, chips))}",
            "no fused attention (FlashAttention 2) there: attention scores are kept in memory, "
            f"{job.seq_len:,} squared per head",
        )


def warn_measured_rates(topology: Topology) -> Iterator[Problem]:
    """Measured and computed speeds in one plan compare unlike things."""
    without = [c.name for c in topology.classes if c.measured_rows_per_s is None]
    if without and len(without) < len(topology.classes):
        yield Problem(
            "cluster: measured_rows_per_s",
            f"measured for some chips only; {', '.join(without)} are computed from the catalogue",
            "measure all of them, or none",
        )


def warn_unreachable(topology: Topology) -> Iterator[Problem]:
    """Classes that no network joins can never share a pipeline or a gradient."""
    classes = topology.classes
    for i, one in enumerate(classes):
        for other in classes[i + 1 :]:
            if topology.class_routes.get((one.index, other.index)) is None:
                yield Problem(
                    f"cluster: {one.name} and {other.name}",
                    "no network joins them",
                    "add a network that both have ports on, or plan them separately",
                )


def warn_tcp(topology: Topology) -> Iterator[Problem]:
    """TCP at high rates stays far below the wire, and is what NCCL falls back to silently."""
    routes = [r for r in topology.class_routes.values() if r is not None]
    if any(r.kind.split(",")[0] == "tcp" for r in routes):
        slowest = min(r.bandwidth for r in routes if r.kind.split(",")[0] == "tcp")
        yield Problem(
            "cluster: nics",
            f"hosts are joined by TCP, down to {slowest / 1e9:.3g} GB/s between two of them",
            "if the network has RDMA say kind: roce or ib; if its rate was measured give "
            "measured_bandwidth_one_way",
        )


def warn_mixed_generations(topology: Topology) -> Iterator[Problem]:
    """Collectives over hosts with unlike chips have hung or returned wrong values."""
    for vendor in sorted({c.chip.vendor for c in topology.classes}):
        chips = sorted({c.chip.id for c in topology.classes if c.chip.vendor == vendor})
        if len(chips) > 1:
            yield Problem(
                f"cluster: {', '.join(map(_alias, chips))}",
                "collectives over unlike chips have hung or returned wrong values "
                "(NVIDIA/nccl issues 794, 1136, 1184)",
                "run an all-reduce test over these hosts before the job",
            )


def warn_low_confidence(topology: Topology) -> Iterator[Problem]:
    """Chips whose catalogue figures may be 30 % off."""
    low = {c.chip.id for c in topology.classes if c.chip.confidence == "low"}
    for chip_id in sorted(low):
        yield Problem(
            f"cluster: {_alias(chip_id)}",
            "the catalogue's figures have low confidence: take times as +-30 %",
            "measure and calibrate, or give your own figures under chips",
        )


def can_reduce_together(one: IslandClass, other: IslandClass, topology: Topology) -> bool:
    """Whether a gradient may be reduced over islands of both classes."""
    if one.chip.vendor.casefold() == other.chip.vendor.casefold():
        return True
    library = topology.cross_vendor_collectives
    if library == "none":
        return False
    try:
        unsupported = cross_vendor(library).unsupported_backends
    except LookupError:
        return True
    return not {one.chip.dist_backend, other.chip.dist_backend} & set(unsupported)


def _alias(chip_id: str) -> str:
    return Catalog.alias(chip_id)
