"""Work of one layer on one device for one micro-batch: products, bytes moved, bytes sent.

The shape of a layer says what is multiplied with each token; here it is divided among ``tp``
tensor-parallel devices as Megatron-LM does it: column-parallel matrices give each device some of
the outputs, row-parallel ones some of the inputs, attention is divided by heads, and experts are
divided like any other matrix (no expert parallelism: every device holds a slice of all experts).

A block's matrices come in order: attention first, up to and including its output projection (the
first row-parallel matrix), then the MLP or the experts. Memory is in
:mod:`costmodels.activations`, time in :mod:`costmodels.compute`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from costmodels.shapes import AttentionCore, LayerShape, Matmul
from costmodels.units import bytes_of

EXPERT_IMBALANCE = 1.1
"""Tokens of the busiest expert over the mean: a grouped product waits for it. Assumed for
routers with a balancing loss."""

CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter"]


@dataclass(frozen=True, slots=True)
class Gemm:
    """``count`` equal products ``[m, k] x [k, n]`` of one kernel; its gradients are two more."""

    name: str
    m: int
    n: int
    k: int
    count: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations of the forward product."""
        return 2.0 * self.m * self.n * self.k * self.count


@dataclass(frozen=True, slots=True)
class CoreWork:
    """Attention core of one device: heads after the tensor-parallel division."""

    rows: int
    seq_len: int
    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    causal: bool
    flash: bool


@dataclass(frozen=True, slots=True)
class Streamed:
    """Kernels that only move memory: bytes read and written, and how many kernels."""

    bytes: float = 0.0
    kernels: int = 0


@dataclass(frozen=True, slots=True)
class Collective:
    """One exposed collective in the tensor-parallel group; ``bytes`` is the whole tensor."""

    kind: CollectiveKind
    bytes: int


