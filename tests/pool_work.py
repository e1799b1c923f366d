"""Work for the tests of the pools: importable by their workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(task: dict[str, Any]) -> dict[str, Any]:
    """The square of a number, and who worked it out; slow enough for all workers to take part."""
    time.sleep(task.get("sleep_s", 0.0))
    return {"value": task["number"] ** 2, "worker": os.getpid()}


def square_or_die(task: dict[str, Any]) -> dict[str, Any]:
    """The same, but kills its own process as often as the task says, first leaving a mark."""
    folder = Path(task["folder"])
    for life in range(task.get("deaths", 0)):
        mark = folder / f"{task['number']}.{life}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return square(task)
