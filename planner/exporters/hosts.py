"""The machines of a plan: which devices they have, how a process names one, what joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodels.catalog import Chip
from planner.graphs.topology import Topology
from planner.inputs.cluster_spec import ClusterSpec

VISIBLE = {
    "NVIDIA": "CUDA_VISIBLE_DEVICES",
    "AMD": "HIP_VISIBLE_DEVICES",
    "Hygon": "HIP_VISIBLE_DEVICES",
    "Huawei": "ASCEND_RT_VISIBLE_DEVICES",
    "Cambricon": "MLU_VISIBLE_DEVICES",
    "Moore Threads": "MUSA_VISIBLE_DEVICES",
    "Iluvatar CoreX": "CUDA_VISIBLE_DEVICES",
    "Baidu Kunlunxin": "XPU_VISIBLE_DEVICES",
}
"""The variable that chooses and orders the devices of a process, by vendor."""

FIXED_ORDER = {"NVIDIA": ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
"""By default CUDA counts the fastest card first, so unlike cards would change places."""

RESOURCES = {
    "NVIDIA": "nvidia.com/gpu",
    "AMD": "amd.com/gpu",
    "Huawei": "huawei.com/Ascend910",
    "Cambricon": "cambricon.com/mlu",
    "Moore Threads": "mthreads.com/gpu",
    "Hygon": "hygon.com/dcu",
    "Iluvatar CoreX": "iluvatar.com/gpu",
    "Intel": "habana.ai/gaudi",
}
"""What a vendor's Kubernetes device plugin calls its devices."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a host. ``index`` counts the vendor's devices of that host from 0."""

    name: str
    chip: Chip
    index: int


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: all of its devices in order, and the kind of its network ("" without one)."""

    name: str
    devices: tuple[Device, ...]
    network: str


def cluster_hosts(topology: Topology, spec: ClusterSpec) -> tuple[Host, ...]:
    """All hosts in the order of the cluster file."""
    chips = {
        device: topology.classes[island.class_index].chip
        for cls in topology.classes
        for island in cls.islands
        for device in island.devices
    }
    by_host: dict[str, list[str]] = {}
    for name in chips:
        by_host.setdefault(name.rpartition("/")[0], []).append(name)
    kinds = {network.name: network.kind for network in spec.networks}
    hosts = []
    for node in spec.nodes:
        ports = [nic.kind or kinds.get(nic.network) or "tcp" for nic in node.nics]
        for host in node.host_names:
            names = sorted(by_host.get(host, ()), key=lambda d: int(d.rpartition("/")[2]))
            hosts.append(Host(host, _devices(names, chips), ports[0] if ports else ""))
    return tuple(hosts)


def _devices(names: list[str], chips: Mapping[str, Chip]) -> tuple[Device, ...]:
    seen: dict[str, int] = {}
    found = []
    for name in names:
        vendor = chips[name].vendor
        found.append(Device(name, chips[name], seen.get(vendor, 0)))
        seen[vendor] = seen.get(vendor, 0) + 1
    return tuple(found)
