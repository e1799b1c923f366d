"""A plain PyTorch decoder with experts, latent attention or windows, for measuring one card.

Beside :mod:`card_model`, whose optimizer and loss it shares. Tokens are copied in the order of
their experts, all experts are multiplied in one grouped product (``torch._grouped_mm``), and the
results are copied back, weighted and summed: what Transformers and TorchTitan do, nothing fused.
Experts may also be multiplied one by one, as older code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from card_model import _rotate, tables
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

KV_RANK, NOPE, ROPE, V_DIM = 512, 128, 64, 128
"""Latent attention of DeepSeek-V2 and V3: rank of keys and values, parts of a head."""


@dataclass(frozen=True)
class Widths:
    """A model by its widths. ``kv_heads`` 0: latent attention, ``q_rank`` 0: whole queries.

    ``shared_ffn`` is the width of what every token passes beside its experts; the first
    ``dense_blocks`` have an MLP of ``ffn`` in their place. Every ``window_every``-th block sees
    ``window`` tokens back (0: all).
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int = 0
    active: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_blocks: int = 0
    ffn: int = 0
    q_rank: int = 0
    window: int = 0
    window_every: int = 1

    @property
    def rotary(self) -> int:
        """Elements of a head that positions turn."""
        return self.head_dim if self.kv_heads else ROPE


@dataclass
class Route:
    """Which experts tokens go to. ``skew`` None: the model's own router decides; 0: spread evenly;
    above, experts are chosen by Zipf's law with that exponent. ``loop``: experts one by one.
    ``pad``: what the values of latent attention are padded to, 0 for kernels that need none."""

    skew: float | None = 0.0
    loop: bool = False
    pad: bool = True
    ids: Tensor | None = None

    def prepare(self, w: Widths, tokens: int, device: str) -> float:
        """Draw the experts of all tokens once; returns tokens of the busiest over the mean."""
        if self.skew is None or not w.experts:
            self.ids = None
            return 0.0
        generator = torch.Generator(device).manual_seed(2)
        if self.skew == 0.0:
            first = torch.randperm(tokens, device=device, generator=generator) * w.active
            ids = (first[:, None] + torch.arange(w.active, device=device)) % w.experts
        else:
            law = -self.skew * torch.arange(1, w.experts + 1, device=device).log()
            noise = torch.rand(tokens, w.experts, device=device, generator=generator)
            ids = (law - (-noise.log()).log()).topk(w.active).indices
        self.ids = ids
        counts = torch.bincount(ids.flatten(), minlength=w.experts)
        return float(counts.max() / counts.float().mean())


class Permute(torch.autograd.Function):
    """Copies of tokens in the order of their experts; backward sums the copies' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor, active: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.active = active
        return x[order // active]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        copies = grads[0][back].view(-1, ctx.active, grads[0].shape[-1])
        return copies.sum(1), None, None, None


class Unpermute(torch.autograd.Function):
    """Results in the order of the tokens; backward copies gradients in that of the experts."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return y[back]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return grads[0][order], None, None


class Mlp(nn.Module):
    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Experts(nn.Module):
    """A router and gated MLPs. Weights are [experts, outputs, inputs]."""

    def __init__(self, w: Widths, route: Route) -> None:
        super().__init__()
        self.w, self.route = w, route
        self.router = nn.Linear(w.hidden, w.experts, bias=False)
        self.up = nn.Parameter(torch.empty(w.experts, 2 * w.expert_ffn, w.hidden))
        self.down = nn.Parameter(torch.empty(w.experts, w.hidden, w.expert_ffn))
        self.shared = Mlp(w.hidden, w.shared_ffn) if w.shared_ffn else None

    def forward(self, x: Tensor) -> Tensor:
        w = self.w
        flat = x.view(-1, w.hidden)
        scores = self.router(flat).float().softmax(-1)
        weights, ids = scores.topk(w.active)
        if self.route.ids is not None:
            ids = self.route.ids
            weights = scores.gather(1, ids)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        order = ids.flatten().argsort(stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=x.device)
        counts = torch.histc(ids.float(), w.experts, 0, w.experts - 1)
        copies = Permute.apply(flat, order, back, w.active)
        multiply = self._one_by_one if self.route.loop else self._grouped
        y = Unpermute.apply(multiply(copies, counts), order, back).view(-1, w.active, w.hidden)
        out = (y * weights[..., None]).sum(1)
        if self.shared is not None:
            out = out + self.shared(flat)
        return out.view_as(x)

    def _grouped(self, copies: Tensor, counts: Tensor) -> Tensor:
        ends = counts.cumsum(0).int()
        inner = torch._grouped_mm(copies, self.up.transpose(1, 2), offs=ends)
        gate, up = inner.chunk(2, -1)
        return torch._grouped_mm(F.silu(gate) * up, self.down.transpose(1, 2), offs=ends)

    def _one_by_one(self, copies: Tensor, counts: Tensor) -> Tensor:
        parts = copies.split(counts.int().tolist())  # waits for the device
        out = []
        for part, up, down in zip(parts, self.up.unbind(), self.down.unbind(), strict=True):
            gate, inner = F.linear(part, up).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * inner, down))
        return torch.cat(out)


