"""Training data by row: which tokens row r of step k holds is the same for every plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from planner.errors import InputError, Problem

Rows = tuple[Tensor, Tensor]
"""Inputs and targets; the first axis counts rows."""


class Data(Protocol):
    """Rows ``[first, end)`` of the global batch of a step, on the CPU."""

    def rows(self, step: int, first: int, end: int) -> Rows:
        """Inputs and targets. Must depend on nothing but the arguments."""
        ...


@dataclass(frozen=True)
class SyntheticTokens:
    """Random tokens, the same on every machine; targets are the next tokens."""

    vocabulary: int
    seq_len: int
    seed: int = 0

    def rows(self, step: int, first: int, end: int) -> Rows:
        """(rows, sequence) of int64, twice."""
        drawn = []
        for row in range(first, end):
            source = np.random.default_rng((self.seed, step, row))
            drawn.append(source.integers(0, self.vocabulary, self.seq_len + 1))
        return _shifted(torch.from_numpy(np.stack(drawn)))


@dataclass(frozen=True)
class TokenFile:
    """Consecutive windows of a token file; begins again at its end."""

    tokens: np.ndarray[tuple[int, ...], np.dtype[np.integer]]
    seq_len: int
    global_rows: int

    def rows(self, step: int, first: int, end: int) -> Rows:
        """(rows, sequence) of int64, twice."""
        windows = (len(self.tokens) - 1) // self.seq_len
        drawn = []
        for row in range(first, end):
            at = (step * self.global_rows + row) % windows * self.seq_len
            drawn.append(np.asarray(self.tokens[at : at + self.seq_len + 1], dtype=np.int64))
        return _shifted(torch.from_numpy(np.stack(drawn)))


@dataclass(frozen=True)
class Batches:
    """Whole global batches in memory, one per step; after the last the first again."""

    batches: tuple[Rows, ...]

    def rows(self, step: int, first: int, end: int) -> Rows:
        """A slice of the step's batch."""
        inputs, targets = self.batches[step % len(self.batches)]
        return inputs[first:end], targets[first:end]


def open_tokens(path: Path, seq_len: int, global_rows: int, vocabulary: int) -> TokenFile:
    """A file of token numbers: ``.npy``, or raw ``.bin`` in 16 bits (32 for vocabularies above).

    The file is mapped, not read. Raises InputError with what is wrong with it.
    """
    where = str(path)
    remedy = "give a .npy of integers, or a .bin of uint16 (uint32 above 65,536 words)"
    try:
        if path.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r")
        elif path.suffix == ".bin":
            tokens = np.memmap(path, np.uint16 if vocabulary <= 65_536 else np.uint32, "r")
        else:
            raise InputError([Problem(where, f"{path.suffix or 'no ending'} is unknown", remedy)])
    except (OSError, ValueError) as error:
        raise InputError([Problem(where, f"cannot be read: {error}", remedy)]) from None
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        message = f"holds {tokens.ndim} axes of {tokens.dtype}, not a row of token numbers"
        raise InputError([Problem(where, message, remedy)])
    if len(tokens) <= seq_len:
        message = f"holds {len(tokens)} tokens, a row needs {seq_len + 1}"
        raise InputError([Problem(where, message, "give a longer file or a shorter seq_len")])
    highest = int(tokens[: 2**20].max())
    if highest >= vocabulary:
        message = f"has token {highest}, the model knows {vocabulary} words"
        raise InputError([Problem(where, message, "tokenise with the model's own vocabulary")])
    return TokenFile(tokens, seq_len, global_rows)


def _shifted(tokens: Tensor) -> Rows:
    tokens = tokens.to(torch.int64)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
