"""Megatron Bridge (NeMo): overrides for one of its recipes.

Facts: Megatron Bridge 0.7, docs/megatron-lm-to-megatron-bridge.md: how each Megatron argument is
called in ``ConfigContainer``. The rules are Megatron-Core's; overrides are translated back to
arguments before they are checked.
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.exporters.capability import Capability, Floor
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.megatron_arguments import (
    GROUPED,
    PERMUTE,
    Sections,
    grouped_exports,
    megatron_differences,
    plan_sections,
    unfused_copies,
)
from planner.exporters.megatron_layout import layout_text
from planner.exporters.megatron_model import FAMILIES
from planner.exporters.megatron_rules import COMMON, GROUPS, LAYOUT, MegatronRead
from planner.exporters.placement import started
from planner.exporters.ranks import grid_launch
from planner.exporters.rules import broken_rules, rule_texts, unreadable
from planner.exporters.scripts import (
    Program,
    bash_array,
    hostfile,
    node_scripts,
    rank_table,
    read_bash_array,
)
from planner.exporters.view import View

CAPABILITY = Capability(
    target="megatron-bridge",
    title="Megatron Bridge 0.7 (NeMo)",
    writes="overrides for a recipe, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b",),
    recompute=("none", "selective", "full"),
    recompute_shape="one count for all stages",
    zero=(0, 1),
    precisions=("bf16", "fp16"),
    optimizers=("adam", "adamw"),
    gradient_bytes=(4,),
    families=tuple(f for f in FAMILIES if f != "gpt2"),
    vendors=("NVIDIA",),
    floor=Floor((8, 0), "Megatron Bridge 0.7", "its layers are Transformer Engine's"),
    checked_by_target="not run: names and rules were read in its documents and Megatron-Core",
    placement="any: the order of ranks, or one start per rank",
    context_parallel=True,
    optimizer_offload=True,
    grouped_experts=True,
    why_no_activations="its cpu_offloading takes one stage alone, and no recomputation",
    why_no_packing="it reduces in one type for all links",
)

OVERRIDES = "overrides.sh"
ARRAY = "PLAN_OVERRIDES"
RULES = (*COMMON, *LAYOUT, *GROUPS)

NAMES: dict[str, tuple[str, ...]] = {
    "tensor-model-parallel-size": ("model.tensor_model_parallel_size",),
    "pipeline-model-parallel-size": ("model.pipeline_model_parallel_size",),
    "context-parallel-size": ("model.context_parallel_size",),
    "sequence-parallel": ("model.sequence_parallel",),
    "use-tp-pp-dp-mapping": ("dist.use_tp_pp_dp_mapping",),
    "pipeline-model-parallel-layout": ("model.pipeline_model_parallel_layout",),
    "micro-batch-size": ("train.micro_batch_size",),
    "global-batch-size": ("train.global_batch_size",),
    "recompute-granularity": ("model.recompute_granularity",),
    "recompute-method": ("model.recompute_method",),
    "recompute-num-layers": ("model.recompute_num_layers",),
    "optimizer": ("optimizer.optimizer",),
    "use-distributed-optimizer": (
        "ddp.use_distributed_optimizer",
        "optimizer.use_distributed_optimizer",
    ),
    "optimizer-cpu-offload": ("optimizer.optimizer_cpu_offload",),
    "use-precision-aware-optimizer": ("optimizer.use_precision_aware_optimizer",),
    "optimizer-offload-fraction": ("optimizer.optimizer_offload_fraction",),
    "num-layers": ("model.num_layers",),
    "hidden-size": ("model.hidden_size",),
    "ffn-hidden-size": ("model.ffn_hidden_size",),
    "num-attention-heads": ("model.num_attention_heads",),
    "num-query-groups": ("model.num_query_groups",),
    "kv-channels": ("model.kv_channels",),
    "seq-length": ("model.seq_length", "dataset.seq_length"),
    "position-embedding-type": ("model.position_embedding_type",),
    "normalization": ("model.normalization",),
    "attention-dropout": ("model.attention_dropout",),
    "hidden-dropout": ("model.hidden_dropout",),
    "swiglu": ("model.gated_linear_unit",),
    "add-qkv-bias": ("model.add_qkv_bias",),
    "qk-layernorm": ("model.qk_layernorm",),
    "num-experts": ("model.num_moe_experts",),
    "moe-router-topk": ("model.moe_router_topk",),
    "moe-ffn-hidden-size": ("model.moe_ffn_hidden_size",),
    GROUPED: ("model.moe_grouped_gemm",),
    PERMUTE: ("model.moe_permute_fusion",),
    "moe-token-dispatcher-type": ("model.moe_token_dispatcher_type",),
}
"""Fields of ConfigContainer by Megatron argument; a switch becomes ``true``."""

INVERTED = {
    "disable-bias-linear": "model.add_bias_linear",
    "untie-embeddings-and-output-weights": "model.share_embeddings_and_output_weights",
}
"""Switches that are ``false`` in Bridge where Megatron has them."""

SWITCHES = ("sequence-parallel", "use-tp-pp-dp-mapping", "use-distributed-optimizer", "swiglu",
            "add-qkv-bias", "qk-layernorm", "optimizer-cpu-offload",
            "use-precision-aware-optimizer", GROUPED, PERMUTE)  # fmt: skip
PRECISION = {"bf16": "bf16_mixed", "fp16": "16-mixed"}
IMPLIED = ("group-query-attention", "max-position-embeddings")
"""Bridge takes these from the number of query groups and the sequence length."""

RESET = ("model.virtual_pipeline_model_parallel_size=null",)
"""What recipes set and a layout does not go with."""


def write(view: View) -> Written:
    """Overrides in one file that every host's script reads."""
    launch = grid_launch(view, ("pp slowest", "dp slowest"))
    layout = (("pipeline-model-parallel-layout", layout_text(view)),)
    sections = plan_sections(view, launch, layout if view.even_grid.pp > 1 else ())
    text = bash_array(ARRAY, _overrides(sections))
    program = Program(
        words=(
            '"${BRIDGE:-.}/scripts/training/run_recipe.py"',
            '--recipe "${RECIPE:?name a recipe of your model}" --mode pretrain',
            f'"${{{ARRAY}[@]}}"',
            '"$@"',
        ),
        exports=(("CUDA_DEVICE_MAX_CONNECTIONS", "1"), *grouped_exports(view)),
        needs=(f"source ./{OVERRIDES}",),
    )
    files = (
        File(OVERRIDES, f"# {view.header}\n# Every script of nodes/ reads this.\n{text}"),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "# on every host:",
        "BRIDGE=/path/to/Megatron-Bridge RECIPE=llama3_8b_pretrain_config nodes/$(hostname).sh",
    )
    todo = ("a recipe of the model's family, data, tokenizer and learning rate",)
    return Written(
        files, run, todo, (*_differences(view), *unfused_copies(view), *megatron_differences(view))
    )


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Translates the overrides back to Megatron's arguments, and tries its rules."""
    try:
        flags = _flags(read_bash_array(files[OVERRIDES], ARRAY))
        read = MegatronRead(flags, started(view, files), view)
    except ValueError as error:
        raise unreadable(OVERRIDES, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, OVERRIDES))


