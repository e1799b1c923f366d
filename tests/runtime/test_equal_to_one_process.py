"""Any plan gives the losses, gradients and weights of a single process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.cases import CASES, Case
from tests.runtime.conftest import needs_torch, share_worlds, written

RELATIVE = 1e-10
"""Of the largest element of each tensor, in fp64."""

TRAINED = 1e-9
"""Of weights after five steps: Adam divides rounding errors of tiny gradients by tiny ones."""

pytestmark = [needs_torch, share_worlds]
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
