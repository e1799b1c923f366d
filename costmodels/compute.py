"""Seconds of kernels on one chip: matrix products, attention, and what only moves memory.

A product ``[m, k] x [k, n]`` takes

    t = 2·m·n·k / (P · e · s_a · s_w · s_k) + launch,   and at least its bytes over the memory rate

with P the dense peak, e the chip's sustained share of it, and shape terms that never let a larger
product be faster:

- s_a, alignment: m, n and k count as the next multiples of 64 (the tiles do the work anyway);
- s_w, waves: tiles run on the chip's cores in waves and the last one fills them in part. A
  library takes the tile size that ends first, large tiles being the more efficient ones;
  ``wave_fill`` of a wave is lost where it is not full (1: all of it);
- s_k, reduction: filling and draining the pipeline of a tile, s_k = k/(k + k_half).

In 8 bits each operand is cast first, which moves memory: on small products that eats the gain.
The constants are those of :mod:`costmodels.constants`, fitted to measured runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

from costmodels.catalog import Chip
from costmodels.catalog.efficiencies import LONG
from costmodels.constants import Constants, shipped_constants
from costmodels.layers import CoreWork, Gemm, Streamed
from costmodels.memory import StateBytes
from costmodels.units import bytes_of

NARROW = ("fp8", "fp4")
"""Precisions to which operands are cast for a product; everything else stays in 16 bits."""

_TILE = 64
_CORES = 108
"""Cores of a chip whose number is not known."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a chip sustains in one precision: FLOP/s of products, of products that stay in 16 bits
    and of attention; bytes/s. ``casts`` says whether operands are cast to 8 bits first,
    ``weight_gradient`` how many times as long a weight gradient takes as the forward product."""

    product: float
    wide: float
    core: float
    memory: float
    element_bytes: int
    casts: bool = False
    cores: int = _CORES
    weight_gradient: float = 1.0


def rates(chip: Chip, precision: str) -> Rates:
    """Sustained rates. LookupError if the chip does not have the precision.

    Attention and the head stay in 16 bits when the other products run in fp8 or fp4, and fused
    attention of 32 bits runs in fp32 outside of the matrix units, whatever their own kernels reach
    (measured on an H100, assumed of all others).
    """
    wide = precision
    if precision in NARROW:
        wide = "bf16" if chip.supports("bf16") else "fp16"
    sustained = chip.peak(wide) * chip.sustained(wide)
    core = sustained * chip.attention
    if precision in LONG and chip.supports("fp32"):
        core = chip.peak("fp32") * chip.sustained("fp32")
    transposed = precision == "tf32" and chip.architecture == "hopper"
    return Rates(
        product=chip.peak(precision) * chip.sustained(precision),
        wide=sustained,
        core=core,
        memory=chip.memory_bandwidth,
        element_bytes=bytes_of(precision),
        casts=precision in NARROW,
        cores=chip.cores or _CORES,
        weight_gradient=TF32_WEIGHT_GRADIENT if transposed else 1.0,
    )


TF32_WEIGHT_GRADIENT = 1.75
"""How many times as long as a forward product the weight gradient takes on Hopper in TF32, whose
matrix units load operands of 32 bits untransposed alone: measured on an H100
(``data/kernels/h100.csv``), assumed of the other chips of its architecture."""


def product_s(
    m: int,
    n: int,
    k: int,
    count: int,
    flops: float,
    at: Rates,
    c: Constants | None = None,
    *,
    stream: float = 1.0,
) -> float:
    """Seconds of ``count`` equal products in one kernel at ``flops`` FLOP/s sustained.

    ``stream``: the share of the memory bandwidth that the kernel can use.
    """
    c = c or shipped_constants()
    cores, fill = at.cores, c.wave_fill
    full, fewest = count * m * n / cores, inf
    for high, wide, share in c.tiles:
        if full / share >= fewest:
            break  # slower tiles end later even if every one of them is full
        tiles = count * -(-m // high) * -(-n // wide) / cores
        area = (tiles + fill * (ceil(tiles) - tiles)) * high * wide / share
        if area < fewest:
            fewest = area
    depth = -(-k // _TILE) * _TILE + c.k_half
    busy = 2.0 * fewest * cores * depth / flops
    moved = count * (m * k + k * n + m * n) * at.element_bytes / (at.memory * stream)
    return (busy if busy > moved else moved) + c.launch_s


def gemm_s(
    gemm: Gemm,
    at: Rates,
    c: Constants | None = None,
    *,
    wide: bool = False,
    padded: bool = True,
    rescaled: bool = False,
) -> tuple[float, float, float]:
    """Seconds of a layer's product: forward, input gradient, weight gradient.

    ``wide`` keeps it in 16 bits. In 8 bits every operand is cast once: activations and weights
    forward, the output gradient backward. ``padded`` False: the runtime multiplies widths as they
    are, and those that do not divide by 8 run slower (:func:`ragged`). ``rescaled``: the scale of
    an operand is found before it is cast, and what was cast forward is cast again backward
    (:data:`RESCALED`). Products of several experts, few tokens each, read weights at
    ``expert_stream`` of the memory's rate.
    """
    c = c or shipped_constants()
    return gemms_s((gemm,), at, c, wide=wide, padded=padded, rescaled=rescaled)


def gemms_s(
    gemms: Iterable[Gemm],
    at: Rates,
    c: Constants,
    *,
    wide: bool = False,
    padded: bool = True,
    rescaled: bool = False,
) -> tuple[float, float, float]:
    """The sums of :func:`gemm_s` over the products of a layer, many of which are of one size."""
    known: dict[tuple[int, int, int, int, float], float] = {}

    def seconds(m: int, n: int, k: int, count: int, flops: float) -> float:
        size = (m, n, k, count, flops)
        found = known.get(size)
        if found is None:
            stream = c.expert_stream if count > 1 else 1.0
            found = known[size] = product_s(*size, at, c, stream=stream)
        return found

    flops = at.wide if wide else at.product
    forward = inputs = weights = 0.0
    for gemm in gemms:
        _, m, n, k, count = gemm
        forth = seconds(m, n, k, count, flops)
        back = seconds(m, k, n, count, flops)
        own = seconds(k, n, m, count, flops / at.weight_gradient)
        if not padded and at.element_bytes == 2:
            slow = ragged(n, k)
            forth, back, own = (slow * (t - c.launch_s) + c.launch_s for t in (forth, back, own))
        if at.casts and not wide:
            operands, gradient = m * k + k * n, m * n
            first, again = RESCALED if rescaled else (c.cast_passes, c.cast_passes)
            moving = at.memory * c.stream
            forth += operands * (first * count * at.element_bytes / moving)
            turned = operands + gradient if rescaled else gradient
            back += turned * (again * count * at.element_bytes / moving)
        forward += forth
        inputs += back
        weights += own
    return forward, inputs, weights


RESCALED = (2.5, 3.5)
"""Passes over an operand of a product in 8 bits (in elements of 16 bits) whose scale is that of the
tensor itself: its largest element is looked for (2 bytes read), it is cast (2 read, 1 written), and
for the two products backward, before which all operands are cast again, turned as well (1 read, 1
written), since Hopper's matrix units load operands of 8 bits along the reduction alone."""

