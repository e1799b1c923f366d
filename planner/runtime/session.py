"""One process of ``planner run``: builds its part, trains, measures, and saves."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from planner.errors import InputError, Problem
from planner.inputs.job import ResolvedJob
from planner.plan import Plan
from planner.plan_file import read_plan
from planner.runtime.checkpoint import load_checkpoint, save_checkpoint
from planner.runtime.clock import peak_memory, resident, synchronize
from planner.runtime.data import Data, SyntheticTokens, open_tokens
from planner.runtime.model import LayeredModel, Loss, token_cross_entropy
from planner.runtime.request import DeviceRecord, RunRecord, RunRequest, StepRecord
from planner.runtime.rows import global_rows
from planner.runtime.saved import STEP_FOLDER, latest
from planner.runtime.trainer import DTYPES, Trainer, parallelize

Report = Callable[[int, StepRecord], None]
"""Called on rank 0 after every step with the last step's number and the record."""

Model = nn.Module | Sequence[nn.Module] | LayeredModel


def run_rank(request: RunRequest, report: Report | None = None) -> RunRecord | None:
    """Train for ``request.steps`` steps. The record on rank 0, None elsewhere.

    Raises InputError and ExportError for what does not fit together, on every process alike.
    """
    plan = read_plan(request.plan)
    if "OMP_NUM_THREADS" not in os.environ and _processes_here() > 1:
        torch.set_num_threads(1)  # processes of one machine would fight for its cores
    before = resident()
    model, loss, vocabulary = given_model(request.config, request.function, request.seed)
    data = _data(request, plan, vocabulary)
    trainer = parallelize(
        plan,
        model,
        loss=loss,
        learning_rate=request.learning_rate,
        weight_decay=request.weight_decay,
        clip_norm=request.clip_norm,
        device=request.device,
        dtype=_dtype(request),
        timeout_s=request.timeout_s,
        seed=request.seed,
        repeat_work=request.repeat_work,
    )
    first = load_checkpoint(trainer, latest(request.resume)) if request.resume else 0
    steps = _train(trainer, data, request, first, report)
    device = _measured(trainer, before, len(steps) - min(request.warmup, len(steps) - 1))
    gathered: list[Any] = [None] * trainer.engine.world.size
    dist.all_gather_object(gathered, device.model_dump())
    dist.destroy_process_group()
    if trainer.seat.rank:
        return None
    job = ResolvedJob.from_json(plan.inputs.job.resolved)
    return RunRecord(
        plan_id=plan.plan_id,
        steps=tuple(steps),
        warmup=request.warmup,
        tokens_per_step=global_rows(plan) * job.seq_len,
        devices=tuple(DeviceRecord.model_validate(d) for d in gathered),
        versions={"torch": str(torch.__version__), "python": sys.version.split()[0]},
        checkpoint=None if request.checkpoint is None else _step_folder(request, steps[-1].step),
    )


def _train(
    trainer: Trainer, data: Data, request: RunRequest, first: int, report: Report | None
) -> list[StepRecord]:
    records: list[StepRecord] = []
    for step in range(first, first + request.steps):
        begin = time.perf_counter()
        if len(records) == min(request.warmup, request.steps - 1):
            trainer.engine.clock.reset()
        loss = trainer.step(data, step)
        synchronize(trainer.device)
        records.append(StepRecord(step=step, loss=loss, time_s=time.perf_counter() - begin))
        if report is not None and trainer.seat.rank == 0:
            report(first + request.steps, records[-1])
        last = step + 1 == first + request.steps
        due = request.checkpoint_every and (step + 1) % request.checkpoint_every == 0
        if request.checkpoint and (last or due):
            save_checkpoint(trainer, _step_folder(request, step), step + 1)
    return records


def _step_folder(request: RunRequest, step: int) -> str:
    """The checkpoint after a step, below the folder of all checkpoints."""
    return str(Path(str(request.checkpoint)) / f"{STEP_FOLDER}{step + 1:08d}")


def _measured(trainer: Trainer, before: int, steps: int) -> DeviceRecord:
    seat, device = trainer.seat, trainer.device
    peak, whose = peak_memory(device, before)
    parts = trainer.engine.clock.per_step(steps)
    return DeviceRecord.model_validate(
        {
            "rank": seat.rank,
            "device": seat.device,
            "runs_on": _name_of(device),
            "chip": seat.chip,
            "pipeline": seat.pipeline,
            "stage": seat.stage,
            "replica": seat.replica,
            "shard": seat.shard,
            "peak_memory_bytes": peak,
            "memory_of": whose,
        }
        | {f"{name}_s": spent for name, spent in parts.items()}
    )


def given_model(
    config: dict[str, Any] | None, function: str | None, seed: int
) -> tuple[Model, Loss, int]:
    """The model, its loss, and the number of words that synthetic data may use (0: unknown).

    Raises InputError for a function that cannot be imported.
    """
    if config is not None:
        from planner.runtime.hf import model_of_config

        return model_of_config(config, seed=seed), token_cross_entropy, int(config["vocab_size"])
    found = _call(str(function))
    loss: Loss = token_cross_entropy
    if isinstance(found, tuple) and len(found) == 2 and callable(found[1]):
        found, loss = found
    words = getattr(getattr(found, "config", None), "vocab_size", None)
    return found, loss, int(words or getattr(found, "vocab_size", None) or 0)


def _call(function: str) -> Any:  # noqa: ANN401 - whatever the user's function returns
    module, _, name = function.partition(":")
    remedy = "give package.module:function of something that can be imported here"
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError([Problem(f"--model {function}", str(error), remedy)]) from None
    return make()


def _data(request: RunRequest, plan: Plan, vocabulary: int) -> Data:
    job = ResolvedJob.from_json(plan.inputs.job.resolved)
    if request.data != "synthetic":
        rows = global_rows(plan)
        return open_tokens(Path(request.data), job.seq_len, rows, vocabulary or 2**31)
    if not vocabulary:
        message = "the model does not say how many words it knows"
        remedy = "give --data FILE, or let the model have a vocab_size"
        raise InputError([Problem("--data synthetic", message, remedy)])
    return SyntheticTokens(vocabulary, job.seq_len, request.seed)


def _dtype(request: RunRequest) -> torch.dtype | None:
    if request.dtype is None:
        return None
    return torch.float64 if request.dtype == "fp64" else DTYPES[request.dtype]


def _name_of(device: torch.device) -> str:
    """``cpu``, or the card's own name."""
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return str(device) if name is None or device.type == "cpu" else f"{device} {name(device)}"


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
