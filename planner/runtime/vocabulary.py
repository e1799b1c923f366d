"""Embedding, output product and cross entropy whose vocabulary is cut over a group.

Every member holds some consecutive words. Parts may differ by one word, so any vocabulary goes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from planner.runtime.comm import all_reduce
from planner.runtime.regions import Region, add_up, enter, leave


class VocabularyEmbedding(nn.Module):
    """Rows of the token table; words of other members count as zero and are added up."""

    def __init__(self, weight: Tensor, padding: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.padding = padding
        self.first = 0
        self.region: Region | None = None

    def set_region(self, region: Region, first: int) -> None:
        """``first`` is the first word that this member holds."""
        self.region, self.first = region, first

    def forward(self, ids: Tensor) -> Tensor:
        """(rows, sequence) of int64 to (rows, sequence or its part, hidden)."""
        if self.region is None or self.region.shards == 1:
            return nn.functional.embedding(ids, self.weight, self.padding)
        local = ids - self.first
        elsewhere = (local < 0) | (local >= self.weight.shape[0])
        found = nn.functional.embedding(local.masked_fill(elsewhere, 0), self.weight)
        if self.padding is not None:  # its row is used but never learned
            frozen = (ids == self.padding).unsqueeze(-1)
            found = torch.where(frozen, found.detach(), found)
        return leave(found.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.region)


class VocabularyHead(nn.Module):
    """Logits of this member's words for the whole sequence."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.region: Region | None = None

    def set_region(self, region: Region) -> None:
        """Called once the weight has been cut."""
        self.region = region

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, sequence, hidden) to (rows, sequence, words of this member)."""
        inside = hidden if self.region is None else enter(hidden, self.region)
        return nn.functional.linear(inside, self.weight)


def vocabulary_cross_entropy(
    logits: Tensor, targets: Tensor, region: Region, first: int
) -> tuple[Tensor, Tensor]:
    """Summed cross entropy over logits that the group holds in parts, and the number of tokens.

    ``first`` is the first word of this member. Targets below zero are left out. The result and
    its gradient are those of the whole vocabulary on one device.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat, goal = wide.reshape(-1, wide.shape[-1]), targets.reshape(-1)
    counted = goal >= 0
    if region.shards == 1:
        total = nn.functional.cross_entropy(
            flat, goal.clamp(min=-1), ignore_index=-1, reduction="sum"
        )
        return total, counted.sum()
    highest = flat.detach().amax(-1)
    all_reduce(highest, region.group, op=torch.distributed.ReduceOp.MAX)
    shifted = flat - highest.unsqueeze(-1)
    total_weight = add_up(shifted.exp().sum(-1), region)
    local = goal - first
    here = (local >= 0) & (local < flat.shape[-1])
    picked = shifted.gather(-1, local.masked_fill(~here, 0).unsqueeze(-1)).squeeze(-1)
    target = add_up(picked.masked_fill(~here, 0.0), region)
    losses = (total_weight.log() - target).masked_fill(~counted, 0.0)
    return losses.sum(), counted.sum()
