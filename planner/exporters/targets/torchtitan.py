"""torchtitan 0.3.0: a Python module with one function that returns ``Trainer.Config``.

Facts: torchtitan 0.3.0, config/configs.py, trainer.py, distributed/parallel_dims.py and
distributed/pipeline_parallel.py. It has no TOML any more, and its command line breaks nested
lists, so the stages can only be given by a function.
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
from planner.exporters.view import View, block_counts, recomputed

CAPABILITY = Capability(
    target="torchtitan",
    title="torchtitan 0.3.0",
    writes="a module with a Trainer.Config function, a script per host",
    plan_classes=("rectangular",),
    schedules=("1f1b", "gpipe"),
    recompute=("none", "full"),
    recompute_shape="one for the whole job",
    zero=(1,),
    precisions=("bf16", "fp32"),
    optimizers=("adam", "adamw"),
    gradient_bytes=(4,),
    families=("llama", "mistral"),
    vendors=("NVIDIA", "AMD"),
    floor=Floor(
        (8, 0), "torchtitan 0.3.0", "its attention is compiled by Triton for 8.0 and newer"
    ),
    checked_by_target=(
        "check.py lets its ConfigManager, ParallelDims and model splitter read the module; the "
        "planner's tests run it with torchtitan 0.3.0"
    ),
    placement="any: the order of ranks is its own, or one start per rank",
    tied_across_stages=False,
    why_no_offload="its CPU offload (FSDP) moves weights and gradients as well",
)

MODULE = "plan_config.py"
SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe"}


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
    def stages(self) -> list[list[str]]:
        """Module names per stage; one stage holds all."""
        return list(self.constants["STAGES"])


def write(view: View) -> Written:
    """One module that torchtitan imports by name."""
    launch = grid_launch(view, ("pp slowest",))
    program = Program(
        words=("-m", "torchtitan.train", "--module plan_config --config planned", '"$@"'),
        needs=('export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"',),
    )
    files = (
        File(MODULE, python_file("torchtitan_config", view.header, _values(view))),
        File("check.py", python_file("torchtitan_check", view.header, {})),
        *node_scripts(view, launch, program),
        hostfile(view, launch),
        rank_table(view, launch),
    )
    run = (
        "python check.py                # where torchtitan 0.3.0 is installed",
        "nodes/$(hostname).sh           # on every host; torchtitan's own flags may follow",
    )
    todo = (
        f"rope_theta, norm eps, tokenizer, data, learning rate: the lines marked yours in {MODULE}",
        "PyTorch nightly: a pipeline step of torchtitan 0.3.0 calls an interface that torch 2.13 "
        "does not have",
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
    grid, job, model = view.even_grid, view.job, view.model
    sharded = grid.dp > 1
    deep = grid.pp > 1
    return {
        "PLAN_ID": view.plan.plan_id,
        "PARAMETERS": model.parameters,
        "DIM": model.size("hidden_size"),
        "LAYERS": model.blocks,
        "HEADS": model.size("num_attention_heads"),
        "KV_HEADS": model.size("num_key_value_heads"),
        "HEAD_DIM": model.size("head_dim"),
        "FFN_DIM": model.size("intermediate_size"),
        "VOCABULARY": model.size("vocab_size"),
        "TIED": model.tied,
        "SEQUENCE_LENGTH": job.seq_len,
        "GLOBAL_BATCH": grid.global_batch,
        "LOCAL_BATCH": grid.rows * (grid.micro_batches if deep else 1),
        "MICRO_BATCH": grid.rows,
        "DP_SHARD": grid.dp,
        "TP": grid.tp,
        "SEQUENCE_PARALLEL": job.sequence_parallel and grid.tp > 1,
        "PP": grid.pp,
        "SCHEDULE": SCHEDULES[grid.schedule],
        "STAGES": _stages(view),
        "RESHARD": "never" if sharded else "default",
        "RECOMPUTE": any(s.full for s in recomputed(view)),
        "PRECISION": "bfloat16" if job.precision == "bf16" else "float32",
    }


def _stages(view: View) -> list[list[str]]:
    """torchtitan's names of the modules of every stage."""
    found: list[list[str]] = []
    done = 0
    for count in block_counts(view):
        found.append([f"layers.{i}" for i in range(done, done + count)])
        done += count
    found[0].insert(0, "tok_embeddings")
    found[-1] += ["norm", "lm_head"]
    return found


def _differences(view: View) -> tuple[str, ...]:
    if view.job.precision == "bf16" and view.job.state_bytes.gradient == 2:
        return ("gradients are kept in 4 bytes, the plan counted 2; every device has the room",)
    return ()


def _world(r: Read) -> str:
    made = r.number("DP_SHARD") * r.number("TP") * r.number("PP")
    return not_equal("dp_shard · tp · pp", made, len(r.devices))


def _heads(r: Read) -> str:
    tp = r.number("TP")
    return not_divisible("attention heads", r.number("HEADS"), "tp", tp) or not_divisible(
        "key/value heads", r.number("KV_HEADS"), "tp", tp
    )


