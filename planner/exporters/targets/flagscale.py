"""FlagScale: its heterogeneous YAML, the stock runtime for mixed chips.

Facts: FlagScale of 2026, flagscale/train/arguments (pre_validate_args) and
megatron/plugin/hetero/parallel_context.py. Consecutive stages with equal degrees and chips form a
*mesh* ``tp, cp, ep, dp, pp``. Processes are numbered host by host, then sorted by the position of
their host's device type; meshes take them in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.flagscale_meshes import Mesh, host_kinds, mesh_launch, mesh_list
from planner.exporters.flagscale_rules import FLAGSCALE_RULES, Read
from planner.exporters.grid import Grid
from planner.exporters.hosts import FIXED_ORDER
from planner.exporters.megatron_arguments import (
    batch_arguments,
    megatron_differences,
    recompute_arguments,
    state_arguments,
    todo,
)
from planner.exporters.megatron_model import Arguments, model_arguments
from planner.exporters.ranks import HostRanks, Launch
from planner.exporters.rules import broken_rules, rule_texts, unreadable
from planner.exporters.scripts import rank_table
from planner.exporters.view import View, block_counts, recomputed

CAPABILITY = Capability(
    target="flagscale",
    title="FlagScale (2026, heterogeneous training)",
    writes="its YAML with meshes, layers and recomputation per stage, the host list",
    plan_classes=("rectangular", "staged"),
    schedules=("1f1b",),
    recompute=("none", "selective", "full"),
    recompute_shape="a count per stage",
    zero=(0, 1),
    precisions=("bf16", "fp16"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=("llama", "mistral", "qwen2", "qwen3"),
    vendors=("NVIDIA", "Huawei", "Cambricon", "Iluvatar CoreX", "MetaX", "Moore Threads", "Hygon",
             "Baidu Kunlunxin"),
    floor=Floor((7, 0), "FlagScale 2026", "it builds on Megatron-Core and PyTorch 2.6 or newer"),
    checked_by_target="not run: its rules were read in its source",
    placement="hosts in order, one device type per mesh; other placements are refused",
    mixed_vendors=True,
)  # fmt: skip

RULES = FLAGSCALE_RULES
TRAIN = "conf/train/plan.yaml"
EXPERIMENT = "conf/plan.yaml"
HOSTFILE = "hostfile"


def write(view: View) -> Written:
    """The experiment, the training part and the host list for FlagScale's own runner."""
    meshes = mesh_list(view)
    launch = mesh_launch(view, meshes)
    kinds = host_kinds(launch, meshes)
    files = (
        File(EXPERIMENT, _yaml(view, _experiment(launch))),
        File(TRAIN, _yaml(view, _train(view, meshes))),
        _hostfile(view, launch, kinds),
        rank_table(view, launch),
    )
    run = (
        "# in the FlagScale checkout, on the first host:",
        "export EXPORT=/path/to/this/folder",
        "python run.py --config-path $EXPORT/conf --config-name plan action=run",
    )
    data = "train.data: path and tokenizer; train.model.optimizer.lr"
    return Written(files, run, (data, *todo(view)[1:]), (*_differences(view, meshes),))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads YAML and host list back, and numbers the processes as FlagScale does."""
    try:
        train = yaml.safe_load(files[TRAIN])
        experiment = yaml.safe_load(files[EXPERIMENT])
        read = Read(
            train["system"],
            train["model"],
            _read_hosts(files[HOSTFILE]),
            _read_visible(experiment),
            view,
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise unreadable(TRAIN, str(error).splitlines()[0]) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, TRAIN))


def _yaml(view: View, value: dict[str, Any]) -> str:
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=100)
    return f"# {view.header}\n{text}"


def _experiment(launch: Launch) -> dict[str, Any]:
    specific = {host.host.name: _variables(host) for host in launch.hosts}
    return {
        "defaults": ["_self_", {"train": "plan"}],
        "experiment": {
            "exp_name": "plan",
            "exp_dir": "./outputs",
            "task": {
                "type": "train",
                "backend": "megatron",
                "entrypoint": "./flagscale/train/train_gpt.py",
            },
            "runner": {"hostfile": "${oc.env:EXPORT}/hostfile", "rdzv_backend": "static"},
            "envs": {"CUDA_DEVICE_MAX_CONNECTIONS": 1, "node_specific": specific},
        },
        "action": "run",
    }


def _variables(host: HostRanks) -> dict[str, str]:
    found = dict([FIXED_ORDER[host.vendor]]) if host.vendor in FIXED_ORDER else {}
    if host.variable:
        found[host.variable] = ",".join(map(str, host.visible))
    return found


def _hostfile(view: View, launch: Launch, kinds: dict[str, tuple[str, ...]]) -> File:
    lines = [f"# {view.header}; in the order of the ranks"]
    lines += [
        f"{h.host.name} slots={len(h.ranks)} type={kinds[h.host.name][0]}" for h in launch.hosts
    ]
    return File(HOSTFILE, "\n".join(lines) + "\n")


def _keys(arguments: Arguments) -> dict[str, Any]:
    return {flag.replace("-", "_"): _value(value) for flag, value in arguments}


def _value(text: str) -> Any:  # noqa: ANN401 - any YAML scalar
    if not text:
        return True
    if text.isdigit():
        return int(text)
    return float(text) if text.replace(".", "", 1).isdigit() else text


def _train(view: View, meshes: tuple[Mesh, ...]) -> dict[str, Any]:
    return {"system": _system(view, meshes), "model": _model(view), "data": {}}


def _system(view: View, meshes: tuple[Mesh, ...]) -> dict[str, Any]:
    grid = view.even_grid
    job = view.job
    state = _keys(tuple(a for a in state_arguments(view) if a[0] != "optimizer"))
    sharded = bool(state.pop("use_distributed_optimizer", False))
    system: dict[str, Any] = {
        "tensor_model_parallel_size": grid.tp,
        "pipeline_model_parallel_size": grid.pp,
        "sequence_parallel": job.sequence_parallel,
        "use_distributed_optimizer": sharded,
        "disable_bias_linear": True,
        "use_mcore_models": True,
        "hetero": {
            "enable_hetero": True,
            "hetero_pipeline_layer_split": list(block_counts(view)),
            "hetero_process_meshes": [n for mesh in meshes for n in mesh.sizes],
            "hetero_device_types": [mesh.kind for mesh in meshes],
            "hetero_current_device_type": meshes[0].kind,
            "standalone_embedding_stage": False,
            **_between_vendors(view),
        },
        "recompute": _recompute(view, grid),
        "precision": state,
        "checkpoint": {"ckpt_format": "torch"},  # the only one that unequal meshes can write
    }
    return system


def _between_vendors(view: View) -> dict[str, Any]:
    """How unlike vendors talk, as the cluster says."""
    vendors = {view.devices[name].chip.vendor for name in view.used}
    if len(vendors) == 1:
        return {}
    cluster = view.plan.inputs.cluster.resolved
    if "flagcx" in (cluster.get("cross_vendor_collectives"), cluster.get("cross_vendor_transfers")):
        return {}
    return {"hetero_use_cpu_communication": True}


def _recompute(view: View, grid: Grid) -> dict[str, Any]:
    """One kind for the job, or full recomputation of so many layers of each stage."""
    stages = recomputed(view)
    kinds = {kind for stage in stages for kind in stage.kinds}
    if kinds != {"none", "full"}:
        return _keys(recompute_arguments(view))
    m = grid.micro_batches
    return {
        "recompute_granularity": "full",
        "recompute_method": "block",
        "recompute_num_layers": max(1, *(s.full for s in stages)),
        "recompute_granularity_per_stage_micro_batch": [[1, m, int(s.full > 0)] for s in stages],
        "recompute_method_per_stage_micro_batch": [[1, m, 1] for _ in stages],
        "recompute_num_layers_per_stage_micro_batch": [[1, m, s.full] for s in stages],
    }


def _model(view: View) -> dict[str, Any]:
    found = _keys(model_arguments(view.model, view.job.seq_len))
    del found["disable_bias_linear"]
    optimizer = "sgd" if view.job.optimizer == "sgd" else "adam"
    return {**found, **_keys(batch_arguments(view)), "optimizer": {"optimizer": optimizer}}


def _differences(view: View, meshes: tuple[Mesh, ...]) -> tuple[str, ...]:
    found = list(megatron_differences(view))
    if len({mesh.sizes[0] for mesh in meshes}) > 1 and not view.job.sequence_parallel:
        found.append("sequence parallelism is needed between unequal tensor-parallel degrees")
    return tuple(found)


def _read_hosts(text: str) -> tuple[tuple[str, int, str], ...]:
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, slots, kind = line.split()
            found.append((name, int(slots.removeprefix("slots=")), kind.removeprefix("type=")))
    return tuple(found)


def _read_visible(experiment: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    specific = experiment["experiment"]["envs"]["node_specific"]
    return {
        host: tuple(int(n) for n in str(value).split(","))
        for host, variables in specific.items()
        for name, value in variables.items()
        if name.endswith(("VISIBLE_DEVICES",))
    }