def _overrides(sections: Sections) -> list[tuple[str, tuple[str, ...]]]:
    found = []
    given = {flag for _, arguments in sections for flag, _ in arguments}
    for what, arguments in sections:
        lines = tuple(line for flag, value in arguments for line in _fields(flag, value))
        if lines:
            found.append((what, lines))
    off = [f"{field}=false" for field in NAMES["use-distributed-optimizer"]]
    if "use-distributed-optimizer" not in given:
        found.append(("recipes shard the optimizer by default", tuple(off)))
    if "recompute-granularity" not in given:
        found.append(("nothing is recomputed", ("model.recompute_granularity=null",)))
    if "num-experts" in given and GROUPED not in given:
        alone = [f"{field}=false" for flag in (GROUPED, PERMUTE) for field in NAMES[flag]]
        found.append(("recipes group experts by default", tuple(alone)))
    found.append(("what a recipe may set beside a layout", RESET))
    return found


def _fields(flag: str, value: str) -> tuple[str, ...]:
    if flag in INVERTED:
        return (f"{INVERTED[flag]}=false",)
    if flag in PRECISION:
        return (f"mixed_precision={PRECISION[flag]}",)
    if flag == "recompute-modules":
        return (f"'model.recompute_modules=[{value}]'",)
    text = value if value else "true"
    quoted = "'" if set(text) & set("|*") else ""
    return tuple(f"{quoted}{field}={text}{quoted}" for field in NAMES.get(flag, ()))


def _flags(words: tuple[str, ...]) -> dict[str, str]:
    """Megatron's arguments for overrides. ValueError for a field of no argument."""
    flags = {field: flag for flag, fields in NAMES.items() for field in fields}
    inverted = {field: flag for flag, field in INVERTED.items()}
    found: dict[str, str] = {}
    for word in words:
        field, _, value = word.partition("=")
        if word in RESET or value == "null":
            continue
        if field == "mixed_precision":
            found[next((k for k, v in PRECISION.items() if v == value), value)] = ""
        elif field == "model.recompute_modules":
            found["recompute-modules"] = value.strip("[]")
        elif field in inverted and value == "false":
            found[inverted[field]] = ""
        elif field not in flags:
            raise ValueError(f"{field} is no field that is written here")
        elif flags[field] not in SWITCHES:
            found[flags[field]] = value
        elif value == "true":
            found[flags[field]] = ""
    found.setdefault("max-position-embeddings", found.get("seq-length", ""))
    return found


def _differences(view: View) -> tuple[str, ...]:
    if view.job.state_bytes.gradient == 2:
        return ("gradients are kept in 4 bytes, the plan counted 2; every device has the room",)
    return ()
