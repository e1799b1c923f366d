"""The price of one layer: the one call that search, estimate and verification build on.

    price_layer(shape, chip, fabric, LayerConfig(...))  ->  seconds and bytes on one device

Seconds are of one micro-batch and are a sum of named parts; bytes are by recomputation policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypedDict

from costmodels.activations import activation_bytes
from costmodels.catalog import Chip, Fabric
from costmodels.collectives import Links, group_s
from costmodels.compute import (
    Rates,
    core_s,
    gemm_s,
    gemms_s,
    generic_s,
    host_floor_s,
    rates,
    streamed_s,
)
from costmodels.constants import Constants, shipped_constants
from costmodels.layers import (
    EXPERT_IMBALANCE,
    Collective,
    Division,
    LayerWork,
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


class LayerPrice(NamedTuple):
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
    return Pricer.of(chip, fabric, config, derate, shipped_constants()).price(shape)


class _Run(TypedDict):
    rows: int
    seq_len: int
    tp: int
    precision: str
    sequence_parallel: bool
    flash: bool
    split: Division


@dataclass(frozen=True, slots=True)
class Pricer:
    """:func:`price_layer` on one chip under one configuration, and under any constants.

    What does not depend on the layer is found once (:meth:`of`); nothing is cached.
    """

    config: LayerConfig
    run: _Run
    at: Rates
    links: Links
    derate: float
    constants: Constants

    @classmethod
    def of(
        cls, chip: Chip, fabric: Fabric, config: LayerConfig, derate: float, constants: Constants
    ) -> Pricer:
        """LookupError if the chip does not have the precision."""
        run = _Run(
            rows=config.rows,
            seq_len=config.seq_len,
            tp=config.tp,
            precision=config.precision,
            sequence_parallel=config.sequence_parallel,
            flash=config.flash and chip.flash_attention,
            split=config.division,
        )
        links = Links(fabric, config.island, config.port, config.port_latency_s)
        return cls(config, run, rates(chip, config.precision), links, derate, constants)

    def price(self, shape: LayerShape) -> LayerPrice:
        """The price of one layer."""
        config, at, derate, c = self.config, self.at, self.derate, self.constants
        work, memory = layer_work(shape, **self.run), activation_bytes(shape, **self.run)
        learns = config.training.mode == "full"
        added, inner, beside = self._adapters(shape)
        wide = shape.kind == "head"  # stays in 16 bits
        own = gemms_s(work.gemms, at, c, wide=wide, padded=config.padded, rescaled=config.rescaled)
        product = (
            own[0] / derate + beside[0] / derate,
            own[1] / derate + beside[1] / derate,
            own[2] / derate * learns + beside[2] / derate,
        )
        core = (0.0, 0.0)
        if work.core:
            there, back = core_s(
                work.core,
                at,
                c,
                fused_softmax=config.fused_softmax,
                equal_heads=config.equal_heads,
            )
            core = there / derate, back / derate
        passes = derate if config.fused_softmax else derate / c.eager_passes
        streamed = (
            streamed_s(work.streamed_forward, at, c) / passes,
            streamed_s(work.streamed_backward, at, c) / passes,
        )
        routing = not config.fused_routing and shape.is_moe
        if routing:
            more = unfused_routing(shape, self._tokens, self.run["split"])
            moving = at.element_bytes / (at.memory * c.stream) / derate
            streamed = streamed[0] + more[0] * moving, streamed[1] + more[1] * moving
        loss = (
            streamed_s(work.loss_forward, at, c) / derate,
            streamed_s(work.loss_backward, at, c) / derate,
        )
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
        host = self._host_s(shape, work, routing=routing)
        waiting = (
            max(0.0, host[0] - forward),
            max(0.0, host[1] - backward_input - backward_weight),
        )
        forward = max(forward, host[0])
        backward_input += waiting[1]
        distinct = dict.fromkeys(work.tp_forward + work.tp_backward)
        seconds = {k: self._collective_s(k) for k in distinct}
        sent = self._exposed_s(work.tp_forward, seconds, core[0])
        sent_back = self._exposed_s(work.tp_backward, seconds, core[1])
        comm_forward, comm_backward = sum(sent), sum(sent_back)
        again = 0.0
        if shape.kind in ("block", "generic"):
            again = forward + comm_forward - self._skipped_s(shape, work, forward)
        full = LayerPrice(
            forward_s=forward,
            backward_input_s=backward_input,
            backward_weight_s=backward_weight,
            tp_comm_forward_s=comm_forward,
            tp_comm_backward_s=comm_backward,
            recompute_s=(0.0, 0.0 if self.run["flash"] else core[0], again),
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
                ("tensor-parallel communication", sent[0] + sent_back[0]),
                ("context-parallel communication", sent[1] + sent_back[1]),
                ("expert-parallel communication", sent[2] + sent_back[2]),
            ),
            trained=None if learns else added,
            expert_parameters=work.expert_parameters,
        )
        return _forward_only(full) if config.training.mode == "forward" else full

    def _adapters(self, shape: LayerShape) -> tuple[int, int, tuple[float, float, float]]:
        """What adapters add to a layer: parameters, kept bytes, seconds of products.

        For the backward pass they keep the product with A, of the rank's width.
        """
        extra = adapters(shape, self.config.training)
        if not extra:
            return 0, 0, (0.0, 0.0, 0.0)
        split = self.run["split"]
        gemms = products(extra, self._tokens, split, self.config.sequence_parallel)
        kept = sum(g.m * g.n * g.number for g in gemms if g.name.endswith(" A"))
        seconds = gemms_s(gemms, self.at, self.constants)
        return held(extra, split)[0], kept * self.at.element_bytes, seconds

    @property
    def _tokens(self) -> int:
        """Tokens of a micro-batch on one device, by its part of every sequence."""
        return self.config.rows * -(-self.config.seq_len // self.run["split"].cp)

    def _host_s(self, shape: LayerShape, work: LayerWork, *, routing: bool) -> tuple[float, float]:
        """Seconds that the host takes at least to issue a layer: forward, backward."""
        if shape.kind != "block":
            return 0.0, 0.0
        calls = sum(1.0 if k.kind == "all_reduce" else 0.5 for k in work.tp_forward)
        experts = max(g.number for g in work.gemms) if shape.is_moe else 1
        c = self.constants
        pace = self.derate / (c.slow_host if self.config.slow_host else 1.0)
        alone = 0 if experts == 1 or self.config.grouped_experts else experts
        forward, backward = host_floor_s(calls, c, alone, casts=self.at.casts, routing=routing)
        return forward / pace, backward / pace

    def _skipped_s(self, shape: LayerShape, work: LayerWork, forward: float) -> float:
        """Seconds of a forward pass of ``forward`` that full recomputation leaves out."""
        if not (self.config.early_stop and shape.kind == "block" and work.gemms):
            return 0.0
        last = gemm_s(work.gemms[-1], self.at, self.constants)[0] / self.derate
        return min(last, 0.5 * forward)

    def _collective_s(self, k: Collective) -> float:
        config, links = self.config, self.links
        if k.group == "tp":
            return group_s(k.kind, k.bytes, config.tp, links)
        if k.group == "cp":
            return group_s(k.kind, k.bytes, config.cp, links, config.tp)
        # Experts go over the devices that would otherwise be replicas, tensor parallel first.
        stride = self.run["split"].expert_slices
        copies = k.copies if config.once_per_host else 1
        groups = k.groups if config.node_limited else (1, 1)
        return group_s(k.kind, k.bytes, config.ep, links, stride, copies, groups)

    def _exposed_s(
        self, collectives: tuple[Collective, ...], seconds: Mapping[Collective, float], core: float
    ) -> tuple[float, float, float]:
        """What computation does not hide: tensor, context (behind the core), expert parallel."""
        if not collectives:
            return 0.0, 0.0, 0.0
        spent = {"tp": 0.0, "cp": 0.0, "ep": 0.0}
        for k in collectives:
            spent[k.group] += seconds[k]
        c, context = self.constants, spent["cp"]
        hidden = max(c.context_exposed * context, context - core)
        return c.tensor_exposed * spent["tp"], hidden, c.expert_exposed * spent["ep"]


def _forward_only(price: LayerPrice) -> LayerPrice:
    """A layer before every trained one: no backward pass, nothing is kept for one."""
    return price._replace(
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


def _items(*parts: tuple[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple([part for part in parts if part[1] > 0])
