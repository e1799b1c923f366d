"""Which build of PyTorch old chips need."""

from __future__ import annotations

from collections.abc import Iterator

from planner.exporters.capability import Capability, compute_capability
from planner.exporters.view import View

DEFAULT_BUILD = (7, 5)
"""The oldest compute capability of PyTorch as it is installed by default (CUDA 13), since 2.11."""


def build_difference(capability: Capability, view: View) -> Iterator[str]:
    """One sentence where a chip needs another build than the default one."""
    devices = view.devices
    chips = {devices[name].chip.id: devices[name].chip for name in view.used}
    old = [
        chip.name
        for chip in chips.values()
        if chip.vendor == "NVIDIA"
        and (own := compute_capability(chip.architecture)) is not None
        and own < DEFAULT_BUILD
    ]
    if old and capability.on_torch:
        yield (
            f"{', '.join(old)}: PyTorch as it is installed by default starts at compute capability "
            "7.5; install a build for CUDA 12.6, the same on all hosts"
        )
