"""From a chip record to a Chip in base units, every judged figure listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from costmodels.catalog.chip import Chip, Fabric
from costmodels.catalog.efficiencies import shipped_efficiencies
from costmodels.catalog.links import load_links
from costmodels.catalog.records import PEAK_FIELDS, Record
from costmodels.units import GB, GBIT, GIB, TERA, US_PER_S

# What a driver keeps of a label where nobody published what the device reports: an 80 GiB label
# shows 79.1 to 79.6, a 48 GiB one without ECC 47.5.
_REPORTED_SHARE = 0.99
# Fabrics without a published collective rate: the middle of what was measured on others.
_DEFAULT_EFFICIENCY = 0.70
_DEFAULT_LATENCY_S = 8e-6
# Grouped products of experts need compute capability 8.0: megatron/training/arguments.py.
_GROUPED_GEMM = ("ampere", "ada", "hopper", "blackwell")
_HOST_LINKS = {
    "PCIe3": "pcie3x16",
    "PCIe4": "pcie4x16",
    "PCIe5": "pcie5x16",
    "NVLink-C2C": "nvlink-c2c",
}


def number(record: Record, field: str) -> float | None:
    """The field's value as a float, None where it is absent or null."""
    value = record.get(field)
    return float(value) if isinstance(value, int | float) else None


def text(record: Record, field: str, default: str = "") -> str:
    """The field's value as text."""
    value = record.get(field)
    return value if isinstance(value, str) else default


def build_chip(record: Record, records: Mapping[str, Record]) -> Chip:
    """The chip of one complete record; ``records`` supply medians for what it lacks.

    Raises KeyError only for records that :func:`merge_records` would have refused.
    """
    stated = record.get("assumed")
    notes: list[str] = []
    fabric, bridge = _fabrics(record, notes)
    memory = number(record, "memory_gib") or 0.0
    package = int(number(record, "devices_per_package") or 1)
    own = record.get("sustained")
    if package > 1:
        notes.append(f"the package holds {package} devices and is planned as one chip")
    chip = Chip(
        id=text(record, "id"),
        name=text(record, "name", text(record, "id")),
        vendor=text(record, "vendor"),
        peak_flops=_peaks(record),
        memory_bytes=round(memory * GIB),
        usable_memory_bytes=_usable_memory(record, memory, notes),
        memory_bandwidth=(number(record, "mem_bw_gbs") or 0.0) * GB,
        gemm_fraction=_gemm_fraction(record, records, notes),
        fabric=fabric,
        host_fabric=_host_fabric(record, notes),
        fabric_domain=int(number(record, "scaleup_domain_max") or 1) if fabric else 1,
        nic_bytes_per_s=_scaled(number(record, "nic_gbps_per_chip"), GBIT),
        torch_device=_first_word(text(record, "torch_device", "cuda")),
        dist_backend=_first_word(text(record, "dist_backend", "nccl")),
        flash_attention=_flash(record, notes),
        price_usd_per_hour=number(record, "price_usd_per_hour"),
        confidence=text(record, "confidence", "user"),
        architecture=text(record, "architecture"),
        bridge=bridge,
        devices_per_package=package,
        cores=int(number(record, "cores") or 0),
        silicon=text(record, "silicon", text(record, "id")),
        grouped_gemm=_grouped_gemm(record),
        assumed=tuple(map(str, stated)) if isinstance(stated, list | tuple) else tuple(notes),
    )
    known = shipped_efficiencies().current(chip)
    shares = dict(known.sustained_shares)
    if isinstance(own, Mapping):
        shares |= {str(name): float(share) for name, share in own.items()}
    rate = number(record, "attention")
    return replace(
        chip,
        sustained_shares=tuple(sorted(shares.items())),
        attention=known.attention if rate is None else rate,
    )


def resolved_record(record: Record, chip: Chip) -> dict[str, object]:
    """The record with every derived figure written down: it builds the same chip anywhere."""
    resolved: dict[str, object] = {k: v for k, v in record.items() if k != "inherit"}
    resolved["gemm_fraction"] = chip.gemm_fraction
    resolved["usable_memory_gib"] = chip.usable_memory_bytes / GIB
    resolved["flash_attention"] = chip.flash_attention
    resolved["sustained"] = dict(chip.sustained_shares)
    resolved["attention"] = chip.attention
    resolved["silicon"] = chip.silicon
    fabric = chip.fabric or chip.bridge
    for side, links in (("scaleup", fabric), ("host", chip.host_fabric)):
        if links is not None:
            resolved[f"{side}_efficiency"] = links.efficiency
            resolved[f"{side}_alpha_us"] = links.latency_s * US_PER_S
    resolved["assumed"] = list(chip.assumed)
    return dict(sorted(resolved.items()))


def _peaks(record: Record) -> tuple[tuple[str, float], ...]:
    rates = ((name, number(record, field)) for name, field in PEAK_FIELDS.items())
    return tuple((name, rate * TERA) for name, rate in rates if rate is not None)


