"""Runs all cases of :mod:`tests.runtime.cases` in forked processes and writes what differed.

python -m tests.runtime.worlds FOLDER

PyTorch is imported once; every world is a fork of this process with the cases of its size. A case
that loads a checkpoint runs in a smaller world than the one that saved it, so worlds run from the
largest down, and batches of both are the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

import planner.runtime.trainer as trainer_module
from planner.runtime.checkpoint import load_checkpoint, save_checkpoint
from planner.runtime.comm import GLOO
from planner.runtime.data import Batches, SyntheticTokens
from planner.runtime.reduction import flatten, padded
from planner.runtime.rows import global_rows
from planner.runtime.trainer import Trainer, parallelize
from planner.runtime.weights import Held, Weights, take
from tests.runtime.cases import CASES, Case
from tests.runtime.fsdp_stages import refusals, zero_bubble_error
from tests.runtime.run_plans import CHIP, run_plan
from tests.runtime.small_blocks import LENGTH, WORDS
from tests.runtime.small_models import model, reference

LIMIT_S = 90
DEVICE = os.environ.get("PLANNER_TEST_DEVICE", "cpu")
"""``cuda`` runs all ranks on one card, over gloo: what a real card may do to the results."""

if DEVICE != "cpu":
    trainer_module.backend_of = lambda *_: GLOO  # one card cannot talk to itself over nccl
GUIDE_CHIPS = 4
FSDP = {"as it comes": False, "prepared": True}

Reference = tuple[list[float], dict[str, Tensor], dict[str, Tensor]]


def main(folder: Path, only: str = "") -> None:
    """Everything (or the cases whose name has ``only``): results in ``FOLDER/CASE.RANK.json``."""
    torch.set_num_threads(1)
    wanted = [case for case in CASES if only in case.name]
    references: dict[str, Reference] = apart(
        lambda: {case.name: reference(case.model, batches(case).batches) for case in wanted}, folder
    )
    for size in sorted({case.processes for case in wanted}, reverse=True):
        cases = [case for case in wanted if case.processes == size]
        run_world(
            size, folder, lambda rank, cases=cases: run_cases(rank, cases, references, folder)
        )
    if not only or "guide" in only:
        plan_of_the_guide(folder)
        run_world(GUIDE_CHIPS, folder, lambda rank: run_guide(rank, folder))
    if not only or "narrow" in only:
        wide: list[float] = apart(
            lambda: reference("llama", batches(CASES[1]).batches * 5)[0], folder
        )
        run_world(2, folder, lambda rank: run_narrow(rank, wide, folder))
    if not only or "fsdp" in only:
        run_world(4, folder, lambda rank: run_fsdp(rank, folder))


def apart(work: Callable[[], Any], folder: Path) -> Any:
    """What the work returns, done in a process of its own.

    A backward pass starts PyTorch's devices, after which no process can be forked that uses them.
    """
    path = folder / f"apart-{uuid4().hex}"
    pid = os.fork()
    if pid == 0:
        torch.save(work(), path)
        os._exit(0)
    os.waitpid(pid, 0)
    return torch.load(path, weights_only=False)


def batches(case: Case) -> Batches:
    """Five global batches, as many rows as the plan runs."""
    drawn = []
    source = SyntheticTokens(WORDS, LENGTH)
    for step in range(max(case.steps, 1)):
        inputs, targets = source.rows(step, 0, global_rows(case.plan))
        if case.ignore:
            targets = targets.masked_fill((inputs + targets) % 3 == 0, -100)
        drawn.append((inputs, targets))
    return Batches(tuple(drawn))


def run_world(size: int, folder: Path, work: Callable[[int], int]) -> None:
    """Fork ``size`` processes and wait for them; the first that fails ends the others."""
    store = folder / f"store-{uuid4().hex}"
    children = {}
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            os._exit(_child(rank, size, store, work))
        children[pid] = rank
    deadline = time.monotonic() + LIMIT_S
    while children and time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            time.sleep(0.02)
            continue
        rank = children.pop(pid)
        if status:
            print(f"rank {rank} of {size} failed: status {status}", file=sys.stderr)
            break
    else:
        if children:
            left = sorted(children.values())
            print(f"ranks {left} of {size} took more than {LIMIT_S} s", file=sys.stderr)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _child(rank: int, size: int, store: Path, work: Callable[[int], int]) -> int:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    try:
        code = work(rank)
    except Exception:
        traceback.print_exc()
        return 1
    torch.distributed.barrier()
    return code


def run_cases(
    rank: int, cases: list[Case], references: Mapping[str, Reference], folder: Path
) -> int:
    """One process's part of all cases of its world."""
    for case in cases:
        try:
            result = run_case(case, references[case.name], folder)
        except Exception:
            result = {"error": traceback.format_exc()}
        (folder / f"{case.name}.{rank}.json").write_text(json.dumps(result))
        if "error" in result:
            return 1
    return 0


def plan_of_the_guide(folder: Path) -> None:
    """The model of docs/guides/run-a-plan.md, planned by a real search."""
    from planner import load_cluster, load_job, load_model, solve
    from planner.inputs.overrides import parse_overrides

    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(guide_block("config"))
    changes = [
        "job.seq_len=64",
        "job.global_batch=16",
        "job.precision=fp16",
        "job.techniques.idle_chips=false",
    ]
    overrides = parse_overrides(changes)
    fleet = "2xA100-SXM-40GB + 2xV100-SXM2-32GB @ 100Gb/s"
    model = load_model(folder / "model", overrides)
    plan = solve(model, load_cluster(fleet), load_job(None, overrides))
    (folder / "plan.json").write_text(plan.to_json())


