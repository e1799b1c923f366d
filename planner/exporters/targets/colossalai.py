"""ColossalAI: a ``HybridParallelPlugin`` with layers and recomputed layers per stage.

Facts: ColossalAI of April 2026, booster/plugin/hybrid_parallel_plugin.py and
shardformer/shard/grad_ckpt_config.py. It runs on CUDA and NPU devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.placement import broken_placement, started
from planner.exporters.python_file import constants, python_file
from planner.exporters.ranks import Order, grid_launch
from planner.exporters.rules import (
    Rule,
    broken_rules,
    first,
    not_divisible,
    not_equal,
    rule_texts,
    unreadable,
)
from planner.exporters.scripts import Program, hostfile, node_scripts, rank_table
from planner.exporters.view import View, block_counts, recomputed

CAPABILITY = Capability(
    target="colossalai",
    title="ColossalAI (April 2026)",
    writes="a HybridParallelPlugin, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b",),
    recompute=("none", "full"),
    recompute_shape="a count per stage",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2,),
    families=("llama", "mistral", "qwen2", "qwen3", "gpt2", "opt", "bloom"),
    vendors=("NVIDIA", "Huawei"),
    floor=Floor((7, 0), "ColossalAI", "its documentation asks for compute capability 7.0"),
    checked_by_target="not run: its rules were read in its source",
    placement="any: dp_outside, or one start per rank",
)

MODULE = "planned.py"


@dataclass(frozen=True, slots=True)
class Read:
    """The constants of the module, devices by rank, and the plan."""

    constants: dict[str, Any]
    devices: tuple[str, ...]
    view: View

    def number(self, name: str) -> int:
        """A constant as a whole number."""
        return int(self.constants[name])

    @property
    def replicas(self) -> int:
        """Data-parallel degree, which ColossalAI derives."""
        return len(self.devices) // max(1, self.number("TP") * self.number("PP"))


def write(view: View) -> Written:
    """One Python module that the user's training script imports."""
    launch = grid_launch(view, ("dp slowest", "pp slowest"))
    program = Program(words=('"${TRAIN:?set TRAIN to your training script}"', '"$@"'))
    values = _values(view, launch.order == "dp slowest")
    files = (
        File(MODULE, python_file("colossalai_planned", view.header, values)),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = ("TRAIN=train.py nodes/$(hostname).sh   # on every host",)
    todo = (
        f"a training script: Booster(plugin=plugin()) from {MODULE}, with batches of LOCAL_BATCH "
        "rows per replica; the optimizer and its learning rate",
    )
    return Written(files, run, todo)


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the module's constants back, and where the scripts start which rank."""
    try:
        read = Read(constants(files[MODULE]), started(view, files), view)
    except ValueError as error:
        raise unreadable(MODULE, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, MODULE))


def _values(view: View, dp_outside: bool) -> dict[str, object]:
    grid, job = view.even_grid, view.job
    return {
        "PLAN_ID": view.plan.plan_id,
        "TP": grid.tp,
        "PP": grid.pp,
        "ZERO": grid.zero if grid.dp > 1 else 0,
        "MICRO_BATCH": grid.rows,
        "MICRO_BATCHES": grid.micro_batches,
        "LOCAL_BATCH": grid.rows * grid.micro_batches,
        "GLOBAL_BATCH": grid.global_batch,
        "SEQUENCE_LENGTH": job.seq_len,
        "PRECISION": job.precision,
        "SEQUENCE_PARALLEL": job.sequence_parallel and grid.tp > 1,
        "DP_OUTSIDE": dp_outside,
        "LAYERS": view.model.blocks,
        "LAYERS_PER_STAGE": list(block_counts(view)),
        "RECOMPUTED_PER_STAGE": [stage.full for stage in recomputed(view)],
    }


def _world(r: Read) -> str:
    return not_divisible("processes", len(r.devices), "tp · pp", r.number("TP") * r.number("PP"))


def _layers(r: Read) -> str:
    counts = r.constants["LAYERS_PER_STAGE"]
    if len(counts) != r.number("PP"):
        return f"{len(counts)} entries for {r.number('PP')} stages"
    if sum(counts) != r.number("LAYERS"):
        return f"the stages hold {sum(counts)} layers, the model {r.number('LAYERS')}"
    if min(counts) < 1:
        return "every stage needs a layer; plan with fewer stages"
    return not_equal("layers per stage", tuple(counts), block_counts(r.view))


def _recomputed(r: Read) -> str:
    counts = r.constants["RECOMPUTED_PER_STAGE"]
    layers = r.constants["LAYERS_PER_STAGE"]
    if len(counts) != r.number("PP") or any(c > n for c, n in zip(counts, layers)):
        return f"{counts} recomputed of {layers} layers"
    return not_equal("recomputed layers", counts, [s.full for s in recomputed(r.view)])


def _zero(r: Read) -> str:
    zero = r.number("ZERO")
    if zero not in (0, 1, 2) or (zero > 1 and r.number("PP") > 1):
        return f"ZeRO {zero} does not go with {r.number('PP')} stages"
    if zero and r.constants["PRECISION"] == "fp32":
        return "ZeRO needs fp16 or bf16; plan with --forbid zero1"
    grid = r.view.even_grid
    return not_equal("ZeRO", zero, grid.zero if grid.dp > 1 else 0)


def _batch(r: Read) -> str:
    local = r.number("LOCAL_BATCH")
    return not_divisible("local batch", local, "micro-batch", r.number("MICRO_BATCH")) or not_equal(
        "local batch · replicas", local * r.replicas, r.number("GLOBAL_BATCH")
    )


def _heads(r: Read) -> str:
    heads = r.view.model.size("num_attention_heads")
    return not_divisible("attention heads", heads, "tp", r.number("TP"))


def _sequence(r: Read) -> str:
    tp = r.number("TP")
    if r.constants["SEQUENCE_PARALLEL"] and tp == 1:
        return "sequence parallelism needs tensor parallelism"
    parts = tp if r.constants["SEQUENCE_PARALLEL"] else 1
    return not_divisible("sequence length", r.number("SEQUENCE_LENGTH"), "tp", parts)


def _degrees(r: Read) -> str:
    grid = r.view.even_grid
    pairs = (
        ("tp", r.number("TP"), grid.tp),
        ("pp", r.number("PP"), grid.pp),
        ("replicas", r.replicas, grid.dp),
        ("global batch", r.number("GLOBAL_BATCH"), r.view.job.global_batch),
        ("micro-batch", r.number("MICRO_BATCH"), grid.rows),
        ("sequence length", r.number("SEQUENCE_LENGTH"), r.view.job.seq_len),
        ("precision", r.constants["PRECISION"], r.view.job.precision),
    )
    return first(not_equal(*pair) for pair in pairs)


def _placement(r: Read) -> str:
    order: Order = "dp slowest" if r.constants["DP_OUTSIDE"] else "pp slowest"
    return broken_placement(r.view, r.devices, order)


RULES: tuple[Rule[Read], ...] = (
    Rule("world", "processes divide by tp · pp", _world),
    Rule("layers", "the stages hold every layer once, as planned", _layers),
    Rule("recomputed", "as many layers of every stage are recomputed as planned", _recomputed),
    Rule("zero", "ZeRO as planned, at most 1 in a pipeline, none in fp32", _zero),
    Rule("batch", "micro-batches fill the local batch, replicas the global one", _batch),
    Rule("heads", "attention heads divide by tp", _heads),
    Rule("sequence", "sequence parallelism has tp, and the sequence divides", _sequence),
    Rule("degrees", "degrees, batch, sequence and precision are the plan's", _degrees),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)
