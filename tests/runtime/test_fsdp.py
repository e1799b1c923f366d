"""FSDP2 beside a plan: prepared for zero-bubble schedules, refused inside the runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.errors import ExportError
from tests.runtime.conftest import needs_torch

pytestmark = needs_torch


def errors(folder: Path) -> list[dict[str, float]]:
    """What each of the four processes found, by how FSDP2 was set."""
    return [json.loads((folder / f"fsdp-{rank}.txt").read_text()) for rank in range(4)]


def test_prepared_stages_have_right_gradients_under_a_zero_bubble_schedule(worlds: Path) -> None:
    """All gradients of two stages over two replicas each equal one process."""
    assert max(found["prepared"] for found in errors(worlds)) <= 1e-10


def test_without_it_gradients_are_wrong(worlds: Path) -> None:
    """The trap is real in this version of PyTorch; if this fails, prepare_fsdp may go."""
    assert max(found["as it comes"] for found in errors(worlds)) > 1e-3


def test_refuses_a_stage_that_nobody_sharded() -> None:
    """A stage without FSDP2 would silently stay as it is."""
    from torch import nn

    from planner.runtime import prepare_fsdp

    with pytest.raises(ExportError, match="no module"):
        prepare_fsdp(nn.Linear(2, 2))
