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
from costmodels.collectives import Links, group_s
from costmodels.compute import Rates, core_s, gemm_s, generic_s, host_floor_s, rates, streamed_s
from costmodels.constants import Constants, shipped_constants
from costmodels.layers import (
    EXPERT_IMBALANCE,
    Collective,
    Division,
    Gemm,
    held,
    layer_work,
    products,
    unfused_routing,
)
from costmodels.shapes import LayerShape
from costmodels.training import FULL, Training, adapters

POLICIES = ("none", "selective", "full")
"""Recomputation policies; policy tuples are indexed in this order."""

WAYS = (*POLICIES, "offload", "full_offload")
"""What a stage does with what its layers keep: the policies, then those whose kept activations
lie in the host's memory (:mod:`costmodels.activation_offload`)."""

HOSTED = WAYS[len(POLICIES) :]
"""The ways whose kept activations lie in the host's memory."""

POLICY_OF = (0, 1, 2, POLICIES.index("selective"), POLICIES.index("full"))
"""The recomputation policy of each way."""


def hosted(way: int) -> bool:
    """Whether the kept activations lie in the host's memory."""
    return way >= len(POLICIES)


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """How a layer is run. ``rows`` sequences per micro-batch; ``tp`` devices share the layer.

    ``flash`` asks for fused attention; a chip without such a kernel runs it unfused all the same.
    ``cp`` devices share every sequence, ``ep`` devices hold different experts, each divided among
    ``expert_tp`` (None: ``tp`` where ``ep`` is 1, else 1). Chips are numbered tensor parallel
    fastest, then context parallel. ``island`` chips share the fabric, 0 any number; a group that
    is larger goes out over ``port`` bytes/s per chip with hops of ``port_latency_s``.
    ``early_stop``: full recomputation ends at the last tensor that the backward pass reads, as
    PyTorch's checkpoints do, and so skips the last product of the block. ``fused_softmax`` False:
    neither the softmax of unfused attention nor the elementwise kernels are fused. ``slow_host``:
    kernels are issued one by one by a runtime that takes long over each. The weight gradient of
    every micro-batch is added to an accumulator of ``gradient_bytes`` per parameter.
    ``once_per_host``: a token crosses to a fabric once, however many of its experts lie there;
    ``node_limited``: to those fabrics alone that the groups of the model's router leave it.
    ``padded`` False: widths are multiplied as they are, also those that do not divide by 8.
    ``grouped_experts``: all experts of a chip are multiplied by one kernel, not one by one.
    ``fused_routing`` False: the way to experts and back takes many kernels
    (:func:`costmodels.layers.unfused_routing`). ``rescaled``: operands of 8 bits are scaled by
    their own largest elements. ``equal_heads``: fused attention knows one head size.
    ``training`` says what of the layer has gradients.
    """

    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool
    training: Training = FULL
    cp: int = 1
    ep: int = 1
    expert_tp: int | None = None
    imbalance: float = EXPERT_IMBALANCE
    island: int = 0
    port: float = 0.0
    port_latency_s: float = 0.0
    early_stop: bool = False
    fused_softmax: bool = True
    slow_host: bool = False
    gradient_bytes: int = 2
    once_per_host: bool = False
    node_limited: bool = False
    padded: bool = True
    grouped_experts: bool = False
    fused_routing: bool = True
    rescaled: bool = False
    equal_heads: bool = False

    @property
    def division(self) -> Division:
        """Degrees of the layer."""
        return Division(self.tp, self.cp, self.ep, self.expert_tp, self.imbalance)


