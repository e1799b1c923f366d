"""What a chip does at best: matrix products by size, memory traffic, memory, its host link."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from planner.runtime.clock import synchronize
from planner.runtime.profile_request import RatePoint

SIZES = {"cpu": (64, 128, 256, 512, 1024)}
SIZES_ELSEWHERE = (256, 512, 1024, 2048, 4096, 8192)
COPY = {"cpu": 2**27}
COPY_ELSEWHERE = 2**30
REPEATS = 5
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl", "xpu": "xccl", "mlu": "cncl"}


def products(device: torch.device, precision: str, repeat: int) -> tuple[RatePoint, ...]:
    """FLOP/s of square matrix products, in fp32 and the given precision."""
    found = []
    for name in dict.fromkeys(("fp32", precision)):
        for size in SIZES.get(device.type, SIZES_ELSEWHERE):
            a = torch.randn(size, size, device=device).to(DTYPES[name])
            seconds = _best(lambda a=a: a @ a, device, repeat)  # type: ignore[misc]
            found.append(RatePoint(precision=name, size=size, flops=2 * size**3 / seconds))
    return tuple(found)


def memory_bandwidth(device: torch.device, repeat: int) -> float:
    """Bytes/s read and written by a large copy."""
    size = COPY.get(device.type, COPY_ELSEWHERE)
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device, repeat)


def host_bandwidth(device: torch.device) -> float:
    """Bytes/s from the host's memory to the device; on a processor a copy within it."""
    size = COPY["cpu"]
    source = torch.zeros(size // 4)
    if device.type == "cuda":
        source = source.pin_memory()
    target = torch.empty(size // 4, device=device)
    return size / _best(lambda: target.copy_(source), device, 1)


def memory_bytes(device: torch.device, processes: int) -> int:
    """Memory of the device; on a processor the machine's, divided by the processes on it."""
    module = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None:
        return int(module.get_device_properties(device).total_memory)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages) // processes


def names(device: torch.device) -> tuple[str, str]:
    """What the chip and its maker are called."""
    if device.type == "cpu":
        return _processor()
    module = getattr(torch, device.type)
    name = str(module.get_device_name(device))
    makers = {"cuda": "AMD" if torch.version.hip else "NVIDIA", "npu": "Huawei", "xpu": "Intel"}
    return name, makers.get(device.type, device.type)


def _processor() -> tuple[str, str]:
    makers = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    name, maker = platform.processor() or platform.machine(), platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "vendor_id":
                maker = makers.get(value.strip(), value.strip())
    return name, maker


def _best(work: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Median seconds of ``repeat`` times the work."""
    times = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeat):
            work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
