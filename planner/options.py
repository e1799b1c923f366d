"""The legal ways to run layers on chips of one class, and why the others are not legal.

An option fixes the class of island, the tensor-parallel degree and the rows of a micro-batch.
Recomputation is not part of it: for a stage whose option, layers and in-flight depth are known,
the fastest policy that fits dominates the others (same chips, same transfers, less time), so the
tables resolve it. The same argument drops ZeRO level 0 where level 1 is allowed: it moves the
same bytes (a reduce-scatter and an all-gather instead of an all-reduce), updates no more
parameters and never holds more memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.price import POLICIES
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.job import ResolvedJob


@dataclass(frozen=True, slots=True)
class StageOption:
    """One way to run layers: ``tp`` chips of one island of a class, ``rows`` per micro-batch."""

    index: int
    class_index: int
    tp: int
    rows: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A way that is not legal, and the rule that it breaks."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class OptionSet:
    """All legal options, the recomputation policies and ZeRO level allowed, and the rejects."""

    options: tuple[StageOption, ...]
    policies: tuple[int, ...]
    zero_level: int
    rejected: tuple[Rejected, ...]


def tensor_parallel_problem(model: ModelGraph, tp: int, seq_len: int, sequence: bool) -> str | None:
    """Why no layer-complete model can run at tensor-parallel degree ``tp``; None if it can.

    Rules (Megatron-LM): the heads divide evenly; key/value heads divide evenly or are replicated
    evenly; widths divide evenly; with sequence parallelism the sequence divides evenly. The
    vocabulary is padded and never a reason.
    """
    if tp == 1:
        return None
    for layer in model.layers:
        shape = layer.shape
        if shape.generic is not None and not shape.generic.tensor_parallel:
            return f"layer {layer.name} declares tensor_parallel: false"
        core = shape.attention
        if core is not None and core.heads % tp:
            return f"{core.heads} attention heads do not divide by {tp}"
        if core is not None and core.kv_heads % tp and tp % core.kv_heads:
            return f"{core.kv_heads} key/value heads neither divide by {tp} nor replicate evenly"
        for m in shape.matmuls:
            width = {"column": m.outputs, "row": m.inputs, "replicated": tp}[m.split]
            if width % tp and shape.kind != "head":
                return f"{m.name} of {layer.name} is {width} wide, which does not divide by {tp}"
    if sequence and seq_len % tp:
        return f"sequence length {seq_len} does not divide by {tp} (sequence parallelism)"
    return None


def tensor_parallel_degrees(size: int) -> tuple[int, ...]:
    """Powers of two up to the island's size: they pack into islands without a knapsack."""
    degrees = []
    tp = 1
    while tp <= size:
        degrees.append(tp)
        tp *= 2
    return tuple(degrees)


def legal_options(model: ModelGraph, topology: Topology, job: ResolvedJob) -> OptionSet:
    """Enumerate options in a canonical order: rows, class, tensor-parallel degree."""
    options: list[StageOption] = []
    rejected: list[Rejected] = []
    for rows in job.micro_batch_rows:
        for cls in topology.classes:
            for tp in _degrees(cls, job):
                problem = tensor_parallel_problem(model, tp, job.seq_len, job.sequence_parallel)
                gap = cls.profile.problem(tp, rows) if cls.profile is not None else None
                if problem is None and gap is not None:
                    rejected.append(Rejected(f"{rows} rows at tp={tp} on {cls.name}", gap))
                elif problem is None:
                    options.append(StageOption(len(options), cls.index, tp, rows))
                elif rows == job.micro_batch_rows[0]:
                    rejected.append(Rejected(f"tp={tp} on {cls.name}", problem))
    policies = [0]
    if job.recompute_selective:
        policies.append(POLICIES.index("selective"))
    if job.recompute_full:
        policies.append(POLICIES.index("full"))
    return OptionSet(tuple(options), tuple(policies), 1 if job.zero1 else 0, tuple(rejected))


def _degrees(cls: IslandClass, job: ResolvedJob) -> tuple[int, ...]:
    if not job.tensor_parallel:
        return (1,)
    return tensor_parallel_degrees(cls.size)
