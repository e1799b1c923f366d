"""Hypothesis strategies for tiny real inputs: layer graphs, catalogue chips, jobs. No files.

Sizes are chosen so that one layer always fits on a chip and the whole model sometimes does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from planner.inputs.cluster import ClusterInput, load_cluster
from planner.inputs.document import JsonValue
from planner.inputs.job import JobInput, JobSpec
from planner.inputs.layer_graph import FORMAT
from planner.inputs.model import ModelInput, model_from_resolved
from planner.inputs.overrides import parse_overrides

GROUPS = ("A100-SXM-80GB", "V100-SXM2-32GB", "RTX4090-24GB", "A40-48GB")
FORBIDDABLE = ("tensor_parallel", "recompute_selective", "recompute_full", "zero1")
MILLION = 10**6


@dataclass(frozen=True)
class TinyInputs:
    """What `planner.solve` takes."""

    model: ModelInput
    cluster: ClusterInput
    job: JobInput


@st.composite
def layer_graphs(draw: st.DrawFn, max_layers: int = 5) -> ModelInput:
    """A chain of unequal layers, at times with a tensor that skips some of them."""
    count = draw(st.integers(1, max_layers))
    layers: list[JsonValue] = [
        {
            "name": f"layer{i}",
            "forward_flops_per_row": draw(st.integers(1, 8)) * 1e11,
            "parameters": draw(st.integers(1, 6)) * 50 * MILLION,
            "activation_bytes_per_row": draw(st.integers(1, 8)) * 200 * MILLION,
            "tensor_parallel": True,
        }
        for i in range(count)
    ]
    width = draw(st.sampled_from((512, 4096)))
    pairs = [(i, i + 1) for i in range(count - 1)]
    if count > 2 and draw(st.booleans()):
        pairs.append((0, count - 1))
    edges: list[JsonValue] = [
        {"from": f"layer{a}", "to": f"layer{b}", "elements_per_token": width} for a, b in pairs
    ]
    resolved: dict[str, JsonValue] = {
        "format": FORMAT,
        "name": "tiny",
        "tokens_per_row": 256,
        "layers": layers,
        "edges": edges,
    }
    return ModelInput("tiny", "tiny", resolved, model_from_resolved(resolved), ())


@st.composite
def small_clusters(
    draw: st.DrawFn, max_chips: int = 4, *, hosts_known: bool = False
) -> ClusterInput:
    """One or two groups of catalogue chips on one network, in shorthand.

    ``hosts_known``: the cluster says how much memory hosts have, at times little.
    """
    names = draw(st.lists(st.sampled_from(GROUPS), min_size=1, max_size=2, unique=True))
    groups, left, nodes = [], max_chips, 0
    for name in names:
        hosts = draw(st.integers(1, min(2, left)))
        chips = draw(st.sampled_from([n for n in (1, 2, 4) if n * hosts <= left]))
        groups.append(f"{hosts}x{chips}x{name}")
        left -= hosts * chips
        nodes += hosts
        if not left:
            break
    rate = draw(st.sampled_from((10, 100)))
    sets = [
        f"cluster.nodes.{n}.host_memory_gib={draw(st.sampled_from((1, 4, 64)))}"
        for n in range(len(groups) if hosts_known else 0)
    ]
    text = " + ".join(groups) + (f" @ {rate}Gb/s" if nodes > 1 else "")
    return load_cluster(text, None, parse_overrides(sets))


@st.composite
def tiny_inputs(
    draw: st.DrawFn, max_layers: int = 5, max_chips: int = 4, *, hosted: bool = False
) -> TinyInputs:
    """Inputs that a brute force, or the compact model, can still solve.

    ``hosted``: activations may lie on hosts, and gradients be packed between them.
    """
    spec = JobSpec.model_validate(
        {
            "global_batch": draw(st.integers(1, 8)),
            "precision": "fp16",
            "micro_batch_rows": [1],
            "max_pipeline_stages": draw(st.integers(1, 3)),
            "techniques": {
                **{name: draw(st.booleans()) for name in FORBIDDABLE},
                "activation_offload": hosted,
                "gradient_compression": draw(st.sampled_from(("fp8", "int4")))
                if hosted
                else "none",
            },
        }
    )
    return TinyInputs(
        draw(layer_graphs(max_layers)),
        draw(small_clusters(max_chips, hosts_known=hosted)),
        JobInput("job", "", spec),
    )
