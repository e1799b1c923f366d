"""One process of ``planner profile``: measures its chip, its layers, and its links to others."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from planner.errors import InputError, Problem
from planner.runtime import profile_chip
from planner.runtime.comm import GLOO, Group, Groups
from planner.runtime.profile_chip import BACKENDS, DTYPES
from planner.runtime.profile_layers import Bench, layer_rows, wait_for_all
from planner.runtime.profile_links import measure_links, measure_reductions
from planner.runtime.profile_request import ChipFound, LayerRow, ProfileFound, ProfileRequest
from planner.runtime.regions import Region
from planner.runtime.session import given_model
from planner.runtime.trainer import as_layers
from planner.runtime.wires import Wires

Say = Callable[[str], None]


def profile_rank(request: ProfileRequest, say: Say | None = None) -> ProfileFound | None:
    """Measure together with the other processes. What all found on rank 0, None elsewhere."""
    rank = int(os.environ.get("RANK", "0"))
    processes = request.processes
    if len(processes) > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    _join(request, len(processes))
    device = _device(request)
    spec = processes[rank]
    hosts: list[Any] = [None] * len(processes)
    dist.all_gather_object(hosts, f"{socket.gethostname()}/{rank if request.apart else 0}")
    here = sum(host.rpartition("/")[0] == socket.gethostname() for host in hosts)
    backends = [BACKENDS.get(device.type, GLOO)] * len(processes)
    groups = Groups(rank, backends)
    tell = say if say is not None and rank == 0 else _silent
    tell("chips")
    chip = {
        "products": profile_chip.products(device, request.precision, spec.repeat),
        "memory_bandwidth": profile_chip.memory_bandwidth(device, spec.repeat),
        "memory_bytes": profile_chip.memory_bytes(device, here),
        "host_bandwidth": profile_chip.host_bandwidth(device),
    }
    rows = _all_layers(request, rank, device, groups, hosts, tell)
    tell("links")
    wires = Wires(groups, device)
    links = measure_links(wires, [p.chip for p in processes], hosts)
    world = groups.make(range(len(processes)), "profile")
    reductions = measure_reductions(world, device) if isinstance(world, Group) else ()
    name, vendor = profile_chip.names(device)
    found = ChipFound(
        rank=rank,
        host=hosts[rank],
        chip=spec.chip,
        repeat=spec.repeat,
        name=name,
        vendor=vendor,
        torch_device=device.type,
        dist_backend=BACKENDS.get(device.type, GLOO),
        layers=tuple(rows),
        **chip,  # type: ignore[arg-type]
    )
    gathered: list[Any] = [None] * len(processes)
    dist.all_gather_object(gathered, found.model_dump())
    if rank:
        return None
    return ProfileFound(
        chips=tuple(ChipFound.model_validate(g) for g in gathered),
        links=links,
        reductions=reductions,
        versions={"torch": str(torch.__version__), "python": sys.version.split()[0]},
    )


def _all_layers(
    request: ProfileRequest,
    rank: int,
    device: torch.device,
    groups: Groups,
    hosts: list[str],
    say: Say,
) -> list[LayerRow]:
    """Every degree and every number of rows; processes without a group of that size wait."""
    model, loss, vocabulary = given_model(request.config, request.function, 0)
    layered = as_layers(model, loss)
    intervals = len(layered.alike())
    dtype = DTYPES[request.precision]
    full = cache(lambda layer: layered.full(layer, dtype))
    rows: list[LayerRow] = []
    for degree in request.degrees:
        region = _region(request, rank, groups, hosts, degree)
        for micro_batch in request.rows:
            say(f"layers at tp {degree}, {micro_batch} rows")
            if region is None:
                for _ in range(intervals):
                    wait_for_all()
                continue
            bench = Bench(
                model=layered,
                full=full,
                region=region,
                device=device,
                dtype=dtype,
                seq_len=request.seq_len,
                vocabulary=vocabulary,
                repeat=request.processes[rank].repeat,
                busy_s=request.seconds,
            )
            rows += layer_rows(bench, micro_batch, wait_for_all)
    return rows


def _region(
    request: ProfileRequest, rank: int, groups: Groups, hosts: list[str], degree: int
) -> Region | None:
    """Consecutive processes of one chip and one host in groups of this size; None if left over."""
    members: dict[tuple[str, str], list[int]] = {}
    for r, process in enumerate(request.processes):
        members.setdefault((process.chip, hosts[r]), []).append(r)
    mine = None
    for ranks in members.values():
        for first in range(0, len(ranks) - degree + 1, degree):
            part = tuple(ranks[first : first + degree])
            group = groups.make(part, f"tp{degree}")
            if group is not None:
                mine = Region(group, part.index(rank), request.sequence_parallel)
    return mine


def _join(request: ProfileRequest, processes: int) -> None:
    if dist.is_initialized():
        return
    timeout = timedelta(seconds=request.timeout_s)
    if processes == 1 and "RANK" not in os.environ:
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group(GLOO, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(GLOO, timeout=timeout)


def _device(request: ProfileRequest) -> torch.device:
    kind = request.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        message = f"PyTorch finds no {kind} device here"
        raise InputError([Problem("--device", message, "--device cpu measures the processor")])
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= int(module.device_count()):
        message = f"process {index} of this machine finds {module.device_count()} {kind} devices"
        raise InputError([Problem("--device", message, "start one process per device")])
    module.set_device(index)
    return torch.device(kind, index)


def _silent(_: str) -> None:
    return None
