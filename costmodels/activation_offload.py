"""Kept activations in host memory: copied down after the forward pass, up before the backward.

As ZeRO-Infinity does with checkpoints (Rajbhandari et al., 2021, arXiv:2104.07857; DeepSpeed's
``cpu_checkpointing``), and Transformer Engine, torchtune and SSDTrain (arXiv:2408.10013) with all
that a layer keeps. While one layer computes, what the layer before it kept is under way: two
layers' worth of copies stay on the device, and of a copy only what takes longer than the
computation of one layer is felt, in each pass:

    exposed = max(0, kept bytes / rate - computation of the layer)

Both directions of a link work at once, so copies down never wait for copies up. Communication
inside the stage and its exchanges with neighbours may need the same link (PCIe), so nothing hides
behind them. Every device of a host is taken to copy at the same time: the rate is its even share
of the host's links and memory (:class:`costmodels.offload.HostShare`).
"""

from __future__ import annotations

from costmodels.offload import HostShare


def copy_s(bytes_: int, host: HostShare) -> float:
    """Seconds to copy so many bytes between a device and its host, one way."""
    return bytes_ / min(host.link_bandwidth, host.memory_bandwidth)


def exposed_ps(copy_ps: int, computation_ps: int) -> int:
    """What of a copy the computation beside it does not hide, in picoseconds."""
    return max(0, copy_ps - computation_ps)
