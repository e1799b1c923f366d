"""Plans of a tiny model on a few chips, made without a search: layouts that are priced."""

from __future__ import annotations

from functools import cache

from planner.estimate import estimate, read_layout
from planner.inputs.cluster import load_cluster
from planner.inputs.document import JsonValue
from planner.inputs.job import load_job
from planner.inputs.layer_graph import FORMAT
from planner.inputs.model import ModelInput, model_from_resolved
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs

MILLION = 10**6
FOUR = "4xA100-SXM-80GB"
MIXED = "2xA100-SXM-80GB + 2x2xV100-SXM2-32GB @ 100Gb/s"


def tiny_model(layers: int = 6, *, parameters: int = 100 * MILLION) -> ModelInput:
    """A chain of equal layers: 0.4 TFLOP and 200 MB of activations per row each."""
    found: list[JsonValue] = [
        {
            "name": f"layer{i}",
            "forward_flops_per_row": 4e11,
            "parameters": parameters,
            "activation_bytes_per_row": 200 * MILLION,
            "tensor_parallel": True,
        }
        for i in range(layers)
    ]
    edges: list[JsonValue] = [
        {"from": f"layer{i}", "to": f"layer{i + 1}", "elements_per_token": 4096}
        for i in range(layers - 1)
    ]
    resolved: dict[str, JsonValue] = {
        "format": FORMAT,
        "name": "tiny",
        "tokens_per_row": 256,
        "layers": found,
        "edges": edges,
    }
    return ModelInput("tiny", "tiny", resolved, model_from_resolved(resolved), ())


def small_inputs(
    cluster: str = FOUR, *, layers: int = 6, parameters: int = 100 * MILLION, sets: str = ""
) -> PlanInputs:
    """The tiny model on a cluster, 8 rows per step in micro-batches of one; ``sets`` by comma."""
    texts = ["job.global_batch=8", "job.micro_batch_rows=[1]", "job.precision=fp16"]
    texts += [f"job.{part}" for part in sets.split(" ") if part]
    return PlanInputs(
        tiny_model(layers, parameters=parameters),
        load_cluster(cluster),
        load_job(None, parse_overrides(texts)),
    )


@cache
def laid_out(layout: str, cluster: str = FOUR, layers: int = 6) -> Plan:
    """The tiny model in a layout that is written on one line."""
    inputs = small_inputs(cluster, layers=layers)
    return estimate(
        inputs.model, inputs.cluster, inputs.job, read_layout(layout), replay=False
    ).plan
