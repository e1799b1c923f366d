"""Whole steps with experts, latent attention, fp8 and long sequences on one card.

    python tests/benchmarks/card_expert_steps.py FOLDER PART [--device cuda] [--seconds 300]

PART: experts, loops (experts one by one), eight (fp8), long, or check (models that nothing was
fitted to when they were measured). Writes ``PART.jsonl``, one line per run as it ends;
`card_rows.py` makes the CSV file of it. Runs are in the order of their worth: what does not fit
into the seconds is left out. ``--tiny`` only sees that all of it works.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import card_steps
import torch
from card_eight_bits import eight_bits
from card_experts import Route, Widths, make
from card_model import Widths as Dense
from torch import nn

SPARSE = {
    "Mixtral-8x7b, 2 blocks": Widths(2, 4096, 32, 8, 128, 32000, 8, 2, 14336),
    "Qwen3-30b-a3b, 4 blocks": Widths(4, 2048, 32, 4, 128, 151936, 128, 8, 768),
    "OLMoE-1b-7b, 6 blocks": Widths(6, 2048, 16, 16, 128, 50304, 64, 8, 1024),
    "Oss-20b without windows, 2 blocks": Widths(2, 2880, 64, 8, 64, 201088, 32, 4, 2880),
    "DeepSeek-V2-Lite, 5 blocks": Widths(
        5, 2048, 16, 0, 192, 102400, 64, 6, 1408, shared_ffn=2816, dense_blocks=1, ffn=10944
    ),
    "DeepSeek-V3 with 16 experts, 3 blocks": Widths(
        3, 7168, 128, 0, 192, 32768, 16, 8, 2048, shared_ffn=2048, dense_blocks=1, ffn=18432,
        q_rank=1536,
    ),
    "DeepSeek-V3, 4 dense blocks": Widths(4, 7168, 128, 0, 192, 32768, ffn=18432, q_rank=1536),
    "Mistral-7b, 8 blocks": Widths(8, 4096, 32, 8, 128, 32000, ffn=14336, window=4096),
}  # fmt: skip
CHECKS = {
    "Qwen1.5-MoE-a2.7b, 4 blocks": Widths(
        4, 2048, 16, 16, 128, 151936, 60, 4, 1408, shared_ffn=5632
    ),
    "Phi-3.5-MoE, 2 blocks": Widths(2, 4096, 32, 8, 128, 32064, 16, 2, 6400),
    "Granite-3.0-3b-a800m": Widths(32, 1536, 24, 8, 64, 49155, 40, 8, 512),
    "DeepSeek-V2 with 20 experts, 4 blocks": Widths(
        4, 5120, 128, 0, 192, 32768, 20, 6, 1536, shared_ffn=3072, dense_blocks=1, ffn=12288,
        q_rank=1536,
    ),
    "GLM-4.5-Air with 32 experts, 3 blocks": Widths(
        3, 4096, 96, 8, 128, 32768, 32, 8, 1408, shared_ffn=1408
    ),
}  # fmt: skip
DENSE = {
    "Llama-2-7b, 10 blocks": Dense("llama", 10, 4096, 32, 32, 11008, 32000),
    "Llama-3-8b, 8 blocks": Dense("llama", 8, 4096, 32, 8, 14336, 128256),
    "Llama-2-70b, 2 blocks": Dense("llama", 2, 8192, 64, 8, 28672, 32000),
    "Llama-1.1b": Dense("llama", 22, 2048, 32, 4, 5632, 32000),
    "Llama-7b with 8 kv heads, 6 blocks": Dense("llama", 6, 4096, 32, 8, 11008, 32000),
    "Llama-13b, 4 blocks": Dense("llama", 4, 5120, 40, 40, 13824, 32000),
}
MODELS = SPARSE | CHECKS | DENSE


@dataclass(frozen=True)
class Try:
    """One run, as in card_steps. ``skew``: how experts are chosen (:class:`card_experts.Route`);
    ``imbalance`` is what came of it, tokens of the busiest over the mean."""

    model: str
    seq: int
    rows: int
    micro_batches: int = 1
    recompute: bool = False
    precision: str = "bf16"
    wide: bool = False
    compiled: bool = False
    kernel: str = "flash"
    skew: float | None = 0.0
    loop: bool = False
    imbalance: float = 0.0
    eight: bool = False


def experts() -> list[Try]:
    """Mixtures of experts and latent attention."""
    a, b, c, d, e, f, g, h = SPARSE
    first = [
        Try(a, 4096, 1), Try(b, 4096, 1), Try(e, 4096, 1), Try(f, 4096, 1), Try(c, 4096, 1),
        Try(d, 4096, 1), Try(g, 4096, 1),
        Try(a, 4096, 2), Try(b, 4096, 2), Try(e, 4096, 2), Try(f, 4096, 2), Try(c, 4096, 2),
        Try(d, 4096, 2), Try(g, 4096, 2, kernel="cudnn"),
        Try(a, 4096, 4), Try(b, 4096, 4), Try(e, 4096, 4), Try(c, 4096, 4),
        Try(f, 4096, 2, kernel="cudnn"), Try(e, 4096, 2, kernel="cudnn"),
        Try(a, 4096, 2, skew=0.6), Try(b, 4096, 2, skew=0.6), Try(b, 4096, 2, skew=1.0),
        Try(c, 4096, 2, skew=None), Try(b, 4096, 2, skew=None), Try(f, 4096, 2, skew=0.8),
        Try(a, 4096, 1, loop=True), Try(b, 4096, 1, loop=True), Try(c, 4096, 2, loop=True),
        Try(a, 4096, 1, 4), Try(b, 4096, 1, 4), Try(e, 2048, 2, 4), Try(d, 4096, 1, 4),
        Try(a, 512, 1), Try(b, 512, 1), Try(e, 512, 1), Try(f, 512, 1), Try(c, 1024, 1),
        Try(a, 2048, 1), Try(b, 2048, 1), Try(c, 2048, 1), Try(d, 2048, 1), Try(e, 2048, 1),
        Try(a, 4096, 8, recompute=True), Try(b, 4096, 4, recompute=True),
        Try(e, 4096, 8, recompute=True), Try(f, 4096, 4, recompute=True),
        Try(h, 4096, 1), Try(h, 16384, 1), Try(h, 32768, 1, recompute=True),
        Try(e, 16384, 1), Try(g, 16384, 1, recompute=True), Try(a, 16384, 1, kernel="cudnn"),
        Try(a, 4096, 2, skew=None), Try(f, 2048, 2, 4), Try(c, 4096, 2, 4), Try(d, 8192, 1),
        Try(g, 4096, 4, recompute=True), Try(b, 4096, 2, skew=1.5),
        Try(a, 4096, 6), Try(b, 4096, 8), Try(e, 4096, 8), Try(c, 4096, 8),
    ]  # fmt: skip
    return first


def eight() -> list[Try]:
    """The same models in fp8 and in bf16, blocks compiled."""
    a, b, c, d, *_ = DENSE
    runs = [(c, 4096, 2), (a, 4096, 2), (b, 4096, 2), (d, 2048, 4), (c, 2048, 2), (a, 2048, 8)]
    found = []
    for model, seq, rows in runs:
        for narrow in (True, False):
            found.append(Try(model, seq, rows, compiled=True, kernel="", eight=narrow))
    found.insert(4, Try(c, 4096, 2, eight=True))
    found.insert(5, Try(c, 4096, 2))
    return found


def long() -> list[Try]:
    """Sequences of 8,192 to 65,536 tokens with both fused kernels."""
    *_, d, e, f = DENSE
    return [
        Try(e, 16384, 1, kernel=kernel) for kernel in ("flash", "cudnn")
    ] + [
        Try(model, seq, 1, recompute=True, kernel=kernel)
        for model, seq in ((e, 32768), (f, 16384), (d, 32768), (e, 65536), (f, 32768), (d, 65536))
        for kernel in ("flash", "cudnn")
    ] + [
        Try(e, 8192, 2, kernel="cudnn"), Try(e, 4096, 4, kernel="cudnn"), Try(e, 4096, 4),
        Try(d, 2048, 8, kernel="cudnn"), Try(f, 4096, 2, kernel="cudnn"),
    ]  # fmt: skip


def check() -> list[Try]:
    """Runs of the models that were measured last."""
    a, b, c, d, e = CHECKS
    return [
        Try(a, 4096, 1), Try(b, 4096, 1), Try(c, 4096, 1), Try(d, 4096, 1), Try(e, 4096, 1),
        Try(a, 4096, 2), Try(b, 4096, 2), Try(c, 2048, 1), Try(d, 4096, 2, kernel="cudnn"),
        Try(e, 4096, 2), Try(a, 2048, 1, 4), Try(b, 4096, 4), Try(c, 4096, 1, 4),
        Try(e, 4096, 2, skew=0.8), Try(a, 4096, 4, recompute=True), Try(b, 2048, 2, 4),
        Try(d, 4096, 4, recompute=True), Try(c, 1024, 1), Try(a, 1024, 1), Try(d, 1024, 1),
        Try(e, 8192, 1, kernel="cudnn"), Try(a, 4096, 2, skew=None), Try(b, 4096, 1, loop=True),
        Try(e, 4096, 4, recompute=True), Try(c, 4096, 4, recompute=True), Try(b, 512, 1),
    ]  # fmt: skip


def one_by_one() -> list[Try]:
    """Experts multiplied one after the other, as older code does."""
    a, b, c, _, e, *_ = SPARSE
    return [
        Try(model, seq, rows, loop=True)
        for model, seq, rows in ((a, 4096, 1), (b, 4096, 1), (c, 4096, 2), (e, 4096, 2),
                                 (b, 4096, 2), (c, 1024, 1))
    ]  # fmt: skip


PARTS = {"experts": experts, "eight": eight, "long": long, "check": check, "loops": one_by_one}


def routed(t: Try, w: Widths, device: str) -> tuple[Route, float]:
    route = Route(t.skew, t.loop, pad=t.kernel == "flash")
    return route, route.prepare(w, t.rows * t.seq, device)


def build(t: Try, w: Any, device: str, dtype: torch.dtype) -> nn.Module:
    """The model of a run."""
    if isinstance(w, Dense):
        model = card_steps.plain(t, w, device, dtype)
        if t.eight:
            for block in model.blocks:
                eight_bits(block)
        return model
    return make(w, routed(t, w, device)[0], device, dtype)


def stated(t: Try, device: str) -> Try:
    """The run with the imbalance that its experts will have."""
    w = MODELS[t.model]
    if isinstance(w, Dense) or not w.experts:
        return t
    return replace(t, imbalance=round(routed(t, w, device)[1], 3))


def tiny(t: Try, w: Any) -> tuple[Try, Any]:
    """The run with hardly any work, to see that it works."""
    t = replace(t, seq=16, rows=2, compiled=False)
    if isinstance(w, Dense):
        return t, replace(card_steps.TINY, kv_heads=4)
    few = {"layers": 2, "hidden": 64, "heads": 4, "vocab": 500, "ffn": 128}
    few |= {"kv_heads": 2, "head_dim": 16} if w.kv_heads else {}
    few |= {"experts": 4, "active": 2, "expert_ffn": 32} if w.experts else {}
    return t, replace(w, **few)


def main() -> None:
    parser = card_steps.arguments()
    parser.add_argument("part", choices=sorted(PARTS))
    args = parser.parse_args()
    every = [(stated(t, args.device), MODELS[t.model]) for t in PARTS[args.part]()]
    card_steps.run_all(every, args, f"{args.part}.jsonl", build=build, tiny=tiny)


if __name__ == "__main__":
    main()
