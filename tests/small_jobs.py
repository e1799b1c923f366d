"""Hypothesis strategy for small jobs as files would say them: a layer graph, a cluster, a batch.

`tests/strategies.py` makes problems of the search alone; these go through the whole planner.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import reject
from hypothesis import strategies as st

from costmodels.catalog import load_catalog
from planner.errors import InfeasibleError
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan
from planner.solve import SolveParams, solve

GAP = 0.01
"""Asked for of every proof."""

CHIPS = ("A100-SXM-80GB", "V100-SXM2-32GB", "RTX4090-24GB", "RTX3090-24GB")
RATES_GBIT = (10, 100, 400)
HOSTS = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4))
"""Equal hosts, and chips in each."""


@dataclass(frozen=True)
class LayerSize:
    """One layer: TFLOP per row forward, millions of weights, MB kept per row, elements sent on."""

    tflop: float
    million_weights: int
    kept_mb: int
    sent: int


@dataclass(frozen=True)
class Node:
    """``count`` equal hosts of ``devices`` chips, of which each has ``usable_gib`` left."""

    prefix: str
    chip: str
    count: int
    devices: int
    gbit: int
    reserved_gib: float = 0.0
    rows_per_s: float | None = None


@dataclass(frozen=True)
class SmallJob:
    """Everything that a plan needs."""

    layers: tuple[LayerSize, ...]
    nodes: tuple[Node, ...]
    batch: int
    rows: tuple[int, ...]

    @property
    def chips(self) -> int:
        return sum(n.count * n.devices for n in self.nodes)

    def with_node(self, changed: int, **values: object) -> SmallJob:
        """The same job with one entry of the node list changed."""
        nodes = list(self.nodes)
        nodes[changed] = replace(nodes[changed], **values)
        return replace(self, nodes=tuple(nodes))

    def model_file(self) -> str:
        layers = [
            {
                "name": f"layer{i}",
                "forward_flops_per_row": layer.tflop * 1e12,
                "parameters": layer.million_weights * 10**6,
                "activation_bytes_per_row": layer.kept_mb * 10**6,
                "tensor_parallel": True,
            }
            for i, layer in enumerate(self.layers)
        ]
        edges = [
            {"from": f"layer{i}", "to": f"layer{i + 1}", "elements_per_row": layer.sent}
            for i, layer in enumerate(self.layers[:-1])
        ]
        return json.dumps({"name": "small", "layers": layers, "edges": edges})

    def cluster_file(self) -> str:
        nodes = []
        for node in self.nodes:
            group: dict[str, object] = {
                "chip": node.chip, "count": node.devices, "reserved_gib": node.reserved_gib,
            }  # fmt: skip
            if node.rows_per_s is not None:
                group["measured_rows_per_s"] = node.rows_per_s
            port = {"network": "net", "bandwidth_one_way": f"{node.gbit} Gb/s", "kind": "ib"}
            nodes.append(
                {
                    "name_prefix": node.prefix,
                    "count": node.count,
                    "devices": [group],
                    "nics": [port],
                }
            )
        return json.dumps({"name": "small", "nodes": nodes})


def planned(job: SmallJob, hint: SmallJob | None = None) -> Plan:
    """The plan of a job, on request with the plan of another one as hint.

    A job that has none is no example. Strategies do not plan: hypothesis watches their time.
    """
    plan = _solved(job, hint)
    if plan is None:
        reject()
    return plan


@cache
def _solved(job: SmallJob, hint: SmallJob | None) -> Plan | None:
    """Without baselines; None where it is proven that nothing fits."""
    with TemporaryDirectory() as folder:
        model, cluster = Path(folder, "small.json"), Path(folder, "cluster.json")
        model.write_text(job.model_file())
        cluster.write_text(job.cluster_file())
        changes = parse_overrides(
            [
                f"job.global_batch={job.batch}",
                f"job.micro_batch_rows={list(job.rows)}",
                "job.precision=fp16",
            ]
        )
        inputs = (
            load_model(model),
            load_cluster(cluster, load_catalog()),
            load_job(None, changes),
        )
        known = planned(hint) if hint is not None else None
        try:
            return solve(*inputs, params=SolveParams(gap=GAP, baselines=False), hint=known)
        except InfeasibleError:
            return None


layer_sizes = st.builds(
    LayerSize,
    tflop=st.sampled_from((0.4, 0.8, 1.2, 2.0)),
    million_weights=st.sampled_from((1, 20, 200)),
    kept_mb=st.sampled_from((10, 100, 1000)),
    sent=st.sampled_from((10**4, 10**6, 10**7)),
)


@st.composite
def small_jobs(draw: st.DrawFn, *, max_kinds: int = 2) -> SmallJob:
    """Three to five layers on one or two kinds of chip, at most four of each."""
    kinds = draw(st.lists(st.sampled_from(CHIPS), min_size=1, max_size=max_kinds, unique=True))
    hosts = [draw(st.sampled_from(HOSTS)) for _ in kinds]
    nodes = tuple(
        Node(
            prefix=f"n{k}-",
            chip=chip,
            count=count,
            devices=devices,
            gbit=draw(st.sampled_from(RATES_GBIT)),
            reserved_gib=draw(st.sampled_from((0.0, 0.0, 10.0, 14.0))),
        )
        for k, (chip, (count, devices)) in enumerate(zip(kinds, hosts))
    )
    return SmallJob(
        layers=tuple(draw(st.lists(layer_sizes, min_size=3, max_size=5))),
        nodes=nodes,
        batch=draw(st.integers(2, 12)),
        rows=draw(st.sampled_from(((1,), (1, 2)))),
    )
