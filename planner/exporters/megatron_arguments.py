"""Megatron's arguments for the parallel layout, batch, precision and state of a plan.

Used by every target that takes Megatron's command line. Flags are without their hyphens.
"""

from __future__ import annotations

from collections.abc import Sequence

from costmodels.interleaved import groups
from planner.exporters.exporter import Written
from planner.exporters.megatron_model import Arguments, model_arguments, outside
from planner.exporters.ranks import Launch
from planner.exporters.view import View, common_recompute

Sections = tuple[tuple[str, Arguments], ...]


GROUPED, PERMUTE = "moe-grouped-gemm", "moe-permute-fusion"

OFFLOAD = ("optimizer-cpu-offload", "use-precision-aware-optimizer")
"""The second is demanded by the first; it demands a sharded optimizer in turn."""


def plan_sections(view: View, launch: Launch, layers: Arguments) -> Sections:
    """All arguments of a plan by what they are for; ``layers`` is how the target splits them."""
    grid = view.even_grid
    model = view.model
    parallel: list[tuple[str, str]] = [
        ("tensor-model-parallel-size", str(grid.tp)),
        ("pipeline-model-parallel-size", str(grid.pp)),
        ("context-parallel-size", str(grid.cp)),
    ]
    parallel += expert_arguments(view)
    if grid.tp > 1 and view.job.sequence_parallel:
        parallel.append(("sequence-parallel", ""))
    if launch.order == "dp slowest":
        parallel.append(("use-tp-pp-dp-mapping", ""))
    share = f"{grid.world} devices, {grid.dp} times the model"
    if grid.ep > 1:
        share = f"{grid.world} devices, {grid.dp} data-parallel ranks"
    turns = f", {grid.chunks} chunks each" if grid.chunks > 1 else ""
    return (
        (f"where: {share}", tuple(parallel)),
        (f"which of the {model.blocks} layers on which of the {grid.pp} stages{turns}", layers),
        (f"batch: {grid.micro_batches} micro-batches per replica", batch_arguments(view)),
        ("recomputation", recompute_arguments(view)),
        ("state: precision, optimizer, what is sharded", state_arguments(view)),
        ("the model, as far as the plan knows it", _model(view)),
        ("experts as they are priced: their products, copies of tokens", grouped_arguments(view)),
    )


def expert_arguments(view: View) -> Arguments:
    """Where experts lie; over hosts tokens go by DeepEP, once to each host, as they are priced."""
    grid = view.even_grid
    if grid.ep == 1:
        return ()
    found = [
        ("expert-model-parallel-size", str(grid.ep)),
        ("expert-tensor-parallel-size", str(grid.stages[0].expert_slices)),
    ]
    return (*found, ("moe-flex-dispatcher-backend", "deepep")) if over_hosts(view) else tuple(found)


def grouped_arguments(view: View) -> Arguments:
    """Experts by one call, tokens copied by one kernel: Transformer Engine 1.9 has it, and 2.1."""
    return ((GROUPED, ""), (PERMUTE, "")) if True in view.grouped_experts else ()


def grouped_exports(view: View) -> tuple[tuple[str, str], ...]:
    """On Hopper one kernel for all experts, as measured; else one launch each, from C++."""
    return (("NVTE_USE_CUTLASS_GROUPED_GEMM", "1"),) if True in view.grouped_experts else ()


def unfused_copies(view: View) -> tuple[str, ...]:
    """Plans of experts count fused copies of tokens; not every export asks for them."""
    if view.grouped_experts != {False}:
        return ()
    return (f"tokens go to experts by fused copies in the price, here without --{PERMUTE}",)


def _model(view: View) -> Arguments:
    """The model's arguments; experts over hosts take the dispatcher that knows of hosts."""
    found = model_arguments(view.model, view.job.seq_len)
    kind = "moe-token-dispatcher-type"
    return tuple((flag, "flex" if flag == kind and over_hosts(view) else v) for flag, v in found)


