"""From measurements to files: ``profile.json`` and records for the catalogue. No PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from costmodels.units import GB, GIB
from planner.runtime.profile_request import (
    ChipFound,
    LayerRow,
    LinkFound,
    ProfileFound,
    ProfileRequest,
)

VERSION = 1
TFLOP = 1e12


def profile_object(
    request: ProfileRequest, found: ProfileFound, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The profile, with chips and links of an earlier one that were not measured again."""
    chips = {chip: _chip_rows(found.chips, chip) for chip in _names(found.chips)}
    links = {_key(link): link for link in map(_link, found.links)}
    if earlier is not None:
        for chip in earlier.get("chips", ()):
            chips.setdefault(chip["chip"], chip)
        for link in earlier.get("links", ()):
            links.setdefault(_key(link), link)
    return {
        "profile_version": VERSION,
        "model": request.model,
        "source": f"planner profile, PyTorch {found.versions['torch']}",
        "seq_len": request.seq_len,
        "precision": request.precision,
        "sequence_parallel": request.sequence_parallel,
        "transfers": "overlapped",
        "chips": [chips[name] for name in sorted(chips)],
        "links": [links[key] for key in sorted(links)],
    }


def chip_records(found: ProfileFound) -> dict[str, Any]:
    """Catalogue records of the measured chips, as ``planner chips check`` reads them."""
    return {"chips": [_record(found, chip) for chip in _names(found.chips)]}


def problems_with(earlier: Mapping[str, Any], request: ProfileRequest) -> list[str]:
    """Why an earlier profile cannot be extended by this one."""
    wanted = {
        "seq_len": request.seq_len,
        "precision": request.precision,
        "sequence_parallel": request.sequence_parallel,
    }
    return [
        f"{field} is {earlier.get(field)} there, {value} here"
        for field, value in wanted.items()
        if earlier.get(field) != value
    ]


def _names(chips: Sequence[ChipFound]) -> list[str]:
    return list(dict.fromkeys(chip.chip for chip in chips))


def _chip_rows(chips: Sequence[ChipFound], name: str) -> dict[str, Any]:
    """The median over all processes that measured the same."""
    ways: dict[tuple[int, int, tuple[int, int]], list[LayerRow]] = {}
    for chip in chips:
        if chip.chip == name:
            for row in chip.layers:
                key = (row.tensor_parallel, row.micro_batch_rows, row.layers)
                ways.setdefault(key, []).append(row)
    return {"chip": name, "rows": [_row(key[2], rows) for key, rows in sorted(ways.items())]}


def _row(layers: tuple[int, int], rows: Sequence[LayerRow]) -> dict[str, Any]:
    first, end = layers
    return {
        "layer": first if end == first + 1 else [first, end],
        "tensor_parallel": rows[0].tensor_parallel,
        "micro_batch_rows": rows[0].micro_batch_rows,
        "forward_s": _rounded(statistics.median(r.forward_s for r in rows)),
        "backward_s": _rounded(statistics.median(r.backward_s for r in rows)),
        "update_s": _rounded(statistics.median(r.update_s for r in rows)),
        "activation_bytes": max(r.activation_bytes for r in rows),
        "parameter_bytes": max(r.parameter_bytes for r in rows),
    }


def _link(link: LinkFound) -> dict[str, Any]:
    return {
        "source": link.source,
        "target": link.target,
        "where": link.where,
        "chips": link.chips,
        "points": [[size, _rounded(seconds)] for size, seconds in link.points],
    }


def _key(link: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return str(link["source"]), str(link["target"]), str(link["where"]), int(link["chips"])


def _record(found: ProfileFound, name: str) -> dict[str, Any]:
    """One chip; what is slower in one of its processes counts."""
    mine = [chip for chip in found.chips if chip.chip == name]
    first = mine[0]
    best: dict[str, float] = {}
    for chip in mine:
        for point in chip.products:
            own = max(p.flops for p in chip.products if p.precision == point.precision)
            best[point.precision] = min(best.get(point.precision, own), own)
    inside = [link for link in found.links if link.where == "in_node" and link.source == name]
    rate = _best_rate(inside) or min(chip.host_bandwidth for chip in mine)
    times = f", all work {first.repeat} times" if first.repeat > 1 else ""
    measured = f"measured by planner profile on {first.name}{times}"
    figures: dict[str, float] = {
        f"{precision}_tflops": _rounded(flops / TFLOP) for precision, flops in best.items()
    }
    figures |= {
        "gemm_fraction": 1.0,
        "memory_gib": round(min(chip.memory_bytes for chip in mine) / GIB, 2),
        "mem_bw_gbs": _rounded(min(chip.memory_bandwidth for chip in mine) / GB),
        "host_gbs_per_dir": _rounded(rate / GB),
        "host_efficiency": 1.0,
        "host_alpha_us": _rounded(_latency_us(inside)),
    }
    return {
        "id": name,
        "name": f"{first.name}{times}",
        "vendor": first.vendor,
        **figures,
        "torch_device": first.torch_device,
        "dist_backend": first.dist_backend,
        "topology": "none",
        "flash_attention": True,
        "confidence": "measured",
        "sources": dict.fromkeys((*figures, "flash_attention"), measured),
    }


def _best_rate(links: Iterable[LinkFound]) -> float:
    return max((size / s for link in links for size, s in link.points), default=0.0)


def _latency_us(links: Sequence[LinkFound]) -> float:
    """What the smallest message takes beyond its bytes at the best rate; at least a tenth."""
    found = [0.1]
    for link in links:
        size, seconds = link.points[0]
        found.append((seconds - size / _best_rate([link])) * 1e6)
    return max(found)


def _rounded(value: float) -> float:
    """Four significant digits: more were never measured."""
    return float(f"{value:.4g}")