@dataclass(frozen=True, slots=True)
class LayerWork:
    """Everything that one device does for one micro-batch in one layer.

    ``gemms`` are forward products; each has an input gradient and a weight gradient of the same
    size. ``generic_flops`` is the forward work of a layer that is described by its totals.
    ``parameters`` is what the device holds.
    """

    gemms: tuple[Gemm, ...]
    core: CoreWork | None
    streamed_forward: Streamed
    streamed_backward: Streamed
    loss_forward: Streamed
    loss_backward: Streamed
    generic_flops: float
    generic_bytes: float
    tp_forward: tuple[Collective, ...]
    tp_backward: tuple[Collective, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A block's matrices by part. ``mlp_width`` is the MLP's inner width per token, all active
    experts together; ``routed`` is how many experts each token passes."""

    attention: tuple[Matmul, ...]
    mlp: tuple[Matmul, ...]
    mlp_width: int
    routed: int


@lru_cache(maxsize=1024)
def anatomy(shape: LayerShape) -> Anatomy:
    """Where attention ends and the MLP begins."""
    split = 0
    if shape.attention is not None:
        rows = [i for i, m in enumerate(shape.matmuls) if m.split == "row" and m.experts == 1]
        split = rows[0] + 1 if rows else len(shape.matmuls)
    mlp = shape.matmuls[split:]
    return Anatomy(
        attention=shape.matmuls[:split],
        mlp=mlp,
        mlp_width=sum(m.inputs * m.active_experts for m in mlp if m.split == "row"),
        routed=max((m.active_experts for m in mlp if m.experts > 1), default=0),
    )


def forward_flops(
    shape: LayerShape, rows: int, seq_len: int, *, causal: bool | None = None
) -> float:
    """Floating-point operations of one forward pass over ``rows`` sequences, on all devices.

    Counts matrix products and the attention core, not the elementwise work. ``causal`` True counts
    the lower triangle of the scores, False the whole square, None as the layer says.
    """
    if shape.generic is not None:
        return rows * shape.generic.forward_flops_per_row
    tokens = rows * seq_len
    flops = 2.0 * tokens * sum(m.active_parameters for m in shape.matmuls)
    if shape.attention is not None:
        triangle = shape.attention.causal if causal is None else causal
        flops += _core_flops(shape.attention, rows, seq_len) * (0.5 if triangle else 1.0)
    return flops


def _core_flops(core: AttentionCore, rows: int, seq_len: int) -> float:
    return 2.0 * rows * seq_len**2 * core.heads * (core.qk_head_dim + core.v_head_dim)


def parameters_per_device(shape: LayerShape, tp: int) -> int:
    """Parameters that one of ``tp`` devices holds: slices are rounded up, vectors are whole."""
    divided = sum(divide(m.parameters, tp) for m in shape.matmuls if m.split != "replicated")
    whole = sum(m.parameters for m in shape.matmuls if m.split == "replicated")
    table = min(shape.table_parameters, shape.vocab * shape.hidden)
    whole += shape.table_parameters - table + shape.vector_parameters
    generic = shape.generic_parameters
    if shape.generic is not None and shape.generic.tensor_parallel:
        generic = divide(generic, tp)
    return divided + whole + divide(table, tp) + generic


def layer_work(
    shape: LayerShape,
    *,
    rows: int,
    seq_len: int,
    tp: int,
    precision: str,
    sequence_parallel: bool,
    flash: bool,
) -> LayerWork:
    """Work of one device for one micro-batch of ``rows`` sequences of ``seq_len`` tokens."""
    size = bytes_of(precision)
    tokens = rows * seq_len
    local = divide(tokens, tp) if sequence_parallel else tokens
    core = None
    if shape.attention is not None:
        core = _divided_core(shape.attention, rows, seq_len, tp, flash)
    forward, backward = _streamed(shape, tokens, local, tp, size)
    loss = tokens * divide(shape.vocab, tp) * 4.0 if shape.kind == "head" else 0.0
    exchange = _collectives(shape, tokens, tp, size, sequence_parallel)
    generic, share = shape.generic, 1
    if generic is not None and generic.tensor_parallel:
        share = tp
    return LayerWork(
        gemms=tuple(_gemm(m, tokens, local, tp) for m in shape.matmuls),
        core=core,
        streamed_forward=forward,
        streamed_backward=backward,
        # In fp32: cast, maximum, exponentials and their sum; then the gradient in place and cast.
        loss_forward=Streamed(4 * loss, 3 if loss else 0),
        loss_backward=Streamed(3 * loss, 2 if loss else 0),
        generic_flops=rows * generic.forward_flops_per_row / share if generic else 0.0,
        generic_bytes=rows * generic.forward_bytes_moved_per_row / share if generic else 0.0,
        tp_forward=exchange[0],
        tp_backward=exchange[1],
        parameters=parameters_per_device(shape, tp),
    )


def products(
    matmuls: Sequence[Matmul], tokens: int, tp: int, sequence_parallel: bool
) -> list[Gemm]:
    """The forward products of some matrices on one device."""
    local = divide(tokens, tp) if sequence_parallel else tokens
    return [_gemm(m, tokens, local, tp) for m in matmuls]


def held(matmuls: Sequence[Matmul], tp: int) -> int:
    """Parameters of some matrices on one device: slices are rounded up."""
    return sum(
        m.parameters if m.split == "replicated" else divide(m.parameters, tp) for m in matmuls
    )


def _gemm(matmul: Matmul, tokens: int, local: int, tp: int) -> Gemm:
    n, k, m = matmul.outputs, matmul.inputs, tokens
    if matmul.split == "column":
        n = divide(n, tp)
    elif matmul.split == "row":
        k = divide(k, tp)
    else:
        m = local
    if matmul.experts == 1:
        return Gemm(matmul.name, m, n, k)
    routed = m * matmul.active_experts
    count = min(matmul.experts, routed)
    busiest = routed / count * (EXPERT_IMBALANCE if matmul.experts > matmul.active_experts else 1)
    return Gemm(matmul.name, -int(-busiest // 1), n, k, count)


def _divided_core(core: AttentionCore, rows: int, seq_len: int, tp: int, flash: bool) -> CoreWork:
    return CoreWork(
        rows=rows,
        seq_len=seq_len,
        heads=divide(core.heads, tp),
        kv_heads=divide(core.kv_heads, tp),
        qk_head_dim=core.qk_head_dim,
        v_head_dim=core.v_head_dim,
        causal=core.causal,
        flash=flash,
    )


def _streamed(
    shape: LayerShape, tokens: int, local: int, tp: int, size: int
) -> tuple[Streamed, Streamed]:
    """Bytes and kernels of norms, residuals, activation functions, lookups: forward, backward.

    Counts of reads and writes of one tensor per token, fused as Megatron-LM and flash kernels do:
    a norm reads and writes (backward reads twice, writes once), a residual sum reads twice and
    writes once, a gated activation reads two and writes one (backward three and two). Between the
    tensor-parallel regions the tokens are ``local`` (divided with sequence parallelism).
    """
    h = shape.hidden
    if shape.kind == "embedding":
        # Rows are read and written; the gradient is added to fp32 rows of the table.
        return Streamed(2.0 * local * h * size, 2), Streamed(local * h * (size + 8.0), 2)
    if shape.kind == "head":
        return Streamed(2.0 * local * h * size, 1), Streamed(3.0 * local * h * size, 2)
    if shape.kind == "generic":
        return Streamed(), Streamed()
    parts = anatomy(shape)
    forward, backward = 10.0 * local * h, 12.0 * local * h
    kernels = 5
    if shape.attention is not None:
        a = shape.attention
        rotated = tokens * divide((a.heads + a.kv_heads) * a.qk_head_dim, tp)
        forward += 2.0 * rotated
        backward += 2.0 * rotated
        kernels += 2
    width = tokens * divide(parts.mlp_width, tp)
    forward += (3.0 if shape.gated else 2.0) * width
    backward += (5.0 if shape.gated else 3.0) * width
    if parts.routed:
        # Tokens are copied in expert order and summed back; every device holds all of them.
        copies = 2.0 * tokens * h * (1 + parts.routed)
        forward += copies
        backward += copies
        kernels += 6
    return Streamed(forward * size, kernels), Streamed(backward * size, kernels + 2)


def _collectives(
    shape: LayerShape, tokens: int, tp: int, size: int, sequence_parallel: bool
) -> tuple[tuple[Collective, ...], tuple[Collective, ...]]:
    """Exposed tensor-parallel collectives: forward, backward.

    Each tensor-parallel region of a block costs an all-reduce forward and one backward; with
    sequence parallelism each of them is an all-gather and a reduce-scatter of the same tensor
    (Korthikanti et al. 2022, §4.2.2; the extra all-gather of the backward pass hides behind the
    input gradient).
    """
    if tp == 1:
        return (), ()
    whole = tokens * shape.hidden * size
    pair: tuple[Collective, ...] = (
        (Collective("all_gather", whole), Collective("reduce_scatter", whole))
        if sequence_parallel
        else (Collective("all_reduce", whole),)
    )
    if shape.kind == "embedding":
        return pair[-1:], (pair[:1] if sequence_parallel else ())
    if shape.kind == "head":
        # Maximum, target logit and sum of exponentials of every token, in fp32.
        loss = Collective("all_reduce", 3 * 4 * tokens)
        return ((pair[0], loss) if sequence_parallel else (loss,)), pair[-1:]
    if shape.kind == "generic":
        shared = shape.generic is not None and shape.generic.tensor_parallel and whole > 0
        return (pair, pair) if shared else ((), ())
    parts = anatomy(shape)
    regions = sum(any(m.split == "row" for m in part) for part in (parts.attention, parts.mlp))
    return pair * regions, pair * regions


def divide(whole: int, parts: int) -> int:
    """The largest of ``parts`` nearly equal integer shares."""
    return -(-whole // parts)
