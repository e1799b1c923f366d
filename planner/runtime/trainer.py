"""The entry: a plan and a model become a trainer on this process's device.

    trainer = parallelize(plan, model)
    loss = trainer.step(data, step)

Every process of the plan calls it, under ``torchrun`` or any launcher that sets RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT. Ranks follow :func:`planner.runtime.seats.seating`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from planner.errors import InputError, Problem
from planner.inputs.job import ResolvedJob
from planner.plan import Plan
from planner.runtime import require_torch
from planner.runtime.build import (
    Frame,
    check_model,
    holders_of,
    make_buckets,
    make_chunks,
    make_region,
)
from planner.runtime.clock import Clock
from planner.runtime.comm import GLOO, Group, Groups
from planner.runtime.data import Data
from planner.runtime.devices import backend_of, device_of
from planner.runtime.engine import Engine
from planner.runtime.fsdp import refuse_fsdp
from planner.runtime.model import Blocks, LayeredModel, Loss, token_cross_entropy
from planner.runtime.orders import pipeline_orders
from planner.runtime.reduction import agree, pieces_of
from planner.runtime.seats import Seat, seating
from planner.runtime.support import check_supported
from planner.runtime.update import (
    OptimizerFactory,
    Updater,
    default_optimizer,
    make_masters,
    parameter_groups,
)
from planner.runtime.weights import Weights
from planner.runtime.wires import Wires

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Trainer:
    """A plan at work on this process's device."""

    plan: Plan
    seat: Seat
    engine: Engine

    def step(self, data: Data, step: int) -> float:
        """One training step on all processes; returns the mean loss of the global batch."""
        return self.engine.step(data, step)

    def gradients(self, data: Data, step: int) -> float:
        """The same without the update: gradients stay for :meth:`update`."""
        return self.engine.gradients(data, step)

    def update(self) -> None:
        """Apply the gradients of :meth:`gradients`."""
        self.engine.updater.step()

    def evaluate(self, data: Data, step: int) -> float:
        """The mean loss of a batch; nothing changes."""
        return self.engine.evaluate(data, step)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over what this process keeps, for learning-rate schedules."""
        return self.engine.updater.optimizer

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.engine.frame.device

    @property
    def gradient_norm(self) -> float:
        """The norm before clipping at the last update; NaN without clipping."""
        return self.engine.updater.last_norm


def parallelize(
    plan: Plan,
    model: nn.Module | Sequence[nn.Module] | LayeredModel,
    *,
    loss: Loss = token_cross_entropy,
    optimizer: OptimizerFactory | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    clip_norm: float | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    timeout_s: float = 600.0,
    seed: int = 0,
    repeat_work: Mapping[str, int] | None = None,
) -> Trainer:
    """Prepare this process for its part of the plan.

    ``model``: a Hugging Face causal language model, a list of blocks (with ``loss``), or anything
    that follows :class:`~planner.runtime.model.LayeredModel`. All processes must be given the same
    weights; a model on the meta device gets fresh ones, layer by layer.
    ``optimizer`` makes the optimizer from parameter groups; by default the job's own.
    ``device`` replaces that of the plan's chips (``cpu`` to try a plan anywhere), ``dtype`` the
    job's precision. ``timeout_s`` bounds the wait for another process. ``seed`` sets
    PyTorch's random numbers, alike in a tensor-parallel group, as dropout needs it. ``repeat_work``
    lets chips (by the plan's id) do everything so many times: unlike chips on one machine.

    Starts torch.distributed if nobody has. Raises ExportError for features of the plan that are not
    executed, InputError where model, plan and processes do not fit one another.
    """
    check_supported(plan)
    layered = as_layers(model, loss)
    check_model(plan, layered)
    job = ResolvedJob.from_json(plan.inputs.job.resolved)
    places = seating(plan)
    seat = places.seats[_start(plan, len(places.seats), timeout_s)]
    target = device_of(seat, plan, device)
    backends = tuple(backend_of(s.chip, plan, device) for s in places.seats)
    groups = Groups(seat.rank, backends)
    split = layered.sequence_parallel and job.sequence_parallel
    region = make_region(plan, places, groups, split=split)
    wires = Wires(groups, target)
    used = dtype or precision_dtype(job.precision)
    torch.manual_seed(seed * 1_000_003 + region.group.ranks[0])
    repeat = (repeat_work or {}).get(seat.chip, 1)
    frame = Frame(
        plan, layered, places, seat, groups, wires, region, target, used, job.seq_len, split, repeat
    )
    weights = Weights(_gradient_dtype(job, used, dtype))
    chunks = make_chunks(frame, weights)
    holders = holders_of(plan, layered, places, split=split)
    pieces = pieces_of(make_buckets(plan, layered, holders), groups)
    agree(pieces, weights)
    masters = make_masters(weights, pieces)
    factory = optimizer or _job_optimizer(job, learning_rate, weight_decay)
    world = Group(tuple(range(len(places.seats))), GLOO, dist.group.WORLD)
    updater = Updater(
        weights, pieces, world, factory(parameter_groups(masters)), masters, clip_norm
    )
    order = pipeline_orders(frame.pipeline, f"pipelines[{seat.pipeline}]")[seat.stage]
    return Trainer(
        plan,
        seat,
        Engine(frame, order, chunks, weights, updater, world, Clock(target.type == "cpu")),
    )


def as_layers(model: nn.Module | Sequence[nn.Module] | LayeredModel, loss: Loss) -> LayeredModel:
    """A model of any accepted kind as a list of layers."""
    if isinstance(model, nn.ModuleList | nn.Sequential | Sequence):
        refuse_fsdp(model)
        return Blocks(tuple(model), loss)
    if isinstance(model, nn.Module):
        refuse_fsdp([model])
        return _hugging_face(model)
    return model


def _hugging_face(model: nn.Module) -> LayeredModel:
    require_torch(transformers=True)
    from transformers import PreTrainedModel

    from planner.runtime.hf import HfCausalLM

    if isinstance(model, PreTrainedModel):
        return HfCausalLM(model)
    message = f"{type(model).__name__} is neither a Hugging Face model nor a list of blocks"
    raise InputError([Problem("model", message, "give its blocks as a list, with a loss")])


def precision_dtype(precision: str) -> torch.dtype:
    """The type of weights and activations. Raises InputError for fp8, which is not executed."""
    if precision not in DTYPES:
        message = f"precision {precision} is not executed"
        raise InputError([Problem("precision", message, "plan with bf16, fp16 or fp32")])
    return DTYPES[precision]


def _start(plan: Plan, processes: int, timeout_s: float) -> int:
    """Join the other processes; returns this one's rank."""
    if not dist.is_initialized():
        alone = processes == 1 and "RANK" not in os.environ
        arguments: Mapping[str, Any] = {}
        if alone:
            arguments = {
                "store": torch._C._distributed_c10d.HashStore(),
                "rank": 0,
                "world_size": 1,
            }
        dist.init_process_group(GLOO, timeout=timedelta(seconds=timeout_s), **arguments)
    world = dist.get_world_size()
    if world != processes:
        message = f"the plan uses {processes} devices, but {world} processes were started"
        raise InputError([Problem("torchrun", message, f"start {processes} processes")])
    return dist.get_rank()


def _gradient_dtype(
    job: ResolvedJob, used: torch.dtype, given: torch.dtype | None
) -> torch.dtype | None:
    wide = job.state_bytes.gradient > used.itemsize and given is None
    return torch.float32 if wide else None


def _job_optimizer(job: ResolvedJob, learning_rate: float, weight_decay: float) -> OptimizerFactory:
    try:
        return default_optimizer(job.optimizer, learning_rate, weight_decay)
    except LookupError:
        message = f"optimizer {job.optimizer} is not part of PyTorch"
        remedy = "give parallelize(optimizer=...), or plan with adamw"
        raise InputError([Problem("job.optimizer", message, remedy)]) from None
