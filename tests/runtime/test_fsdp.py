"""FSDP2 beside a plan: prepared for zero-bubble schedules, refused inside the runtime."""

from __future__ import annotations

import json
from pathlib import Path

from tests.runtime.conftest import needs_torch, share_worlds, written

pytestmark = [needs_torch, share_worlds]


def errors(folder: Path) -> list[dict[str, float]]:
    """What each of the four processes found, by how FSDP2 was set."""
    return [json.loads(written(folder, f"fsdp-{rank}.txt")) for rank in range(4)]


def test_prepared_stages_have_right_gradients_under_a_zero_bubble_schedule(worlds: Path) -> None:
    """All gradients of two stages over two replicas each equal one process."""
    assert max(found["prepared"] for found in errors(worlds)) <= 1e-10


def test_without_it_gradients_are_wrong(worlds: Path) -> None:
    """The trap is real in this version of PyTorch; if this fails, prepare_fsdp may go."""
    assert max(found["as it comes"] for found in errors(worlds)) > 1e-3


def test_refuses_what_does_not_belong_together(worlds: Path) -> None:
    """A stage that nobody sharded, and a sharded one where the plan shards."""
    for rank in range(4):
        said = written(worlds, f"fsdp-refused-{rank}.txt")
        assert "no module of the stage is wrapped by FSDP2" in said
        assert "layer 1 was wrapped by FSDP2, but the plan says what is sharded" in said
