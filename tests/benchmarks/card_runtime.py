"""Our own runtime on one card: gradients beside fp64 on the processor, and whole planned steps.

    python tests/benchmarks/card_runtime.py FOLDER --plans PLANS [--device cuda] [--seconds 200]

``PLANS`` holds ``NAME.json`` plans of one chip (`planner estimate … -o`). Writes
``gradients.json`` and ``runs.jsonl``. Weights are made on the card: the runtime makes them on the
processor, layer by layer, which is right for any plan and slow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from card_model import clear
from transformers import AutoConfig, AutoModelForCausalLM

from planner.inputs.job import ResolvedJob
from planner.plan_file import read_plan
from planner.runtime.data import SyntheticTokens
from planner.runtime.hf import HfCausalLM, model_of_config
from planner.runtime.trainer import Trainer, parallelize, precision_dtype
from tests.runtime.run_plans import P, S, run_plan

SMALL: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 704,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 1000, "max_position_embeddings": 256,
    },
    "gpt2": {
        "model_type": "gpt2", "n_embd": 256, "n_head": 4, "n_layer": 3, "n_positions": 256,
        "vocab_size": 1000, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
}  # fmt: skip
LENGTH = 128


def check(kind: str, precision: str, recompute: str, device: str) -> dict[str, Any]:
    """Loss, gradients and five steps of AdamW on the device, beside fp64 with the same weights."""
    names = [f"layer{k}" for k in range(5)]
    pipelines = [P([S((0, 5), [(2, 1)], recompute=recompute)], 2)]
    job = precision if precision != "fp64" else "fp32"
    plan = run_plan(pipelines, names, seq_len=LENGTH, precision=job)
    dtype = torch.float64 if precision == "fp64" else None
    config = SMALL[kind]
    own = parallelize(plan, model_of_config(config), device=device, dtype=dtype)
    wide = parallelize(plan, model_of_config(config), device="cpu", dtype=torch.float64)
    with torch.no_grad():
        for name, held in own.engine.weights:
            value = held.parameter.detach().double().cpu()
            wide.engine.weights.held[name].parameter.copy_(value)
    data = SyntheticTokens(int(config["vocab_size"]), LENGTH)
    losses = [own.gradients(data, 0), wide.gradients(data, 0)]
    worst, where, square, whole = 0.0, "", 0.0, 0.0
    for name, held in own.engine.weights:
        wanted = wide.engine.weights.held[name].gradient()
        difference = float((held.gradient().double().cpu() - wanted).norm())
        square += difference**2
        whole += float(wanted.norm()) ** 2
        error = difference / max(float(wanted.norm()), 1e-12)
        if error > worst:
            worst, where = error, name
    own.update()
    wide.update()
    later = [[t.step(data, s) for s in range(1, 5)] for t in (own, wide)]
    return {
        "model": kind, "precision": precision, "recompute": recompute,
        "loss": losses[0], "loss_error": abs(losses[0] - losses[1]) / losses[1],
        "gradient_error": (square / whole) ** 0.5, "worst_gradient": worst, "where": where,
        "later_loss_error": max(abs(a - b) / b for a, b in zip(*later)),
        "types": sorted({str(h.parameter.dtype) for _, h in own.engine.weights}),
        "sums": sorted({str(h.gradient().dtype) for _, h in own.engine.weights}),
    }  # fmt: skip


def whole_steps(path: Path, device: str, steps: int) -> dict[str, Any]:
    """Steps of a plan on the device: times, memory, and what the plan says."""
    plan = read_plan(str(path))
    job = ResolvedJob.from_json(plan.inputs.job.resolved)
    config = dict(plan.inputs.model.resolved["config"])
    dtype = precision_dtype(job.precision)
    kind = config.pop("model_type")
    resolved = AutoConfig.for_model(kind, **config)
    cuda = device == "cuda"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(resolved, dtype=dtype, attn_implementation="sdpa")
    model = model.to("cpu")
    clear(device)
    trainer = parallelize(plan, HfCausalLM(model), device=device)
    data = SyntheticTokens(int(resolved.vocab_size), job.seq_len)
    times, losses = [], []
    for step in range(steps):
        start = time.perf_counter()
        losses.append(trainer.step(data, step))
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times[2:]) > 4.0 and len(times) > 4:
            break
    found: dict[str, Any] = {"ok": True, "times": times, "losses": losses}
    found["step_s"] = statistics.median(times[2:])
    if cuda:
        free, total = torch.cuda.mem_get_info()
        found["allocated"] = torch.cuda.max_memory_allocated()
        found["reserved"] = torch.cuda.max_memory_reserved()
        found["outside"] = total - free - torch.cuda.memory_reserved()
    stage = plan.pipelines[0].stages[0]
    found["planned_s"] = plan.estimate.step_time_s
    found["planned_memory"] = stage.replicas[0].memory_bytes.model_dump()
    found["rows"] = plan.pipelines[0].micro_batch_rows
    found["micro_batches"] = plan.pipelines[0].micro_batches
    found["seq_len"], found["precision"] = job.seq_len, job.precision
    found["state"] = [job.state_bytes.parameter, job.state_bytes.gradient]
    found["recompute"] = stage.recompute[0].policy
    found["config"] = plan.inputs.model.resolved["config"]
    found["parameters"] = sum(h.parameter.numel() for _, h in trainer.engine.weights)
    free_trainer(trainer)
    return found


def free_trainer(trainer: Trainer) -> None:
    """Let go of weights and state: held objects refer to one another."""
    trainer.optimizer.state.clear()
    for _, held in trainer.engine.weights:
        held.parameter.data = torch.empty(0)
        held.parameter.grad = held.summed = None
    for master in trainer.engine.updater.masters:
        master.tensor.data = torch.empty(0)
        master.tensor.grad = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plans", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--unchecked", action="store_true", help="no gradients, runs only")
    args = parser.parse_args()
    begin = time.monotonic()
    checks = []
    for kind in () if args.unchecked else SMALL:
        for precision in ("fp64", "fp32", "bf16", "fp16"):
            for recompute in ("none", "selective", "full"):
                try:
                    found = check(kind, precision, recompute, args.device)
                except Exception:
                    trace = traceback.format_exc()
                    found = {"model": kind, "precision": precision, "recompute": recompute,
                             "error": trace[-1500:]}  # fmt: skip
                    print(kind, precision, recompute, trace[-600:], flush=True)
                checks.append(found)
                line = {k: v for k, v in found.items() if k.endswith(("error", "gradient"))}
                print(kind, precision, recompute, line, flush=True)
    if checks:
        (args.folder / "gradients.json").write_text(json.dumps(checks, indent=1))
    print(f"checks: {time.monotonic() - begin:.1f} s", flush=True)
    with (args.folder / "runs.jsonl").open("a") as out:
        for path in sorted(args.plans.glob("*.json")) if args.plans else ():
            if time.monotonic() - begin > args.seconds:
                print("out of time at", path.name)
                break
            start = time.monotonic()
            clear(args.device)
            try:
                found = whole_steps(path, args.device, args.steps)
            except torch.cuda.OutOfMemoryError as error:
                found = {"ok": False, "out_of_memory": str(error)[:300]}
            except Exception:
                found = {"ok": False, "error": traceback.format_exc()[-1500:]}
                print(found["error"], flush=True)
            found["wall"] = time.monotonic() - start
            out.write(json.dumps({"plan": path.stem, "found": found}) + "\n")
            out.flush()
            said = (
                f"{found['step_s'] * 1e3:.1f} ms, planned {found['planned_s'] * 1e3:.1f}"
                if found["ok"]
                else "-"
            )
            print(path.stem, said, f"{found.get('reserved', 0) / 2**30:.1f} GiB reserved, "
                  f"{found.get('allocated', 0) / 2**30:.1f} allocated "
                  f"[{found['wall']:.1f} s]", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