def _usable_memory(record: Record, label_gib: float, notes: list[str]) -> int:
    usable = number(record, "usable_memory_gib")
    if usable is None:
        usable = label_gib * _REPORTED_SHARE
        notes.append(f"usable memory {usable:.2f} GiB: the label less 1 % for the driver")
    elif _source(record, "usable_memory_gib").startswith("assumed"):
        notes.append(f"usable memory {usable:g} GiB: {_source(record, 'usable_memory_gib')}")
    return round(usable * GIB)


def _gemm_fraction(record: Record, records: Mapping[str, Record], notes: list[str]) -> float:
    own = number(record, "gemm_fraction")
    if own is not None:
        source = _source(record, "gemm_fraction")
        if source.startswith(("memory", "derived: assume")):
            told = source.replace("memory", "judged, no source", 1)
            notes.append(f"best matrix product at {own:.1%} of the peak: {told}")
        return own
    for field, what in (("architecture", "architecture"), ("vendor", "vendor")):
        group = text(record, field)
        values = [
            v
            for r in records.values()
            if group and text(r, field) == group and (v := number(r, "gemm_fraction")) is not None
        ]
        if values:
            return _noted(median(values), f"median of its {what} ({group})", notes)
    values = [v for r in records.values() if (v := number(r, "gemm_fraction")) is not None]
    return _noted(median(values), "median of the catalogue", notes)


def _noted(fraction: float, how: str, notes: list[str]) -> float:
    notes.append(f"best matrix product at {fraction:.1%} of the peak: {how}")
    return fraction


def _flash(record: Record, notes: list[str]) -> bool:
    value = record.get("flash_attention")
    if not isinstance(value, bool):
        notes.append("no fused attention: nothing is known of this chip")
        return False
    if (source := _source(record, "flash_attention")).startswith("assumed"):
        notes.append(f"{'fused' if value else 'no fused'} attention: {source}")
    return value


def _grouped_gemm(record: Record) -> bool:
    """What the record says, else what is known of the architecture."""
    value = record.get("grouped_gemm")
    return value if isinstance(value, bool) else text(record, "architecture") in _GROUPED_GEMM


def _fabrics(record: Record, notes: list[str]) -> tuple[Fabric | None, Fabric | None]:
    """The fabric that every server of this chip has, and the one that some have."""
    total = number(record, "scaleup_per_dir_gbs")
    topology = text(record, "topology") or _topology(record)
    if total is None or topology == "none":
        return None, None
    pair = number(record, "scaleup_p2p_per_dir_gbs")
    quiet: list[str] = []
    if pair is None:
        pair = total
        if topology != "bridge":
            quiet.append("a pair of chips reaches the bandwidth of all links: not published")
    efficiency, latency = _link_figures(record, text(record, "link_id"), "scaleup", quiet)
    link_id = text(record, "link_id") or text(record, "scaleup_link") or "scale-up"
    fabric = Fabric(link_id, total * GB, pair * GB, efficiency, latency, topology == "mesh")
    if topology == "bridge":
        return None, fabric
    notes += quiet
    return fabric, None


def _topology(record: Record) -> str:
    if "bridge" in text(record, "scaleup_link").lower():
        return "bridge"
    total, pair = number(record, "scaleup_per_dir_gbs"), number(record, "scaleup_p2p_per_dir_gbs")
    return "mesh" if pair is not None and total is not None and pair < total else "switch"


def _host_fabric(record: Record, notes: list[str]) -> Fabric:
    bandwidth = (number(record, "host_gbs_per_dir") or 0.0) * GB
    name = text(record, "host_link", "host link")
    link_id = next((link for start, link in _HOST_LINKS.items() if name.startswith(start)), "")
    efficiency, latency = _link_figures(record, link_id, "host", notes)
    kind = link_id if link_id and "x8" not in name else name
    return Fabric(kind, bandwidth, bandwidth, efficiency, latency, False)


def _link_figures(record: Record, link_id: str, side: str, notes: list[str]) -> tuple[float, float]:
    """Achieved share and hop time: the record's own, else the link's, else a default."""
    link = load_links().get(link_id)
    share = number(record, f"{side}_efficiency") or (link.efficiency if link else None)
    alpha = number(record, f"{side}_alpha_us")
    what = "fabric" if side == "scaleup" else "host link"
    if share is None:
        share = _DEFAULT_EFFICIENCY
        notes.append(f"{what} reaches {share:.0%} of its nominal bandwidth: not published")
    if alpha is not None:
        return share, alpha / US_PER_S
    if link is None:
        notes.append(f"{what} takes {_DEFAULT_LATENCY_S * US_PER_S:g} us per hop: not published")
    return share, link.latency_s if link else _DEFAULT_LATENCY_S


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


def _first_word(value: str) -> str:
    return re.split(r"[^a-z0-9_]", value.strip().lower(), maxsplit=1)[0]


def _source(record: Record, field: str) -> str:
    sources = record.get("sources")
    return str(sources.get(field, "")) if isinstance(sources, Mapping) else ""
