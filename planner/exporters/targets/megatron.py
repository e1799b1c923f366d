"""Megatron-LM: arguments, a script per host, and the rank of every device.

Facts: Megatron-LM of August 2026 (core 0.20), megatron/training/arguments.py and
megatron/core/parallel_state.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.exporters.capability import Capability, Floor, compute_capability
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.megatron_arguments import (
    entries,
    grouped_exports,
    plan_sections,
    read_flags,
    turn_arguments,
    unfused_copies,
    with_common,
)
from planner.exporters.megatron_layout import layout_text
from planner.exporters.megatron_model import FAMILIES
from planner.exporters.megatron_rules import COMMON, EXPERTS, GROUPS, LAYOUT, TURNS, MegatronRead
from planner.exporters.placement import started
from planner.exporters.ranks import Order, grid_launch
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
    target="megatron",
    title="Megatron-LM (core 0.20)",
    writes="arguments with a pipeline layout, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b", "interleaved"),
    recompute=("none", "selective", "full"),
    recompute_shape="one count for all stages",
    zero=(0, 1),
    precisions=("bf16", "fp16", "fp32"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=FAMILIES,
    vendors=("NVIDIA",),
    floor=Floor((7, 0), "Megatron-LM core 0.20", "PyTorch 2.6 or newer, Turing is recommended"),
    checked_by_target="not run: its rules were taken from its parser, where most were seen to fire",
    placement="any: the order of ranks, or one start per rank",
    context_parallel=True,
    expert_parallel=True,
    optimizer_offload=True,
    grouped_experts=True,
    why_no_activations="its cpu_offloading takes one stage alone, and no recomputation",
    why_no_packing="it reduces in one type for all links",
)

ARGUMENTS = "arguments.sh"
ARRAY = "PLAN_ARGUMENTS"
RULES = (*COMMON, *LAYOUT, *TURNS, *EXPERTS, *GROUPS)
FUSED = (8, 0)
"""Transformer Engine needs compute capability 8.0."""


def write(view: View) -> Written:
    """Arguments in one file that every host's script reads."""
    # devices that share experts are counted with the replicas: these must follow one another
    orders: tuple[Order, ...] = ("pp slowest", "dp slowest")
    launch = grid_launch(view, orders if view.even_grid.ep == 1 else orders[:1])
    layers = (("pipeline-model-parallel-layout", layout_text(view)), *turn_arguments(view))
    sections = list(plan_sections(view, launch, layers if view.even_grid.pp > 1 else ()))
    if not _fused(view):
        off = ("no-gradient-accumulation-fusion", "no-rope-fusion")
        local = (("transformer-impl", "local"), *((flag, "") for flag in off))
        sections.append(("some chips are too old for Transformer Engine", local))
    text = bash_array(ARRAY, [(what, entries(args)) for what, args in sections if args])
    program = Program(
        words=('"${MEGATRON:-.}/pretrain_gpt.py"', f'"${{{ARRAY}[@]}}"', '"$@"'),
        exports=(("CUDA_DEVICE_MAX_CONNECTIONS", "1"), *grouped_exports(view)),
        needs=(f"source ./{ARGUMENTS}",),
    )
    files = (
        File(ARGUMENTS, f"# {view.header}\n# Every script of nodes/ reads this.\n{text}"),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "# on every host:",
        "MEGATRON=/path/to/Megatron-LM nodes/$(hostname).sh --data-path … --lr …",
    )
    return with_common(
        Written(files, run, differences=(*_local(view), *unfused_copies(view))), view
    )


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the arguments back, and where the scripts start which rank."""
    try:
        flags = read_flags(read_bash_array(files[ARGUMENTS], ARRAY))
        read = MegatronRead(flags, started(view, files), view)
    except ValueError as error:
        raise unreadable(ARGUMENTS, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, ARGUMENTS))


def _fused(view: View) -> bool:
    devices = view.devices
    own = {compute_capability(devices[name].chip.architecture) for name in view.used}
    return all(c is None or c >= FUSED for c in own)


def _local(view: View) -> tuple[str, ...]:
    if _fused(view):
        return ()
    return ("layers run without Transformer Engine's fused kernels: some chips are too old for it",)
