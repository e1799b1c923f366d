"""Checkpoints of a run in one folder, ``step-00000010`` and so on. Knows no PyTorch."""

from __future__ import annotations

from pathlib import Path

from planner.errors import InputError, Problem

STEP_FOLDER = "step-"
INDEX = "index.json"


def latest(folder: str | Path) -> Path:
    """The checkpoint that a folder is, or the newest that it holds.

    Raises InputError where there is none.
    """
    path = Path(folder)
    if (path / INDEX).is_file():
        return path
    found = [p for p in path.glob(f"{STEP_FOLDER}*") if (p / INDEX).is_file()]
    if not found:
        message = "holds no checkpoint"
        raise InputError(
            [Problem(str(folder), message, "give a folder of planner run --checkpoint")]
        )
    return max(found, key=lambda p: p.name)