RAGGED_EVEN, RAGGED_ODD = 2.5, 5.5
"""How many times as long a 16-bit product takes whose width divides by 2 or 4 but not by 8, and
one whose width is odd: measured on an H100 (``data/kernels/h100.csv``), where all three products
of a layer are slow, and the number of rows does not matter."""


def ragged(*widths: int) -> float:
    """The slow-down of a product by the worst of its widths: rows in memory that do not begin at
    multiples of 16 bytes cannot be loaded by the matrix units' fast path."""
    worst = _missing_twos(*widths)
    return 1.0 if worst == 0 else RAGGED_ODD if worst == 3 else RAGGED_EVEN


def core_s(
    core: CoreWork,
    at: Rates,
    c: Constants | None = None,
    *,
    fused_softmax: bool = True,
    equal_heads: bool = False,
) -> tuple[float, float]:
    """Seconds of the attention core: forward, backward.

    ``fused_softmax`` False: unfused attention whose scale, mask, softmax and casts are kernels of
    their own. ``equal_heads``: the fused kernel knows one head size, values are padded to the keys'
    (FlashAttention 2).
    """
    c = c or shipped_constants()
    if core.flash:
        if equal_heads:
            core = core._replace(v_head_dim=max(core.qk_head_dim, core.v_head_dim))
        return _flash_s(core, at, c)
    return _unfused_s(core, at, c, 1.0 if fused_softmax else c.eager_softmax)