def guide_block(name: str) -> str:
    """The code block behind ``<!-- test: NAME -->``."""
    text = (Path(__file__).parents[2] / "docs" / "guides" / "run-a-plan.md").read_text()
    return text.split(f"<!-- test: {name} -->")[1].split("```")[1].split("\n", 1)[1]


def run_guide(rank: int, folder: Path) -> int:
    """The guide's example as it stands there; what rank 0 prints is kept."""
    os.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(guide_block("example"), "run-a-plan.md", "exec"), {"__name__": "__main__"})
    if rank == 0:
        (folder / "guide.txt").write_text(printed.getvalue())
    return 0


def run_narrow(rank: int, wide: list[float], folder: Path) -> int:
    """Two replicas in bf16 with gradients and masters in fp32, beside the losses in fp64."""
    case = CASES[1]
    names = [f"layer{k}" for k in range(6)]
    plan = run_plan(case.pipelines, names, zero=1, precision="bf16")
    trainer = parallelize(
        plan, model("llama"), device=DEVICE, learning_rate=1e-2, weight_decay=0.1, timeout_s=60
    )
    data = batches(case)
    losses = [trainer.step(data, step) for step in range(5)]
    updater = trainer.engine.updater
    found = {
        "losses": max(abs(a - b) / b for a, b in zip(losses, wide)),
        "fell": losses[4] < losses[0],
        "weights": sorted({str(h.parameter.dtype) for _, h in updater.weights}),
        "gradients": sorted({str(h.gradient().dtype) for _, h in updater.weights}),
        "masters": sorted({str(m.tensor.dtype) for m in updater.masters}),
    }
    (folder / f"narrow-{rank}.txt").write_text(json.dumps(found))
    return 0


def run_fsdp(rank: int, folder: Path) -> int:
    """Two stages over two replicas each under a zero-bubble schedule, prepared and not."""
    found = {name: zero_bubble_error(prepared) for name, prepared in FSDP.items()}
    (folder / f"fsdp-{rank}.txt").write_text(json.dumps(found))
    (folder / f"fsdp-refused-{rank}.txt").write_text(refusals())
    return 0


def run_case(case: Case, expected: Reference, folder: Path) -> dict[str, Any]:
    """Relative differences from the single process on this rank."""
    data = batches(case)
    losses, gradients, finals = expected
    trainer = parallelize(
        case.plan,
        model(case.model),
        device=DEVICE,
        dtype=torch.float64,
        learning_rate=1e-2,
        weight_decay=0.1,
        timeout_s=60,
        repeat_work={CHIP: 3} if case.repeat else None,
    )
    first = 0
    result: dict[str, Any] = {}
    if case.loads:
        first = load_checkpoint(trainer, folder / case.loads)
    before = losses[0] if first else trainer.evaluate(data, 0)
    found = [trainer.gradients(data, first)]
    if not first:
        result["gradients"], result["where"] = gradient_error(trainer, gradients)
        whole = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        result["norm"] = abs(trainer.engine.updater.norm() - whole) / whole
        result["evaluated"] = abs(before - losses[0]) / losses[0]
    if case.steps > 1:
        trainer.update()
        for step in range(first + 1, case.steps):
            if case.saves and step == 2:
                save_checkpoint(trainer, folder / case.saves, 2)
            found.append(trainer.step(data, step))
        result["weights"] = weight_error(trainer.engine.weights, finals)
    wanted = losses[first : first + len(found)]
    result["losses"] = max(abs(a - b) / abs(b) for a, b in zip(found, wanted))
    result["steps"] = len(found)
    return result


def gradient_error(trainer: Trainer, wanted: Mapping[str, Tensor]) -> tuple[float, str]:
    """The worst difference of any gradient, relative to its tensor's largest element.

    Under ZeRO the parts that this rank owns are compared.
    """
    floor = max(float(g.abs().max()) for g in wanted.values()) * 1e-6
    updater = trainer.engine.updater
    sharded = {s.weight for p in updater.pieces if p.bucket.zero for s in p.spans}
    worst, where = 0.0, ""
    for name, held in trainer.engine.weights:
        if name not in sharded:
            scale = max(float(wanted[name].abs().max()), floor)
            error = (
                float((held.gradient().cpu() - take(wanted[name], held.cut)).abs().max()) / scale
            )
            if error >= worst:
                worst, where = error, name
    full = _as_weights(trainer.engine.weights, wanted)
    for piece, owned in updater.owned_gradients():
        scale = max(float(owned.abs().max()), floor)
        target = padded(piece, flatten(piece, full, gradient=False))[piece.owned]
        error = float((owned.cpu() - target).abs().max()) / scale
        if error >= worst:
            worst, where = error, piece.spans[0].weight
    return worst, where


def weight_error(weights: Weights, wanted: Mapping[str, Tensor]) -> float:
    """The worst difference of any weight, relative to its tensor's largest element."""
    return max(
        float((held.parameter.detach().cpu() - take(wanted[name], held.cut)).abs().max())
        / float(wanted[name].abs().max())
        for name, held in weights
    )


def _as_weights(weights: Weights, values: Mapping[str, Tensor]) -> Weights:
    """Other values laid out like this rank's weights."""
    held = {name: Held(torch.nn.Parameter(take(values[name], h.cut)), h.cut) for name, h in weights}
    return Weights(held=held)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
