"""What Megatron-Core checks of its arguments, and what it does not check but needs.

From megatron/training/arguments.py, core/transformer/transformer_config.py and the layout's own
checks; every rule was seen to fire in the real parser or is marked as ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.interleaved import groups
from planner.exporters.megatron_arguments import GROUPED, OFFLOAD, PERMUTE
from planner.exporters.megatron_layout import broken_layout, layout_counts, parse_layout
from planner.exporters.megatron_model import parameters
from planner.exporters.placement import broken_placement
from planner.exporters.rules import Rule, first, not_divisible, not_equal
from planner.exporters.view import View, block_counts, recomputed


@dataclass(frozen=True, slots=True)
class MegatronRead:
    """Flags as they were read back, devices by rank as the scripts start them, and the plan."""

    flags: dict[str, str]
    devices: tuple[str, ...]
    view: View

    @property
    def world(self) -> int:
        """Processes that are started."""
        return len(self.devices)

    def number(self, flag: str, default: int = 1) -> int:
        """The value of a flag as a whole number."""
        return int(self.flags.get(flag) or default)

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""
        return self.number("tensor-model-parallel-size")

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return self.number("pipeline-model-parallel-size")

    @property
    def cp(self) -> int:
        """Context-parallel degree."""
        return self.number("context-parallel-size")

    @property
    def dp(self) -> int:
        """Replicas: Megatron derives them from the number of processes."""
        return max(1, self.world // (self.tp * self.pp * self.cp))


def _world(r: MegatronRead) -> str:
    return not_divisible("the number of processes", r.world, "tp · pp · cp", r.tp * r.pp * r.cp)


def _batch(r: MegatronRead) -> str:
    step = r.number("micro-batch-size") * r.dp
    return not_divisible("global batch", r.number("global-batch-size"), "micro-batch · dp", step)


def _heads(r: MegatronRead) -> str:
    return not_divisible("attention heads", r.number("num-attention-heads"), "tp", r.tp)


def _groups(r: MegatronRead) -> str:
    groups = r.number("num-query-groups", r.number("num-attention-heads"))
    if groups % r.tp and r.tp % groups:
        return f"{groups} query groups and tp {r.tp}: neither divides the other"
    return ""


def _ffn(r: MegatronRead) -> str:
    width = r.number("moe-ffn-hidden-size", r.number("ffn-hidden-size"))
    return not_divisible("inner width of the MLP", width, "tp", r.tp)


def _sequence(r: MegatronRead) -> str:
    seq = r.number("seq-length")
    parts = (2 * r.cp if r.cp > 1 else 1) * (r.tp if "sequence-parallel" in r.flags else 1)
    return not_divisible("sequence length", seq, "2 · cp · tp", parts)


def _positions(r: MegatronRead) -> str:
    if r.number("max-position-embeddings") < r.number("seq-length"):
        return "max-position-embeddings is less than seq-length"
    return ""


def _recompute(r: MegatronRead) -> str:
    kind = r.flags.get("recompute-granularity", "")
    if kind == "full" and r.flags.get("recompute-method") not in ("uniform", "block"):
        return "full recomputation needs a method"
    if kind == "selective" and "recompute-method" in r.flags:
        return "selective recomputation has no method"
    return ""


def _recomputed_layers(r: MegatronRead) -> str:
    """Ours: what the flags recompute is what the plan does."""
    kind = r.flags.get("recompute-granularity", "")
    counts = block_counts(r.view)
    count = r.number("recompute-num-layers")
    block = r.flags.get("recompute-method") == "block"
    full = tuple(min(count, n) if block else n for n in counts)
    expected = recomputed(r.view)
    found = tuple((n if kind == "selective" else 0) for n in counts)
    wrong = not_equal("selectively recomputed", found, tuple(s.selective for s in expected))
    fully = full if kind == "full" else tuple(0 for _ in counts)
    return wrong or not_equal("fully recomputed", fully, tuple(s.full for s in expected))


def _experts(r: MegatronRead) -> str:
    """Experts over their devices; with tensor parallelism Megatron wants sequence parallelism."""
    ep, slices = r.number("expert-model-parallel-size"), r.number("expert-tensor-parallel-size")
    if ep == 1:
        return not_equal("ep", 1, r.view.even_grid.ep)
    if r.tp > 1 and "sequence-parallel" not in r.flags:
        return "experts over devices and tensor parallelism go with sequence-parallel alone"
    if slices * ep > r.tp * r.cp * r.dp:
        return f"{slices * ep} devices for experts, a stage has {r.tp * r.cp * r.dp}"
    return (
        not_divisible("experts", r.number("num-experts"), "ep", ep)
        or not_divisible("devices of a stage", r.tp * r.cp * r.dp, "etp · ep", slices * ep)
        or not_equal("ep", ep, r.view.even_grid.ep)
        or not_equal("slices of an expert", slices, r.view.even_grid.stages[0].expert_slices)
    )


def _degrees(r: MegatronRead) -> str:
    grid = r.view.even_grid
    pairs = (
        ("tp", r.tp, grid.tp),
        ("pp", r.pp, grid.pp),
        ("cp", r.cp, grid.cp),
        ("dp", r.dp, grid.dp),
        ("processes", r.world, grid.world),
        ("micro-batch", r.number("micro-batch-size"), grid.rows),
        ("global batch", r.number("global-batch-size"), r.view.job.global_batch),
        ("sequence length", r.number("seq-length"), r.view.job.seq_len),
    )
    return first(not_equal(*pair) for pair in pairs)


def _parameters(r: MegatronRead) -> str:
    """Ours: the model that these arguments build is the plan's."""
    made = parameters(r.flags, r.view.model.size("vocab_size"))
    wrong = not_equal("parameters", f"{made:,}", f"{r.view.model.parameters:,}")
    return f"{wrong}; biases that the family does not have by itself?" if wrong else ""


