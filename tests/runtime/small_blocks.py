"""A model as a list of blocks, and functions that ``planner run --model`` can name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from planner.runtime.regions import Region, enter, leave
from planner.runtime.shards import Cut, equal

WORDS = 37
LENGTH = 8


class Model(list[nn.Module]):
    """A list of blocks that says how many words it knows."""

    vocab_size = WORDS


def blocks() -> Model:
    """Six layers; the second hands on three tensors, the fourth and fifth can be cut."""
    torch.manual_seed(7)
    return Model(
        [
            Table(WORDS, 12),
            Twin(12),
            Merge(12),
            Wide(12, 20),
            Wide(12, 20),
            nn.Linear(12, WORDS, bias=False),
        ]
    )


def dies() -> Model:
    """The same; rank 1 is killed in its third forward."""
    found = blocks()
    found[4] = nn.Sequential(found[4], Fuse(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    return found


class Fuse(nn.Module):
    """Does something on rank 1 when it is used for the third time."""

    def __init__(self, effect: object) -> None:
        super().__init__()
        self.effect = effect
        self.used = 0

    def __deepcopy__(self, memo: object) -> Fuse:
        return Fuse(self.effect)

    def forward(self, hidden: Tensor) -> Tensor:
        self.used += 1
        if self.used == 3 and os.environ["RANK"] == "1" and callable(self.effect):
            self.effect()
        return hidden


class Table(nn.Module):
    """Token table without anything else."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(ids), ids


class Twin(nn.Module):
    """Hands on two tensors with gradients and one without."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Linear(width, width)
        self.right = nn.Linear(width, 2 * width)

    def forward(self, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.left(hidden).tanh(), ids, self.right(hidden).tanh()


class Merge(nn.Module):
    """Takes them up again; even tokens count twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(2 * width, width)

    def forward(self, left: Tensor, ids: Tensor, right: Tensor) -> Tensor:
        return left * (1 + (ids % 2 == 0).unsqueeze(-1)) + self.down(right)


class Wide(nn.Module):
    """A residual MLP that can be cut over a group."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.region: Region | None = None

    def cuts(self, shards: int, shard: int) -> Mapping[str, Cut]:
        width, inner = self.up.in_features, self.up.out_features
        return {
            "up.weight": equal((inner, width), 0, shards, shard),
            "up.bias": equal((inner,), 0, shards, shard),
            "down.weight": equal((width, inner), 1, shards, shard),
        }

    def set_region(self, region: Region) -> None:
        self.region = region

    def forward(self, hidden: Tensor) -> Tensor:
        if self.region is None:
            return hidden + self.down(self.up(hidden).relu())
        inside = self.up(enter(hidden, self.region)).relu()
        return hidden + leave(inside @ self.down.weight.t(), self.region) + self.down.bias
