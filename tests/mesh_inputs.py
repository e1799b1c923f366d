"""Small transformers with experts or long sequences, for plans whose stages are meshes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import planner
from planner.inputs.cluster import ClusterInput, load_cluster
from planner.inputs.job import JobInput, load_job
from planner.inputs.model import ModelInput, load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.solve import Context, prepare

QUICK = planner.SolveParams(baselines=False)
PAIR = "2x4xA100-SXM-80GB @ 100Gb/s"


@cache
def small_model(layers: int = 2, experts: int = 4, width: int = 4096) -> ModelInput:
    """Blocks of hidden size 2,048 between embedding and head; ``experts`` 0 is a dense model."""
    config = {
        "architectures": ["MixtralForCausalLM" if experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if experts else "llama",
        "hidden_size": 2048,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 8000,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    if experts:
        config |= {"num_local_experts": experts, "num_experts_per_tok": 2}
    with TemporaryDirectory() as folder:
        path = Path(folder, "small.json")  # a random folder's name may speak of a size
        path.write_text(json.dumps(config))
        return load_model(path)


def small_context(cluster: str | ClusterInput, sets: str, **model: int) -> Context:
    """Inputs ready to be priced; ``sets`` are assignments to fields of the job."""
    known = load_cluster(cluster) if isinstance(cluster, str) else cluster
    return prepare(small_model(**model), known, _job(sets))


@cache
def small_plan(cluster: str, sets: str, **model: int) -> Plan:
    """The plan that the search finds."""
    return planner.solve(small_model(**model), load_cluster(cluster), _job(sets), params=QUICK)


def _job(sets: str) -> JobInput:
    return load_job(None, parse_overrides([f"job.{part}" for part in sets.split()]))


NARROW = "techniques.tensor_parallel=false"
CASES: dict[str, tuple[str, str, dict[str, int]]] = {
    "moe_plan": (PAIR, f"global_batch=16 micro_batch_rows=[4] {NARROW}", {}),
    "long_plan": (
        PAIR,
        f"global_batch=2 seq_len=65536 micro_batch_rows=[1] {NARROW}",
        {"experts": 0},
    ),
    "sharded_plan": (
        "1x4xRTX4090-24GB",
        "global_batch=8 micro_batch_rows=[4] max_pipeline_stages=1 techniques.zero3=true " + NARROW,
        {"layers": 6, "experts": 0, "width": 65536},
    ),
}


def moe_plan() -> Plan:
    """A stage with experts over four chips."""
    return _planned("moe_plan")


def long_plan() -> Plan:
    """Sequences shared by chips."""
    return _planned("long_plan")


def sharded_plan() -> Plan:
    """Weights divided among the chips of a stage, which is the only way that they fit."""
    return _planned("sharded_plan")


def _planned(name: str) -> Plan:
    cluster, sets, model = CASES[name]
    return small_plan(cluster, sets, **model)


def context_of(plan: Callable[[], Plan], more: str = "") -> Context:
    """The inputs of one of the plans above, with further assignments."""
    cluster, sets, model = CASES[plan.__name__]
    return small_context(cluster, f"{sets} {more}", **model)


def planned_with(plan: Callable[[], Plan], more: str) -> Plan:
    """The plan under further assignments."""
    cluster, sets, model = CASES[plan.__name__]
    return small_plan(cluster, f"{sets} {more}", **model)
