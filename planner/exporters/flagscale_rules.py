"""What FlagScale checks of its heterogeneous YAML (pre_validate_args), and where ranks lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from planner.exporters.grid import Grid
from planner.exporters.megatron_model import parameters
from planner.exporters.rules import Rule, first, not_divisible, not_equal
from planner.exporters.view import View, block_counts, common_recompute, recomputed


@dataclass(frozen=True, slots=True)
class Read:
    """The YAML and the hosts as they were read back, and the plan."""

    system: dict[str, Any]
    model: dict[str, Any]
    hosts: tuple[tuple[str, int, str], ...]
    visible: dict[str, tuple[int, ...]]
    view: View

    @property
    def hetero(self) -> dict[str, Any]:
        """The heterogeneous part."""
        return cast("dict[str, Any]", self.system["hetero"])

    @property
    def meshes(self) -> tuple[tuple[int, ...], ...]:
        """The flat list in whole fives."""
        flat = list(self.hetero["hetero_process_meshes"])
        return tuple(tuple(flat[i : i + 5]) for i in range(0, len(flat) - len(flat) % 5, 5))

    @property
    def micro_batches(self) -> int:
        """Micro-batches per replica, as FlagScale counts them."""
        step = int(self.model["micro_batch_size"]) * max(1, self.meshes[0][3])
        return int(self.model["global_batch_size"]) // step


def _fives(r: Read) -> str:
    flat = r.hetero["hetero_process_meshes"]
    return not_divisible("the number of mesh sizes", len(flat), "five", 5)


def _pp(r: Read) -> str:
    total = sum(mesh[4] for mesh in r.meshes)
    pairs = (
        ("stages of all meshes", total, r.system["pipeline_model_parallel_size"]),
        ("stages with layers", len(r.hetero["hetero_pipeline_layer_split"]), total),
    )
    return first(not_equal(*pair) for pair in pairs)


def _layers(r: Read) -> str:
    split = list(r.hetero["hetero_pipeline_layer_split"])
    if sum(split) != r.model["num_layers"]:
        return f"the split holds {sum(split)} layers, the model {r.model['num_layers']}"
    return not_equal("layers per stage", split, list(block_counts(r.view)))


def _types(r: Read) -> str:
    types = list(r.hetero["hetero_device_types"])
    if len(types) != len(r.meshes):
        return f"{len(types)} device types for {len(r.meshes)} meshes"
    unknown = [kind for _, _, kind in r.hosts if kind not in types]
    return f"{unknown[0]} is no device type of the meshes" if unknown else ""


def _replicas(r: Read) -> str:
    rows = r.meshes[0][3] * int(r.model["micro_batch_size"])
    return first(not_divisible("dp · micro-batch", rows, "dp", mesh[3]) for mesh in r.meshes)


def _context(r: Read) -> str:
    return "context parallelism is not supported" if any(m[1] != 1 for m in r.meshes) else ""


def _sequence(r: Read) -> str:
    if len({mesh[0] for mesh in r.meshes}) > 1 and not r.system["sequence_parallel"]:
        return "unequal tensor-parallel degrees need sequence parallelism; allow it in the job"
    seq = r.model["seq_length"]
    return first(not_divisible("sequence length", seq, "tp", mesh[0]) for mesh in r.meshes)


def _tied(r: Read) -> str:
    tied = not r.model.get("untie_embeddings_and_output_weights")
    if tied and r.meshes[0][0] != r.meshes[-1][0]:
        return "embedding and head share a weight, so first and last tp must be equal"
    return ""


def _heads(r: Read) -> str:
    heads = r.model["num_attention_heads"]
    groups = r.model.get("num_query_groups", heads)
    for tp in {mesh[0] for mesh in r.meshes}:
        if heads % tp or (groups % tp and tp % groups):
            return f"{heads} heads and {groups} query groups do not go with tp {tp}"
    return ""


def _batch(r: Read) -> str:
    step = int(r.model["micro_batch_size"]) * r.meshes[0][3]
    return not_divisible("global batch", r.model["global_batch_size"], "micro-batch · dp", step)


def _recompute_lists(r: Read) -> str:
    recompute = r.system["recompute"]
    names = [name for name in recompute if name.endswith("_per_stage_micro_batch")]
    for name in names:
        entries = recompute[name]
        if sum(entry[0] for entry in entries) != r.system["pipeline_model_parallel_size"]:
            return f"{name} does not cover every stage"
        if any(sum(entry[1::2]) != r.micro_batches for entry in entries):
            return f"{name} does not cover {r.micro_batches} micro-batches"
        if "num_layers" not in name and any(v not in (0, 1) for e in entries for v in e[2::2]):
            return f"{name} has a flag other than 0 and 1"
    if names and recompute.get("recompute_granularity") != "full":
        return "recomputation per stage needs full granularity"
    return ""


def _recomputed(r: Read) -> str:
    recompute = r.system["recompute"]
    expected = tuple(s.full for s in recomputed(r.view))
    lists = recompute.get("recompute_num_layers_per_stage_micro_batch")
    if lists is not None:
        flags = recompute["recompute_granularity_per_stage_micro_batch"]
        found = tuple(n[2] if on[2] else 0 for n, on in zip(lists, flags))
        return not_equal("recomputed layers per stage", found, expected)
    kind = recompute.get("recompute_granularity", "none")
    return not_equal("recomputation", kind, common_recompute(r.view)[0])


def _parameters(r: Read) -> str:
    flags = {
        key.replace("_", "-"): "" if value is True else str(value)
        for key, value in r.model.items()
        if not isinstance(value, dict)
    }
    flags["disable-bias-linear"] = ""
    made = parameters(flags, r.view.model.size("vocab_size"))
    return not_equal("parameters", f"{made:,}", f"{r.view.model.parameters:,}")


def _degrees(r: Read) -> str:
    grid = r.view.even_grid
    tps = [mesh[0] for mesh in r.meshes for _ in range(mesh[4])]
    dps = [mesh[3] for mesh in r.meshes for _ in range(mesh[4])]
    pairs = (
        ("tp by stage", tps, [s.tensor_parallel for s in grid.stages]),
        ("replicas by stage", dps, [s.data_parallel for s in grid.stages]),
        ("micro-batch", r.model["micro_batch_size"], grid.rows),
        ("global batch", r.model["global_batch_size"], r.view.job.global_batch),
        ("sequence length", r.model["seq_length"], r.view.job.seq_len),
    )
    return first(not_equal(*pair) for pair in pairs)


def _placement(r: Read) -> str:
    """Numbers processes host by host, sorts them by device type, and walks through the meshes."""
    types = list(r.hetero["hetero_device_types"])
    named = {host.name: host for host in r.view.hosts}
    processes = []
    for name, slots, kind in r.hosts:
        numbers = r.visible.get(name, tuple(range(slots)))
        if len(numbers) != slots:
            return f"{name} has {slots} slots and {len(numbers)} visible devices"
        if kind not in types:
            return f"{kind} is no device type of the meshes"
        own = {d.index: d.name for d in named[name].devices}
        processes += [(types.index(kind), own.get(n, f"{name}/?{n}")) for n in numbers]
    order = [device for _, device in sorted(processes, key=lambda p: p[0])]
    return _misplaced(r.view.even_grid, order)


def _misplaced(grid: Grid, order: list[str]) -> str:
    """The first logical rank that is elsewhere in the plan; replicas may be numbered freely."""
    if len(order) != grid.world:
        return f"{len(order)} processes are started, the plan has {grid.world} devices"
    numbered: dict[int, int] = {}
    rank = 0
    for s, stage in enumerate(grid.stages):
        places = {device: (d, i) for d, g in enumerate(stage.devices) for i, device in enumerate(g)}
        for d in range(stage.data_parallel):
            for i in range(stage.width):
                found = places.get(order[rank])
                replica = numbered.setdefault(d, found[0]) if found else None
                if found is None or found != (replica, i):
                    where = f"stage {s}, replica {d}, place {i}"
                    return f"logical rank {rank} is {order[rank]}, not a device of {where}"
                rank += 1
    return ""


FLAGSCALE_RULES: tuple[Rule[Read], ...] = (
    Rule("fives", "meshes are given as tp, cp, ep, dp, pp", _fives),
    Rule("stages", "the meshes' stages add up to the pipeline, each with its layers", _pp),
    Rule("layers", "the split holds every layer once, as planned", _layers),
    Rule("types", "one device type per mesh, and no host of another", _types),
    Rule("replicas", "dp · micro-batch divides by the dp of every mesh", _replicas),
    Rule("context", "no context parallelism", _context),
    Rule("sequence", "unequal tp has sequence parallelism; the sequence divides", _sequence),
    Rule("tied", "tied embeddings have the same tp on both ends", _tied),
    Rule("heads", "heads and query groups go with every tp", _heads),
    Rule("batch", "the global batch divides by micro-batch · dp", _batch),
    Rule("recompute", "recomputation lists cover all stages and micro-batches", _recompute_lists),
    Rule("recomputed", "as many layers are recomputed as planned", _recomputed),
    Rule("parameters", "the model has the plan's parameters", _parameters),
    Rule("degrees", "degrees by stage, batch and sequence are the plan's", _degrees),
    Rule("placement", "every logical rank is on the device that the plan gives it", _placement),
)
