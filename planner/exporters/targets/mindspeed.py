"""MindSpeed-LLM: Megatron's arguments on Ascend, with a list of layers per stage.

Facts: MindSpeed-LLM of August 2026, features_manager/pipeline_parallel/num_layer_list.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from planner.exporters.capability import Capability
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.megatron_arguments import (
    entries,
    plan_sections,
    read_flags,
    unfused_copies,
    with_common,
)
from planner.exporters.megatron_rules import COMMON, MegatronRead
from planner.exporters.placement import started
from planner.exporters.ranks import grid_launch
from planner.exporters.rules import Rule, broken_rules, not_equal, rule_texts, unreadable
from planner.exporters.scripts import (
    Program,
    bash_array,
    hostfile,
    node_scripts,
    rank_table,
    read_bash_array,
)
from planner.exporters.view import View, block_counts

CAPABILITY = Capability(
    target="mindspeed",
    title="MindSpeed-LLM (August 2026)",
    writes="Megatron arguments with --num-layer-list, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b",),
    recompute=("none", "selective", "full"),
    recompute_shape="one count for all stages",
    zero=(0, 1),
    precisions=("bf16", "fp16"),
    optimizers=("adam", "adamw", "sgd"),
    gradient_bytes=(2, 4),
    families=("llama", "mistral", "qwen2", "qwen3", "mixtral"),
    vendors=("Huawei",),
    floor=None,
    checked_by_target="not run: its rules were read in its source",
    placement="any: the order of ranks, or one start per rank",
    grouped_experts=True,
)

ARGUMENTS = "arguments.sh"
ARRAY = "PLAN_ARGUMENTS"
LIST = "num-layer-list"


def write(view: View) -> Written:
    """Arguments in one file that every host's script reads."""
    launch = grid_launch(view, ("pp slowest", "dp slowest"))
    counts = block_counts(view)
    layers = ((LIST, ",".join(map(str, counts))),) if len(counts) > 1 else ()
    sections = list(plan_sections(view, launch, layers))
    sections.append(("kernels", (("use-flash-attn", ""), ("transformer-impl", "local"))))
    text = bash_array(ARRAY, [(what, entries(args)) for what, args in sections if args])
    program = Program(
        words=('"${MINDSPEED:-.}/pretrain_gpt.py"', f'"${{{ARRAY}[@]}}"', '"$@"'),
        exports=(("CUDA_DEVICE_MAX_CONNECTIONS", "1"),),
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
        "MINDSPEED=/path/to/MindSpeed-LLM nodes/$(hostname).sh --data-path … --lr …",
    )
    return with_common(Written(files, run, differences=unfused_copies(view)), view)


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the arguments back, and where the scripts start which rank."""
    try:
        flags = read_flags(read_bash_array(files[ARGUMENTS], ARRAY))
        read = MegatronRead(flags, started(view, files), view)
    except ValueError as error:
        raise unreadable(ARGUMENTS, str(error)) from None
    return Checked(rule_texts(RULES), broken_rules(RULES, read, ARGUMENTS))


def _list(r: MegatronRead) -> str:
    text = r.flags.get(LIST)
    if text is None:
        return "" if r.pp == 1 else "no list of layers"
    counts = tuple(int(n) if n.isdigit() else -1 for n in text.split(","))
    if r.pp == 1:
        return "a list of layers needs a pipeline"
    if len(counts) != r.pp:
        return f"{len(counts)} entries for {r.pp} stages"
    if min(counts) < 1:
        return "every stage needs a layer; plan with fewer stages"
    if sum(counts) != r.number("num-layers"):
        return f"the list holds {sum(counts)} layers, the model {r.number('num-layers')}"
    return not_equal("layers per stage", counts, block_counts(r.view))


def _exclusive(r: MegatronRead) -> str:
    others = (
        "pipeline-model-parallel-layout",
        "num-layers-per-virtual-pipeline-stage",
        "noop-layers",
        "schedules-method",
    )
    found = [flag for flag in others if flag in r.flags]
    return f"--{found[0]} does not go with --{LIST}" if found and LIST in r.flags else ""


RULES: tuple[Rule[MegatronRead], ...] = (
    *COMMON,
    Rule("list", "the list holds every layer, one entry per stage, as planned", _list),
    Rule("alone", "no other flag splits the layers beside the list", _exclusive),
)
