"""Work of one layer on one device for one micro-batch: products, bytes moved, bytes sent.

The shape of a layer says what is multiplied with each token; here it is divided among ``tp``
tensor-parallel devices as Megatron-LM does it: column-parallel matrices give each device some of
the outputs, row-parallel ones some of the inputs, attention is divided by heads.

Context parallelism gives each of ``cp`` devices an equal part of every sequence; attention still
sees all keys, which travel around. Experts are divided like any other matrix (``ep`` 1: every
device holds a slice of all experts), or whole experts lie on ``ep`` devices and tokens travel to
them; each expert is then divided among ``expert_tp`` devices, and those of the ``tp`` devices that
hold different experts each bring their own part of the tokens.

A block's matrices come in order: attention first, up to and including its output projection (the
first row-parallel matrix), then the MLP or the experts. Memory is in
:mod:`costmodels.activations`, time in :mod:`costmodels.compute`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from costmodels.shapes import AttentionCore, LayerShape, Matmul
from costmodels.units import bytes_of

EXPERT_IMBALANCE = 1.1
"""Tokens of the device with the busiest experts over the mean: the others wait for it. Assumed for
routers with a balancing loss."""

CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
Group = Literal["tp", "cp", "ep"]


@dataclass(frozen=True, slots=True)
class Division:
    """How many devices share a layer, and along what. ``expert_tp`` None: ``tp`` where ``ep`` is 1,
    else 1. ``imbalance``: tokens of the device with the busiest experts over the mean; devices that
    hold slices of all experts have as many tokens each, however they are spread."""

    tp: int = 1
    cp: int = 1
    ep: int = 1
    expert_tp: int | None = None
    imbalance: float = EXPERT_IMBALANCE

    @property
    def expert_slices(self) -> int:
        """Devices that share one expert."""
        if self.expert_tp is not None:
            return self.expert_tp
        return self.tp if self.ep == 1 else 1


class Gemm(NamedTuple):
    """``number`` equal products ``[m, k] x [k, n]`` of one kernel; its gradients are two more."""

    name: str
    m: int
    n: int
    k: int
    number: int = 1

    @property
    def flops(self) -> float:
        """Floating-point operations of the forward product."""
        return 2.0 * self.m * self.n * self.k * self.number


class CoreWork(NamedTuple):
    """Attention core of one device: heads after the tensor-parallel division.

    ``seq_len`` counts the keys; ``context_parallel`` devices share the queries. ``pairs`` of query
    and key in one sequence are not masked; 0 stands for all of them, halved by a causal mask.
    """

    rows: int
    seq_len: int
    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    causal: bool
    flash: bool
    pairs: float = 0.0
    context_parallel: int = 1


class Streamed(NamedTuple):
    """Kernels that only move memory: bytes read and written, and how many kernels."""

    bytes: float
    kernels: int


NOTHING = Streamed(0.0, 0)
"""No kernel at all."""


class Collective(NamedTuple):
    """One collective of a layer; ``bytes`` is the whole tensor (all-to-all: of one device).

    An all-to-all sends ``copies`` of every token, to experts of so many of all ``groups``.
    """

    kind: CollectiveKind
    bytes: int
    group: Group = "tp"
    copies: int = 1
    groups: tuple[int, int] = (1, 1)


class LayerWork(NamedTuple):
    """Everything that one device does for one micro-batch in one layer.

    ``gemms`` are forward products; each has an input gradient and a weight gradient of the same
    size. ``generic_flops`` is the forward work of a layer that is described by its totals.
    ``parameters`` is what the device holds, ``expert_parameters`` those of them that other
    replicas than ``cp * dp`` share (experts that lie on ``ep`` devices). ``forward`` and
    ``backward`` communication is of all groups.
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
    expert_parameters: int = 0


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
        core = shape.attention
        pairs = rows * core.heads * core.pairs(seq_len, causal=causal)
        flops += 2.0 * pairs * (core.qk_head_dim + core.v_head_dim)
    return flops


def parameters_per_device(shape: LayerShape, tp: int) -> int:
    """Parameters that one of ``tp`` devices holds: slices are rounded up, vectors are whole."""
    return _held(shape, Division(tp))[0]


def _held(shape: LayerShape, split: Division) -> tuple[int, int]:
    """Parameters of one device, and those of them in experts on ``ep`` devices."""
    tp = split.tp
    whole, experts = held(shape.matmuls, split)
    table = min(shape.table_parameters, shape.vocab * shape.hidden)
    whole += shape.table_parameters - table + shape.vector_parameters
    generic = shape.generic_parameters
    if shape.generic is not None and shape.generic.tensor_parallel:
        generic = divide(generic, tp)
    return whole + divide(table, tp) + generic, experts


