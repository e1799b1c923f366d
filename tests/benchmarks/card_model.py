"""A plain PyTorch decoder for measuring one card: Llama or GPT style, nothing clever.

Query, key and value are one product, so are gate and up, as in Megatron-LM. Attention is
``scaled_dot_product_attention``. The optimizer keeps fp32 masters of 16-bit weights and updates
them bucket by bucket with PyTorch's fused AdamW, so that wide gradients never exist all at once.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

BUCKET = 2**28
"""Elements that are updated at a time."""

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Widths:
    """A model by its widths. ``style``: llama or gpt."""

    style: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


class Block(nn.Module):
    def __init__(self, w: Widths) -> None:
        super().__init__()
        self.w = w
        self.repeat_keys = False  # for kernels that want as many key/value heads as heads
        bias = w.style == "gpt"
        norm = nn.LayerNorm if bias else nn.RMSNorm
        own = (w.heads + 2 * w.kv_heads) * w.head_dim
        self.norm1, self.norm2 = norm(w.hidden, eps=1e-5), norm(w.hidden, eps=1e-5)
        self.qkv = nn.Linear(w.hidden, own, bias=bias)
        self.out = nn.Linear(w.hidden, w.hidden, bias=bias)
        self.up = nn.Linear(w.hidden, w.ffn * (1 if bias else 2), bias=bias)
        self.down = nn.Linear(w.ffn, w.hidden, bias=bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        w = self.w
        rows, seq, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, seq, w.heads + 2 * w.kv_heads, w.head_dim)
        q, k, v = qkv.transpose(1, 2).split([w.heads, w.kv_heads, w.kv_heads], 1)
        if w.style == "llama":
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        grouped = w.heads != w.kv_heads
        if grouped and self.repeat_keys:
            k, v = (t.repeat_interleave(w.heads // w.kv_heads, 1) for t in (k, v))
            grouped = False
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.out(y.transpose(1, 2).reshape(rows, seq, w.hidden))
        inner = self.up(self.norm2(x))
        if w.style == "llama":
            gate, up = inner.chunk(2, -1)
            inner = F.silu(gate) * up
        else:
            inner = F.gelu(inner, approximate="tanh")
        return x + self.down(inner)


class Decoder(nn.Module):
    def __init__(self, w: Widths, seq: int) -> None:
        super().__init__()
        self.w = w
        self.tokens = nn.Embedding(w.vocab, w.hidden)
        self.positions = nn.Embedding(seq, w.hidden) if w.style == "gpt" else None
        self.blocks = nn.ModuleList(Block(w) for _ in range(w.layers))
        norm = nn.LayerNorm if w.style == "gpt" else nn.RMSNorm
        self.norm = norm(w.hidden, eps=1e-5)
        self.head = nn.Linear(w.hidden, w.vocab, bias=False)
        if w.style == "gpt":
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, targets: Tensor, recompute: bool) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions.weight[: ids.shape[1]]
        cos, sin = tables(ids.shape[1], self.w.head_dim, x)
        for block in self.blocks:
            if recompute:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def tables(seq: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    half = torch.arange(0, dim, 2, device=like.device).float() / dim
    angles = torch.arange(seq, device=like.device).float()[:, None] / 10_000**half
    both = torch.cat((angles, angles), -1)
    return both.cos().to(like.dtype), both.sin().to(like.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attention(backend: str) -> AbstractContextManager[None]:
    """Attention by one kernel; "" leaves the choice to PyTorch."""
    return sdpa_kernel([BACKENDS[backend]]) if backend else nullcontext()


def make(w: Widths, seq: int, device: str, dtype: torch.dtype, seed: int = 0) -> Decoder:
    """Fresh weights on the device."""
    with torch.device("meta"):
        model = Decoder(w, seq)
    model.to(dtype).to_empty(device=device)
    if w.style == "gpt":
        model.head.weight = model.tokens.weight
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0.0, 0.02)
            else:
                p.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.train()


class Master:
    """Gradient norm, clipping and AdamW; fp32 masters where weights are narrower.

    ``wide``: 16-bit gradients are added to fp32 ones as they come, as with
    ``gradient_dtype: fp32``.
    """

    def __init__(self, model: nn.Module, *, wide: bool) -> None:
        self.weights = list(dict.fromkeys(model.parameters()))
        self.narrow = self.weights[0].element_size() < 4
        self.sums: list[Tensor] = []
        if wide and self.narrow:
            for p in self.weights:
                total = torch.zeros_like(p, dtype=torch.float32)
                p.register_post_accumulate_grad_hook(_adder(total))
                self.sums.append(total)
        self.masters = (
            [p.detach().float().clone() for p in self.weights] if self.narrow else self.weights
        )
        fused = self.weights[0].is_cuda
        self.groups = [
            (part, torch.optim.AdamW([self.masters[i] for i in part], lr=1e-4, fused=fused))
            for part in self._parts()
        ]

    def _parts(self) -> Iterator[list[int]]:
        if not self.narrow or self.sums:
            yield list(range(len(self.weights)))
            return
        part: list[int] = []
        for i, p in enumerate(self.weights):
            if part and sum(self.weights[j].numel() for j in part) + p.numel() > BUCKET:
                yield part
                part = []
            part.append(i)
        yield part

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> Tensor:
        """Returns the norm. ``scale``: what the loss was multiplied with."""
        gradients = self.sums or [p.grad for p in self.weights]
        norm = torch.nn.utils.get_total_norm(gradients) / scale
        factor = torch.clamp(1.0 / (norm + 1e-6), max=1.0) / scale
        torch._foreach_mul_(gradients, factor)
        for part, optimizer in self.groups:
            for i in part:
                self.masters[i].grad = self.sums[i] if self.sums else self.weights[i].grad.float()
            optimizer.step()
            if self.narrow:
                torch._foreach_copy_(
                    [self.weights[i] for i in part], [self.masters[i] for i in part]
                )
                for i in part:
                    self.masters[i].grad = None
                    self.weights[i].grad = None
        if self.sums:
            torch._foreach_zero_(self.sums)
        elif not self.narrow:
            for p in self.weights:
                p.grad = None
        return norm


def _adder(total: Tensor):
    def add(p: Tensor) -> None:
        total.add_(p.grad)
        p.grad = None

    return add


def clear(device: str) -> None:
    """Forget what an earlier run left on the card, peaks included."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
