"""Times and bytes of a model's layers on this process's device, as the runtime runs them."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from planner.plan import Interval
from planner.runtime.chunks import Chunk, RunLayer
from planner.runtime.clock import synchronize
from planner.runtime.data import SyntheticTokens
from planner.runtime.model import LayeredModel, State
from planner.runtime.profile_request import LayerRow
from planner.runtime.regions import Region
from planner.runtime.update import default_optimizer
from planner.runtime.weights import take

CHAIN = 8
"""Layers that are measured one after the other, where so many are alike."""

LEAST = 3
"""Measurements of which the median is taken, however long they last."""


@dataclass(frozen=True)
class Bench:
    """What is measured where. ``busy_s`` is how long every measurement goes on.

    ``full`` gives a layer with whole weights in ``dtype``; those of large models take long to draw,
    so that it should remember them.
    """

    model: LayeredModel
    full: Callable[[int], nn.Module]
    region: Region
    device: torch.device
    dtype: torch.dtype
    seq_len: int
    vocabulary: int
    repeat: int
    busy_s: float


def layer_rows(bench: Bench, rows: int, barrier: Callable[[], None]) -> Iterator[LayerRow]:
    """All layers at this degree and these rows. Processes wait for one another in between."""
    inputs, targets = SyntheticTokens(bench.vocabulary, bench.seq_len).rows(0, 0, rows)
    state: State = (inputs.to(bench.device),)
    last = len(bench.model.names)
    for first, end in bench.model.alike():
        chain = [_layer(bench, k, first) for k in range(first, min(end, first + CHAIN))]
        goal = targets.to(bench.device) if end == last else None
        barrier()
        row, state = _measure(bench, chain, (first, end), rows, state, goal)
        yield row


def _measure(
    bench: Bench,
    chain: list[RunLayer],
    layers: Interval,
    rows: int,
    state: State,
    targets: Tensor | None,
) -> tuple[LayerRow, State]:
    chunk = Chunk(chain, None, None, None, None, bench.repeat)
    kept = _kept_bytes(bench, replace(chunk, repeat=1), state, targets)
    forwards: list[float] = []
    backwards: list[float] = []
    begin = time.perf_counter()
    outputs = state
    while len(forwards) < LEAST + 1 or time.perf_counter() - begin < bench.busy_s:
        inputs = tuple(_leaf(t) for t in state)
        synchronize(bench.device)
        start = time.perf_counter()
        outputs, loss = _forward(bench, chunk, inputs, targets)
        synchronize(bench.device)
        middle = time.perf_counter()
        given = tuple(torch.ones_like(t) for t in outputs if t.is_floating_point())
        chunk.backward(0, loss, given)
        synchronize(bench.device)
        forwards.append(middle - start)
        backwards.append(time.perf_counter() - middle)
    count = len(chain)
    parameters = _parameters(chain)
    row = LayerRow(
        layers=layers,
        tensor_parallel=bench.region.shards,
        micro_batch_rows=rows,
        forward_s=statistics.median(forwards[1:]) / count,
        backward_s=statistics.median(backwards[1:]) / count,
        update_s=_update_s(bench, parameters) / count,
        activation_bytes=kept // count,
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters) // count,
    )
    return row, tuple(t.detach() for t in outputs)


def _forward(
    bench: Bench, chunk: Chunk, inputs: State, targets: Tensor | None
) -> tuple[State, Tensor | None]:
    outputs = chunk.forward(0, inputs)
    if targets is None:
        return outputs, None
    summed, _ = bench.model.loss(outputs, targets, bench.region)
    return outputs, summed / targets.numel()


def _kept_bytes(bench: Bench, chunk: Chunk, state: State, targets: Tensor | None) -> int:
    """Bytes that autograd keeps from forward to backward, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in _parameters(chunk.layers)}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs, loss = _forward(bench, chunk, tuple(_leaf(t) for t in state), targets)
        kept = sum(found.values())
    given = tuple(torch.ones_like(t) for t in outputs if t.is_floating_point())
    chunk.backward(0, loss, given)
    return kept


def _update_s(bench: Bench, parameters: list[nn.Parameter]) -> float:
    """Seconds of one update of these weights as the runtime does it: gradients widened, a step of
    Adam over fp32 copies, weights written back."""
    masters = [p.detach().float().requires_grad_() for p in parameters]
    narrow = bench.dtype.itemsize < 4
    optimizer = default_optimizer("adam", 0.0, 0.0)([{"params": masters}])
    times = []
    for _ in range(LEAST + 1):
        start = time.perf_counter()
        for master, parameter in zip(masters, parameters):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            master.grad = gradient.to(master.dtype)
        optimizer.step()
        for master, parameter in zip(masters, parameters) if narrow else ():
            parameter.data.copy_(master)
        synchronize(bench.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _layer(bench: Bench, index: int, like: int) -> RunLayer:
    """A layer as a plan without recomputation runs it, with the weights of one like it."""
    region, model = bench.region, bench.model
    module = copy.deepcopy(bench.full(like))
    cuts = model.cuts(index, region.shards, region.shard, split=region.split_sequence)
    for inner, cut in cuts.items():
        owner, _, name = inner.rpartition(".")
        parent = module.get_submodule(owner)
        setattr(parent, name, nn.Parameter(take(getattr(parent, name), cut)))
    model.install(index, module, region, "none")
    return RunLayer(index, module.to(bench.device).train(), "none")


def _parameters(chain: Sequence[RunLayer]) -> list[nn.Parameter]:
    found = [p for layer in chain for p in layer.module.parameters()]
    return list(dict.fromkeys(found))


def _leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def wait_for_all() -> None:
    """All processes reach this point before any goes on."""
    dist.barrier()
