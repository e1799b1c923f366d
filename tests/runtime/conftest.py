"""One run of all multi-process cases, shared by the tests that look at its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None or find_spec("transformers") is None,
    reason="PyTorch or transformers is not installed: pip install 'planner[test]'",
)


def run_python(*arguments: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, at the root of the project."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit_s,
    )


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one run of all multi-process cases has left its results.

    What its processes said is in ``said.txt``: a test shows it where a result is missing.
    """
    folder = tmp_path_factory.mktemp("worlds")
    done = run_python("-m", "tests.runtime.worlds", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "said.txt").write_text(done.stderr)
    return folder


def written(worlds: Path, name: str) -> str:
    """A result of the worlds; where it was never written, what the processes said instead."""
    assert (worlds / name).is_file(), f"no {name}: {(worlds / 'said.txt').read_text()[-4000:]}"
    return (worlds / name).read_text()


@pytest.fixture(scope="module")
def results(worlds: Path) -> dict[str, list[dict[str, object]]]:
    """What every process of every case found, by the case's name."""
    found: dict[str, list[dict[str, object]]] = {}
    for path in sorted(worlds.glob("*.*.json")):
        name = path.name.split(".")[0]
        found.setdefault(name, []).append(json.loads(path.read_text()))
    return found