def _head_dim(r: Read) -> str:
    whole = r.number("HEADS") * r.number("HEAD_DIM")
    return not_equal("heads · head_dim", whole, r.number("DIM"))


def _sequence(r: Read) -> str:
    tp = r.number("TP") if r.constants["SEQUENCE_PARALLEL"] else 1
    return not_divisible("sequence length", r.number("SEQUENCE_LENGTH"), "tp", tp)


def _local(r: Read) -> str:
    return not_divisible(
        "local batch", r.number("LOCAL_BATCH"), "micro-batch", r.number("MICRO_BATCH")
    )


def _batch(r: Read) -> str:
    step = r.number("LOCAL_BATCH") * r.number("DP_SHARD")
    return not_divisible("global batch", r.number("GLOBAL_BATCH"), "local batch · replicas", step)


def _enough(r: Read) -> str:
    micro = r.number("LOCAL_BATCH") // max(1, r.number("MICRO_BATCH"))
    if r.number("PP") > 1 and r.constants["SCHEDULE"] == "1F1B" and micro < r.number("PP"):
        return f"1F1B needs at least {r.number('PP')} micro-batches, there are {micro}"
    return ""


def _modules(r: Read) -> str:
    names = [name for stage in r.stages for name in stage]
    layers = [f"layers.{i}" for i in range(r.number("LAYERS"))]
    return not_equal("modules", names, ["tok_embeddings", *layers, "norm", "lm_head"])


def _split(r: Read) -> str:
    counts = tuple(sum(n.startswith("layers.") for n in stage) for stage in r.stages)
    if len(counts) != r.number("PP"):
        return f"{len(counts)} stages for pp {r.number('PP')}"
    return not_equal("layers per stage", counts, block_counts(r.view))


def _reshard(r: Read) -> str:
    """Resharding after every forward gathers the weights for each micro-batch again."""
    planned = "never" if r.view.even_grid.dp > 1 else "default"
    return not_equal("resharding", r.constants["RESHARD"], planned)


def _recompute(r: Read) -> str:
    planned = any(s.full for s in recomputed(r.view))
    return not_equal("recomputation", r.constants["RECOMPUTE"], planned)


def _parameters(r: Read) -> str:
    """Embedding and head, and per layer wqkv, wo, three MLP matrices and two norms."""
    dim, kv = r.number("DIM"), r.number("KV_HEADS") * r.number("HEAD_DIM")
    q = r.number("HEADS") * r.number("HEAD_DIM")
    layer = dim * (q + 2 * kv) + q * dim + 3 * dim * r.number("FFN_DIM") + 2 * dim
    tables = (1 if r.constants["TIED"] else 2) * r.number("VOCABULARY") * dim
    made = r.number("LAYERS") * layer + tables + dim
    wrong = not_equal("parameters", f"{made:,}", f"{r.view.model.parameters:,}")
    return f"{wrong}; biases that torchtitan's Llama does not have?" if wrong else ""


def _degrees(r: Read) -> str:
    grid = r.view.even_grid
    pairs = (
        ("tp", r.number("TP"), grid.tp),
        ("pp", r.number("PP"), grid.pp),
        ("replicas", r.number("DP_SHARD"), grid.dp),
        ("global batch", r.number("GLOBAL_BATCH"), r.view.job.global_batch),
        ("micro-batch", r.number("MICRO_BATCH"), grid.rows),
        ("sequence length", r.number("SEQUENCE_LENGTH"), r.view.job.seq_len),
        ("schedule", r.constants["SCHEDULE"], SCHEDULES[grid.schedule]),
    )
    return first(not_equal(*pair) for pair in pairs)


def _precision(r: Read) -> str:
    planned = "bfloat16" if r.view.job.precision == "bf16" else "float32"
    return not_equal("precision", r.constants["PRECISION"], planned)


def _placement(r: Read) -> str:
    return broken_placement(r.view, r.devices, "pp slowest")


RULES: tuple[Rule[Read], ...] = (
    Rule("world", "processes = dp_shard · tp · pp", _world),
    Rule("heads", "attention and key/value heads divide by tp", _heads),
    Rule("head-dim", "heads · head_dim is the model's width", _head_dim),
    Rule("sequence", "the sequence divides by tp", _sequence),
    Rule("local", "the local batch divides by the micro-batch", _local),
    Rule("batch", "the global batch divides by local batch · replicas", _batch),
    Rule("enough", "1F1B has at least as many micro-batches as stages", _enough),
    Rule("modules", "every module is on a stage, once and in order", _modules),
    Rule("split", "one stage per rank, with the plan's layers", _split),
    Rule("reshard", "weights stay gathered through the step, as priced", _reshard),
    Rule("recompute", "every block is recomputed, or none, as planned", _recompute),
    Rule("parameters", "the model has the plan's parameters", _parameters),
    Rule("degrees", "degrees, batch, sequence and schedule are the plan's", _degrees),
    Rule("precision", "the precision is the plan's", _precision),
    Rule("placement", "every rank starts on the device that the plan gives it", _placement),
)