@dataclass(frozen=True, slots=True)
class LayerPrice:
    """One micro-batch of one layer on one device of its tensor-parallel group.

    ``forward_s``, ``backward_input_s`` and ``backward_weight_s`` are compute alone, derated, and
    at least what the host needs to issue it; ``tp_comm_*_s`` is exposed communication of the
    layer, tensor, context and expert parallel together;
    ``recompute_s`` is extra backward time by policy (full runs the forward pass and its
    communication again). ``activation_bytes`` are kept for each micro-batch in flight,
    ``working_bytes`` exist once while the layer runs backward, both by policy. ``items`` are named
    seconds that sum to forward, backward and communication, without recomputation.
    ``trained`` of the ``parameters`` have a gradient and optimizer state; None is all of them.
    ``expert_parameters`` are those of ``parameters`` that lie on ``ep`` devices.
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
    expert_parameters: int = 0

    @property
    def trained_parameters(self) -> int:
        """Parameters of one device with a gradient and optimizer state."""
        return self.parameters if self.trained is None else self.trained

    def kept(self, way: int) -> int:
        """Bytes that each micro-batch in flight keeps on the device."""
        return 0 if hosted(way) else self.activation_bytes[way]

    def on_host(self, way: int) -> int:
        """Bytes that each micro-batch in flight keeps in the host's memory."""
        return self.activation_bytes[POLICY_OF[way]] if hosted(way) else 0

    def working(self, way: int) -> int:
        """Bytes of the layer at work; two layers' worth of copies under way if they leave."""
        return self.working_bytes[POLICY_OF[way]] + 2 * self.on_host(way)

    def again_s(self, way: int) -> float:
        """Seconds of recomputation."""
        return self.recompute_s[POLICY_OF[way]]


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


@lru_cache(maxsize=65536)
def _price(
    shape: LayerShape, chip: Chip, fabric: Fabric, config: LayerConfig, derate: float
) -> LayerPrice:
    return price_with(shape, chip, fabric, config, derate, shipped_constants())


class _Run(TypedDict):
    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool
    split: Division


def price_with(
    shape: LayerShape,
    chip: Chip,
    fabric: Fabric,
    config: LayerConfig,
    derate: float,
    constants: Constants,
) -> LayerPrice:
    """:func:`price_layer` under other constants, for their calibration; nothing is cached."""
    c = constants
    flash = config.flash and chip.flash_attention
    run = _Run(
        rows=config.rows,
        seq_len=config.seq_len,
        tp=config.tp,
        precision=config.precision,
        sequence_parallel=config.sequence_parallel,
        flash=flash,
        split=config.division,
    )
    work, memory = layer_work(shape, **run), activation_bytes(shape, **run)
    at = rates(chip, config.precision)
    training, split = config.training, config.division
    learns = training.mode == "full"
    extra = adapters(shape, training)
    tokens = config.rows * -(-config.seq_len // split.cp)
    low_rank = products(extra, tokens, split, config.sequence_parallel)
    added, _ = held(extra, split)
    wide = shape.kind == "head"  # stays in 16 bits
    own = _products(
        work.gemms, at, derate, c, wide=wide, padded=config.padded, rescaled=config.rescaled
    )
    beside = _products(low_rank, at, derate, c)
    product = (own[0] + beside[0], own[1] + beside[1], own[2] * learns + beside[2])
    core = [0.0, 0.0]
    if work.core:
        kind = {"fused_softmax": config.fused_softmax, "equal_heads": config.equal_heads}
        core = [t / derate for t in core_s(work.core, at, c, **kind)]
    passes = derate if config.fused_softmax else derate / c.eager_passes
    streamed = [
        streamed_s(s, at, c) / passes for s in (work.streamed_forward, work.streamed_backward)
    ]
    routing = not config.fused_routing and shape.is_moe
    if routing:
        more = unfused_routing(shape, tokens, split)
        moving = at.element_bytes / (at.memory * c.stream) / derate
        streamed = [s + elements * moving for s, elements in zip(streamed, more)]
    loss = [streamed_s(s, at, c) / derate for s in (work.loss_forward, work.loss_backward)]
    generic = generic_s(work.generic_flops, work.generic_bytes, at, c) / derate
    forward = product[0] + core[0] + streamed[0] + loss[0] + generic
    backward_input = product[1] + core[1] + loss[1] + generic
    summed = 2 * config.gradient_bytes * c.accumulate * (work.parameters if learns else added)
    adding = summed / (at.memory * c.stream) / derate
    backward_weight = product[2] + generic * learns + adding
    if shape.kind == "embedding":  # token ids have no gradient
        backward_weight += streamed[1] * learns
    else:
        backward_input += streamed[1]
    calls = sum(1.0 if k.kind == "all_reduce" else 0.5 for k in work.tp_forward)
    experts = max((g.count for g in work.gemms), default=0)
    pace = derate / (c.slow_host if config.slow_host else 1.0)
    alone = 0 if experts == 1 or config.grouped_experts else experts
    floor = host_floor_s(shape.kind, calls, c, alone, casts=at.casts, routing=routing)
    host = [t / pace for t in floor]
    waiting = (
        max(0.0, host[0] - forward),
        max(0.0, host[1] - backward_input - backward_weight),
    )
    forward = max(forward, host[0])
    backward_input += waiting[1]
    links = Links(fabric, config.island, config.port, config.port_latency_s)
    there = _exposed_s(work.tp_forward, config, links, core[0], c)
    back = _exposed_s(work.tp_backward, config, links, core[1], c)
    comm_forward, comm_backward = sum(there), sum(back)
    repeated = shape.kind in ("block", "generic")
    skipped = 0.0
    if config.early_stop and shape.kind == "block" and work.gemms:
        skipped = min(gemm_s(work.gemms[-1], at, c)[0] / derate, 0.5 * forward)
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
            forward + comm_forward - skipped if repeated else 0.0,
        ),
        parameters=work.parameters + added,
        activation_bytes=(memory.kept[0] + inner, memory.kept[1] + inner, memory.kept[2]),
        working_bytes=(memory.working[0], memory.working[1], memory.working[2] + inner),
        logits_bytes=memory.logits,
        items=_items(
            ("matrix products", sum(product)),
            ("attention core", sum(core)),
            ("lookup" if shape.kind == "embedding" else "norms and elementwise", sum(streamed)),
            ("softmax and loss", sum(loss)),
            ("layer totals", (2 + learns) * generic),
            ("adding gradients", adding),
            ("waiting for the host", sum(waiting)),
            ("tensor-parallel communication", there[0] + back[0]),
            ("context-parallel communication", there[1] + back[1]),
            ("expert-parallel communication", there[2] + back[2]),
        ),
        trained=None if learns else added,
        expert_parameters=work.expert_parameters,
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


