"""Weights that are divided among devices: gathered before every pass, gradients scattered after.

ZeRO-3 and FSDP gather a layer's weights before its forward and again before its backward pass, and
scatter the gradients of every micro-batch. Both run beside the computation of other layers; what
that does not hide is exposed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from costmodels.collectives import Links, group_s
from costmodels.constants import Constants
from costmodels.price import LayerPrice


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """``parameters`` of one device's layer that ``ranks`` devices share, ``stride`` apart."""

    parameters: int
    ranks: int
    stride: int


def exposed_gathers_s(
    layer: LayerPrice,
    groups: Iterable[ShardGroup],
    links: Links,
    *,
    weight_bytes: int,
    gradient_bytes: int,
    policy: int,
    gradients_alone: bool,
    constants: Constants,
) -> tuple[float, float]:
    """Exposed seconds that one layer's forward and backward pass take longer, per micro-batch.

    ``weight_bytes`` and ``gradient_bytes`` are per parameter; ``policy`` indexes
    :data:`costmodels.price.WAYS`. ``gradients_alone`` (ZeRO-2) scatters and gathers nothing.
    """
    gather = scatter = 0.0
    for group in groups:
        if group.parameters and group.ranks > 1:
            size, ranks = group.parameters, group.ranks
            gather += group_s("all_gather", size * weight_bytes, ranks, links, group.stride)
            scatter += group_s("reduce_scatter", size * gradient_bytes, ranks, links, group.stride)
    backward_s = layer.backward_input_s + layer.backward_weight_s + layer.again_s(policy)
    if gradients_alone:
        return 0.0, _beside(scatter, backward_s, constants)
    return (
        _beside(gather, layer.forward_s, constants),
        _beside(gather + scatter, backward_s, constants),
    )


def _beside(communication: float, computation: float, c: Constants) -> float:
    """Seconds that communication adds to the computation beside which it runs."""
    return max(c.shard_exposed * communication, communication - c.shard_overlap * computation)
