"""PaddlePaddle fleet: ``hybrid_configs`` and the bounds of ``PipelineLayer``.

Facts: PaddlePaddle 3.3.1, distributed/fleet/base/distributed_strategy.py and
meta_parallel/parallel_layers/pp_layers.py (``seg_method`` may be a list of bounds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from planner.errors import ExportError, Problem
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
    target="paddle",
    title="PaddlePaddle 3.3 fleet",
    writes="hybrid_configs, the bounds of PipelineLayer, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b",),
    recompute=("none", "full"),
    recompute_shape="one for the whole job",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=None,
    vendors=("NVIDIA", "Huawei", "Baidu Kunlunxin", "Hygon", "Cambricon", "Iluvatar CoreX"),
    floor=Floor((6, 0), "PaddlePaddle 3.3", "its installation table starts at Pascal"),
    checked_by_target=(
        "check.py lets its DistributedStrategy and SegmentLayers read the module; tried with "
        "3.3.1, which the planner's tests do not install"
    ),
    placement="hosts in order; placements that its launcher cannot number are refused",
    on_torch=False,
)

MODULE = "planned.py"
AXES = ("dp", "pp", "sharding", "sep", "mp")
SLOW_STAGES = ("pp", "dp", "sharding", "sep", "mp")
SLOW_REPLICAS = ("dp", "sharding", "pp", "sep", "mp")


@dataclass(frozen=True, slots=True)
class Read:
    """The constants of the module, devices by rank, and the plan."""

    constants: dict[str, Any]
    devices: tuple[str, ...]
    view: View

    @property
    def hybrid(self) -> dict[str, Any]:
        """The hybrid_configs."""
        return dict(self.constants["HYBRID"])

    @property
    def replicas(self) -> int:
        """Copies of the model: plain ones times those that share their optimizer state."""
        return int(self.hybrid["dp_degree"]) * int(self.hybrid["sharding_degree"])


def write(view: View) -> Written:
    """One Python module that the user's training script imports."""
    launch = grid_launch(view, ("pp slowest", "dp slowest"))
    if not launch.torchrun:
        message = "the ranks of a host would not follow one another, and its launcher numbers them"
        remedy = "export to torch, which takes any placement"
        raise ExportError("", where="by paddle", problems=[Problem("placement", message, remedy)])
    words = ('"${TRAIN:?set TRAIN to your training script}"', '"$@"')
    program = Program(words=words, chooses=False, launcher="paddle")
    files = (
        File(MODULE, python_file("paddle_planned", view.header, _values(view, launch))),
        File("check.py", python_file("paddle_check", view.header, {})),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "python check.py                       # where Paddle is installed",
        "TRAIN=train.py nodes/$(hostname).sh   # on every host",
    )
    todo = (
        f"a training script: strategy() and pipeline(layers) from {MODULE}, one LayerDesc per "
        "entry of LAYERS; the optimizer and its learning rate",
    )
    return Written(files, run, todo)


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the module's constants back, and where the scripts start which rank."""
    try:
        read = Read(constants(files[MODULE]), started(view, files), view)
    except ValueError as error:
        raise unreadable(MODULE, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, MODULE))


def _values(view: View, launch: Launch) -> dict[str, object]:
    grid = view.even_grid
    sharded = grid.zero >= 1 and grid.dp > 1
    order = SLOW_STAGES if launch.order == "pp slowest" else SLOW_REPLICAS
    return {
        "PLAN_ID": view.plan.plan_id,
        "HYBRID": {
            "dp_degree": 1 if sharded else grid.dp,
            "sharding_degree": grid.dp if sharded else 1,
            "mp_degree": grid.tp,
            "pp_degree": grid.pp,
            "order": list(order),
        },
        "LAYERS": list(view.model.layers),
        "BOUNDS": [0, *(stage.end for stage in grid.stages)],
        "MICRO_BATCH": grid.rows,
        "ACCUMULATE_STEPS": grid.micro_batches,
        "GLOBAL_BATCH": grid.global_batch,
        "RECOMPUTE_INTERVAL": 1 if any(s.full for s in recomputed(view)) else 0,
        "PRECISION": {"bf16": "bfloat16", "fp16": "float16"}.get(view.job.precision, "float32"),
    }


