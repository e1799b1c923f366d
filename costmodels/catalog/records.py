"""Chip records as stored: reading, inheritance and checks. Units are in the field names.

A record is a row of chips.json with the planner's own fields of traits.json merged in. Users add
or replace chips with records of the same fields; ``inherit: ID`` starts from a known chip.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import cast

from costmodels.catalog.errors import AmbiguousChip, CatalogError, CatalogProblem, UnknownChip
from costmodels.catalog.names import NameIndex
from costmodels.catalog.peaks import check_peak

Record = Mapping[str, object]

TOPOLOGIES = ("none", "bridge", "switch", "mesh", "cube-mesh", "torus")

# Fields of the planner beside those of chips.json, with the type of their value.
_OWN_FIELDS: dict[str, type] = {
    "inherit": str,
    "architecture": str,
    "silicon": str,
    "link_id": str,
    "topology": str,
    "scaleup_efficiency": float,
    "scaleup_alpha_us": float,
    "host_efficiency": float,
    "host_alpha_us": float,
    "usable_memory_gib": float,
    "usable_source": str,
    "flash_attention": bool,
    "grouped_gemm": bool,
    "devices_per_package": int,
    "cores": int,
    "fp4_tflops": float,
    "sustained": dict,
    "attention": float,
    "assumed": list,
}
_TEXT = ("id", "name", "vendor", "confidence", "torch_device", "dist_backend", "scaleup_link",
         "host_link", "notes", "ccl", "inherit", "architecture", "silicon", "link_id", "topology",
         "usable_source")  # fmt: skip
_REQUIRED = ("id", "vendor", "memory_gib", "mem_bw_gbs", "host_gbs_per_dir")
PEAK_FIELDS = {
    "fp32": "fp32_tflops",
    "tf32": "tf32_tflops",
    "fp16": "fp16_tflops",
    "bf16": "bf16_tflops",
    "fp8": "fp8_tflops",
    "fp4": "fp4_tflops",
}
_FRACTIONS = ("gemm_fraction", "scaleup_efficiency", "host_efficiency")
_POSITIVE = (*PEAK_FIELDS.values(), "memory_gib", "usable_memory_gib", "mem_bw_gbs",
             "scaleup_per_dir_gbs", "scaleup_p2p_per_dir_gbs", "scaleup_domain_max",
             "host_gbs_per_dir", "nic_gbps_per_chip", "price_usd_per_hour", "scaleup_alpha_us",
             "host_alpha_us", "devices_per_package", "cores", "attention", *_FRACTIONS)  # fmt: skip
# A figure of the base that no longer holds when the user changes another one.
_DEPENDENTS = {
    "memory_gib": ("usable_memory_gib", "usable_source"),
    "scaleup_per_dir_gbs": ("scaleup_bidir_gbs",),
}


@lru_cache(maxsize=1)
def shipped_records() -> dict[str, Record]:
    """Every chip of the data files by id, sorted, inheritance resolved."""
    data = files("costmodels.catalog") / "data"
    rows = json.loads((data / "chips.json").read_text(encoding="utf-8"))
    traits = json.loads((data / "traits.json").read_text(encoding="utf-8"))
    packages = json.loads((data / "packages.json").read_text(encoding="utf-8"))
    records: dict[str, Record] = {}
    for row in rows:
        merged = {**row, **traits["chips"][row["id"]]}
        records[row["id"]] = _with_architecture(merged, traits["architectures"])
    for row in packages["chips"]:
        records[row["id"]] = _inherited(records[row["inherit"]], row)
    return dict(sorted(records.items()))


def _with_architecture(record: dict[str, object], table: Mapping[str, Record]) -> Record:
    trait = table[str(record["architecture"])]
    sources = dict(cast("Mapping[str, str]", record["sources"]))
    kind = "assumed" if trait["assumed"] else "known"
    sources["flash_attention"] = f"{kind}: {trait['reason']}"
    if "usable_source" in record:
        sources["usable_memory_gib"] = str(record.pop("usable_source"))
    return {**record, "flash_attention": trait["flash_attention"], "sources": sources}


def read_records(extra: Path | Record) -> list[Record]:
    """Records of a user's JSON file or mapping: ``{"chips": [...]}`` or one record.

    CatalogError if the text is no JSON or has another shape; OSError if it cannot be read.
    """
    where, value = "chips", cast(object, extra)
    if isinstance(extra, Path):
        where = str(extra)
        try:
            value = json.loads(extra.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            problem = CatalogProblem(f"{where}:{error.lineno}", error.msg, "write valid JSON")
            raise CatalogError([problem]) from None
    rows = value.get("chips", [value]) if isinstance(value, Mapping) else value
    if not isinstance(rows, list | tuple) or not all(isinstance(r, Mapping) for r in rows):
        remedy = 'write {"chips": [{"id": …, …}, …]}'
        raise CatalogError([CatalogProblem(where, "expected chip records", remedy)])
    return list(rows)


def merge_records(known: Mapping[str, Record], own: Iterable[Record]) -> dict[str, Record]:
    """The known records with the user's added or put in their place, sorted by id.

    CatalogError with every problem of every record.
    """
    merged = dict(known)
    roots: dict[str, Record] = {}
    problems: list[CatalogProblem] = []
    for number, record in enumerate(own):
        where = str(record.get("id") or f"chips[{number}]")
        found = _check_fields(record, where)
        complete, parent = _complete(merged, record, where, found)
        # a chain of own chips is measured by the one that it started from
        root = roots.get(str(parent.get("id")), parent) if parent is not None else None
        if not found:
            found = _check_whole(complete, where, root)
        problems += found
        if not found:
            merged[str(record["id"])] = complete
            if root is not None:
                roots[str(record["id"])] = root
    if problems:
        raise CatalogError(problems)
    return dict(sorted(merged.items()))


def _complete(
    known: Mapping[str, Record], record: Record, where: str, problems: list[CatalogProblem]
) -> tuple[Record, Record | None]:
    """The record with what it inherits, and the record that it inherits from."""
    parent = record.get("inherit")
    if not isinstance(parent, str):
        return record, None
    try:
        base = known[NameIndex.of(known).resolve(parent)]
        return _inherited(base, record), base
    except (UnknownChip, AmbiguousChip) as error:
        names = ", ".join(error.candidates)
        remedy = f"inherit one of {names}" if names else "`planner chips list` shows what there is"
        problems.append(CatalogProblem(f"{where}.inherit", str(error), remedy))
        return record, None


def _inherited(base: Record, own: Record) -> Record:
    dropped = {d for field in own for d in _DEPENDENTS.get(field, ()) if d not in own}
    merged = {k: v for k, v in base.items() if k not in dropped} | {
        k: v for k, v in own.items() if k != "inherit"
    }
    total = base.get("scaleup_per_dir_gbs")
    if "scaleup_p2p_per_dir_gbs" not in own and base.get("scaleup_p2p_per_dir_gbs") == total:
        merged["scaleup_p2p_per_dir_gbs"] = merged.get("scaleup_per_dir_gbs")
    sources = dict(cast("Mapping[str, str]", base.get("sources", {})))
    stated = cast("Mapping[str, str]", own.get("sources", {}))
    for field in (*own, *dropped):
        sources.pop(field, None)
    sources |= {f: "given by the user" for f in own if f in _POSITIVE}
    merged["sources"] = sources | dict(stated)
    return merged


@lru_cache(maxsize=1)
def known_fields() -> tuple[str, ...]:
    """Every field that a chip record may have."""
    rows = json.loads(
        (files("costmodels.catalog") / "data" / "chips.json").read_text(encoding="utf-8")
    )
    return tuple(sorted({field for row in rows for field in row} | set(_OWN_FIELDS)))


def _check_fields(record: Record, where: str) -> list[CatalogProblem]:
    problems = []
    for field, value in record.items():
        if field not in known_fields():
            near = difflib.get_close_matches(field, known_fields(), 1)
            remedy = f"did you mean {near[0]}?" if near else "see `planner chips show`"
            problems.append(CatalogProblem(f"{where}.{field}", "unknown field", remedy))
        elif value is None:
            continue
        elif field in _POSITIVE:
            problems += _check_number(field, value, where)
        elif field in _TEXT and not isinstance(value, str):
            problems.append(CatalogProblem(f"{where}.{field}", f"{value!r} is not text"))
    if not isinstance(record.get("id"), str):
        problems.append(CatalogProblem(f"{where}.id", "a chip needs an id", "add id: my-chip"))
    topology = record.get("topology")
    if topology is not None and topology not in TOPOLOGIES:
        remedy = f"one of {', '.join(TOPOLOGIES)}"
        problems.append(CatalogProblem(f"{where}.topology", f"{topology!r} is unknown", remedy))
    return problems


def _check_number(field: str, value: object, where: str) -> list[CatalogProblem]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        remedy = "a plain number; the unit is in the field's name"
        return [CatalogProblem(f"{where}.{field}", f"{value!r} is not a number", remedy)]
    if not 0 < value < float("inf"):
        return [CatalogProblem(f"{where}.{field}", f"{value!r} must be above 0")]
    if field in _FRACTIONS and value > 1:
        return [CatalogProblem(f"{where}.{field}", f"{value!r} is a share of the peak, at most 1")]
    return []


def _check_whole(record: Record, where: str, parent: Record | None) -> list[CatalogProblem]:
    problems = [
        CatalogProblem(f"{where}.{field}", "missing", f"add {field} or inherit a known chip")
        for field in _REQUIRED
        if record.get(field) is None
    ]
    if not any(field in record for field in PEAK_FIELDS.values()):
        remedy = "add bf16_tflops (dense) or inherit a known chip"
        problems.append(CatalogProblem(where, "no matrix rate in any precision", remedy))
    total, pair = record.get("scaleup_per_dir_gbs"), record.get("scaleup_p2p_per_dir_gbs")
    if isinstance(pair, int | float) and isinstance(total, int | float) and pair > total:
        message = f"a pair ({pair} GB/s) cannot exceed all links of a chip ({total} GB/s)"
        problems.append(CatalogProblem(f"{where}.scaleup_p2p_per_dir_gbs", message))
    usable, label = record.get("usable_memory_gib"), record.get("memory_gib")
    if isinstance(usable, int | float) and isinstance(label, int | float) and usable > label:
        message = f"usable memory ({usable} GiB) cannot exceed the label ({label} GiB)"
        problems.append(CatalogProblem(f"{where}.usable_memory_gib", message))
    problems += [CatalogProblem(where, message) for message in check_peak(record, parent)]
    return problems
