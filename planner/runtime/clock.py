"""Where a process spends its step, and how much memory it took."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

PARTS = ("forward", "backward", "wait", "reduce", "update")


@dataclass
class Clock:
    """Seconds by part, summed over the steps since :meth:`reset`.

    On an accelerator, which works on while the process goes ahead, these would be the times of
    issuing the work, so nothing is measured there.
    """

    works: bool
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] += time.perf_counter() - begin

    def reset(self) -> None:
        """Begin to count anew."""
        self.spent = dict.fromkeys(PARTS, 0.0)

    def per_step(self, steps: int) -> dict[str, float | None]:
        """Mean seconds of one step by part; None where they cannot be measured."""
        if not self.works or not steps:
            return dict.fromkeys(PARTS)
        return {name: spent / steps for name, spent in self.spent.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    module = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None:
        module.synchronize(device)


def peak_memory(device: torch.device, before: int) -> tuple[int, str]:
    """Bytes at the peak and whose they are: the device's, or the process's beyond ``before``."""
    module = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None and hasattr(module, "max_memory_allocated"):
        return int(module.max_memory_allocated(device)), "device"
    return max(0, peak_resident() - before), "process"


def peak_resident() -> int:
    """The most resident memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """Resident memory of this process now, in bytes; its peak where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return peak_resident()
    return int(status.read_text().split()[1]) * resource.getpagesize()