def _keys(r: Read) -> str:
    known = {*(f"{axis}_degree" for axis in AXES), "order"}
    stray = sorted(set(r.hybrid) - known)
    if stray:
        return f"{stray[0]} is no key of hybrid_configs"
    return (
        "" if sorted(r.hybrid["order"]) == sorted(AXES) else "the order must name every axis once"
    )


def _world(r: Read) -> str:
    made = r.replicas * int(r.hybrid["mp_degree"]) * int(r.hybrid["pp_degree"])
    return not_equal("product of the degrees", made, len(r.devices))


def _bounds(r: Read) -> str:
    bounds, layers = r.constants["BOUNDS"], r.constants["LAYERS"]
    if len(bounds) != int(r.hybrid["pp_degree"]) + 1:
        return f"{len(bounds) - 1} segments for {r.hybrid['pp_degree']} stages"
    if bounds[0] != 0 or bounds[-1] != len(layers) or any(a >= b for a, b in pairwise(bounds)):
        return f"the bounds {bounds} do not hold all {len(layers)} layers once"
    return not_equal("bounds", bounds, [0, *(s.end for s in r.view.even_grid.stages)])


def _layers(r: Read) -> str:
    return not_equal("layers", r.constants["LAYERS"], list(r.view.model.layers))


def _batch(r: Read) -> str:
    made = r.constants["MICRO_BATCH"] * r.constants["ACCUMULATE_STEPS"] * r.replicas
    return not_equal("micro-batch · steps · replicas", made, r.constants["GLOBAL_BATCH"])


def _heads(r: Read) -> str:
    if not r.view.model.is_decoder:
        return ""
    heads = r.view.model.size("num_attention_heads")
    return not_divisible("attention heads", heads, "mp_degree", int(r.hybrid["mp_degree"]))


def _sharding(r: Read) -> str:
    grid = r.view.even_grid
    planned = grid.zero >= 1 and grid.dp > 1
    return not_equal("sharded optimizer state", int(r.hybrid["sharding_degree"]) > 1, planned)


def _recompute(r: Read) -> str:
    planned = 1 if any(s.full for s in recomputed(r.view)) else 0
    return not_equal("recomputation interval", r.constants["RECOMPUTE_INTERVAL"], planned)


def _degrees(r: Read) -> str:
    grid, job = r.view.even_grid, r.view.job
    precision = {"bf16": "bfloat16", "fp16": "float16"}.get(job.precision, "float32")
    pairs = (
        ("mp", int(r.hybrid["mp_degree"]), grid.tp),
        ("pp", int(r.hybrid["pp_degree"]), grid.pp),
        ("replicas", r.replicas, grid.dp),
        ("global batch", r.constants["GLOBAL_BATCH"], job.global_batch),
        ("micro-batch", r.constants["MICRO_BATCH"], grid.rows),
        ("precision", r.constants["PRECISION"], precision),
    )
    return first(not_equal(*pair) for pair in pairs)


def _placement(r: Read) -> str:
    order = list(r.hybrid["order"])
    slow_stages = order.index("pp") < min(order.index("dp"), order.index("sharding"))
    numbering: Order = "pp slowest" if slow_stages else "dp slowest"
    if order[-1] != "mp":
        return "tensor-parallel ranks must be neighbours"
    return broken_placement(r.view, r.devices, numbering)


RULES: tuple[Rule[Read], ...] = (
    Rule("keys", "hybrid_configs has known keys, and an order of every axis", _keys),
    Rule("world", "the degrees multiply to the processes", _world),
    Rule("bounds", "the segments hold every layer once, as planned", _bounds),
    Rule("layers", "the layers are the plan's, in order", _layers),
    Rule("batch", "batch = micro-batch · steps · replicas", _batch),
    Rule("heads", "attention heads divide by mp_degree", _heads),
    Rule("sharding", "the optimizer state is sharded as planned", _sharding),
    Rule("recompute", "every layer is recomputed, or none, as planned", _recompute),
    Rule("degrees", "degrees, batch and precision are the plan's", _degrees),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)