def over_hosts(view: View) -> bool:
    """Whether the experts of some stage lie on several hosts."""
    replicas = (r for p in view.plan.pipelines for s in p.stages for r in s.replicas)
    return any(
        r.mesh.expert_parallel > 1 and len({d.rpartition("/")[0] for d in r.devices}) > 1
        for r in replicas
    )


def turn_arguments(view: View) -> Arguments:
    """How many micro-batches run through a chunk before the next one; by default one per stage."""
    grid = view.even_grid
    if grid.schedule != "interleaved":
        return ()
    group = len(groups(grid.micro_batches, grid.pp)[0])
    flag = "microbatch-group-size-per-virtual-pipeline-stage"
    return () if group == grid.pp else ((flag, str(group)),)


def batch_arguments(view: View) -> Arguments:
    """Rows of a micro-batch and of a step."""
    grid = view.even_grid
    return (
        ("micro-batch-size", str(grid.rows)),
        ("global-batch-size", str(grid.global_batch)),
    )


def recompute_arguments(view: View) -> Arguments:
    """One kind for the whole job; full recomputation may stop after K layers of every stage,
    or of every chunk of it."""
    kind, count = common_recompute(view)
    if kind == "selective":
        return (("recompute-granularity", "selective"), ("recompute-modules", "core_attn"))
    if kind == "full":
        every = count is None
        return (
            ("recompute-granularity", "full"),
            ("recompute-method", "uniform" if every else "block"),
            ("recompute-num-layers", "1" if count is None else str(count)),
        )
    return ()


def state_arguments(view: View) -> Arguments:
    """Precision, gradients, optimizer and its sharding."""
    job, grid = view.job, view.even_grid
    found: list[tuple[str, str]] = []
    if job.precision in ("bf16", "fp16"):
        found.append((job.precision, ""))
    if job.precision == "bf16" and job.state_bytes.gradient == 2:
        found.append(("grad-reduce-in-bf16", ""))
    if job.precision == "fp16" and job.state_bytes.gradient == 4:
        found.append(("accumulate-allreduce-grads-in-fp32", ""))
    found.append(("optimizer", "sgd" if job.optimizer == "sgd" else "adam"))
    if grid.zero >= 1:
        found.append(("use-distributed-optimizer", ""))
    if grid.offload:
        found += [(flag, "") for flag in OFFLOAD] + [("optimizer-offload-fraction", "1.0")]
    return tuple(found)


def entries(arguments: Arguments) -> tuple[str, ...]:
    """``--flag value`` lines, values quoted for a shell where they need it."""
    return tuple(f"--{flag} {_quoted(value)}".rstrip() for flag, value in arguments)


def read_flags(words: Sequence[str]) -> dict[str, str]:
    """Flags of a command line with their values, several joined by a space. ValueError if two."""
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag = word[2:]
            if flag in found:
                raise ValueError(f"--{flag} is given twice")
            found[flag] = ""
        elif not flag:
            raise ValueError(f"{word} belongs to no flag")
        else:
            found[flag] = f"{found[flag]} {word}".strip()
    return found


def todo(view: View) -> tuple[str, ...]:
    """What the user must add to Megatron's arguments."""
    return (
        "data, tokenizer, learning rate, length of the run: pass them to the script, as in "
        "--data-path … --tokenizer-type … --lr … --train-iters …",
        f"settings of the model that change no size: {', '.join(outside(view.model))}",
    )


def megatron_differences(view: View) -> tuple[str, ...]:
    """What Megatron does otherwise than the plan was priced with."""
    return (
        "Megatron pads the vocabulary to a multiple of 128 · tp "
        f"(--make-vocab-size-divisible-by): {view.model.size('vocab_size'):,} entries here",
    )


def with_common(written: Written, view: View) -> Written:
    """The same with what holds for every target of this kind."""
    return Written(
        files=written.files,
        run=written.run,
        todo=(*written.todo, *todo(view)),
        differences=(*written.differences, *megatron_differences(view)),
    )


def _quoted(value: str) -> str:
    return f"'{value}'" if set(value) & set("|*() ") else value