def layer_work(
    shape: LayerShape,
    *,
    rows: int,
    seq_len: int,
    tp: int,
    precision: str,
    sequence_parallel: bool,
    flash: bool,
    split: Division | None = None,
) -> LayerWork:
    """Work of one device for one micro-batch of ``rows`` sequences of ``seq_len`` tokens.

    ``split`` adds context and expert parallelism; its ``tp`` is then the one that counts.
    """
    split = split or Division(tp)
    tp = split.tp
    size = bytes_of(precision)
    tokens = rows * divide(seq_len, split.cp)
    local = divide(tokens, tp) if sequence_parallel else tokens
    core = None
    if shape.attention is not None:
        core = _divided_core(shape.attention, rows, seq_len, split, flash)
    forward, backward = _streamed(shape, tokens, local, split, size)
    loss = _loss(tokens * divide(shape.vocab, tp)) if shape.kind == "head" else (NOTHING, NOTHING)
    exchange = _collectives(shape, tokens, split, size, sequence_parallel)
    generic, share = shape.generic, split.cp
    if generic is not None and generic.tensor_parallel:
        share *= tp
    parameters, experts = _held(shape, split)
    return LayerWork(
        gemms=tuple([_gemm(m, tokens, local, split) for m in shape.matmuls]),
        core=core,
        streamed_forward=forward,
        streamed_backward=backward,
        loss_forward=loss[0],
        loss_backward=loss[1],
        generic_flops=rows * generic.forward_flops_per_row / share if generic else 0.0,
        generic_bytes=rows * generic.forward_bytes_moved_per_row / share if generic else 0.0,
        tp_forward=exchange[0],
        tp_backward=exchange[1],
        parameters=parameters,
        expert_parameters=experts,
    )


def products(
    matmuls: Sequence[Matmul], tokens: int, split: Division, sequence_parallel: bool
) -> list[Gemm]:
    """The forward products of some matrices on one device."""
    local = divide(tokens, split.tp) if sequence_parallel else tokens
    return [_gemm(m, tokens, local, split) for m in matmuls]


def held(matmuls: Sequence[Matmul], split: Division) -> tuple[int, int]:
    """Parameters of some matrices on one device: all, and those in experts on ``ep`` devices.

    Slices are rounded up.
    """
    whole = experts = 0
    for m in matmuls:
        if m.experts > 1 and split.ep > 1:
            own = divide(m.experts, split.ep) * m.inputs * m.outputs
            experts += own if m.split == "replicated" else divide(own, split.expert_slices)
        elif m.split == "replicated":
            whole += m.parameters
        else:
            whole += divide(m.parameters, split.tp)
    return whole + experts, experts


def _gemm(matmul: Matmul, tokens: int, local: int, split: Division) -> Gemm:
    routed = matmul.experts > 1
    slices = split.expert_slices if routed else split.tp
    m, n, k = tokens, matmul.outputs, matmul.inputs
    if matmul.split == "column":
        n = divide(n, slices)
    elif matmul.split == "row":
        k = divide(k, slices)
    else:
        m = local
    return _grouped(matmul, m, n, k, split) if routed else Gemm(matmul.name, m, n, k)


