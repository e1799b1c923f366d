"""Hugging Face Accelerate: a ``ParallelismConfig`` and the accelerator that goes with it.

Facts: accelerate 1.15, parallelism_config.py. It has no pipeline. Replicas that share their
optimizer state are FSDP2 whose weights stay gathered; tensor parallelism needs that sharding
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.placement import broken_placement, started
from planner.exporters.python_file import constants, python_file
from planner.exporters.ranks import grid_launch
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
from planner.exporters.view import View, recomputed

BLOCKS = {
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "mixtral": "MixtralDecoderLayer",
}
"""The class of one block in transformers, which FSDP wraps."""

CAPABILITY = Capability(
    target="accelerate",
    title="Hugging Face Accelerate 1.15",
    writes="a ParallelismConfig and its accelerator, a script per host",
    plan_classes=("rectangular",),
    schedules=(),
    recompute=("none", "full"),
    recompute_shape="one for the whole job",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "adam8bit", "sgd"),
    gradient_bytes=(2, 4),
    families=tuple(BLOCKS),
    vendors=("NVIDIA", "AMD"),
    floor=Floor((7, 0), "accelerate 1.15 on torch 2.13", "PyTorch builds for older chips end"),
    checked_by_target=(
        "check.py builds its ParallelismConfig; the planner's tests run it with accelerate 1.15"
    ),
    placement="any: the order of ranks, or one start per rank",
    pipeline_parallel=False,
    why_no_offload="its CPU offload (FSDP) moves weights and gradients as well",
    why_no_packing="its communication hooks pack what is summed inside hosts as well",
)

MODULE = "planned.py"


@dataclass(frozen=True, slots=True)
class Read:
    """The constants of the module, devices by rank, and the plan."""

    constants: dict[str, Any]
    devices: tuple[str, ...]
    view: View

    def size(self, name: str) -> int:
        """One of the sizes of the ParallelismConfig."""
        return int(self.constants[name])


def write(view: View) -> Written:
    """One Python module that the user's training script imports."""
    launch = grid_launch(view, ("dp slowest",))
    program = Program(words=('"${TRAIN:?set TRAIN to your training script}"', '"$@"'))
    files = (
        File(MODULE, python_file("accelerate_planned", view.header, _values(view))),
        File("check.py", python_file("accelerate_check", view.header, {})),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "python check.py                              # where accelerate is installed",
        "TRAIN=train.py nodes/$(hostname).sh          # on every host",
    )
    todo = (
        f"a training script that takes accelerator() from {MODULE}, a DataLoader of MICRO_BATCH "
        "rows per process, and for tensor parallelism the model loaded with "
        "device_mesh=accelerator.torch_device_mesh and tp_plan='auto'",
    )
    return Written(files, run, todo, _differences(view))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the module's constants back, and where the scripts start which rank."""
    try:
        read = Read(constants(files[MODULE]), started(view, files), view)
    except ValueError as error:
        raise unreadable(MODULE, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, MODULE))


def _values(view: View) -> dict[str, object]:
    grid, job = view.even_grid, view.job
    sharded = grid.zero >= 1 and grid.dp > 1
    return {
        "PLAN_ID": view.plan.plan_id,
        "DP_REPLICATE": 1 if sharded else grid.dp,
        "DP_SHARD": grid.dp if sharded else 1,
        "TP": grid.tp,
        "MICRO_BATCH": grid.rows,
        "ACCUMULATION_STEPS": grid.micro_batches,
        "GLOBAL_BATCH": grid.global_batch,
        "SEQUENCE_LENGTH": job.seq_len,
        "PRECISION": "no" if job.precision == "fp32" else job.precision,
        "GRADIENTS_IN_FP32": job.state_bytes.gradient == 4,
        "RECOMPUTE": any(s.full for s in recomputed(view)),
        "BLOCK": BLOCKS[view.model.family],
    }


def _differences(view: View) -> tuple[str, ...]:
    found = []
    if view.even_grid.tp > 1 and view.job.sequence_parallel:
        found.append("no sequence parallelism inside a tensor-parallel group: more activations")
    if view.even_grid.zero >= 1 and view.even_grid.dp > 1:
        found.append("ZeRO 1 is FSDP2 whose weights stay gathered between micro-batches")
    return tuple(found)


def _world(r: Read) -> str:
    made = r.size("DP_REPLICATE") * r.size("DP_SHARD") * r.size("TP")
    return not_equal("dp_replicate · dp_shard · tp", made, len(r.devices))


def _beside(r: Read) -> str:
    if r.size("TP") > 1 and r.size("DP_REPLICATE") > 1 and r.size("DP_SHARD") == 1:
        return "tensor parallelism needs dp_shard > 1 beside it; plan with zero1 allowed"
    return ""


def _batch(r: Read) -> str:
    made = r.size("MICRO_BATCH") * r.size("ACCUMULATION_STEPS")
    made *= r.size("DP_REPLICATE") * r.size("DP_SHARD")
    return not_equal("micro-batch · accumulation · replicas", made, r.size("GLOBAL_BATCH"))


def _heads(r: Read) -> str:
    model = r.view.model
    heads, kv = model.size("num_attention_heads"), model.size("num_key_value_heads")
    return not_divisible("attention heads", heads, "tp", r.size("TP")) or not_divisible(
        "key/value heads", kv, "tp", r.size("TP")
    )


def _degrees(r: Read) -> str:
    grid = r.view.even_grid
    replicas = r.size("DP_REPLICATE") * r.size("DP_SHARD")
    pairs = (
        ("tp", r.size("TP"), grid.tp),
        ("replicas", replicas, grid.dp),
        ("global batch", r.size("GLOBAL_BATCH"), r.view.job.global_batch),
        ("micro-batch", r.size("MICRO_BATCH"), grid.rows),
        ("micro-batches", r.size("ACCUMULATION_STEPS"), grid.micro_batches),
        ("sequence length", r.size("SEQUENCE_LENGTH"), r.view.job.seq_len),
    )
    return first(not_equal(*pair) for pair in pairs)


def _sharding(r: Read) -> str:
    grid = r.view.even_grid
    planned = grid.zero >= 1 and grid.dp > 1
    return not_equal("sharded optimizer state", r.size("DP_SHARD") > 1, planned)


def _recompute(r: Read) -> str:
    planned = any(s.full for s in recomputed(r.view))
    return not_equal("recomputation", r.constants["RECOMPUTE"], planned)


def _placement(r: Read) -> str:
    return broken_placement(r.view, r.devices, "dp slowest")


RULES: tuple[Rule[Read], ...] = (
    Rule("world", "processes = dp_replicate · dp_shard · tp", _world),
    Rule("beside", "tensor parallelism has dp_shard > 1 beside replicas", _beside),
    Rule("batch", "batch = micro-batch · accumulation steps · replicas", _batch),
    Rule("heads", "attention and key/value heads divide by tp", _heads),
    Rule("degrees", "degrees, batch and sequence are the plan's", _degrees),
    Rule("sharding", "the optimizer state is sharded as planned", _sharding),
    Rule("recompute", "every block is recomputed, or none, as planned", _recompute),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)
