"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli import main
from tests.command_line import TINY, Ended, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process."""

    def run_(*arguments: str | Path) -> Ended:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run_


@pytest.fixture(scope="session")
def tiny_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small plan that the program made, as a file."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert main(["plan", *TINY, "-o", str(path), "--quiet"]) == 0
    return path
