"""The price of one layer: the one call that search, estimate and verification build on.

    price_layer(shape, chip, fabric, LayerConfig(...))  ->  seconds and bytes on one device

Seconds are of one micro-batch and are a sum of named parts; bytes are by recomputation policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

from costmodels.activations import activation_bytes
from costmodels.catalog import Chip, Fabric
from costmodels.collectives import all_gather_s, all_reduce_s, reduce_scatter_s
from costmodels.compute import core_s, gemm_s, generic_s, host_floor_s, rates, streamed_s
from costmodels.layers import Collective, layer_work
from costmodels.shapes import LayerShape

POLICIES = ("none", "selective", "full")
"""Recomputation policies; policy tuples are indexed in this order."""

EXPOSED_TP_FRACTION = 1.0
"""Share of tensor-parallel communication that no computation hides: by default all of it."""


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """How a layer is run. ``rows`` sequences per micro-batch; ``tp`` devices share the layer.

    ``flash`` asks for fused attention; a chip without such a kernel runs it unfused all the same.
    """

    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool


@dataclass(frozen=True, slots=True)
class LayerPrice:
    """One micro-batch of one layer on one device of its tensor-parallel group.

    ``forward_s``, ``backward_input_s`` and ``backward_weight_s`` are compute alone, derated, and
    at least what the host needs to issue it; ``tp_comm_*_s`` is exposed communication;
    ``recompute_s`` is extra backward time by policy (full runs the forward pass and its
    communication again). ``activation_bytes`` are kept for each micro-batch in flight,
    ``working_bytes`` exist once while the layer runs backward, both by policy. ``items`` are named
    seconds that sum to forward, backward and communication, without recomputation.
    """

    forward_s: float
    backward_input_s: float
    backward_weight_s: float
    tp_comm_forward_s: float
    tp_comm_backward_s: float
    recompute_s: tuple[float, float, float]
    parameters: int
    activation_bytes: tuple[int, int, int]
    working_bytes: tuple[int, int, int]
    logits_bytes: int
    items: tuple[tuple[str, float], ...]


def price_layer(
    shape: LayerShape,
    chip: Chip,
    fabric: Fabric,
    config: LayerConfig,
    *,
    derate: float = 1.0,
) -> LayerPrice:
    """Price a layer on a chip. ``derate`` multiplies the chip's speed (0.8: a quarter longer).

    LookupError if the chip does not have the precision. Equal arguments are priced once.
    """
    return _price(shape, chip, fabric, config, derate)


class _Run(TypedDict):
    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool


@lru_cache(maxsize=65536)
def _price(
    shape: LayerShape, chip: Chip, fabric: Fabric, config: LayerConfig, derate: float
) -> LayerPrice:
    flash = config.flash and chip.flash_attention
    run = _Run(
        rows=config.rows,
        seq_len=config.seq_len,
        tp=config.tp,
        precision=config.precision,
        sequence_parallel=config.sequence_parallel,
        flash=flash,
    )
    work, memory = layer_work(shape, **run), activation_bytes(shape, **run)
    at = rates(chip, config.precision)
    product = [sum(times) / derate for times in zip(*(gemm_s(g, at) for g in work.gemms))]
    product = product or [0.0, 0.0, 0.0]
    core = [t / derate for t in core_s(work.core, at)] if work.core else [0.0, 0.0]
    streamed = [streamed_s(s, at) / derate for s in (work.streamed_forward, work.streamed_backward)]
    loss = [streamed_s(s, at) / derate for s in (work.loss_forward, work.loss_backward)]
    generic = generic_s(work.generic_flops, work.generic_bytes, at) / derate
    forward = product[0] + core[0] + streamed[0] + loss[0] + generic
    backward_input = product[1] + core[1] + loss[1] + generic
    backward_weight = product[2] + generic
    if shape.kind == "embedding":  # token ids have no gradient
        backward_weight += streamed[1]
    else:
        backward_input += streamed[1]
    calls = sum(1.0 if c.kind == "all_reduce" else 0.5 for c in work.tp_forward)
    host = [t / derate for t in host_floor_s(shape.kind, calls)]
    waiting = (
        max(0.0, host[0] - forward),
        max(0.0, host[1] - backward_input - backward_weight),
    )
    forward = max(forward, host[0])
    backward_input += waiting[1]
    comm_forward = _exposed_s(work.tp_forward, config.tp, fabric)
    comm_backward = _exposed_s(work.tp_backward, config.tp, fabric)
    repeated = shape.kind in ("block", "generic")
    return LayerPrice(
        forward_s=forward,
        backward_input_s=backward_input,
        backward_weight_s=backward_weight,
        tp_comm_forward_s=comm_forward,
        tp_comm_backward_s=comm_backward,
        recompute_s=(
            0.0,
            0.0 if flash else core[0],
            forward + comm_forward if repeated else 0.0,
        ),
        parameters=work.parameters,
        activation_bytes=memory.kept,
        working_bytes=memory.working,
        logits_bytes=memory.logits,
        items=_items(
            ("matrix products", sum(product)),
            ("attention core", sum(core)),
            ("lookup" if shape.kind == "embedding" else "norms and elementwise", sum(streamed)),
            ("softmax and loss", sum(loss)),
            ("layer totals", 3 * generic),
            ("waiting for the host", sum(waiting)),
            ("tensor-parallel communication", comm_forward + comm_backward),
        ),
    )


def _items(*parts: tuple[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, seconds) for name, seconds in parts if seconds > 0)


def _exposed_s(collectives: tuple[Collective, ...], tp: int, fabric: Fabric) -> float:
    times = {
        "all_reduce": all_reduce_s,
        "all_gather": all_gather_s,
        "reduce_scatter": reduce_scatter_s,
    }
    total = sum(times[c.kind](c.bytes, tp, fabric) for c in collectives)
    return EXPOSED_TP_FRACTION * total
