"""Whole training steps on one card, as rows for `planner validate`.

    python tests/benchmarks/card_steps.py FOLDER [--device cuda] [--seconds 300] [--tiny]

Writes ``steps.jsonl``, one line per run as it ends; `card_rows.py` makes the CSV file of it. Runs
are in the order of their worth: what does not fit into the seconds is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from card_model import Master, Widths, attention, clear, make
from torch import nn

LLAMA = {
    "Llama-0.4b": Widths("llama", 24, 1024, 16, 16, 2816, 32000),
    "Llama-1.1b": Widths("llama", 22, 2048, 32, 4, 5632, 32000),
    "Llama-2.8b": Widths("llama", 28, 3072, 24, 8, 8192, 32000),
    "Llama-3-8b, 8 blocks": Widths("llama", 8, 4096, 32, 8, 14336, 128256),
    "Llama-2-7b, 10 blocks": Widths("llama", 10, 4096, 32, 32, 11008, 32000),
    "Llama-2-13b, 6 blocks": Widths("llama", 6, 5120, 40, 40, 13824, 32000),
    "Llama-2-70b, 2 blocks": Widths("llama", 2, 8192, 64, 8, 28672, 32000),
}
GPT = {
    "GPT-0.35b": Widths("gpt", 24, 1024, 16, 16, 4096, 50257),
    "GPT-0.35b, padded": Widths("gpt", 24, 1024, 16, 16, 4096, 50304),
    "GPT-1.3b": Widths("gpt", 24, 2048, 16, 16, 8192, 50304),
    "GPT-1.3b, heads of 64": Widths("gpt", 24, 2048, 32, 32, 8192, 50257),
    "GPT-2.7b": Widths("gpt", 32, 2560, 32, 32, 10240, 50257),
    "GPT-6.7b, 10 blocks": Widths("gpt", 10, 4096, 32, 32, 16384, 50304),
    "GPT-175b, 1 block": Widths("gpt", 1, 12288, 96, 96, 49152, 50304),
}
OTHERS = {
    "Llama-0.9b": Widths("llama", 24, 1536, 12, 12, 4096, 32000),
    "Llama-1.4b": Widths("llama", 16, 2048, 16, 8, 8192, 32768),
    "Llama-3.2-3b, 14 blocks": Widths("llama", 14, 3072, 24, 8, 8192, 128256),
    "Llama-20b, 5 blocks": Widths("llama", 5, 6144, 48, 8, 16384, 64000),
    "GPT-0.8b, heads of 96": Widths("gpt", 24, 1536, 16, 16, 6144, 50257),
    "GPT-13b, 6 blocks": Widths("gpt", 6, 5120, 40, 40, 20480, 50304),
}
"""Models that nothing had been fitted to or chosen by when they were measured."""
MODELS = LLAMA | GPT | OTHERS


@dataclass(frozen=True)
class Try:
    """One run. ``precision``: bf16, fp16, fp32 or tf32."""

    model: str
    seq: int
    rows: int
    micro_batches: int = 1
    recompute: bool = False
    precision: str = "bf16"
    wide: bool = False
    compiled: bool = False
    kernel: str = "flash"


def tries() -> list[Try]:
    """The most telling first."""
    a, b, c, d = "Llama-3-8b, 8 blocks", "Llama-1.1b", "GPT-2.7b", "GPT-0.35b"
    first = [
        Try(a, 4096, 1), Try(a, 4096, 2, 4), Try(a, 4096, 4), Try(a, 4096, 4, recompute=True),
        Try(b, 2048, 1), Try(b, 2048, 4), Try(b, 2048, 8, 2), Try(b, 2048, 16, recompute=True),
        Try(c, 2048, 1), Try(c, 2048, 4, 2), Try(c, 2048, 4, recompute=True),
        Try(d, 1024, 4), Try(d, 1024, 16), Try(d, 1024, 32, recompute=True),
        Try("GPT-0.35b, padded", 1024, 16), Try("GPT-1.3b", 2048, 4, 2),
        Try("GPT-1.3b, heads of 64", 2048, 4, 2), Try("Llama-2.8b", 4096, 1, 4),
        Try("Llama-2.8b", 4096, 4, recompute=True), Try("Llama-2-7b, 10 blocks", 4096, 1, 4),
        Try("Llama-2-7b, 10 blocks", 2048, 4), Try("Llama-2-13b, 6 blocks", 4096, 2),
        Try("Llama-2-70b, 2 blocks", 4096, 2), Try("Llama-2-70b, 2 blocks", 4096, 1, 4),
        Try("GPT-6.7b, 10 blocks", 2048, 4), Try("GPT-175b, 1 block", 2048, 2),
        Try("Llama-0.4b", 2048, 8), Try("Llama-0.4b", 512, 4),
    ]  # fmt: skip
    lengths = [
        Try(b, 512, 32), Try(b, 1024, 16), Try(b, 4096, 4), Try(b, 8192, 2), Try(b, 16384, 1),
        Try(b, 16384, 1, recompute=True), Try(b, 32768, 1, recompute=True),
        Try(a, 512, 16), Try(a, 1024, 8), Try(a, 8192, 1), Try(a, 8192, 2, recompute=True),
        Try(a, 16384, 1, recompute=True), Try(c, 512, 8), Try(c, 1024, 4), Try(c, 4096, 1),
        Try(c, 8192, 1, recompute=True),
    ]  # fmt: skip
    others = [
        Try(b, 2048, 4, precision="fp16"), Try(a, 4096, 2, precision="fp16"),
        Try(b, 2048, 4, precision="tf32", kernel="efficient"),
        Try(d, 1024, 8, precision="tf32", kernel="efficient"),
        Try(a, 2048, 2, precision="tf32", kernel="efficient"),
        Try(d, 1024, 8, precision="fp32", kernel="efficient"),
        Try(b, 2048, 2, precision="fp32", kernel="efficient"),
        Try(a, 4096, 2, 4, wide=True), Try(b, 2048, 4, 4, wide=True), Try(c, 2048, 2, 4, wide=True),
        Try(b, 2048, 4, 8), Try(a, 4096, 1, 8), Try(d, 1024, 16, 4), Try(d, 1024, 1, 8),
        Try(b, 512, 1), Try(b, 1024, 1), Try(d, 512, 1), Try(d, 512, 2, 4), Try(c, 512, 1, 4),
        Try(b, 2048, 4, kernel="cudnn"), Try(a, 8192, 1, kernel="cudnn"),
        Try(b, 2048, 2, kernel="math"), Try(d, 1024, 8, kernel="math"),
        Try(c, 1024, 2, kernel="math"),
    ]  # fmt: skip
    edge = [
        Try(a, 4096, 6), Try(a, 4096, 8), Try(b, 2048, 16), Try(b, 2048, 24), Try(c, 2048, 6),
        Try(c, 2048, 8), Try("Llama-2.8b", 4096, 2), Try("Llama-2.8b", 4096, 3), Try(d, 1024, 64),
        Try(d, 1024, 96), Try("Llama-2-7b, 10 blocks", 4096, 4),
        Try("Llama-2-13b, 6 blocks", 4096, 6),
        Try(a, 4096, 16, recompute=True), Try(a, 4096, 12, recompute=True), Try(b, 16384, 4),
        Try("GPT-1.3b", 2048, 16), Try("GPT-6.7b, 10 blocks", 2048, 12),
    ]  # fmt: skip
    return first + lengths + others + edge


def compiled_tries() -> list[Try]:
    a, b, d = "Llama-3-8b, 8 blocks", "Llama-1.1b", "GPT-0.35b"
    return [
        replace(t, compiled=True, kernel="")
        for t in (Try(b, 2048, 4), Try(a, 4096, 2), Try(d, 1024, 16), Try("GPT-2.7b", 2048, 4),
                  Try(b, 2048, 16, recompute=True))
    ]  # fmt: skip


def second_tries() -> list[Try]:
    """Runs of the models in OTHERS."""
    a, b, c, d, e, f = OTHERS
    return [
        Try(a, 2048, 4), Try(a, 1024, 2), Try(a, 4096, 4, recompute=True), Try(a, 2048, 2, 4),
        Try(b, 4096, 1), Try(b, 4096, 4), Try(b, 1024, 8, 2), Try(b, 12288, 1),
        Try(b, 8192, 4, recompute=True),
        Try(c, 4096, 1, 4), Try(c, 2048, 4), Try(c, 8192, 1), Try(c, 4096, 4, recompute=True),
        Try(c, 512, 4),
        Try(d, 4096, 2), Try(d, 2048, 1, 4), Try(d, 4096, 6, recompute=True), Try(d, 8192, 1),
        Try(e, 1024, 8), Try(e, 2048, 8), Try(e, 1024, 16, recompute=True), Try(e, 1024, 1),
        Try(f, 2048, 4), Try(f, 1024, 2, 4), Try(f, 4096, 2, recompute=True),
        Try(a, 2048, 4, precision="fp16"), Try(c, 2048, 2, 4, wide=True),
        Try(f, 2048, 1, precision="tf32", kernel="efficient"),
        Try(b, 2048, 8, kernel="cudnn"), Try(e, 1024, 4, kernel="math"),
        Try(d, 4096, 4), Try(a, 2048, 32), Try(c, 4096, 4), Try(e, 2048, 24), Try(b, 8192, 3),
    ]  # fmt: skip


TINY = Widths("llama", 2, 64, 4, 2, 128, 500)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


Build = Callable[[Any, Any, str, torch.dtype], nn.Module]
"""From a run, widths, device and type to a model whose ``blocks`` may be compiled."""


def plain(t: Try, w: Widths, device: str, dtype: torch.dtype) -> nn.Module:
    """The model of card_model.py."""
    model = make(w, t.seq, device, dtype)
    for block in model.blocks:
        block.repeat_keys = t.kernel == "efficient"
    return model


def run(t: Any, w: Any, device: str, build: Build = plain, least_s: float = 1.0) -> dict[str, Any]:
    """The median step time of one run and its memory, or that it did not fit."""
    cuda = device == "cuda"
    torch.set_float32_matmul_precision("high" if t.precision == "tf32" else "highest")
    found: dict[str, Any] = {"ok": False, "times": []}
    try:
        dtype = DTYPES.get(t.precision, torch.float32)
        model = build(t, w, device, dtype)
        if t.compiled:
            torch._dynamo.reset()
            for block in model.blocks:
                block.compile()
        master = Master(model, wide=t.wide)
        found["parameters"] = sum(p.numel() for p in master.weights)
        generator = torch.Generator(device).manual_seed(1)
        shape = (t.micro_batches, t.rows, t.seq)
        ids = torch.randint(w.vocab, shape, device=device, generator=generator)
        goals = torch.randint(w.vocab, shape, device=device, generator=generator)
        scale = 1024.0 if t.precision == "fp16" else 1.0
        losses: list[float] = []

        def passes() -> torch.Tensor:
            total = torch.zeros((), device=device)
            with attention(t.kernel if cuda else ""):
                for i in range(t.micro_batches):
                    loss = model(ids[i], goals[i], t.recompute) / t.micro_batches
                    (loss * scale).backward()
                    total += loss.detach()
            return total

        while len(found["times"]) < 5 or (
            sum(found["times"][2:]) < least_s and len(found["times"]) < 14
        ):
            start = time.perf_counter()
            total = passes()
            issued = time.perf_counter() - start
            master.step(scale)
            losses.append(float(total))  # waits
            found["times"].append(time.perf_counter() - start)
            found.setdefault("issued", []).append(issued)
        float(passes())  # once more, to see the update alone
        start = time.perf_counter()
        float(master.step(scale))
        if cuda:
            torch.cuda.synchronize()
        found["update_s"] = time.perf_counter() - start
        measured = found["times"][2:]
        found |= {"ok": True, "step_s": statistics.median(measured), "losses": losses}
        found["issue_s"] = statistics.median(found["issued"][2:])
    except torch.cuda.OutOfMemoryError as error:
        found["out_of_memory"] = str(error)[:300]
    if cuda:
        free, total_bytes = torch.cuda.mem_get_info()
        found["allocated"] = torch.cuda.max_memory_allocated()
        found["reserved"] = torch.cuda.max_memory_reserved()
        found["outside"] = total_bytes - free - torch.cuda.memory_reserved()
        found["total_bytes"] = total_bytes
    return found


def arguments() -> argparse.ArgumentParser:
    """What every program that measures steps understands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--end", type=int, default=1000)
    return parser


