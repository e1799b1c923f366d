"""A model of three layers, two small machines, and a profile of both, small enough for paper."""

from __future__ import annotations

from typing import Any

from costmodels.catalog import load_catalog
from planner.inputs.cluster import ClusterInput, load_cluster
from planner.inputs.document import Document, JsonValue
from planner.inputs.job import JobInput, JobSpec
from planner.inputs.layer_graph import FORMAT
from planner.inputs.model import ModelInput, model_from_resolved
from planner.inputs.profile import ProfileInput, parse_profile

MIB = 2**20


def model() -> ModelInput:
    layers: list[JsonValue] = [
        {
            "name": f"layer{i}",
            "forward_flops_per_row": 1e12,
            "parameters": 1_000_000,
            "activation_bytes_per_row": 100 * MIB,
            "tensor_parallel": True,
        }
        for i in range(3)
    ]
    edges: list[JsonValue] = [
        {"from": f"layer{i}", "to": f"layer{i + 1}", "elements_per_token": 1024} for i in range(2)
    ]
    resolved: dict[str, JsonValue] = {
        "format": FORMAT,
        "name": "three",
        "tokens_per_row": 512,
        "layers": layers,
        "edges": edges,
    }
    return ModelInput("three", "three", resolved, model_from_resolved(resolved), ())


def cluster(text: str = "2x2xA100-SXM-80GB @ 100Gb/s") -> ClusterInput:
    return load_cluster(text, load_catalog())


def job(**fields: Any) -> JobInput:
    return JobInput("job", "", JobSpec.model_validate({"global_batch": 8, **fields}))


def row(layer: JsonValue, tp: int, rows: int, forward: float, backward: float) -> dict[str, Any]:
    return {
        "layer": layer,
        "tensor_parallel": tp,
        "micro_batch_rows": rows,
        "forward_s": forward,
        "backward_s": backward,
        "update_s": 0.002,
        "activation_bytes": rows * 50 * MIB // tp,
        "parameter_bytes": 2_000_000 // tp,
    }


def rows(scale: float = 1.0) -> list[dict[str, Any]]:
    """Ten and twenty milliseconds a row and layer at tp 1; the last layer takes twice as long."""
    out = []
    for tp, share in ((1, 1.0), (2, 0.6)):
        for n in (1, 2, 4):
            t = scale * share * n
            out.append(row([0, 2], tp, n, 0.010 * t, 0.020 * t))
            out.append(row("layer2", tp, n, 0.020 * t, 0.040 * t))
    return out


def document(**fields: Any) -> dict[str, Any]:
    return {
        "model": "three",
        "seq_len": 512,
        "precision": "bf16",
        "chips": [{"chip": "A100-SXM-80GB", "rows": rows()}],
        **fields,
    }


LINK = {
    "source": "A100-SXM-80GB",
    "target": "A100-SXM-80GB",
    "chips": 1,
    "points": [[MIB, 0.002], [16 * MIB, 0.010]],
}


def profile(**fields: Any) -> ProfileInput:
    return parse_profile(Document("profile.json", document(**fields)), "three")
