"""Seconds of kernels on one chip: matrix products, attention, and what only moves memory.

A product ``[m, k] x [k, n]`` takes

    t = 2·m·n·k / (P · e · s_a · s_w · s_k) + launch,   and at least its bytes over the memory rate

with P the dense peak and e the catalogue's best measured share of it, and shape terms that never
let a larger product be faster:

- s_a, alignment: m, n and k count as the next multiples of 64 (the tiles do the work anyway);
- s_w, waves: the last wave of 128x128 tiles fills the cores in part; on average this costs the
  time of ``WAVE_TILES`` tiles more, s_w = tiles/(tiles + WAVE_TILES);
- s_k, reduction: filling and draining the pipeline of a tile, s_k = k/(k + K_HALF).

The constants are judged starting values; where one was chosen to meet a measurement, it says so.
Calibration against measured rows is another module's work.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.catalog import Chip
from costmodels.layers import CoreWork, Gemm, Streamed
from costmodels.memory import StateBytes
from costmodels.shapes import LayerKind
from costmodels.units import bytes_of

LAUNCH_S = 5e-6
"""Seconds between two dependent kernels in an eager framework (5 to 10 µs on the host)."""

SUSTAINED = 0.86
"""Sustained over best rate of a product: the best is of one shape for a moment, training runs at
the power limit and in many shapes. Chosen so that a 7B model on one A100 computes at 0.64 of the
peak, the best published utilisation (0.869 at best, 0.75 sustained, before the shape terms)."""

HOST_FORWARD_S = 300e-6
"""Host time to issue a block's forward pass eagerly: about 30 kernels at 10 µs. A chip that is
faster than its host waits for it."""

HOST_BACKWARD_S = 400e-6
"""Host time to issue a block's backward pass: more kernels, but from the autograd engine."""

HOST_COLLECTIVE_S = 200e-6
"""Host time of one tensor-parallel all-reduce. With these floors the median of measured steps of
small GPT models on one node of A100 (vTrain) is 17 % too fast at tp 4 and 36 % at tp 8, without
them 47 % and 71 %."""

K_HALF = 128
"""Reduction depth at which half of a product's time is filling and draining."""

WAVE_TILES = 32
"""Tiles of 128x128 by which a partly filled last wave lengthens a product, on average."""

STREAM_FRACTION = 0.8
"""Achieved share of the memory bandwidth of fused elementwise kernels (0.75 to 0.85)."""

FLASH_FORWARD = 0.80
"""Rate of the flash attention kernel over that of a large product, forward, before head size;
assumed: with heads of 128 about half of an A100's peak."""

FLASH_BACKWARD = 0.65
"""The same for its backward pass (five products, one of them recomputed)."""

FLASH_HEAD_HALF = 32
"""Head size at which a flash kernel reaches half of its rate; heads are padded to 32."""

UNFUSED_PASSES = (5, 7)
"""Reads and writes of the whole score matrix forward (store, softmax, mask or dropout, load) and
backward."""

MISALIGNED_HEAD = 2.0
"""Slow-down of the attention core when the head size does not divide by 8: tensor cores cannot
load it. Assumed; whole models were measured 14 to 28 % slower in matched groups."""

_TILE = 64
_WAVE_ELEMENTS = WAVE_TILES * 128 * 128


@dataclass(frozen=True, slots=True)
class Rates:
    """What a chip sustains in one precision: FLOP/s of products and of attention, bytes/s."""

    product: float
    core: float
    memory: float
    element_bytes: int


def rates(chip: Chip, precision: str) -> Rates:
    """Sustained rates. LookupError if the chip does not have the precision.

    Attention stays in 16 bits when the products run in fp8.
    """
    core = precision
    if precision == "fp8":
        core = "bf16" if chip.supports("bf16") else "fp16"
    share = chip.gemm_fraction * SUSTAINED
    return Rates(
        product=chip.peak(precision) * share,
        core=chip.peak(core) * share,
        memory=chip.memory_bandwidth,
        element_bytes=bytes_of(precision),
    )


