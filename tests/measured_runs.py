"""Predicts the measured runs of ``fixtures/measured/sailor-runs.json`` through ``estimate``.

A run becomes a cluster of its own machines, a layout with every device named, and a job of its
engine: fp32, no ZeRO, the classic in-flight depth. With ``profile`` layers and links are the
measured ones, without it everything comes from the catalogue and the formulas.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from costmodels.catalog import load_catalog
from planner.estimate import estimate, read_layout
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.inputs.profile import load_profile
from planner.plan import Plan
from tests.sailor_judge import measured_runs

CLUSTERS = Path(__file__).parents[1] / "fixtures" / "clusters"
DOUBTFUL = "N3_D1"
"""Its figures stand twice in the source; a reduction of 5.5 s needs more than its one replica."""


@dataclass(frozen=True)
class Predicted:
    """One run: seconds per step and bytes of the fullest device, predicted and measured."""

    name: str
    family: str
    step_s: float
    measured_s: float
    peak_bytes: int
    measured_bytes: int

    @property
    def error(self) -> float:
        return self.step_s / self.measured_s - 1

    @property
    def memory_error(self) -> float:
        return self.peak_bytes / self.measured_bytes - 1


def predict_all(family: str, *, profile: bool = True) -> list[Predicted]:
    """Every run of a family, worst first."""
    runs = [run for run in measured_runs()["runs"] if run["family"] == family]
    return sorted((predict(run, profile=profile) for run in runs), key=lambda p: -abs(p.error))


def mean_error(found: list[Predicted]) -> float:
    return sum(abs(p.error) for p in found) / len(found)


def predict(run: dict[str, Any], *, profile: bool) -> Predicted:
    plan = priced(run, profile=profile)
    replicas = [r for p in plan.pipelines for s in p.stages for r in s.replicas]
    # what an allocator loses is not in a measured peak
    peak = max(r.memory_bytes.peak - r.memory_bytes.fragmentation for r in replicas)
    return Predicted(
        run["name"],
        run["family"],
        plan.estimate.step_time_s,
        run["step_time_s"],
        peak,
        run["peak_memory_bytes"],
    )


def priced(run: dict[str, Any], *, profile: bool) -> Plan:
    """The run as an estimated plan."""
    with tempfile.TemporaryDirectory() as folder:
        cluster, layout = Path(folder) / "run.yaml", Path(folder) / "layout.yaml"
        cluster.write_text(yaml.safe_dump(_cluster(run)))
        layout.write_text(yaml.safe_dump(_layout(run)))
        settings = [
            f"job.global_batch={run['global_batch']}",
            f"job.micro_batch_rows=[{run['micro_batch_rows']}]",
            "job.seq_len=2048",
            "job.precision=fp32",
            "job.techniques.sequence_parallel=false",
            "job.techniques.zero1=false",
        ]
        return estimate(
            load_model("opt-350-gpt2"),
            load_cluster(str(cluster), load_catalog()),
            load_job(None, parse_overrides(settings)),
            read_layout(str(layout)),
            profile=load_profile("opt-350m-sailor") if profile else None,
            replay=False,
        ).plan


def _machines(run: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Name, chip and chips of the machine of every replica, stage by stage."""
    replicas = [r for stage in run["stages"] for r in stage["replicas"]]
    return [(f"n{k}", chip, tp) for k, (chip, tp) in enumerate(replicas)]


def _cluster(run: dict[str, Any]) -> dict[str, Any]:
    file = "sailor-gh200.yaml" if run["family"] == "gh200" else "sailor-mixed.yaml"
    known = yaml.safe_load((CLUSTERS / file).read_text())
    own = {chip["id"] for chip in known["chips"]}
    ports = {}
    for node in known["nodes"]:
        name = node["devices"][0]["chip"]
        # a chip of the cluster's own hides one that the catalogue knows by the same name
        ports[name if name in own else load_catalog().find(name)[0].id] = node["nics"]
    nodes = [
        {"name": name, "devices": [{"chip": chip, "count": tp}], "nics": ports[chip]}
        for name, chip, tp in _machines(run)
    ]
    return {
        "name": "run",
        "chips": known["chips"],
        "nodes": nodes,
        "networks": known["networks"],
    }


def _layout(run: dict[str, Any]) -> dict[str, Any]:
    names = iter(_machines(run))
    placement = [
        [f"{name}/0-{tp - 1}" for name, _, tp in (next(names) for _ in stage["replicas"])]
        for stage in run["stages"]
    ]
    return {
        "tp": [stage["replicas"][0][1] for stage in run["stages"]],
        "pp": len(run["stages"]),
        "dp": len(run["stages"][0]["replicas"]),
        "micro_batch_rows": run["micro_batch_rows"],
        "layers_per_stage": [stage["layers"] for stage in run["stages"]],
        "placement": placement,
        "in_flight": "classic",
        "zero": 0,
    }
