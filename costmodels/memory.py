"""Peak memory of one device of a pipeline stage, by cause, in whole bytes.

    peak = parameters + gradients + optimizer + activations + logits + buffers + context
         + fragmentation,                          and the stage fits iff peak <= usable.

All arithmetic is on integers, so that everybody who applies the rule gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from costmodels.catalog import Chip
from costmodels.units import GIB

if TYPE_CHECKING:
    from costmodels.price import LayerPrice

CONTEXT_BYTES = GIB
"""Driver context and loaded kernels. Assumed; 1 to 2 GiB with the buffers is usual."""

COMMUNICATION_BUFFER_BYTES = GIB // 2
"""Channels of the collective library. Assumed."""

FRAGMENTATION_PERCENT = 5
"""Share of the usable memory that an allocator loses; published factors are 1.03 to 1.10."""


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes of training state per parameter: the weight, its gradient, and the optimizer's own."""

    parameter: int
    gradient: int
    optimizer: int

    @property
    def total(self) -> int:
        """Bytes per parameter when nothing is sharded."""
        return self.parameter + self.gradient + self.optimizer


def adam_state(precision: str, gradient_bytes: int | None = None) -> StateBytes:
    """Adam's state: in 16 bits 2 + 2 (or 4) + 12 (fp32 master and two moments), in fp32 4 + 4 + 8.

    ``gradient_bytes`` is 2 or 4 in mixed precision and defaults to the precision's own size.
    """
    if precision in ("fp32", "tf32"):
        return StateBytes(4, gradient_bytes or 4, 8)
    return StateBytes(2, gradient_bytes or 2, 12)


@dataclass(frozen=True, slots=True)
class DeviceOverhead:
    """Memory of a device that is lost before the first tensor, in bytes."""

    context_bytes: int
    buffer_bytes: int
    fragmentation_bytes: int


def device_overhead(chip: Chip, usable_memory_bytes: int | None = None) -> DeviceOverhead:
    """Overhead on a chip: 1 GiB context, 0.5 GiB communication buffers, 5 % fragmentation.

    ``usable_memory_bytes`` replaces the chip's own where the user reserved a part of it.
    """
    usable = chip.usable_memory_bytes if usable_memory_bytes is None else usable_memory_bytes
    return DeviceOverhead(
        context_bytes=CONTEXT_BYTES,
        buffer_bytes=COMMUNICATION_BUFFER_BYTES,
        fragmentation_bytes=usable * FRAGMENTATION_PERCENT // 100,
    )


@dataclass(frozen=True, slots=True)
class MemoryItems:
    """Bytes of one device at its peak, by cause; ``peak`` is their sum.

    ``host`` bytes of offloaded state lie in the host's memory and are no part of it.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    context: int
    fragmentation: int
    peak: int
    host: int = 0


def boundary_buffer_bytes(
    incoming: int, outgoing: int, *, tp: int, sequence_parallel: bool, copies: int = 1
) -> int:
    """Bytes of the double-buffered boundary tensors of one micro-batch on one device.

    ``incoming`` and ``outgoing`` are the whole tensors that cross the stage's two cuts. With
    sequence parallelism each of the ``tp`` devices holds its slice, without it all of them.
    ``copies`` of the stage's weights (context or data parallel) hold a part each.
    """
    return 2 * (incoming + outgoing) // ((tp if sequence_parallel else 1) * copies)


def stage_memory(
    layers: Sequence[LayerPrice],
    policy_of: Sequence[int],
    *,
    state: StateBytes,
    overhead: DeviceOverhead,
    in_flight: int | Sequence[int],
    hosted_in_flight: Sequence[int] | None = None,
    micro_batches: int,
    zero_level: int,
    replicas: int | Sequence[int],
    boundary_bytes: int,
    expert_replicas: int | None = None,
    inner: tuple[int, int] = (1, 1),
    offload_buffer: int | None = None,
) -> MemoryItems:
    """Peak memory of one device that runs ``layers``.

    ``policy_of[i]`` is what layer i does with what it keeps, as an index into
    :data:`costmodels.price.WAYS`. ``in_flight`` micro-batches hold their activations at once (one
    number, or one per layer), never more than there are; ``hosted_in_flight`` per layer when the
    host holds the most, which by default is at the same time. ``replicas`` is over how many
    replicas each layer is sharded (one number, or one per layer): ZeRO level 1 divides the
    optimizer's state by it, level 2 the gradients too, level 3 (FSDP) the weights as well; the
    layer at work, and the next one, are then gathered, and a layer's gradient exists whole before
    it is scattered.
    ``expert_replicas`` counts for parameters that lie on ``ep`` devices; by default as the others.
    ``inner`` devices of the stage itself (for experts: the second number) divide weights and
    gradients whatever the level, as level 3 does.
    ``boundary_bytes`` comes from :func:`boundary_buffer_bytes` and is added as it is. Frozen
    weights have no gradient and no optimizer state. With an ``offload_buffer`` (bytes) the
    optimizer's state lies in the host's memory and the device holds the buffer instead
    (:mod:`costmodels.offload`).
    """
    holders = [replicas] * len(layers) if isinstance(replicas, int) else list(replicas)
    parts = [
        part
        for layer, r in zip(layers, holders, strict=True)
        for part in (
            (layer.parameters - layer.expert_parameters, r, inner[0]),
            (layer.expert_parameters, expert_replicas or r, inner[1]),
        )
    ]

    trained = [
        part
        for layer, r, both in zip(layers, holders, zip(parts[::2], parts[1::2], strict=True))
        for part in (both if layer.trained is None else ((layer.trained, r, inner[0]),))
    ]

    def held(parts: Sequence[tuple[int, int, int]], bytes_: int, level: int) -> int:
        """Bytes of one kind of state; rounded up per part as every device holds whole elements."""
        return sum(-(-n * bytes_ // (r if zero_level >= level else own)) for n, r, own in parts)

    depths = [in_flight] * len(layers) if isinstance(in_flight, int) else list(in_flight)
    held_at_once = [min(depth, micro_batches) for depth in depths]
    hosted_at_once = [min(n, micro_batches) for n in hosted_in_flight or depths]
    each = list(zip(layers, policy_of, held_at_once, hosted_at_once, strict=True))
    kept = sum(n * layer.kept(p) for layer, p, n, _ in each)
    hosted = sum(n * layer.on_host(p) for layer, p, _, n in each)
    working = max((layer.working(p) for layer, p in zip(layers, policy_of, strict=True)), default=0)
    whole = max((layer.parameters for layer in layers), default=0)
    sharded = max(holders, default=1) > 1
    gathers = (zero_level >= 3 and sharded) or max(inner) > 1
    scatters = (zero_level >= 2 and sharded) or max(inner) > 1
    gathered = 2 * whole * state.parameter if gathers else 0
    learning = max((layer.trained_parameters for layer in layers), default=0)
    scattered = learning * state.gradient if scatters else 0
    items = (
        held(parts, state.parameter, 3),
        held(trained, state.gradient, 2),
        held(trained, state.optimizer, 1) if offload_buffer is None else 0,
        kept + working,
        sum(layer.logits_bytes for layer in layers),
        overhead.buffer_bytes + boundary_bytes + gathered + scattered + (offload_buffer or 0),
        overhead.context_bytes,
        overhead.fragmentation_bytes,
    )
    host = 0 if offload_buffer is None else held(trained, state.total, 1)
    host += hosted
    return MemoryItems(*items, peak=sum(items), host=host)
