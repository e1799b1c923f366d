"""Optimizer state in the host's memory, updated there: what a device saves and what it pays.

As in ZeRO-Offload (Ren et al., 2021, arXiv:2101.06840): weights and gradients stay on the device,
the optimizer's state (with the fp32 master weights) lies in the host's memory. After the last
backward pass the gradients go down the host link, the processors update, the weights come back up:

    gradients / link  +  bytes read and written / memory rate of the host  +  weights / link

one after the other: nothing of it is taken as hidden. Every device of a host is taken to do the
same at the same time, so each has an even share of the host's memory, of its memory rate, and of a
root complex where the cluster names one. The host holds the state, and a whole gradient and a whole
weight of everything that it updates, as they land and leave: 12 + 2 + 2 bytes per parameter with
Adam in mixed precision, the 16 that DeepSpeed's own estimator counts before its safety factor.
"""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.catalog import Chip
from costmodels.compute import UPDATE_KERNELS
from costmodels.constants import Constants, shipped_constants
from costmodels.memory import StateBytes
from costmodels.units import MIB

HOST_MEMORY_PERCENT = 80
"""Share of a host's memory that offloaded state may take. Assumed: the rest is for the operating
system, data loading and the processes themselves."""

HOST_MEMORY_BANDWIDTH = 100e9
"""Bytes/s that the processors of a host stream where the cluster file does not say.

ZeRO-Offload (table 4) has its CPU-Adam update 1 billion parameters in 0.22 s and 10 billion in
2.57 s on two sockets of DDR4: 28 bytes per parameter make that 127 and 109 GB/s.
"""

OFFLOAD_BUFFER_BYTES = 256 * MIB
"""Two buckets of 128 MiB on the device, one in transit while the next is filled. Assumed."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one device may count on of its host while all of its devices do the same.

    ``memory_bytes`` is None where the host's memory is not known; rates in bytes/s, the link's
    in one direction.
    """

    memory_bytes: int | None
    link_bandwidth: float
    memory_bandwidth: float


def host_share(
    memory_bytes: int | None,
    devices: int,
    link_bandwidth: float,
    *,
    link_total: float | None = None,
    memory_bandwidth: float | None = None,
) -> HostShare:
    """The even share of a host with so many devices.

    ``link_bandwidth`` is one device's own link, ``link_total`` what all of them share, both
    achievable, in bytes/s one way; ``memory_bandwidth`` what the host's processors stream.
    """
    own = link_bandwidth if link_total is None else min(link_bandwidth, link_total / devices)
    usable = None if memory_bytes is None else memory_bytes * HOST_MEMORY_PERCENT // 100
    return HostShare(
        memory_bytes=None if usable is None else usable // devices,
        link_bandwidth=own,
        memory_bandwidth=(memory_bandwidth or HOST_MEMORY_BANDWIDTH) / devices,
    )


def offloaded_update_s(
    parameters: int,
    state: StateBytes,
    chip: Chip,
    host: HostShare,
    zero_replicas: int = 1,
    *,
    derate: float = 1.0,
    constants: Constants | None = None,
) -> float:
    """Seconds from summed gradients to new weights for ``parameters`` of one device.

    The device reads every gradient for their norm. 1/``zero_replicas`` of them go down, are
    updated (gradient and state read, state and weight written) and come back as weights.
    """
    c = constants or shipped_constants()
    own = -(-parameters // zero_replicas)
    norm = parameters * state.gradient / (chip.memory_bandwidth * c.stream)
    norm += UPDATE_KERNELS * c.launch_s  # as many as an update on the device has
    link = own * (state.gradient + state.parameter) / host.link_bandwidth
    moved = own * (state.gradient + 2 * state.optimizer + state.parameter)
    return norm / derate + link + moved / host.memory_bandwidth