def _optimizer(r: MegatronRead) -> str:
    sharded = "use-distributed-optimizer" in r.flags
    return not_equal("a sharded optimizer", sharded, r.view.even_grid.zero >= 1)


def _offload(r: MegatronRead) -> str:
    found = [flag for flag in OFFLOAD if flag in r.flags]
    if found and len(found) < len(OFFLOAD):
        return f"--{found[0]} goes with --{next(f for f in OFFLOAD if f not in found)}"
    if found and "use-distributed-optimizer" not in r.flags:
        return "offload takes a sharded optimizer: plan with job.techniques.zero1=true"
    wanted = float(r.flags.get("optimizer-offload-fraction", "1.0")) if found else 0.0
    return not_equal("the offloaded part", wanted, 1.0 if r.view.even_grid.offload else 0.0)


def _precision(r: MegatronRead) -> str:
    both = "bf16" in r.flags and "fp16" in r.flags
    found = next((p for p in ("bf16", "fp16") if p in r.flags), "fp32")
    return "bf16 and fp16 at once" if both else not_equal("precision", found, r.view.job.precision)


def _placement(r: MegatronRead) -> str:
    """Ours: Megatron counts tensor parallel, then replicas, then stages, or stages first."""
    mapped = "use-tp-pp-dp-mapping" in r.flags
    return broken_placement(r.view, r.devices, "dp slowest" if mapped else "pp slowest")


