"""Runs an export's own check.py, so that the target's real classes read the files."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporters.laid_out import exported

REQUIRED = "PLANNER_REQUIRE_TARGETS"
"""Set in CI: a target that is not installed is then a failure, not a skip."""

WITHOUT_KERNELS = Path(__file__).with_name("without_kernels.py")


def require(package: str) -> None:
    """Skip where the target is not installed; fail where it has to be."""
    if importlib.util.find_spec(package) is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{package} is not installed, but {REQUIRED} is set")
        pytest.skip(f"{package} is not installed (pip install '.[exporters-test]')")


def write(plan, target: str, folder: Path) -> Path:
    """The export as files."""
    for file in exported(plan, target).files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    return folder


def run_check(
    folder: Path, *, kernels: bool = True, script: str = "check.py"
) -> subprocess.CompletedProcess[str]:
    """``python check.py`` in the export's folder; without ``kernels`` nothing needs Triton."""
    words = [script] if kernels else [str(WITHOUT_KERNELS), script]
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
