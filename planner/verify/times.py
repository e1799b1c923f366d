"""Re-derives the seconds that layers of one replica spend on a micro-batch, by cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodels.collectives import Links
from costmodels.constants import shipped_constants
from costmodels.price import WAYS, LayerPrice
from costmodels.sharding import ShardGroup, exposed_gathers_s
from costmodels.units import PS_PER_S
from planner.graphs.topology import IslandClass
from planner.inputs.job import ResolvedJob
from planner.plan import Mesh
from planner.verify.meshes import dense, experts

Times = dict[str, int]
"""Picoseconds by the names of ``planner.plan.StageTime``."""


def layer_times(
    layers: Sequence[LayerPrice],
    policies: Sequence[int],
    scale: float,
    mesh: Mesh,
    cls: IslandClass,
    job: ResolvedJob,
) -> Times:
    """Sums over consecutive layers of times that are rounded once per layer.

    ``scale`` leads from the formulas to a measured rate.
    """
    times = _computed(layers, policies, scale)
    if mesh.zero3:
        times = _with_gathers(times, layers, policies, mesh, cls, job)
    return _with_copies(times, layers, policies, scale, cls)


def waiting(times: Times, busy: int) -> Times:
    """The times of stages that wait so long for transfers in each pass."""
    more = dict.fromkeys(
        ("transfer_forward", "transfer_backward", "forward_total", "backward_total"), busy
    )
    return times | {name: times.get(name, 0) + value for name, value in more.items()}


def _computed(layers: Sequence[LayerPrice], policies: Sequence[int], scale: float) -> Times:
    def total(values: Iterator[float]) -> int:
        return sum(map(_picoseconds, values))

    times = {
        "forward": total(layer.forward_s * scale for layer in layers),
        "backward_input": total(layer.backward_input_s * scale for layer in layers),
        "backward_weight": total(layer.backward_weight_s * scale for layer in layers),
        "recompute": total(
            layer.again_s(policy) * scale for layer, policy in zip(layers, policies, strict=True)
        ),
        "tp_comm_forward": total(layer.tp_comm_forward_s for layer in layers),
        "tp_comm_backward": total(layer.tp_comm_backward_s for layer in layers),
    }
    times["forward_total"] = times["forward"] + times["tp_comm_forward"]
    times["backward_total"] = (
        times["backward_input"]
        + times["backward_weight"]
        + times["recompute"]
        + times["tp_comm_backward"]
    )
    return times


def _with_gathers(
    times: Times,
    layers: Sequence[LayerPrice],
    policies: Sequence[int],
    mesh: Mesh,
    cls: IslandClass,
    job: ResolvedJob,
) -> Times:
    """The times with what gathering divided weights adds to them."""
    there, back = 0, 0
    for layer, policy in zip(layers, policies, strict=True):
        sizes = (layer.parameters - layer.expert_parameters, layer.expert_parameters)
        holdings = (dense(mesh), experts(mesh))
        exposed = exposed_gathers_s(
            layer,
            [ShardGroup(n, h.copies, h.lanes) for n, h in zip(sizes, holdings)],
            Links(cls.fabric),
            weight_bytes=job.element_bytes,
            gradient_bytes=job.state_bytes.gradient,
            policy=policy,
            gradients_alone=False,
            constants=shipped_constants(),
        )
        there += _picoseconds(exposed[0])
        back += _picoseconds(exposed[1])
    more = {"tp_comm_forward": there, "forward_total": there}
    more |= {"tp_comm_backward": back, "backward_total": back}
    return {name: value + more.get(name, 0) for name, value in times.items()}


def _with_copies(
    times: Times,
    layers: Sequence[LayerPrice],
    policies: Sequence[int],
    scale: float,
    cls: IslandClass,
) -> Times:
    """The times with what leaves for the host and comes back, less the computation beside it.

    Rates of links and of the host's memory are those of a device when all of its host copy.
    """
    there = back = 0
    for layer, policy in zip(layers, policies, strict=True):
        left = {"offload": layer.activation_bytes[1], "full_offload": layer.activation_bytes[2]}
        size, host = left.get(WAYS[policy], 0), cls.host
        if not size or host is None:
            continue  # a host that is not known is a problem of the layout
        copy = _picoseconds(size / min(host.link_bandwidth, host.memory_bandwidth))
        again = layer.recompute_s[1 if WAYS[policy] == "offload" else 2]
        forward = _picoseconds(layer.forward_s * scale)
        backward = sum(
            _picoseconds(seconds * scale)
            for seconds in (layer.backward_input_s, layer.backward_weight_s, again)
        )
        there += max(0, copy - forward)
        back += max(0, copy - backward)
    more = {"forward_total": there, "backward_total": back}
    with_totals = {name: value + more.get(name, 0) for name, value in times.items()}
    return with_totals | {"copy_forward": there, "copy_backward": back}


def _picoseconds(seconds: float) -> int:
    return round(seconds * PS_PER_S)
