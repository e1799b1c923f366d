"""Megatron-LM arguments: a layout and a job.

The arguments may stand in a launch script: assignments, arrays and line continuations of the shell
are followed as far as plain values go. What this planner cannot express (context and expert
parallelism, chunks of unequal layers, several sizes of recomputation) is a problem, unless
``--drop FLAG`` says to leave the flag out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.errors import InputError, Problem
from planner.importers.imported import Imported, checked_layout, refuse
from planner.importers.megatron_stages import chunks_of, stages_of
from planner.importers.shell import ShellError, flags_of
from planner.inputs.document import JsonValue

FORMAT = "Megatron-LM arguments"

UNPRICED = {
    "context-parallel-size": "context parallelism",
    "expert-model-parallel-size": "expert parallelism",
    "expert-tensor-parallel-size": "a tensor-parallel degree of its own for experts",
}
"""Flags whose value 1 (or absence) is all that can be priced."""

SHARDED = {
    "use-megatron-fsdp": "Megatron FSDP shards weights and gradients",
    "use-torch-fsdp2": "FSDP2 shards weights and gradients",
    "cpu-offloading": "activations move to host memory",
    "optimizer-cpu-offload": "the optimizer moves to host memory",
}
"""Switches that change memory in ways that are not priced."""


@dataclass
class Flags:
    """The flags of a launch, and what was wrong with those that were read so far."""

    source: str
    values: dict[str, tuple[str, ...]]
    dropped: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether a switch is on."""
        return name in self.values and name not in self.dropped

    def text(self, name: str) -> str | None:
        """The value of a flag, None where it is absent."""
        if not self.has(name):
            return None
        values = self.values[name]
        if len(values) != 1:
            self.wrong(name, f"has {len(values)} values", f"write --{name} VALUE")
            return None
        return values[0]

    def number(self, name: str) -> int | None:
        """The whole number of a flag, None where it is absent or none."""
        text = self.text(name)
        if text is None:
            return None
        if not text.isdigit() or int(text) < 1:
            remedy = f"write --{name} N"
            if text.startswith("$"):
                remedy = f"say what it is: --var {text.strip('${}')}=N"
            self.wrong(name, f"{text!r} is not a whole number of at least 1", remedy)
            return None
        return int(text)

    def wrong(self, name: str, message: str, remedy: str) -> None:
        """Keep a problem of one flag."""
        self.problems.append(Problem(f"{self.source}: --{name}", message, remedy))