class Grouped(nn.Module):
    """Grouped-query attention, over a window where there is one."""

    def __init__(self, w: Widths, window: int) -> None:
        super().__init__()
        self.w, self.window = w, window
        self.qkv = nn.Linear(w.hidden, (w.heads + 2 * w.kv_heads) * w.head_dim, bias=False)
        self.out = nn.Linear(w.heads * w.head_dim, w.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        w = self.w
        rows, seq, _ = x.shape
        qkv = self.qkv(x).view(rows, seq, w.heads + 2 * w.kv_heads, w.head_dim).transpose(1, 2)
        q, k, v = qkv.split([w.heads, w.kv_heads, w.kv_heads], 1)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if self.window:
            y = windowed(q, k, v, self.window)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=w.heads != w.kv_heads
            )
        return self.out(y.transpose(1, 2).reshape(rows, seq, -1))


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention over the last ``window`` keys; a mask where there is no such kernel."""
    seq = q.shape[2]
    if q.is_cuda:
        found = torch.ops.aten._flash_attention_forward(
            *(t.transpose(1, 2).contiguous() for t in (q, k, v)), None, None, seq, seq, 0.0, True,
            False, window_size_left=window - 1, window_size_right=0,
        )  # fmt: skip
        return found[0].transpose(1, 2)
    at = torch.arange(seq, device=q.device)
    seen = (at[:, None] >= at) & (at[:, None] - at < window)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1]
    )


class Latent(nn.Module):
    """Multi-head latent attention (DeepSeek-V2), keys and values unfolded for training."""

    def __init__(self, w: Widths, route: Route) -> None:
        super().__init__()
        self.w, self.route = w, route
        width = w.heads * (NOPE + ROPE)
        self.q_down = nn.Linear(w.hidden, w.q_rank, bias=False) if w.q_rank else None
        self.q_norm = nn.RMSNorm(w.q_rank, eps=1e-5) if w.q_rank else None
        self.q = nn.Linear(w.q_rank or w.hidden, width, bias=False)
        self.kv_down = nn.Linear(w.hidden, KV_RANK + ROPE, bias=False)
        self.kv_norm = nn.RMSNorm(KV_RANK, eps=1e-5)
        self.kv = nn.Linear(KV_RANK, w.heads * (NOPE + V_DIM), bias=False)
        self.out = nn.Linear(w.heads * V_DIM, w.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        w = self.w
        rows, seq, _ = x.shape
        if self.q_down is not None and self.q_norm is not None:
            q = self.q(self.q_norm(self.q_down(x)))
        else:
            q = self.q(x)
        q = q.view(rows, seq, w.heads, NOPE + ROPE).transpose(1, 2)
        q_nope, q_turned = q.split([NOPE, ROPE], -1)
        low, k_turned = self.kv_down(x).split([KV_RANK, ROPE], -1)
        kv = self.kv(self.kv_norm(low)).view(rows, seq, w.heads, NOPE + V_DIM).transpose(1, 2)
        k_nope, v = kv.split([NOPE, V_DIM], -1)
        q = torch.cat((q_nope, _rotate(q_turned, cos, sin)), -1)
        k_turned = _rotate(k_turned[:, None], cos, sin).expand(-1, w.heads, -1, -1)
        k = torch.cat((k_nope, k_turned), -1)
        if self.route.pad:  # FlashAttention 2 wants values as wide as keys
            v = F.pad(v, (0, NOPE + ROPE - V_DIM))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)[..., :V_DIM]
        return self.out(y.transpose(1, 2).reshape(rows, seq, -1))


class Block(nn.Module):
    def __init__(self, w: Widths, number: int, route: Route) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(w.hidden, eps=1e-5) for _ in range(2))
        window = w.window if number % w.window_every == 0 else 0
        self.attention = Grouped(w, window) if w.kv_heads else Latent(w, route)
        dense = number < w.dense_blocks or not w.experts
        self.mlp = Mlp(w.hidden, w.ffn) if dense else Experts(w, route)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    def __init__(self, w: Widths, route: Route) -> None:
        super().__init__()
        self.w, self.route = w, route
        self.tokens = nn.Embedding(w.vocab, w.hidden)
        self.blocks = nn.ModuleList(Block(w, i, route) for i in range(w.layers))
        self.norm = nn.RMSNorm(w.hidden, eps=1e-5)
        self.head = nn.Linear(w.hidden, w.vocab, bias=False)

    def forward(self, ids: Tensor, targets: Tensor, recompute: bool) -> Tensor:
        x = self.tokens(ids)
        cos, sin = tables(ids.shape[1], self.w.rotary, x)
        for block in self.blocks:
            if recompute:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def make(w: Widths, route: Route, device: str, dtype: torch.dtype) -> Decoder:
    """Fresh weights on the device."""
    with torch.device("meta"):
        model = Decoder(w, route)
    model.to(dtype).to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, 0.02) if p.dim() > 1 else p.fill_(1.0)
    return model.train()
