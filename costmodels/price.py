"""The price of one layer: the one call that search, estimate and verification build on.

    price_layer(shape, chip, fabric, LayerConfig(...))  ->  seconds and bytes on one device

Seconds are of one micro-batch and are a sum of named parts; bytes are by recomputation policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypedDict

from costmodels.activations import activation_bytes
from costmodels.catalog import Chip, Fabric
from costmodels.collectives import all_gather_s, all_reduce_s, reduce_scatter_s
from costmodels.compute import core_s, gemm_s, generic_s, host_floor_s, rates, streamed_s
from costmodels.layers import Collective, Gemm, held, layer_work, products
from costmodels.shapes import LayerShape
from costmodels.training import FULL, Training, adapters

POLICIES = ("none", "selective", "full")
"""Recomputation policies; policy tuples are indexed in this order."""

EXPOSED_TP_FRACTION = 1.0
"""Share of tensor-parallel communication that no computation hides: by default all of it."""


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """How a layer is run. ``rows`` sequences per micro-batch; ``tp`` devices share the layer.

    ``flash`` asks for fused attention; a chip without such a kernel runs it unfused all the same.
    ``training`` says what of the layer has gradients.
    """

    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool
    training: Training = FULL


@dataclass(frozen=True, slots=True)
class LayerPrice:
    """One micro-batch of one layer on one device of its tensor-parallel group.

    ``forward_s``, ``backward_input_s`` and ``backward_weight_s`` are compute alone, derated, and
    at least what the host needs to issue it; ``tp_comm_*_s`` is exposed communication;
    ``recompute_s`` is extra backward time by policy (full runs the forward pass and its
    communication again). ``activation_bytes`` are kept for each micro-batch in flight,
    ``working_bytes`` exist once while the layer runs backward, both by policy. ``items`` are named
    seconds that sum to forward, backward and communication, without recomputation.
    ``trained`` of the ``parameters`` have a gradient and optimizer state; None is all of them.
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
    trained: int | None = None

    @property
    def trained_parameters(self) -> int:
        """Parameters of one device with a gradient and optimizer state."""
        return self.parameters if self.trained is None else self.trained


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
    training = config.training
    extra = adapters(shape, training)
    tokens = config.rows * config.seq_len
    low_rank = products(extra, tokens, config.tp, config.sequence_parallel)
    product = [sum(times) / derate for times in zip(*(gemm_s(g, at) for g in work.gemms))]
    product = product or [0.0, 0.0, 0.0]
    beside = [sum(times) / derate for times in zip(*(gemm_s(g, at) for g in low_rank))]
    beside = beside or [0.0, 0.0, 0.0]
    learns = training.mode == "full"
    product = [product[0] + beside[0], product[1] + beside[1], product[2] * learns + beside[2]]
    core = [t / derate for t in core_s(work.core, at)] if work.core else [0.0, 0.0]
    streamed = [streamed_s(s, at) / derate for s in (work.streamed_forward, work.streamed_backward)]
    loss = [streamed_s(s, at) / derate for s in (work.loss_forward, work.loss_backward)]
    generic = generic_s(work.generic_flops, work.generic_bytes, at) / derate
    forward = product[0] + core[0] + streamed[0] + loss[0] + generic
    backward_input = product[1] + core[1] + loss[1] + generic
    backward_weight = product[2] + generic * learns
    if shape.kind == "embedding":  # token ids have no gradient
        backward_weight += streamed[1] * learns
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
    inner = _low_rank_bytes(low_rank, at.element_bytes)
    full = LayerPrice(
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
        parameters=work.parameters + held(extra, config.tp),
        activation_bytes=(memory.kept[0] + inner, memory.kept[1] + inner, memory.kept[2]),
        working_bytes=(memory.working[0], memory.working[1], memory.working[2] + inner),
        logits_bytes=memory.logits,
        items=_items(
            ("matrix products", sum(product)),
            ("attention core", sum(core)),
            ("lookup" if shape.kind == "embedding" else "norms and elementwise", sum(streamed)),
            ("softmax and loss", sum(loss)),
            ("layer totals", (2 + learns) * generic),
            ("waiting for the host", sum(waiting)),
            ("tensor-parallel communication", comm_forward + comm_backward),
        ),
        trained=None if learns else held(extra, config.tp),
    )
    return _forward_only(full) if training.mode == "forward" else full


def _forward_only(price: LayerPrice) -> LayerPrice:
    """A layer before every trained one: no backward pass, nothing is kept for one."""
    return replace(
        price,
        backward_input_s=0.0,
        backward_weight_s=0.0,
        tp_comm_backward_s=0.0,
        recompute_s=(0.0, 0.0, 0.0),
        activation_bytes=(0, 0, 0),
        items=_items(
            ("forward alone", price.forward_s),
            ("tensor-parallel communication", price.tp_comm_forward_s),
        ),
    )


def _low_rank_bytes(low_rank: Sequence[Gemm], size: int) -> int:
    """What adapters keep for their backward pass: the product with A, of the rank's width."""
    return sum(g.m * g.n * g.count * size for g in low_rank if g.name.endswith(" A"))


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
