"""The constants of the cost model that were fitted to measurements, each with its meaning.

Values, intervals and the rows that determine them are data (``data/constants.json``), written by
:mod:`costmodels.calibration`. They describe software and silicon in general; what belongs to one
chip (its sustained share of the peak) is in ``data/efficiencies.json`` and reaches the formulas
through :class:`costmodels.catalog.Chip`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import cast


@dataclass(frozen=True)
class Constants:
    """One set of constants. Seconds, bytes and pure numbers.

    Products: ``launch_s`` between two dependent kernels; ``k_half`` the reduction depth at which
    half of a product's time fills and drains its pipeline; ``wave_fill`` the share of the cores'
    idle time in a partly filled last wave that is really lost; ``tile_128``, ``tile_64`` and
    ``tile_32`` the rates of tiles of 128x128, 128x64 and 64x64 over that of 256x128.

    Attention: ``flash_forward`` and ``flash_backward``, the rate of the fused kernel over that of
    a large product; ``flash_head_half``, the head size at which it reaches half of its rate;
    ``flash_query``, the keys that would take as long as what each query takes beside its keys;
    ``unfused_forward`` and ``unfused_backward``, reads and writes of the score matrix,
    ``eager_softmax`` times as many forward where scale, mask, softmax and casts are not one
    kernel, and as many more backward;
    ``misaligned_core``, the slow-down of unfused batched products whose head size does not divide
    by 8 (tensor cores cannot load it).

    Memory: ``stream`` is the achieved share of the memory bandwidth of elementwise kernels;
    ``expert_stream`` that of products of experts with few tokens each, which only load weights;
    ``eager_passes`` times as many bytes where elementwise kernels are not fused;
    ``accumulate`` passes of reading and writing the accumulated gradients per micro-batch;
    ``cast_passes`` the reads and writes of each operand (in elements of 16 bits) that a cast to
    8 bits and its scaling take.

    Host: ``host_forward_s`` and ``host_backward_s`` to issue a block, ``host_collective_s`` for
    each of its all-reduces, ``host_expert_s`` for each expert that lies on the chip and
    ``host_cast_s`` more where its operands are cast to 8 bits, ``host_routing_s`` for the way to
    experts and back, each pass, where no kernel is fused;
    ``slow_host`` times as long in runtimes that issue every kernel from Python. A chip that is
    faster than its host waits.

    Communication: ``collective_launch_s`` per collective; ``tensor_exposed``, ``context_exposed``
    and ``expert_exposed`` are the shares of a layer's communication that no computation hides;
    ``gradient_overlap`` the share of the last backward (and, sharded, the next forward) pass behind
    which gradients are reduced and weights handed out,
    ``gradient_tail`` the share of the reduction that always comes after it;
    ``shard_overlap`` the share of a layer's computation behind which its weights are gathered,
    ``shard_exposed`` the share of that communication that computation always feels;
    ``jitter`` the slow-down of a step by a factor e in hosts.
    """

    launch_s: float
    k_half: float
    wave_fill: float
    tile_128: float
    tile_64: float
    tile_32: float
    flash_forward: float
    flash_backward: float
    flash_head_half: float
    flash_query: float
    unfused_forward: float
    unfused_backward: float
    eager_softmax: float
    misaligned_core: float
    stream: float
    expert_stream: float
    eager_passes: float
    accumulate: float
    cast_passes: float
    host_forward_s: float
    host_backward_s: float
    host_collective_s: float
    host_expert_s: float
    host_cast_s: float
    host_routing_s: float
    slow_host: float
    collective_launch_s: float
    tensor_exposed: float
    context_exposed: float
    expert_exposed: float
    gradient_overlap: float
    gradient_tail: float
    shard_overlap: float
    shard_exposed: float
    jitter: float

    @cached_property
    def tiles(self) -> tuple[tuple[int, int, float], ...]:
        """Height, width and relative rate of the tiles that a product may be cut into, the fastest
        first."""
        tiles = (
            (256, 128, 1.0),
            (128, 128, self.tile_128),
            (128, 64, self.tile_64),
            (64, 64, self.tile_32),
        )
        return tuple(sorted(tiles, key=lambda tile: -tile[2]))


NAMES = tuple(f.name for f in fields(Constants))
"""Names of all constants, in the order of the class."""


@lru_cache(maxsize=1)
def constants_data() -> dict[str, dict[str, object]]:
    """The data file: for each constant its value, unit, interval, meaning and evidence."""
    text = (files("costmodels") / "data" / "constants.json").read_text(encoding="utf-8")
    return cast("dict[str, dict[str, object]]", json.loads(text)["constants"])


@lru_cache(maxsize=1)
def shipped_constants() -> Constants:
    """The constants as fitted and shipped."""
    return _constants("value")


@lru_cache(maxsize=1)
def judged_constants() -> Constants:
    """What the constants were judged to be before anything was fitted: where a fit starts, and
    what it shrinks to."""
    return _constants("judged")


def _constants(field: str) -> Constants:
    data = constants_data()
    return Constants(**{name: float(cast(float, data[name][field])) for name in NAMES})