def _flash_s(core: CoreWork, at: Rates, c: Constants) -> tuple[float, float]:
    """One fused kernel; causal masks halve the work; backward does 2.5 times the products.

    Each query takes as long as ``flash_query`` keys more: tiles on the diagonal are computed whole,
    and each row of tiles is loaded, normalised and stored. So long sequences run at a higher rate.
    """
    width = -(-core.qk_head_dim // 32) * 32 - (-core.v_head_dim // 32) * 32
    # 2·s²·(d_qk + d_v) per head; the rate d/(d + half) cancels one d: the time grows with d.
    pairs = core.pairs or core.seq_len**2 * (0.5 if core.causal else 1.0)
    pairs += core.seq_len * c.flash_query
    work = 2.0 * core.rows * core.heads * pairs * (width + 2 * c.flash_head_half)
    work /= core.context_parallel
    query = core.heads * (core.qk_head_dim + core.v_head_dim)
    key = core.kv_heads * (core.qk_head_dim + core.v_head_dim)
    moved = core.rows * core.seq_len * (query / core.context_parallel + key)
    reading = moved * at.element_bytes / at.memory
    forward = max(work / (at.core * c.flash_forward), reading)
    backward = max(2.5 * work / (at.core * c.flash_backward), 2 * reading)
    return forward + c.launch_s, backward + 2 * c.launch_s


def _unfused_s(core: CoreWork, at: Rates, c: Constants, passes: float) -> tuple[float, float]:
    """Two batched products over the whole square, and passes over the stored scores.

    Tensor cores load heads of a multiple of 8 elements at full speed; each power of two less takes
    the cube root of ``misaligned_core``, so that odd heads run slower by all of it.
    """
    s, batch = core.seq_len, core.rows * core.heads
    queries = -(-s // core.context_parallel)
    scores = product_s(queries, s, core.qk_head_dim, batch, at.wide, at, c)
    values = product_s(queries, core.v_head_dim, s, batch, at.wide, at, c)
    slow = c.misaligned_core ** (_missing_twos(core.qk_head_dim, core.v_head_dim) / 3)
    scores, values = scores * slow, values * slow
    one_pass = batch * float(queries) * s * at.element_bytes / (at.memory * c.stream)
    # Each kernel more than the fused softmax has one backward that moves as much.
    more = (passes - 1.0) * c.unfused_forward
    forward = scores + values + (c.unfused_forward + more) * one_pass + 3 * c.launch_s
    # Each product has two gradients of the same size.
    backward = 2 * (scores + values) + (c.unfused_backward + more) * one_pass + 3 * c.launch_s
    return forward, backward


def _missing_twos(*sizes: int) -> int:
    """How many powers of two the least aligned size lacks to divide by 8."""
    return max(3 - min(3, (size & -size).bit_length() - 1) for size in sizes)


def streamed_s(streamed: Streamed, at: Rates, c: Constants | None = None) -> float:
    """Seconds of kernels that only move memory."""
    c = c or shipped_constants()
    return streamed.bytes / (at.memory * c.stream) + streamed.kernels * c.launch_s


def generic_s(flops: float, moved: float, at: Rates, c: Constants | None = None) -> float:
    """Seconds of a layer that is described by its totals; zero work takes no time."""
    if flops <= 0 and moved <= 0:
        return 0.0
    c = c or shipped_constants()
    return max(flops / at.product, moved / (at.memory * c.stream)) + c.launch_s


def host_floor_s(
    collectives: float,
    c: Constants,
    experts: int = 0,
    *,
    casts: bool = False,
    routing: bool = False,
) -> tuple[float, float]:
    """Seconds that the host needs to issue a block's kernels: forward, backward.

    Other layers have few and large ones. ``collectives`` are the all-reduces of one pass, an
    all-gather or a reduce-scatter being half of one; ``experts`` lie on the chip and each has
    products of its own, whose operands it ``casts`` or does not; ``routing`` to experts is issued
    kernel by kernel.
    """
    own = experts * (c.host_expert_s + c.host_cast_s * casts)
    calls = collectives * c.host_collective_s + own + c.host_routing_s * routing
    return c.host_forward_s + calls, c.host_backward_s + calls + own


def optimizer_update_s(
    parameters: int,
    state: StateBytes,
    chip: Chip,
    zero_replicas: int = 1,
    *,
    derate: float = 1.0,
    constants: Constants | None = None,
    unfused_bytes: int = 0,
) -> float:
    """Seconds of gradient norm, clipping and Adam update of ``parameters`` on one device.

    All of it streams memory: the norm reads every gradient; the update, of 1/``zero_replicas`` of
    the parameters, reads gradient and state, writes the state and the weight back;
    ``unfused_bytes`` more per parameter where clipping and casts are kernels of their own.
    """
    c = constants or shipped_constants()
    own = -(-parameters // zero_replicas)
    moved = parameters * state.gradient
    moved += own * (state.gradient + 2 * state.optimizer + state.parameter + unfused_bytes)
    seconds = moved / (chip.memory_bandwidth * c.stream) + UPDATE_KERNELS * c.launch_s
    return seconds / derate


UPDATE_KERNELS = 4
"""Fused norm, clip factor, update and cast, as multi-tensor kernels."""
