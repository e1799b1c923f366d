"""Plans written by hand for tests of the replay: times in picoseconds, routes as declared.

Every stage runs on one device of an island of its own. Nothing here is priced, so that a test
knows every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from costmodels.catalog import Chip, Fabric
from costmodels.shapes import GenericWork, LayerShape
from planner.graphs.model_graph import Layer, ModelGraph, TensorEdge
from planner.graphs.topology import Island, IslandClass, Route, Topology
from planner.plan import Plan
from planner.restore import Restored

PS = 1e-12
BOUNDARY_BYTES = 1000

FABRIC = Fabric("test", 1e12, 1e12, 1.0, 0.0, False)
CHIP = Chip(
    id="test-chip",
    name="Test",
    vendor="nobody",
    peak_flops=(("bf16", 1e15),),
    memory_bytes=2**40,
    usable_memory_bytes=2**40,
    memory_bandwidth=1e12,
    gemm_fraction=1.0,
    fabric=FABRIC,
    host_fabric=FABRIC,
    fabric_domain=1,
    nic_bytes_per_s=None,
    torch_device="cpu",
    dist_backend="gloo",
    flash_attention=True,
    price_usd_per_hour=None,
    confidence="test",
)


@dataclass(frozen=True)
class HandPipeline:
    """One pipeline: picoseconds per stage, and the devices, one per stage.

    Interleaved ones give picoseconds of each chunk of a stage, and a hop from the last stage too.
    """

    forward: Sequence[int] | Sequence[Sequence[int]]
    backward: Sequence[int] | Sequence[Sequence[int]]
    hops: Sequence[int]
    devices: Sequence[str]
    in_flight: Sequence[int]
    micro_batches: int
    schedule: str = "1f1b"
    rows: int = 1
    last_rows: int = 1

    @property
    def layers(self) -> int:
        """One layer per chunk."""
        return sum(len(_chunks(own)) for own in self.forward)


def _chunks(own: int | Sequence[int]) -> Sequence[int]:
    return (own,) if isinstance(own, int) else own


def hand_plan(
    pipelines: Sequence[HandPipeline],
    *,
    syncs: Sequence[tuple[Sequence[tuple[int, int]], int]] = (),
    update: int = 0,
) -> Plan:
    """A plan with these pipelines; ``syncs`` are (members, picoseconds)."""
    zero_time = dict.fromkeys(
        ["backward_input", "backward_weight", "recompute", "tp_comm_forward", "tp_comm_backward"],
        0.0,
    )
    memory = dict.fromkeys(
        ["parameters", "gradients", "optimizer", "activations", "logits", "buffers"], 0
    ) | {"context": 0, "fragmentation": 0, "peak": 0, "usable": 0}
    record = {"name": "hand", "digest": "", "resolved": {}}

    def stage(p: HandPipeline, s: int) -> dict[str, object]:
        forward, backward = _chunks(p.forward[s]), _chunks(p.backward[s])
        time = zero_time | {
            "forward": sum(forward) * PS,
            "forward_total": sum(forward) * PS,
            "backward_total": sum(backward) * PS,
        }
        count = len(p.forward)
        own = [(c * count + s, c * count + s + 1) for c in range(len(forward))]
        interleaved = p.schedule == "interleaved"
        replica = {
            "rows": p.rows,
            "chip": CHIP.id,
            "mesh": {},
            "devices": [p.devices[s]],
            "time_s": time,
            "memory_bytes": memory,
        }
        if interleaved:
            replica["chunk_time_s"] = [(f * PS, b * PS) for f, b in zip(forward, backward)]
        return {
            "layers": (own[0][0], own[-1][1]),
            "chunks": own if interleaved else (),
            "in_flight": p.in_flight[s],
            "recompute": [{"layers": part, "policy": "none"} for part in own],
            "zero": {"level": 0, "scope": "none"},
            "replicas": [replica],
            "hop_to_next_s": p.hops[s] * PS if s < len(p.hops) else None,
        }

    return Plan.model_validate(
        {
            "planner_version": "0",
            "inputs": dict.fromkeys(["model", "cluster", "job", "catalogue"], record),
            "plan_class": "asymmetric",
            "layer_order": [f"layer{i}" for p in pipelines[:1] for i in range(p.layers)],
            "pipelines": [
                {
                    "micro_batches": p.micro_batches,
                    "micro_batch_rows": p.rows,
                    "last_micro_batch_rows": p.last_rows,
                    "schedule": p.schedule,
                    "stages": [stage(p, s) for s in range(len(p.forward))],
                    "formula_time_s": 0.0,
                    "exact_time_s": 0.0,
                }
                for p in pipelines
            ],
            "sync_groups": [
                {
                    "layers": (0, 1),
                    "kind": "gradients",
                    "level": 0,
                    "members": [
                        {"pipeline": p, "stage": s, "tensor_parallel": 1} for p, s in members
                    ],
                    "time_s": time * PS,
                }
                for members, time in syncs
            ],
            "unused_devices": [],
            "alternatives": [],
            "estimate": {
                "step_time_s": 0.0,
                "tokens_per_s": 0.0,
                "mfu": 0.0,
                "mfu_6n": 0.0,
                "breakdown_s": {"fill": 0.0, "steady": 0.0, "sync": 0.0, "update": update * PS},
                "step_time_range_s": None,
                "simulated_step_time_s": None,
            },
            "certificate": None,
            "baselines": [],
            "assumptions": [],
        }
    )


def hand_world(
    layers: int,
    devices: Sequence[str],
    *,
    shared: dict[tuple[str, str], tuple[str, ...]] | None = None,
    capacity: dict[str, float] | None = None,
    latency: int = 0,
) -> Restored:
    """One island per device; every row sends ``BOUNDARY_BYTES`` over each cut.

    ``shared`` names the resources on the way between two devices; other ways share nothing.
    """
    names = list(dict.fromkeys(devices))
    islands = tuple(Island(d, d.split("/")[0], 0, (d,)) for d in names)
    cls = IslandClass(
        index=0,
        name="test",
        chip=CHIP,
        size=1,
        fabric=FABRIC,
        islands=islands,
        derate=1.0,
        reserved_bytes=0,
        usable_memory_bytes=2**40,
        host_memory_bytes=None,
    )

    def route(source: Island, target: Island) -> Route | None:
        resources = (shared or {}).get((source.name, target.name), ())
        return Route(1e12, latency * PS, "test", resources)

    shape = LayerShape("generic", 1, generic=GenericWork(1.0, 1))
    model = ModelGraph(
        name="hand",
        family="layer-graph",
        layers=tuple(Layer(f"layer{i}", shape) for i in range(layers)),
        edges=tuple(TensorEdge(i, i + 1, BOUNDARY_BYTES) for i in range(layers - 1)),
        tied=(),
        parameters=0,
        active_parameters=0,
    )
    topology = Topology("hand", (cls,), {}, route, capacity or {}, "none")
    job = SimpleNamespace(seq_len=1, element_bytes=1)
    return Restored(model, topology, job)
