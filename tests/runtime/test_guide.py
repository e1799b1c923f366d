"""The example of docs/guides/run-a-plan.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.runtime.conftest import needs_torch, share_worlds, written


@needs_torch
@share_worlds
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