def _grouped(matmul: Matmul, tokens: int, n: int, k: int, split: Division) -> Gemm:
    """The products of the experts on one device.

    Balanced: a device gets as many token copies as it sends, for its own experts alone.
    """
    copies = expert_tokens(tokens, split) * matmul.active_experts
    number = min(divide(matmul.experts, split.ep), copies)
    busiest = copies / number
    if split.ep > 1 and matmul.experts > matmul.active_experts:
        busiest *= split.imbalance
    return Gemm(matmul.name, -int(-busiest // 1), n, k, number)


def expert_tokens(tokens: int, split: Division) -> int:
    """Tokens of a micro-batch that one device sends to experts: its own part of them."""
    return divide(tokens, max(1, split.tp // split.expert_slices))


def _divided_core(
    core: AttentionCore, rows: int, seq_len: int, split: Division, flash: bool
) -> CoreWork:
    return CoreWork(
        rows=rows,
        seq_len=seq_len,
        heads=divide(core.heads, split.tp),
        kv_heads=divide(core.kv_heads, split.tp),
        qk_head_dim=core.qk_head_dim,
        v_head_dim=core.v_head_dim,
        causal=core.causal,
        flash=flash,
        pairs=core.pairs(seq_len) if core.window else 0.0,
        context_parallel=split.cp,
    )


def _streamed(
    shape: LayerShape, tokens: int, local: int, split: Division, size: int
) -> tuple[Streamed, Streamed]:
    """Bytes and kernels of norms, residuals, activation functions, lookups: forward, backward.

    Counts of reads and writes of one tensor per token, fused as Megatron-LM and flash kernels do:
    a norm reads and writes (backward reads twice, writes once), a residual sum reads twice and
    writes once, a gated activation reads two and writes one (backward three and two). Between the
    tensor-parallel regions the tokens are ``local`` (divided with sequence parallelism).
    """
    h, tp = shape.hidden, split.tp
    if shape.kind == "embedding":
        # Rows are read and written; the gradient is added to fp32 rows of the table.
        return Streamed(2.0 * local * h * size, 2), Streamed(local * h * (size + 8.0), 2)
    if shape.kind == "head":
        return Streamed(2.0 * local * h * size, 1), Streamed(3.0 * local * h * size, 2)
    if shape.kind == "generic":
        return NOTHING, NOTHING
    parts = shape.anatomy
    forward, backward = 10.0 * local * h, 12.0 * local * h
    kernels = 5
    if shape.attention is not None:
        a = shape.attention
        rotated = tokens * divide((a.heads + a.kv_heads) * a.qk_head_dim, tp)
        forward += 2.0 * rotated
        backward += 2.0 * rotated
        kernels += 2
    width = mlp_elements(shape, tokens, split)
    forward += (3.0 if shape.gated else 2.0) * width
    backward += (5.0 if shape.gated else 3.0) * width
    if parts.routed:
        # Tokens are copied in expert order and summed back, again after they have travelled.
        own = expert_tokens(tokens, split)
        copies = 2.0 * own * h * (1 + parts.routed) * (2 if split.ep > 1 else 1)
        forward += copies
        backward += copies
        kernels += 6
    return Streamed(forward * size, kernels), Streamed(backward * size, kernels + 2)


def _loss(logits: int) -> tuple[Streamed, Streamed]:
    """Kernels of the loss: forward, backward.

    In fp32: cast, maximum, exponentials and their sum; then the gradient in place and cast.
    """
    if not logits:
        return NOTHING, NOTHING
    return Streamed(4 * 4.0 * logits, 3), Streamed(3 * 4.0 * logits, 2)


def unfused_routing(shape: LayerShape, tokens: int, split: Division) -> tuple[float, float]:
    """Elements more that are read and written where routing is not fused: forward, backward.

    Copying tokens to their experts, copying results back, weighing and summing them are kernels of
    their own. Forward they pass (1 + k) + 2k + 2k + (k + 1) copies of a token that has k experts;
    backward the gradients of weighing (4k + 2), of the two copies (4k) and of the sum (k + 1).
    Fused, both pass 2·(1 + k), which is counted already.
    """
    k = shape.anatomy.routed
    each = float(expert_tokens(tokens, split) * shape.hidden)
    return (4.0 * k * each, (7.0 * k + 1.0) * each) if k else (0.0, 0.0)


def mlp_elements(shape: LayerShape, tokens: int, split: Division) -> int:
    """Inner elements of the MLP on one device: dense width divided, experts where they lie."""
    parts = shape.anatomy
    if not parts.routed or split.ep == 1:
        return tokens * divide(parts.mlp_width, split.tp)
    row = [m for m in parts.mlp if m.split == "row"]
    dense = sum(m.inputs for m in row if m.experts == 1)
    routed = sum(m.inputs * m.active_experts for m in row if m.experts > 1)
    own = expert_tokens(tokens, split)
    return tokens * divide(dense, split.tp) + own * divide(routed, split.expert_slices)


Exchange = tuple[tuple[Collective, ...], tuple[Collective, ...]]


def _collectives(
    shape: LayerShape, tokens: int, split: Division, size: int, sequence_parallel: bool
) -> Exchange:
    """Collectives of all groups: forward, backward."""
    forward, backward = _tensor_collectives(shape, tokens, split, size, sequence_parallel)
    if shape.attention is not None and split.cp > 1:
        a = shape.attention
        keys = divide(a.kv_heads, split.tp) * (a.qk_head_dim + a.v_head_dim)
        whole = split.cp * tokens * keys * size
        # Keys and values go around; backward they go again, and their gradients come home.
        forward += (Collective("all_gather", whole, "cp"),)
        backward += (
            Collective("all_gather", whole, "cp"),
            Collective("reduce_scatter", whole, "cp"),
        )
    routed = shape.anatomy.routed if shape.kind == "block" else 0
    if routed and split.ep > 1:
        sent = expert_tokens(tokens, split) * routed * shape.hidden * size
        groups = next(m.expert_groups for m in shape.matmuls if m.experts > 1)
        there_and_back = (Collective("all_to_all", sent, "ep", routed, groups),) * 2
        forward += there_and_back
        backward += there_and_back
    return forward, backward


def _tensor_collectives(
    shape: LayerShape, tokens: int, split: Division, size: int, sequence_parallel: bool
) -> Exchange:
    """Tensor-parallel collectives: forward, backward.

    Each tensor-parallel region of a block costs an all-reduce forward and one backward; with
    sequence parallelism each of them is an all-gather and a reduce-scatter of the same tensor
    (Korthikanti et al. 2022, §4.2.2; the extra all-gather of the backward pass hides behind the
    input gradient).
    """
    if split.tp == 1:
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
    parts = shape.anatomy
    regions = parts.dense_regions if split.expert_slices == 1 else parts.regions
    return pair * regions, pair * regions


def divide(whole: int, parts: int) -> int:
    """The largest of ``parts`` nearly equal integer shares."""
    return -(-whole // parts)
