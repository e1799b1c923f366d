"""Plans written by hand for the runtime: any shape, no prices.

Devices are named in the order of the sketch, ``hostP/N`` for pipeline P, so that ranks follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from planner.plan import Plan, seal

CHIP = "nvidia-a100-sxm-80gb"


@dataclass(frozen=True)
class S:
    """A stage: its layers (or chunks), and (rows, tensor-parallel degree) of every replica."""

    layers: tuple[int, int]
    replicas: Sequence[tuple[int, int]] = ((1, 1),)
    in_flight: int | None = None
    recompute: str = "none"
    chunks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class P:
    """A pipeline of stages."""

    stages: Sequence[S]
    micro_batches: int
    last_rows: int | None = None
    schedule: str = "1f1b"

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.stages[0].replicas)


def run_plan(
    pipelines: Sequence[P],
    names: Sequence[str],
    *,
    zero: int = 0,
    seq_len: int = 8,
    optimizer: str = "adamw",
    sequence_parallel: bool = False,
    precision: str = "fp32",
    model: dict[str, Any] | None = None,
) -> Plan:
    """A sealed plan of these pipelines over layers with these names."""
    batch = sum((p.micro_batches - 1) * p.rows + (p.last_rows or p.rows) for p in pipelines)
    job = _job() | {
        "global_batch": batch,
        "seq_len": seq_len,
        "precision": precision,
        "optimizer": optimizer,
        "state_bytes": _job()["state_bytes"] | {"parameter": 4, "gradient": 4, "optimizer": 8},
        "sequence_parallel": sequence_parallel,
    }
    record = {"name": "hand", "digest": "", "resolved": {}}
    return seal(
        Plan.model_validate(
            {
                "planner_version": "0",
                "inputs": {
                    "model": record | {"resolved": model or {}},
                    "cluster": record,
                    "job": record | {"resolved": job},
                    "catalogue": record,
                },
                "plan_class": "asymmetric",
                "layer_order": list(names),
                "pipelines": [_pipeline(p, k, zero) for k, p in enumerate(pipelines)],
                "sync_groups": [],
                "unused_devices": [],
                "alternatives": [],
                "estimate": {
                    "step_time_s": 1.0,
                    "tokens_per_s": 1.0,
                    "mfu": 0.1,
                    "mfu_6n": 0.1,
                    "breakdown_s": {"fill": 0.0, "steady": 1.0, "sync": 0.0, "update": 0.0},
                    "step_time_range_s": None,
                    "simulated_step_time_s": None,
                },
                "certificate": None,
                "baselines": [],
                "assumptions": [],
            }
        )
    )


@cache
def _job() -> dict[str, Any]:
    """A job as the planner resolves it, with all fields that this version knows."""
    from planner.inputs.cluster import load_cluster
    from planner.inputs.job import load_job
    from planner.inputs.model import load_model
    from planner.solve import prepare

    context = prepare(load_model("gpt2"), load_cluster("1xA100-SXM-40GB"), load_job(None))
    return context.job.as_json()


def _pipeline(p: P, number: int, zero: int) -> dict[str, Any]:
    stages, device = [], 0
    for s, stage in enumerate(p.stages):
        replicas = []
        for rows, tp in stage.replicas:
            replicas.append(_replica(rows, tp, [f"host{number}/{device + k}" for k in range(tp)]))
            device += tp
        chunks = stage.chunks or (stage.layers,)
        stages.append(
            {
                "layers": stage.layers,
                "in_flight": stage.in_flight or len(p.stages) - s,
                "recompute": [{"layers": c, "policy": stage.recompute} for c in chunks],
                "zero": {"level": zero, "scope": "all-replicas" if zero else "none"},
                "replicas": replicas,
                "hop_to_next_s": 0.0 if s < len(p.stages) - 1 else None,
            }
            | ({"chunks": stage.chunks} if stage.chunks else {})
        )
    return {
        "micro_batches": p.micro_batches,
        "micro_batch_rows": p.rows,
        "last_micro_batch_rows": p.last_rows or p.rows,
        "schedule": p.schedule,
        "stages": stages,
        "formula_time_s": 1.0,
        "exact_time_s": 1.0,
    }


def _replica(rows: int, tp: int, devices: list[str]) -> dict[str, Any]:
    parts = "forward backward_input backward_weight recompute tp_comm_forward tp_comm_backward"
    memory = "parameters gradients optimizer activations logits buffers context fragmentation"
    return {
        "rows": rows,
        "chip": CHIP,
        "mesh": {"tensor_parallel": tp},
        "devices": devices,
        "time_s": dict.fromkeys([*parts.split(), "forward_total", "backward_total"], 0.0),
        "memory_bytes": dict.fromkeys([*memory.split(), "peak", "usable"], 0),
    }
