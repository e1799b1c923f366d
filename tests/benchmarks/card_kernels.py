"""Kernel curves of one card: products, attention, memory traffic, launches, updates, host link.

    python tests/benchmarks/card_kernels.py FOLDER [--device cuda] [--seconds 300] [--tiny]

Writes ``kernels.csv``, one line per measurement as it ends: what, precision, sizes by name, seconds
of one call, and how far the middle half of the repetitions spreads. Kernels are timed by device
events around some tens of calls in a row, over inputs that rotate (so that caches do not hold
them), with random data.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import torch
from card_eight_bits import FORWARD, cast
from card_model import attention
from torch import Tensor
from torch.nn import functional as F

GIB = 2**30
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
COLUMNS = ("group", "what", "precision", "m", "n", "k", "rows", "seq", "heads", "kv_heads",
           "head_dim", "bytes", "elements", "seconds", "spread")  # fmt: skip


@dataclass
class Bench:
    """Where measurements go and how long they may take."""

    out: TextIO
    device: str
    end: float
    tiny: bool
    writer: Any = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.writer = csv.DictWriter(self.out, COLUMNS)
        self.writer.writeheader()

    def time(self, group: str, what: str, work: Callable[[int], object], **sizes: object) -> None:
        """Measure ``work(i)``, the i-th call of it, and write a line."""
        if time.monotonic() > self.end:
            raise TimeoutError
        try:
            seconds, spread = self.seconds(work)
        except Exception as error:
            print(group, what, sizes, type(error).__name__, str(error)[:200], flush=True)
            return
        self.write(group, what, seconds, spread, **sizes)

    def write(self, group: str, what: str, seconds: float, spread: float, **sizes: object) -> None:
        line = {
            "group": group,
            "what": what,
            "seconds": f"{seconds:.5g}",
            "spread": f"{spread:.3f}",
        }
        self.writer.writerow(line | {k: str(v) for k, v in sizes.items()})
        self.out.flush()
        self.done += 1

    def seconds(self, work: Callable[[int], object]) -> tuple[float, float]:
        """Median of one call, and the spread of the middle half over it."""
        if self.device == "cpu":
            start = time.perf_counter()
            work(0)
            return time.perf_counter() - start, 0.0
        for i in range(3):
            work(i)
        torch.cuda.synchronize()
        start = time.perf_counter()
        work(0)
        torch.cuda.synchronize()
        once = time.perf_counter() - start
        calls = max(1, min(50, int(0.004 / once)))
        times, at = [], 0
        for _ in range(9):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                work(at)
                at += 1
            end.record()
            times.append((begin, end))
        torch.cuda.synchronize()
        found = sorted(b.elapsed_time(e) / 1e3 / calls for b, e in times)
        return found[4], (found[6] - found[2]) / found[4]

    def sets(self, size: int) -> int:
        """How many inputs of this many bytes to rotate among."""
        return 1 if self.tiny else max(1, min(16, int(200e6 / max(1, size))))


def products(b: Bench, precision: str, shapes: list[tuple[int, int, int]], which: str) -> None:
    """[m, k] x [k, n] as a linear layer computes it: forward, input and weight gradient."""
    if precision == "fp8":
        eight_bits(b, shapes)
        return
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    for shape in shapes:
        _product(b, precision, shape, which)


def _product(b: Bench, precision: str, shape: tuple[int, int, int], which: str) -> None:
    m, n, k = shape
    dtype = DTYPES.get(precision, torch.float32)
    sets = b.sets((m * k + k * n) * dtype.itemsize)
    x = [torch.randn(m, k, device=b.device, dtype=dtype) for _ in range(sets)]
    w = [torch.randn(n, k, device=b.device, dtype=dtype) for _ in range(sets)]
    g = torch.randn(m, n, device=b.device, dtype=dtype)
    names = {"m": m, "n": n, "k": k, "precision": precision}
    b.time("product", "forward", lambda i: F.linear(x[i % sets], w[i % sets]), **names)
    if "b" in which:
        b.time("product", "input_gradient", lambda i: g @ w[i % sets], **names)
        b.time("product", "weight_gradient", lambda i: g.t() @ x[i % sets], **names)


def eight_bits(b: Bench, shapes: list[tuple[int, int, int]]) -> None:
    """The same in 8 bits with one scale per tensor; and casting the operand."""
    for shape in shapes:
        _eight_bits(b, *shape)


def _eight_bits(b: Bench, m: int, n: int, k: int) -> None:
    one = torch.ones((), device=b.device)
    sets = b.sets(m * k + k * n)
    x = [torch.randn(m, k, device=b.device).to(torch.float8_e4m3fn) for _ in range(sets)]
    w = [torch.randn(n, k, device=b.device).to(torch.float8_e4m3fn) for _ in range(sets)]

    def multiply(i: int) -> Tensor:
        left, right = x[i % sets], w[i % sets].t()
        return torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)

    b.time("product", "forward", multiply, m=m, n=n, k=k, precision="fp8")
    wide = torch.randn(m, k, device=b.device, dtype=torch.bfloat16)
    b.time("cast", "to_fp8", lambda i: wide.to(torch.float8_e4m3fn), m=m, k=k, precision="fp8")


WIDTHS = (  # n, k
    (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (3072, 2048), (2048, 2048),
    (16384, 2048), (2048, 8192), (3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096),
    (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672), (1280, 8192), (8192, 1024),
    (7168, 8192), (8192, 3584), (128256, 4096), (50304, 2048), (50257, 2048),
)  # fmt: skip
ODD = (
    (4096, 4096, 4096), (4095, 4096, 4096), (4090, 4096, 4096), (4096, 4095, 4096),
    (4096, 4094, 4096), (4096, 4092, 4096), (4096, 4088, 4096), (4096, 4080, 4096),
    (4096, 4064, 4096), (4096, 4096, 4095), (4096, 4096, 4094), (4096, 4096, 4092),
    (4096, 4096, 4088), (4096, 4096, 4080), (4096, 4096, 4064), (4096, 4160, 4096),
    (8192, 50257, 1024), (8192, 50304, 1024), (8192, 50257, 2560), (8192, 50304, 2560),
    (8192, 50264, 2560), (8192, 50258, 2560),
)  # fmt: skip


def all_products(b: Bench) -> Iterator[Callable[[], None]]:
    tokens = (64,) if b.tiny else (2048, 8192, 512, 4096, 16384, 1024, 128, 32768)
    widths = ((64, 32),) if b.tiny else WIDTHS

    def fits(m: int, n: int) -> bool:
        return m * n <= 2.2e9

    for m in tokens:
        shapes = [(m, n, k) for n, k in widths if fits(m, n)]
        yield lambda s=shapes: products(b, "bf16", s, "fb")
    odd = ((32, 31, 32),) if b.tiny else ODD
    yield lambda: products(b, "bf16", list(odd), "fb")
    yield lambda: products(b, "fp16", list(odd)[:3] + [(8192, n, k) for n, k in widths[:4]], "f")
    for precision in ("tf32", "fp32"):
        shapes = [(m, n, k) for m in tokens[:3] for n, k in widths[:8]]
        yield lambda s=shapes, p=precision: products(b, p, s, "fb" if p == "tf32" else "f")
    if not b.tiny:
        shapes = [(m, n, k) for m in (2048, 8192, 512) for n, k in WIDTHS[:20]]
        yield lambda s=shapes: products(b, "fp8", s, "f")


def cores(b: Bench, cases: list[tuple[str, int, int, int, int, int, str]]) -> None:
    """Causal attention: kernel, rows, sequence, heads, key/value heads, head size, precision."""
    for kernel, rows, seq, heads, kv_heads, dim, precision in cases:
        dtype = DTYPES[precision]
        names = {"rows": rows, "seq": seq, "heads": heads, "kv_heads": kv_heads, "head_dim": dim,
                 "precision": precision}  # fmt: skip
        try:
            q, k, v = (
                torch.randn(rows, seq, h, dim, device=b.device, dtype=dtype)
                .transpose(1, 2)
                .requires_grad_()
                for h in (heads, kv_heads, kv_heads)
            )

            def forward(_: int, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
                grouped = q.shape[1] != k.shape[1]
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

            with attention(kernel if b.device == "cuda" else ""):
                with torch.no_grad():
                    b.time("attention", f"{kernel}_forward", forward, **names)
                out = forward(0)
                given = torch.randn_like(out)

                def backward(
                    _: int,
                    out: Tensor = out,
                    inputs: tuple[Tensor, ...] = (q, k, v),
                    given: Tensor = given,
                ) -> object:
                    return torch.autograd.grad(out, inputs, given, retain_graph=True)

                b.time("attention", f"{kernel}_backward", backward, **names)
        except TimeoutError:
            raise
        except Exception as error:
            print("attention", kernel, names, type(error).__name__, str(error)[:150], flush=True)


def all_cores(b: Bench) -> Iterator[Callable[[], None]]:
    if b.tiny:
        yield lambda: cores(b, [("math", 1, 16, 2, 2, 8, "fp32")])
        return
    flash = [("flash", max(1, 8192 // s), s, 32, 32, 128, "bf16")
             for s in (512, 1024, 2048, 4096, 8192, 16384, 32768)]  # fmt: skip
    flash += [("flash", max(1, 8192 // s), s, 32, 32, 64, "bf16") for s in (512, 2048, 8192)]
    flash += [("flash", 4, 2048, 32, 32, d, "bf16") for d in (32, 80, 96, 112, 160, 192, 256)]
    flash += [("flash", 1, 4096, 32, 8, 128, "bf16"), ("flash", 1, 2048, 32, 4, 64, "bf16"),
              ("flash", 1, 512, 8, 8, 128, "bf16"), ("flash", 1, 1024, 16, 16, 64, "bf16"),
              ("flash", 1, 4096, 4, 1, 128, "bf16"), ("flash", 1, 16384, 4, 1, 128, "bf16"),
              ("flash", 2, 4096, 32, 8, 128, "fp16")]  # fmt: skip
    yield lambda: cores(b, flash)
    cudnn = [("cudnn", max(1, 8192 // s), s, 32, 32, 128, "bf16") for s in (512, 2048, 4096, 16384)]
    cudnn += [("cudnn", 4, 2048, 32, 32, 64, "bf16"), ("cudnn", 2, 4096, 32, 8, 128, "bf16")]
    yield lambda: cores(b, cudnn)
    rest = [("math", 2, s, 16, 16, d, "bf16") for s in (512, 1024, 2048, 4096) for d in (64, 128)]
    rest += [("math", 2, 1024, 16, 16, d, "bf16") for d in (80, 81, 82, 84, 96)]
    rest += [("efficient", 4, s, 32, 32, 128, "fp32") for s in (512, 2048, 4096)]
    rest += [
        ("efficient", 4, 2048, 32, 32, 64, "fp32"),
        ("efficient", 4, 2048, 32, 32, 128, "bf16"),
    ]
    yield lambda: cores(b, rest)


def streams(b: Bench) -> Iterator[Callable[[], None]]:
    """Kernels that only move memory; ``bytes`` is the least that they must read and write."""
    hidden = 64 if b.tiny else 4096
    for tokens in (8,) if b.tiny else (256, 1024, 2048, 4096, 8192, 16384, 32768):
        yield lambda t=tokens: _stream(b, t, hidden)
    for tokens in () if b.tiny else (2048, 8192):
        yield lambda t=tokens: _stream(b, t, 1024)
    yield lambda: _losses(b)


def _stream(b: Bench, tokens: int, hidden: int) -> None:
    size = tokens * hidden * 2
    sets = b.sets(size)
    x, y = (
        [torch.randn(tokens, hidden, device=b.device, dtype=torch.bfloat16) for _ in range(sets)]
        for _ in range(2)
    )
    weight = torch.ones(hidden, device=b.device, dtype=torch.bfloat16)

    def put(what: str, passes: float, work: Callable[[int], object]) -> None:
        b.time("stream", what, work, precision="bf16", bytes=int(passes * size), elements=hidden)

    put("copy", 2, lambda i: y[i % sets].copy_(x[i % sets]))
    put("add", 3, lambda i: x[i % sets] + y[i % sets])
    put("multiply", 3, lambda i: x[i % sets] * y[i % sets])
    put("silu", 2, lambda i: F.silu(x[i % sets]))
    put("gelu", 2, lambda i: F.gelu(x[i % sets], approximate="tanh"))
    put("rms_norm", 2, lambda i: F.rms_norm(x[i % sets], (hidden,), weight, 1e-5))
    put("layer_norm", 2, lambda i: F.layer_norm(x[i % sets], (hidden,), weight, weight, 1e-5))
    put("to_fp32", 3, lambda i: x[i % sets].float())
    for what, norm in (("rms_norm_backward", F.rms_norm), ("layer_norm_backward", F.layer_norm)):
        own, scale = x[0].detach().requires_grad_(), weight.detach().requires_grad_()
        extra = () if norm is F.rms_norm else (weight,)
        out = norm(own, (hidden,), scale, *extra, 1e-5)

        def back(_: int, out: Tensor = out, wanted: tuple[Tensor, ...] = (own, scale)) -> object:
            return torch.autograd.grad(out, wanted, y[0], retain_graph=True)

        put(what, 3, back)


def _losses(b: Bench) -> None:
    for tokens, words in ((8, 50),) if b.tiny else ((2048, 32000), (4096, 128256), (8192, 50257)):
        _loss(b, tokens, words)


def _loss(b: Bench, tokens: int, words: int) -> None:
    logits = torch.randn(tokens, words, device=b.device, dtype=torch.bfloat16)
    logits.requires_grad_()
    goal = torch.randint(words, (tokens,), device=b.device)
    sizes = {"m": tokens, "n": words, "precision": "bf16", "bytes": tokens * words * 2}
    with torch.no_grad():
        b.time("loss", "forward", lambda _: F.cross_entropy(logits.float(), goal), **sizes)
    out = F.cross_entropy(logits.float(), goal)

    def backward(_: int) -> object:
        return torch.autograd.grad(out, logits, retain_graph=True)

    b.time("loss", "backward", backward, **sizes)


EXPERTS = (  # experts, n, k: gate and up, then down, of Mixtral, Qwen3-30B, OLMoE, DeepSeek-V3
    (8, 28672, 4096), (8, 4096, 14336), (128, 1536, 2048), (128, 2048, 768), (64, 2048, 2048),
    (16, 4096, 7168), (16, 7168, 2048),
)  # fmt: skip


def experts(b: Bench) -> Iterator[Callable[[], None]]:
    """Grouped products by rows per expert (``rows`` experts of ``m`` rows each), and what brings
    tokens to their experts and back."""
    for rows in (4,) if b.tiny else (256, 64, 1024, 16, 512, 128, 2048, 32):
        for count, n, k in ((2, 64, 32),) if b.tiny else EXPERTS:
            if count * rows <= 70_000:
                yield lambda c=count, m=rows, n=n, k=k: _grouped(b, c, m, n, k)
    cases = (16, 64, 4, 2), (8192, 2048, 128, 8), (8192, 4096, 8, 2), (2048, 2048, 64, 6)
    for tokens, hidden, count, active in cases[:1] if b.tiny else cases[1:]:
        yield lambda t=tokens, h=hidden, c=count, a=active: _routed(b, t, h, c, a)


def _grouped(b: Bench, count: int, m: int, n: int, k: int) -> None:
    dtype = torch.bfloat16
    sets = b.sets(2 * count * (m * k + n * k))
    x = [torch.randn(count * m, k, device=b.device, dtype=dtype) for _ in range(sets)]
    w = [torch.randn(count, n, k, device=b.device, dtype=dtype) for _ in range(sets)]
    g = torch.randn(count * m, n, device=b.device, dtype=dtype)
    ends = torch.arange(1, count + 1, device=b.device, dtype=torch.int32) * m
    names = {"m": m, "n": n, "k": k, "rows": count, "precision": "bf16"}

    def put(what: str, left: Callable[[int], Tensor], right: Callable[[int], Tensor]) -> None:
        work = lambda i: torch._grouped_mm(left(i), right(i), offs=ends)  # noqa: E731
        b.time("grouped", what, work, **names)

    put("forward", lambda i: x[i % sets], lambda i: w[i % sets].transpose(1, 2))
    put("input_gradient", lambda _: g, lambda i: w[i % sets])
    put("weight_gradient", lambda _: g.t(), lambda i: x[i % sets])


def _routed(b: Bench, tokens: int, hidden: int, count: int, active: int) -> None:
    x = torch.randn(tokens, hidden, device=b.device, dtype=torch.bfloat16)
    scores = torch.randn(tokens, count, device=b.device).softmax(-1)
    ids = scores.topk(active).indices
    order = ids.flatten().argsort(stable=True)
    back = order.argsort()
    y = x[order // active]
    weights = torch.ones(tokens, active, 1, device=b.device, dtype=torch.bfloat16)
    copied = tokens * active * hidden * 2
    own = tokens * hidden * 2

    def put(what: str, moved: int, work: Callable[[int], object]) -> None:
        b.time("routed", what, work, precision="bf16", m=tokens, n=count, k=active, bytes=moved,
               elements=hidden)  # fmt: skip

    put("topk", tokens * count * 4, lambda _: scores.topk(active))
    put("softmax", tokens * count * 8, lambda _: scores.softmax(-1))
    put("argsort", tokens * active * 8, lambda _: ids.flatten().argsort(stable=True))
    put("histc", tokens * active * 8, lambda _: torch.histc(ids.float(), count, 0, count - 1))
    put("permute", own + copied, lambda _: x[order // active])
    put("unpermute", 2 * copied, lambda _: y[back])
    shaped = y.view(tokens, active, hidden)
    put("weigh", 2 * copied, lambda _: shaped * weights)
    put("sum", own + copied, lambda _: shaped.sum(1))


def casts(b: Bench) -> Iterator[Callable[[], None]]:
    """Casting an operand to fp8 with its own scale, as one compiled function and one by one."""
    for shape in ((16, 32),) if b.tiny else ((8192, 8192), (8192, 28672), (16384, 4096)):
        yield lambda s=shape: _casts(b, *s)


def _casts(b: Bench, m: int, k: int) -> None:
    x = torch.randn(m, k, device=b.device, dtype=torch.bfloat16)
    narrow = x.to(FORWARD)

    def turned(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, scale = cast(x, FORWARD)
        return found, found.t().contiguous(), scale

    ways = {"eager": lambda f: f}
    if b.device == "cuda":
        ways["compiled"] = torch.compile
    for way, wrap in ways.items():
        once, twice = wrap(lambda x: cast(x, FORWARD)), wrap(turned)
        b.time("cast", f"scaled_{way}", lambda _, f=once: f(x), m=m, k=k, precision="fp8")
        b.time("cast", f"both_ways_{way}", lambda _, f=twice: f(x), m=m, k=k, precision="fp8")
    b.time("cast", "transpose", lambda _: narrow.t().contiguous(), m=m, k=k, precision="fp8")


def launches(b: Bench) -> Iterator[Callable[[], None]]:
    yield lambda: _launches(b)


def _launches(b: Bench) -> None:
    """What a tiny kernel takes: issued one by one, and from a graph (the device's own share)."""
    x = torch.ones(64, device=b.device)

    def many(work: Callable[[], object], count: int = 1000) -> float:
        work()
        _wait(b.device)
        start = time.perf_counter()
        for _ in range(count):
            work()
        _wait(b.device)
        return (time.perf_counter() - start) / count

    a = torch.randn(64, 64, device=b.device, dtype=torch.bfloat16)
    w = torch.randn(64, 64, device=b.device, dtype=torch.bfloat16, requires_grad=True)
    b.write("launch", "in_place_add", many(lambda: x.add_(1.0)), 0.0)
    b.write("launch", "linear", many(lambda: F.linear(a, a)), 0.0)
    b.write("launch", "linear_with_graph", many(lambda: F.linear(a, w)), 0.0)
    b.write("launch", "linear_and_backward",
            many(lambda: torch.autograd.backward(F.linear(a, w), a), 300), 0.0)  # fmt: skip
    if b.device == "cpu":
        return
    out = torch.empty_like(a)
    for what, work in (("add", lambda: x.add_(1.0)), ("linear", lambda: torch.mm(a, a, out=out))):
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(200):
                work()
        graph.replay()
        torch.cuda.synchronize()
        b.write("launch", f"{what}_in_graph", many(graph.replay, 20) / 200, 0.0)


def updates(b: Bench) -> Iterator[Callable[[], None]]:
    for count in (1e5,) if b.tiny else (1e8, 1e9):
        yield lambda n=int(count): _update(b, n)


def _update(b: Bench, count: int) -> None:
    """AdamW over fp32 state on the device, as one tensor per 16 million weights; the norm."""
    part = min(count, 2**24)
    masters = [torch.randn(part, device=b.device) for _ in range(max(1, count // part))]
    own = part * len(masters)
    for m in masters:
        m.grad = torch.randn_like(m)
    ways = {"fused": {"fused": True}} | ({} if count > 2e8 else {"foreach": {"foreach": True}})
    for what, way in ways.items():
        _adamw(b, what, masters, way)
    gradients = [m.grad for m in masters]
    b.time("update", "norm", lambda _: torch.nn.utils.get_total_norm(gradients), elements=own,
           bytes=4 * own)  # fmt: skip
    narrow = [m.bfloat16() for m in masters]
    b.time("update", "masters_to_bf16", lambda _: torch._foreach_copy_(narrow, masters),
           elements=own, bytes=6 * own)  # fmt: skip
    b.time("update", "add_bf16_to_fp32", lambda _: torch._foreach_add_(gradients, narrow),
           elements=own, bytes=10 * own)  # fmt: skip


def _adamw(b: Bench, what: str, masters: list[Tensor], way: dict[str, bool]) -> None:
    own = sum(m.numel() for m in masters)
    optimizer = torch.optim.AdamW(masters, lr=1e-4, **way)
    b.time("update", f"adamw_{what}", lambda _: optimizer.step(), elements=own, bytes=28 * own)


def host(b: Bench) -> Iterator[Callable[[], None]]:
    yield lambda: _links(b)
    yield lambda: _processors(b)


def _links(b: Bench) -> None:
    """Copies between the host's and the device's memory."""
    if b.device == "cpu":
        return
    for size in (2**16, 2**20, 2**24, 2**28, 2**30):
        here = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        there = torch.zeros(size, dtype=torch.uint8, device=b.device)
        b.time("link", "to_device", lambda _, t=there, h=here: t.copy_(h, non_blocking=True),
               bytes=size)  # fmt: skip
        b.time("link", "to_host", lambda _, t=there, h=here: h.copy_(t, non_blocking=True),
               bytes=size)  # fmt: skip
    loose = torch.zeros(2**28, dtype=torch.uint8)
    b.time("link", "to_device_unpinned", lambda _: there[: 2**28].copy_(loose), bytes=2**28)
    up, down = torch.cuda.Stream(), torch.cuda.Stream()
    second = torch.zeros(2**30, dtype=torch.uint8, pin_memory=True)
    other = torch.zeros(2**30, dtype=torch.uint8, device=b.device)
    times = []
    for _ in range(4):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.cuda.stream(up):
            there.copy_(here, non_blocking=True)
        with torch.cuda.stream(down):
            second.copy_(other, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    b.write("link", "both_ways", statistics.median(times[1:]), 0.0, bytes=2**31)


def _processors(b: Bench) -> None:
    """AdamW on the host's processors, and what their memory moves."""
    for count in (10**5,) if b.tiny else (10**8, 4 * 10**8):
        master = torch.full((count,), 0.5)
        master.grad = torch.full((count,), 0.1)
        optimizer = torch.optim.AdamW([master], lr=1e-4, fused=True)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            optimizer.step()
            times.append(time.perf_counter() - start)
        b.write("host", f"adamw_fused_{torch.get_num_threads()}_threads",
                statistics.median(times[2:]), 0.0, elements=count, bytes=28 * count)  # fmt: skip
        other = torch.empty_like(master)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            other.copy_(master)
            times.append(time.perf_counter() - start)
        b.write("host", "copy", statistics.median(times[1:]), 0.0, bytes=8 * count)
        narrow = master.bfloat16()
        times = []
        for _ in range(4):
            start = time.perf_counter()
            narrow.copy_(master)
            times.append(time.perf_counter() - start)
        b.write("host", "to_bf16", statistics.median(times[1:]), 0.0, bytes=6 * count)


def offloaded(b: Bench) -> Iterator[Callable[[], None]]:
    yield lambda: _offloaded(b)


def _offloaded(b: Bench) -> None:
    """A whole update on the host: gradients down, AdamW on processors, weights up."""
    count = 10**5 if b.tiny else 5 * 10**8
    pinned = b.device == "cuda"
    gradient = torch.randn(count, device=b.device, dtype=torch.bfloat16)
    weight = torch.randn(count, device=b.device, dtype=torch.bfloat16)
    landed = torch.zeros(count, dtype=torch.bfloat16, pin_memory=pinned)
    leaving = torch.zeros(count, dtype=torch.bfloat16, pin_memory=pinned)
    master = torch.full((count,), 0.5)
    master.grad = torch.zeros(count)
    optimizer = torch.optim.AdamW([master], lr=1e-4, fused=True)
    found: dict[str, list[float]] = {}
    for _ in range(5):
        _wait(b.device)
        marks = [time.perf_counter()]
        landed.copy_(gradient)
        _wait(b.device)
        marks.append(time.perf_counter())
        master.grad.copy_(landed)
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        leaving.copy_(master)
        marks.append(time.perf_counter())
        weight.copy_(leaving)
        _wait(b.device)
        marks.append(time.perf_counter())
        names = ("down", "widen", "adamw", "narrow", "up")
        for name, seconds in zip(names, (e - s for s, e in pairwise(marks))):
            found.setdefault(name, []).append(seconds)
        found.setdefault("whole", []).append(marks[-1] - marks[0])
    for name, times in found.items():
        b.write("offload", name, statistics.median(times[2:]), 0.0, elements=count)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument(
        "--groups", default="launches,host,offloaded,updates,streams,cores,products"
    )
    args = parser.parse_args()
    groups: dict[str, Callable[[Bench], Iterator[Callable[[], None]]]] = {
        "launches": launches, "host": host, "offloaded": offloaded, "updates": updates,
        "streams": streams, "cores": all_cores, "products": all_products, "experts": experts,
        "casts": casts,
    }  # fmt: skip
    with (args.folder / "kernels.csv").open("w", newline="") as out:
        bench = Bench(out, args.device, time.monotonic() + args.seconds, args.tiny)
        try:
            for name in args.groups.split(","):
                start = time.monotonic()
                for part in groups[name](bench):
                    try:
                        part()
                    except TimeoutError:
                        raise
                    except Exception as error:
                        print(name, type(error).__name__, str(error)[:300], flush=True)
                    if args.device == "cuda":
                        torch.cuda.empty_cache()
                print(f"{name}: {bench.done} lines, {time.monotonic() - start:.1f} s", flush=True)
        except TimeoutError:
            print("out of time in", name, bench.done, flush=True)


if __name__ == "__main__":
    main()