COMMON: tuple[Rule[MegatronRead], ...] = (
    Rule("world", "processes divide by tp · pp · cp", _world),
    Rule("batch", "the global batch divides by micro-batch · dp", _batch),
    Rule("heads", "attention heads divide by tp", _heads),
    Rule("groups", "query groups divide by tp, or tp by them", _groups),
    Rule("ffn", "the inner width of the MLP divides by tp", _ffn),
    Rule("sequence", "the sequence divides by 2 · cp and by tp", _sequence),
    Rule("positions", "the sequence fits the positions", _positions),
    Rule("recompute", "full recomputation has a method, selective none", _recompute),
    Rule("recomputed", "as many layers are recomputed as planned", _recomputed_layers),
    Rule("degrees", "degrees, batch and sequence are the plan's", _degrees),
    Rule("parameters", "the model has the plan's parameters", _parameters),
    Rule("optimizer", "the optimizer is sharded as planned", _optimizer),
    Rule("offload", "the optimizer's state lies where the plan keeps it, all of it", _offload),
    Rule("precision", "one precision, the plan's", _precision),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)


def _grouped(r: MegatronRead) -> str:
    """Grouped products are bf16's, and need Transformer Engine's layers."""
    found = GROUPED in r.flags
    if found and "bf16" not in r.flags:
        return f"--{GROUPED} goes with bf16"
    if (found or PERMUTE in r.flags) and r.flags.get("transformer-impl") == "local":
        return f"--{GROUPED} and --{PERMUTE} need Transformer Engine"
    return not_equal("experts as one product", found, True in r.view.grouped_experts)


GROUPS: tuple[Rule[MegatronRead], ...] = (
    Rule("grouped", "experts are one grouped product where they are priced so, in bf16", _grouped),
)

EXPERTS: tuple[Rule[MegatronRead], ...] = (
    Rule("experts", "experts divide by ep, a stage's devices by etp · ep, as planned", _experts),
)


def _layout(r: MegatronRead) -> str:
    text = r.flags.get("pipeline-model-parallel-layout")
    if text is None:
        return "" if r.pp == 1 else "no layout of the layers"
    try:
        stages = parse_layout(text)
    except ValueError as error:
        return str(error)
    wrong = broken_layout(stages, r.number("num-layers"), r.pp)
    wrong = wrong or not_equal("parts", len(stages), r.pp * r.view.even_grid.chunks)
    return wrong or not_equal("layers per stage", layout_counts(stages), block_counts(r.view))


def _exclusive(r: MegatronRead) -> str:
    others = (
        "decoder-first-pipeline-num-layers",
        "decoder-last-pipeline-num-layers",
        "account-for-embedding-in-pipeline-split",
        "account-for-loss-in-pipeline-split",
        "num-layers-per-virtual-pipeline-stage",
        "num-virtual-stages-per-pipeline-rank",
    )
    found = [flag for flag in others if flag in r.flags]
    layout = "pipeline-model-parallel-layout" in r.flags
    return f"--{found[0]} does not go with a layout" if found and layout else ""


def _turns(r: MegatronRead) -> str:
    """Groups of micro-batches: pp of them or more, at most all, the last one not below pp."""
    parts = r.flags.get("pipeline-model-parallel-layout", "").count("|") + 1
    flag = "microbatch-group-size-per-virtual-pipeline-stage"
    count = r.number("global-batch-size") // max(1, r.number("micro-batch-size") * r.dp)
    group = r.number(flag, r.pp)
    if parts <= r.pp:
        return f"--{flag} goes with several chunks per stage alone" if flag in r.flags else ""
    if "no-overlap-p2p-communication" in r.flags and r.pp < 3:
        return "two stages take turns only where their transfers overlap"
    if not r.pp <= group <= count or 0 < count % group < r.pp:
        return f"{count} micro-batches in groups of {group} over {r.pp} stages"
    planned = groups(r.view.even_grid.micro_batches, r.pp)
    return not_equal("micro-batches that take turns", group, len(planned[0]))


LAYOUT: tuple[Rule[MegatronRead], ...] = (
    Rule("layout", "the layout holds E first, L last and every layer once, as planned", _layout),
    Rule("exclusive", "no other flag splits the layers beside the layout", _exclusive),
)

TURNS: tuple[Rule[MegatronRead], ...] = (
    Rule("turns", "micro-batches take turns in groups of as many as stages or more", _turns),
)