def _products(
    gemms: Sequence[Gemm],
    at: Rates,
    derate: float,
    c: Constants,
    *,
    wide: bool = False,
    padded: bool = True,
    rescaled: bool = False,
) -> tuple[float, float, float]:
    """Forward, input gradient, weight gradient of all products."""
    forward = inputs = weights = 0.0
    for gemm in gemms:
        times = gemm_s(gemm, at, c, wide=wide, padded=padded, rescaled=rescaled)
        forward += times[0]
        inputs += times[1]
        weights += times[2]
    return forward / derate, inputs / derate, weights / derate


def _items(*parts: tuple[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((name, seconds) for name, seconds in parts if seconds > 0)


def _exposed_s(
    collectives: tuple[Collective, ...],
    config: LayerConfig,
    links: Links,
    core: float,
    c: Constants,
) -> tuple[float, float, float]:
    """What computation does not hide: tensor, context (behind the core), expert parallel."""
    tensor = context = expert = 0.0
    for k in collectives:
        if k.group == "tp":
            tensor += group_s(k.kind, k.bytes, config.tp, links)
        elif k.group == "cp":
            context += group_s(k.kind, k.bytes, config.cp, links, config.tp)
        else:
            # Experts go over the devices that would otherwise be replicas, tensor parallel first.
            stride = config.division.expert_slices
            copies = k.copies if config.once_per_host else 1
            groups = k.groups if config.node_limited else (1, 1)
            expert += group_s(k.kind, k.bytes, config.ep, links, stride, copies, groups)
    hidden = max(c.context_exposed * context, context - core)
    return c.tensor_exposed * tensor, hidden, c.expert_exposed * expert
