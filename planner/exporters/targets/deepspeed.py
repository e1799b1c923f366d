"""DeepSpeed: its JSON, and the exact layer partition for ``PipelineModule``.

Facts: DeepSpeed 0.19.8, deepspeed/runtime/config.py, pipe/module.py and pipe/topology.py. The JSON
knows no layers; its partition methods balance counts or parameters. An exact split is a subclass
that sets the bounds itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.placement import broken_placement, started
from planner.exporters.python_file import constants, python_file
from planner.exporters.ranks import Launch, Order, grid_launch
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

CAPABILITY = Capability(
    target="deepspeed",
    title="DeepSpeed 0.19.8",
    writes="its JSON, and the layer partition for PipelineModule",
    plan_classes=("rectangular",),
    schedules=("1f1b",),
    recompute=("none", "full"),
    recompute_shape="one for the whole job",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=None,
    vendors=("NVIDIA", "AMD"),
    floor=Floor((6, 0), "DeepSpeed 0.19.8", "its documentation lists Pascal and newer"),
    checked_by_target=(
        "check.py lets its DeepSpeedConfig and PipelineModule read the files; the planner's tests "
        "run it with DeepSpeed 0.19.8"
    ),
    placement="any: the topology's order of axes, or one start per rank",
    tensor_parallel=False,
    optimizer_offload=True,
    why_no_activations="its cpu_checkpointing waits for every copy, the plan copies beside work",
    why_no_packing="its quantised gradients (ZeRO++) are those of ZeRO 3 over all devices",
)

CONFIG = "ds_config.json"
PIPELINE = "planned_pipeline.py"
DTYPES = {"bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, slots=True)
class Read:
    """The JSON, the constants of the module, devices by rank, and the plan."""

    config: dict[str, Any]
    constants: dict[str, Any]
    devices: tuple[str, ...]
    view: View

    @property
    def replicas(self) -> int:
        """Data-parallel degree that DeepSpeed derives from the processes."""
        stages = int(self.constants["NUM_STAGES"])
        return max(1, len(self.devices) // max(1, stages))


def write(view: View) -> Written:
    """The JSON and one Python module, imported by the user's training script."""
    launch = grid_launch(view, ("pp slowest", "dp slowest"))
    program = Program(words=('"${TRAIN:?set TRAIN to your training script}"', '"$@"'))
    files = (
        File(CONFIG, json.dumps(_config(view), indent=2) + "\n"),
        File(PIPELINE, _module(view, launch)),
        File("check.py", python_file("deepspeed_check", view.header, {})),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "python check.py                              # where DeepSpeed is installed",
        "TRAIN=train.py nodes/$(hostname).sh          # on every host",
    )
    return Written(files, run, _todo(view), _differences(view))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the JSON and the module's constants back, and where the scripts start which rank."""
    try:
        config = json.loads(files[CONFIG])
        read = Read(config, constants(files[PIPELINE]), started(view, files), view)
    except ValueError as error:
        raise unreadable(CONFIG, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, CONFIG))


def _config(view: View) -> dict[str, Any]:
    grid, job = view.even_grid, view.job
    config: dict[str, Any] = {
        "train_batch_size": grid.global_batch,
        "train_micro_batch_size_per_gpu": grid.rows,
        "gradient_accumulation_steps": grid.micro_batches,
        "zero_optimization": {"stage": _zero_stage(view)},
    }
    if grid.offload:
        offload = {"device": "cpu", "pin_memory": True}
        config["zero_optimization"]["offload_optimizer"] = offload
    if job.precision in DTYPES:
        config[DTYPES[job.precision]] = {"enabled": True}
        wide = "fp32" if job.state_bytes.gradient == 4 else DTYPES[job.precision]
        config["data_types"] = {"grad_accum_dtype": wide}
    return config


def _zero_stage(view: View) -> int:
    """Offload is ZeRO's: it takes stage 1 even of a single replica."""
    grid = view.even_grid
    return 1 if grid.offload else grid.zero if grid.dp > 1 else 0


def _module(view: View, launch: Launch) -> str:
    grid = view.even_grid
    order = ["pipe", "data"] if launch.order == "pp slowest" else ["data", "pipe"]
    values = {
        "PLAN_ID": view.plan.plan_id,
        "LAYERS": list(view.model.layers),
        "NUM_STAGES": grid.pp,
        "NUM_REPLICAS": grid.dp,
        "PARTS": [0, *(stage.end for stage in grid.stages)],
        "AXES": order,
        "CHECKPOINT_INTERVAL": 1 if any(s.full for s in recomputed(view)) else 0,
    }
    return python_file("deepspeed_pipeline", view.header, values)


def _todo(view: View) -> tuple[str, ...]:
    return (
        "a training script: build the model as a list of one module (or LayerSpec) per entry of "
        f"LAYERS in {PIPELINE}, and call planned_pipeline(layers, loss_fn)",
        f"the optimizer and its learning rate: the plan counts {view.job.optimizer} with "
        f"{view.job.state_bytes.optimizer} bytes of state per parameter",
    )