def product_s(m: int, n: int, k: int, count: int, flops: float, at: Rates) -> float:
    """Seconds of ``count`` equal products in one kernel at ``flops`` FLOP/s sustained."""
    rows, columns = -(-m // _TILE) * _TILE, -(-n // _TILE) * _TILE
    depth = -(-k // _TILE) * _TILE + K_HALF
    busy = 2.0 * (count * rows * columns + _WAVE_ELEMENTS) * depth / flops
    moved = count * (m * k + k * n + m * n) * at.element_bytes / at.memory
    return max(busy, moved) + LAUNCH_S


def gemm_s(gemm: Gemm, at: Rates) -> tuple[float, float, float]:
    """Seconds of a layer's product: forward, input gradient, weight gradient."""
    m, n, k, count = gemm.m, gemm.n, gemm.k, gemm.count
    return (
        product_s(m, n, k, count, at.product, at),
        product_s(m, k, n, count, at.product, at),
        product_s(k, n, m, count, at.product, at),
    )


def core_s(core: CoreWork, at: Rates) -> tuple[float, float]:
    """Seconds of the attention core: forward, backward."""
    aligned = core.qk_head_dim % 8 == 0 and core.v_head_dim % 8 == 0
    slow = 1.0 if aligned else MISALIGNED_HEAD
    forward, backward = _flash_s(core, at) if core.flash else _unfused_s(core, at)
    return forward * slow, backward * slow


def _flash_s(core: CoreWork, at: Rates) -> tuple[float, float]:
    """One fused kernel; causal masks halve the work; backward does 2.5 times the products."""
    width = sum(-(-d // 32) * 32 for d in (core.qk_head_dim, core.v_head_dim))
    # 2·s²·(d_qk + d_v) per head; the rate d/(d + half) cancels one d: the time grows with d.
    work = 2.0 * core.rows * core.heads * core.seq_len**2 * (width + 2 * FLASH_HEAD_HALF)
    work *= 0.5 if core.causal else 1.0
    query = core.heads * (core.qk_head_dim + core.v_head_dim)
    key = core.kv_heads * (core.qk_head_dim + core.v_head_dim)
    moved = core.rows * core.seq_len * (query + key) * at.element_bytes / at.memory
    forward = max(work / (at.core * FLASH_FORWARD), moved)
    backward = max(2.5 * work / (at.core * FLASH_BACKWARD), 2 * moved)
    return forward + LAUNCH_S, backward + 2 * LAUNCH_S


def _unfused_s(core: CoreWork, at: Rates) -> tuple[float, float]:
    """Two batched products over the whole square, and passes over the stored scores."""
    s, batch = core.seq_len, core.rows * core.heads
    scores = product_s(s, s, core.qk_head_dim, batch, at.core, at)
    values = product_s(s, core.v_head_dim, s, batch, at.core, at)
    one_pass = batch * float(s) * s * at.element_bytes / (at.memory * STREAM_FRACTION)
    forward = scores + values + UNFUSED_PASSES[0] * one_pass + 3 * LAUNCH_S
    # Each product has two gradients of the same size.
    backward = 2 * (scores + values) + UNFUSED_PASSES[1] * one_pass + 3 * LAUNCH_S
    return forward, backward


def streamed_s(streamed: Streamed, at: Rates) -> float:
    """Seconds of kernels that only move memory."""
    return streamed.bytes / (at.memory * STREAM_FRACTION) + streamed.kernels * LAUNCH_S


def generic_s(flops: float, moved: float, at: Rates) -> float:
    """Seconds of a layer that is described by its totals; zero work takes no time."""
    if flops <= 0 and moved <= 0:
        return 0.0
    return max(flops / at.product, moved / (at.memory * STREAM_FRACTION)) + LAUNCH_S


def host_floor_s(kind: LayerKind, collectives: float) -> tuple[float, float]:
    """Seconds that the host needs to issue a layer's kernels: forward, backward.

    Only blocks have many small kernels; ``collectives`` are the all-reduces of one pass, an
    all-gather or a reduce-scatter being half of one.
    """
    if kind != "block":
        return 0.0, 0.0
    calls = collectives * HOST_COLLECTIVE_S
    return HOST_FORWARD_S + calls, HOST_BACKWARD_S + calls


def optimizer_update_s(
    parameters: int,
    state: StateBytes,
    chip: Chip,
    zero_replicas: int = 1,
    *,
    derate: float = 1.0,
) -> float:
    """Seconds of gradient norm, clipping and Adam update of ``parameters`` on one device.

    All of it streams memory: the norm reads every gradient; the update, of 1/``zero_replicas`` of
    the parameters, reads gradient and state, writes the state and the weight back.
    """
    own = -(-parameters // zero_replicas)
    moved = parameters * state.gradient
    moved += own * (state.gradient + 2 * state.optimizer + state.parameter)
    seconds = moved / (chip.memory_bandwidth * STREAM_FRACTION) + _UPDATE_KERNELS * LAUNCH_S
    return seconds / derate


_UPDATE_KERNELS = 4
"""Fused norm, clip factor, update and cast, as multi-tensor kernels."""
