"""What one run of many multi-process cases found: any plan trains as a single process does.

All tests that look at ``worlds`` are in this file: files are shared out over processes whole, so
one process makes the worlds, once.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.runtime.cases import CASES, Case
from tests.runtime.conftest import needs_torch, written

RELATIVE = 1e-10
"""Of the largest element of each tensor, in fp64."""

TRAINED = 1e-9
"""Of weights after five steps: Adam divides rounding errors of tiny gradients by tiny ones."""

pytestmark = needs_torch
Results = dict[str, list[dict[str, object]]]


def of(case: Case, results: Results) -> list[dict[str, object]]:
    """What all processes of a case found; fails where one of them did not get that far."""
    found = results.get(case.name, [])
    errors = [str(r["error"]) for r in found if "error" in r]
    assert not errors, errors[0]
    assert len(found) == case.processes, f"{len(found)} of {case.processes} processes answered"
    return found


def test_cases_cover_two_to_eight_processes() -> None:
    """Worlds of every size are tried."""
    assert {case.processes for case in CASES} == {2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_equal_a_single_process(case: Case, results: Results) -> None:
    """The mean over all tokens of the global batch, at every step."""
    for found in of(case, results):
        assert float(str(found["losses"])) <= RELATIVE


@pytest.mark.parametrize("case", [c for c in CASES if not c.loads], ids=lambda case: case.name)
def test_all_gradients_equal_a_single_process(case: Case, results: Results) -> None:
    """Every element that a process holds (under ZeRO: owns)."""
    for found in of(case, results):
        assert float(str(found["gradients"])) <= RELATIVE, found["where"]
        assert found["where"]


@pytest.mark.parametrize("case", [c for c in CASES if not c.loads], ids=lambda case: case.name)
def test_the_norm_counts_every_element_once(case: Case, results: Results) -> None:
    """Whatever is replicated, sharded or shared; and a batch without gradients has its loss."""
    for found in of(case, results):
        assert float(str(found["norm"])) <= RELATIVE
        assert float(str(found["evaluated"])) <= RELATIVE


def test_bf16_keeps_gradients_and_masters_in_fp32(worlds: Path) -> None:
    """Weights have 16 bits, sums and updates 32; losses stay near those in fp64."""
    for rank in range(2):
        found = json.loads(written(worlds, f"narrow-{rank}.txt"))
        assert found["losses"] < 0.02
        assert found["fell"]
        assert found["weights"] == ["torch.bfloat16"]
        assert found["gradients"] == found["masters"] == ["torch.float32"]


@pytest.mark.parametrize("case", [c for c in CASES if c.steps > 1], ids=lambda case: case.name)
def test_training_follows_the_reference_trajectory(case: Case, results: Results) -> None:
    """Weights after the last step; cases that load begin from another plan's checkpoint."""
    for found in of(case, results):
        assert found["steps"] == case.steps - (2 if case.loads else 0)
        assert float(str(found["weights"])) <= TRAINED


# --- FSDP2 beside a plan: prepared for zero-bubble schedules, refused inside the runtime ----------


def fsdp_errors(folder: Path) -> list[dict[str, float]]:
    """What each of the four processes found, by how FSDP2 was set."""
    return [json.loads(written(folder, f"fsdp-{rank}.txt")) for rank in range(4)]


def test_prepared_stages_have_right_gradients_under_a_zero_bubble_schedule(worlds: Path) -> None:
    """All gradients of two stages over two replicas each equal one process."""
    assert max(found["prepared"] for found in fsdp_errors(worlds)) <= 1e-10


def test_without_it_gradients_are_wrong(worlds: Path) -> None:
    """The trap is real in this version of PyTorch; if this fails, prepare_fsdp may go."""
    assert max(found["as it comes"] for found in fsdp_errors(worlds)) > 1e-3


def test_refuses_what_does_not_belong_together(worlds: Path) -> None:
    """A stage that nobody sharded, and a sharded one where the plan shards."""
    for rank in range(4):
        said = written(worlds, f"fsdp-refused-{rank}.txt")
        assert "no module of the stage is wrapped by FSDP2" in said
        assert "layer 1 was wrapped by FSDP2, but the plan says what is sharded" in said


# --- docs/guides/run-a-plan.md ------------------------------------------------------------------


def test_the_example_of_the_guide_runs(worlds: Path) -> None:
    """Under the plan of a real search for four unlike chips; training on two batches helps."""
    lines = written(worlds, "guide.txt").splitlines()
    losses = [float(re.findall(r"loss ([\d.]+)", line)[0]) for line in lines]
    assert len(losses) == 6
    assert losses[5] < losses[1] < 7
    assert (worlds / "saved" / "index.json").is_file()
    example = (Path(__file__).parents[2] / "docs" / "guides" / "run-a-plan.md").read_text()
    code = example.split("<!-- test: example -->")[1].split("```")[1]
    assert len(code.splitlines()) <= 36