def _differences(view: View) -> tuple[str, ...]:
    said = []
    if view.model.tied and view.even_grid.pp > 1:
        said.append("embedding and head share a weight: use TiedLayerSpec for both")
    if view.even_grid.offload:
        said.append(
            "offloaded updates: let DeepSpeed build its DeepSpeedCPUAdam; without a pipeline it "
            "sends gradients down after every micro-batch, which the plan does once per step"
        )
    return tuple(said)


def _batch(r: Read) -> str:
    c = r.config
    parts = (c["train_micro_batch_size_per_gpu"], c["gradient_accumulation_steps"], r.replicas)
    made = parts[0] * parts[1] * parts[2]
    return not_equal("micro-batch · accumulation · replicas", made, c["train_batch_size"])


def _stages(r: Read) -> str:
    return not_divisible("processes", len(r.devices), "stages", r.constants["NUM_STAGES"])


def _parts(r: Read) -> str:
    parts, layers = r.constants["PARTS"], r.constants["LAYERS"]
    if len(parts) != r.constants["NUM_STAGES"] + 1:
        return f"{len(parts) - 1} parts for {r.constants['NUM_STAGES']} stages"
    if parts[0] != 0 or parts[-1] != len(layers) or any(a >= b for a, b in pairwise(parts)):
        return f"the parts {parts} do not hold all {len(layers)} layers once"
    planned = [0, *(stage.end for stage in r.view.even_grid.stages)]
    return not_equal("parts", parts, planned)


def _layers(r: Read) -> str:
    return not_equal("layers", r.constants["LAYERS"], list(r.view.model.layers))


def _degrees(r: Read) -> str:
    grid, c = r.view.even_grid, r.constants
    pairs = (
        ("stages", c["NUM_STAGES"], grid.pp),
        ("replicas", c["NUM_REPLICAS"], grid.dp),
        ("replicas started", r.replicas, grid.dp),
        ("global batch", r.config["train_batch_size"], r.view.job.global_batch),
        ("micro-batch", r.config["train_micro_batch_size_per_gpu"], grid.rows),
        ("micro-batches", r.config["gradient_accumulation_steps"], grid.micro_batches),
    )
    return first(not_equal(*pair) for pair in pairs)


def _zero(r: Read) -> str:
    stage = r.config["zero_optimization"]["stage"]
    if stage not in (0, 1, 2, 3):
        return f"there is no ZeRO stage {stage}"
    if stage > 1 and r.constants["NUM_STAGES"] > 1:
        return f"ZeRO {stage} does not go with a pipeline"
    return not_equal("ZeRO stage", stage, _zero_stage(r.view))


def _offload(r: Read) -> str:
    zero = r.config["zero_optimization"]
    device = zero.get("offload_optimizer", {}).get("device", "none")
    if device != "none" and not zero["stage"]:
        return "the optimizer is offloaded by ZeRO 1 to 3 alone"
    return not_equal("offload", device, "cpu" if r.view.even_grid.offload else "none")


def _precision(r: Read) -> str:
    on = [d for d in ("bf16", "fp16") if r.config.get(d, {}).get("enabled")]
    if len(on) > 1:
        return "bf16 and fp16 at once"
    return not_equal("precision", on[0] if on else "fp32", r.view.job.precision)


def _mixed(r: Read) -> str:
    """Without ZeRO, the engine takes gradients in the weights' precision only."""
    wide = r.config.get("data_types", {}).get("grad_accum_dtype")
    half = any(r.config.get(d, {}).get("enabled") for d in ("bf16", "fp16"))
    if half and wide == "fp32" and not r.config["zero_optimization"]["stage"]:
        return "gradients in fp32 need ZeRO 1; plan with two replicas or in 2 bytes"
    return ""


def _checkpoints(r: Read) -> str:
    planned = 1 if any(s.full for s in recomputed(r.view)) else 0
    return not_equal("recomputation interval", r.constants["CHECKPOINT_INTERVAL"], planned)


def _placement(r: Read) -> str:
    order: Order = "pp slowest" if r.constants["AXES"] == ["pipe", "data"] else "dp slowest"
    return broken_placement(r.view, r.devices, order)


RULES: tuple[Rule[Read], ...] = (
    Rule("batch", "batch = micro-batch · accumulation steps · replicas", _batch),
    Rule("stages", "processes divide by the stages", _stages),
    Rule("parts", "the parts hold every layer once, as planned", _parts),
    Rule("layers", "the layers are the plan's, in order", _layers),
    Rule("degrees", "stages, replicas and batch are the plan's", _degrees),
    Rule("zero", "ZeRO as planned, and at most 1 in a pipeline", _zero),
    Rule("offload", "the optimizer's state lies where the plan keeps it", _offload),
    Rule("precision", "one precision, the plan's", _precision),
    Rule("mixed", "gradients wider than the weights only with ZeRO 1", _mixed),
    Rule("checkpoints", "every layer is recomputed, or none, as planned", _checkpoints),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)