def main() -> None:
    parser = arguments()
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--second", action="store_true")
    args = parser.parse_args()
    every = compiled_tries() if args.compiled else tries()
    name = "compiled.jsonl" if args.compiled else "steps.jsonl"
    if args.second:
        every, name = second_tries(), "second.jsonl"
    run_all([(t, MODELS[t.model]) for t in every], args, name, tiny=tiny)


def tiny(t: Try, w: Widths) -> tuple[Try, Widths]:
    """The run with hardly any work, to see that it works."""
    small = replace(TINY, style=w.style, kv_heads=4 if w.style == "gpt" else TINY.kv_heads)
    return replace(t, seq=16, rows=2), small


def run_all(
    every: Sequence[tuple[Any, Any]],
    args: argparse.Namespace,
    name: str,
    *,
    build: Build = plain,
    tiny: Callable[[Any, Any], tuple[Any, Any]],
) -> None:
    """Measure runs with their widths until the seconds are over; a line of ``name`` for each."""
    begin = time.monotonic()
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        torch.zeros(1, device="cuda")
    with (args.folder / name).open("a") as out:
        for number, (t, w) in enumerate(every):
            if not args.first <= number < args.end:
                continue
            if time.monotonic() - begin > args.seconds:
                print("out of time at", number, t)
                break
            if args.tiny:
                t, w = tiny(t, w)
            start = time.monotonic()
            clear(args.device)
            try:
                found = run(t, w, args.device, build)
            except Exception as error:
                found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:300]}
            found["wall"] = time.monotonic() - start
            line = {"number": number, "try": asdict(t), "widths": asdict(w), "found": found}
            out.write(json.dumps(line) + "\n")
            out.flush()
            _say(number, t, found)


def _say(number: int, t: Any, found: dict[str, Any]) -> None:
    said = f"{found['step_s'] * 1e3:.1f} ms" if found["ok"] else "-"
    issued = f"{found['issue_s'] * 1e3:.0f} issued" if found["ok"] else ""
    peak = found.get("reserved", 0) / 2**30
    why = found.get("error") or ("OOM" if "out_of_memory" in found else "")
    print(f"{number} {t.model} s{t.seq} r{t.rows}x{t.micro_batches} {t.precision} "
          f"{'re ' if t.recompute else ''}{said} {issued} {peak:.1f} GiB {why} "
          f"[{found['wall']:.1f} s]", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
