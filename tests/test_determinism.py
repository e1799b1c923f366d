"""The same command gives the same bytes, whatever the process's hash seed, folder or clock."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MIXED = (
    "plan", "gpt2", "1xA100-SXM-40GB + 1xV100-SXM2-32GB @ 400Gb/s:ib", "-o", "-",
    "--global-batch", "24", "--seq-len", "512", "--set", "job.micro_batch_rows=[1, 2]",
)  # fmt: skip
"""Two kinds of chip with baselines and alternatives; the report goes to stderr."""

TOO_MUCH = (
    "plan", "gpt2", "1xT4-16GB", "--format", "json", "--seq-len", "256", "--global-batch", "8",
    "--set", "cluster.nodes.0.devices.0.reserved_gib=12",
)  # fmt: skip
"""12 layers on what is left of one chip: remedies are searched for, too."""
BAD = ("plan", "lama-2-13b", "8xA100", "--precision", "bf17", "--format", "json")


@dataclass(frozen=True)
class Ended:
    """Exit code, standard output and the report for people, without what a clock says."""

    code: int
    out: bytes
    report: bytes


@cache
def ended(*arguments: str, seed: str, cwd: Path = ROOT) -> Ended:
    """A process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "planner", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    # progress comes before the plan; the last line says how long it took
    report = process.stderr[process.stderr.find(b"\nPlan ") :].splitlines()[:-1]
    return Ended(process.returncode, process.stdout, b"\n".join(report))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another folder, so that nothing left behind in the first one can help."""
    return tmp_path_factory.mktemp("elsewhere")


def test_it_is_a_plan_with_a_report():
    first = ended(*MIXED, seed="0")
    assert (first.code, first.out[:1]) == (0, b"{")
    assert b"step time" in first.report


def test_hash_seed_and_folder_do_not_change_the_plan(elsewhere):
    assert ended(*MIXED, seed="1", cwd=elsewhere).out == ended(*MIXED, seed="0").out


def test_hash_seed_and_folder_do_not_change_the_report(elsewhere):
    assert ended(*MIXED, seed="1", cwd=elsewhere).report == ended(*MIXED, seed="0").report


@pytest.mark.parametrize(
    ("line", "code"), [(TOO_MUCH, 3), (BAD, 2)], ids=["does not fit", "bad input"]
)
def test_errors_are_the_same_bytes(line, code):
    first = ended(*line, seed="0")
    assert first.code == code
    assert ended(*line, seed="1") == first