def import_megatron(
    text: str,
    source: str,
    *,
    variables: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> tuple[Imported, Imported]:
    """The layout and the job. Raises InputError with every problem of the arguments."""
    flags = _flags(text, source, variables, drop)
    _refuse_unpriced(flags)
    layout = _layout(flags)
    job = _job(flags)
    refuse(flags.problems)
    read = (f"{len(flags.values)} arguments",)
    given = tuple(f"without --{name}" for name in flags.dropped)
    notes = tuple(flags.notes)
    return (
        checked_layout(Imported("layout", source, FORMAT, layout, read, given, notes)),
        Imported("job", source, FORMAT, job, read, given),
    )


def _flags(text: str, source: str, variables: Sequence[str], drop: Sequence[str]) -> Flags:
    problems: list[Problem] = []
    known: dict[str, str] = {}
    for item in variables:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            problems.append(Problem(f"--var {item}", "is not NAME=VALUE", "write --var TP=8"))
        known[name] = value
    try:
        values = flags_of(text, known)
    except ShellError as error:
        where = f"{source}:{error.line}" if error.line else source
        raise InputError([*problems, Problem(where, str(error), error.remedy)]) from None
    dropped = tuple(name.lstrip("-") for name in drop)
    for name in dropped:
        if name not in values:
            message = "the arguments have no such flag"
            problems.append(Problem(f"--drop {name}", message, "leave it out"))
    if not values:
        message = "holds no argument that starts with --"
        problems.append(Problem(source, message, "give the launch script or its arguments"))
    refuse(problems)
    return Flags(source, values, dropped)


def _refuse_unpriced(flags: Flags) -> None:
    for name, what in UNPRICED.items():
        value = flags.number(name)
        if value is not None and value > 1:
            remedy = f"--drop {name} prices the layout without it"
            flags.wrong(name, f"{what} is not priced by this planner", remedy)
    for name, what in SHARDED.items():
        if flags.has(name):
            remedy = f"--drop {name} prices the layout without it"
            flags.wrong(name, f"{what}: not priced by this planner", remedy)


def _layout(flags: Flags) -> dict[str, JsonValue]:
    tp = flags.number("tensor-model-parallel-size") or 1
    pp = flags.number("pipeline-model-parallel-size") or 1
    layout: dict[str, JsonValue] = {"tp": tp, "pp": pp}
    rows = flags.number("micro-batch-size")
    if rows is None and not flags.has("micro-batch-size"):
        flags.wrong("micro-batch-size", "is missing", "Megatron needs it as well: add it")
    layout["micro_batch_rows"] = rows or 1
    chunks = chunks_of(flags, pp)
    layout["recompute"] = _recompute(flags, pp * chunks)
    layout["zero"] = 1 if flags.has("use-distributed-optimizer") else 0
    stages = stages_of(flags, pp, chunks)
    if chunks > 1:
        layout["virtual"] = chunks
    if stages is not None:
        layout["layers_per_stage"] = stages
    if tp > 1 and not flags.has("sequence-parallel"):
        flags.notes.append("sequence parallelism is priced although the arguments have it off")
    if flags.has("overlap-grad-reduce") or flags.has("overlap-param-gather"):
        flags.notes.append("synchronisation is priced without the overlap that is asked for")
    return layout


def _recompute(flags: Flags, parts: int) -> JsonValue:
    """The policy; Megatron counts what it recomputes by ``parts``, stages or their chunks."""
    granularity = flags.text("recompute-granularity")
    if granularity is None:
        return "selective" if flags.has("recompute-activations") else "none"
    if granularity == "selective":
        modules = flags.values.get("recompute-modules", ("core_attn",))
        if set(modules) != {"core_attn"} and flags.has("recompute-modules"):
            extra = ", ".join(m for m in modules if m != "core_attn")
            flags.notes.append(f"only core_attn is priced as recomputed, not {extra}")
        return "selective"
    if granularity != "full":
        flags.wrong("recompute-granularity", f"{granularity!r} is unknown", "full or selective")
        return "none"
    count, layers = flags.number("recompute-num-layers"), flags.number("num-layers")
    if flags.text("recompute-method") == "block" and count is not None:
        if layers is None or count * parts < layers:
            message = f"recomputes {count} layers of each stage; a layout says all or none"
            remedy = "--drop recompute-num-layers prices all of them"
            flags.wrong("recompute-num-layers", message, remedy)
    elif count is not None and count > 1:
        flags.notes.append(f"checkpoints every {count} layers are priced as one per layer")
    return "full"


def _job(flags: Flags) -> dict[str, JsonValue]:
    job: dict[str, JsonValue] = {}
    for name, field_ in (("global-batch-size", "global_batch"), ("seq-length", "seq_len")):
        value = flags.number(name)
        if value is not None:
            job[field_] = value
        elif not flags.has(name):
            flags.wrong(name, "is missing", f"add it: the job's {field_} follows from it")
    if flags.has("bf16") and flags.has("fp16"):
        flags.wrong("bf16", "stands beside --fp16", "keep one of them")
    precision = "bf16" if flags.has("bf16") else "fp16" if flags.has("fp16") else "fp32"
    job["precision"] = precision
    optimizer = flags.text("optimizer") or "adam"
    if optimizer not in ("adam", "sgd"):
        flags.wrong("optimizer", f"{optimizer!r} is not priced", "adam or sgd")
    job["optimizer"] = optimizer
    if (flags.number("num-experts") or 1) > 1:
        job["techniques"] = {"grouped_experts": flags.has("moe-grouped-gemm")}
        if not flags.has("moe-permute-fusion"):
            flags.notes.append("tokens are copied to experts by fused kernels in the price")
    # Megatron accumulates gradients in fp32 whenever it trains in bf16
    if precision == "bf16" or flags.has("accumulate-allreduce-grads-in-fp32"):
        job["gradient_dtype"] = "fp32"
    return job
