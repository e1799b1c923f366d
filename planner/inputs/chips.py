"""The cluster's own chips, and what people call the catalogue's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from costmodels.catalog import AmbiguousChip, Catalog, Chip, UnknownChip
from costmodels.catalog.build import build_chip
from costmodels.catalog.names import NameIndex
from costmodels.catalog.records import merge_records
from costmodels.units import GB, GIB
from planner.errors import Problem

MEMORY_TOLERANCE = 0.05
"""How far a stated memory may be from the catalogue's before it is taken for another chip."""

_LABELLED = re.compile(r"(?P<chip>.+?)[-_ ]?(?P<gb>\d+(?:\.\d+)?) ?G(?:i?B)?", re.IGNORECASE)


def extended_catalog(catalog: Catalog, records: Sequence[Mapping[str, Any]]) -> Catalog:
    """The catalogue with a cluster's own chip records added or put in place.

    Raises CatalogError with every problem of every record.
    """
    if not records:
        return catalog
    own = [_normalised(record, catalog) for record in records]
    merged = merge_records(catalog.records, own)
    changed = {str(record["id"]) for record in own}
    chips = {i: build_chip(merged[i], merged) if i in changed else catalog.chips[i] for i in merged}
    return Catalog(merged, chips, NameIndex.of(merged))


def _normalised(record: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Price 0 means unknown, and a vendor is spelt as the catalogue spells it."""
    result = dict(record)
    if result.get("price_usd_per_hour") == 0:
        result["price_usd_per_hour"] = None
    spellings = {chip.vendor.casefold(): chip.vendor for chip in catalog.chips.values()}
    vendor = result.get("vendor")
    if isinstance(vendor, str):
        result["vendor"] = spellings.get(vendor.casefold(), vendor)
    return result


def resolve_chip(
    name: str, catalog: Catalog, where: str
) -> tuple[Chip | None, Problem | None, str]:
    """The chip of a name as written: (chip, problem, note); exactly one of the first two is set.

    A name whose memory is within 5 % of the only variant with that name is taken with a note
    ("H100-NVL-96GB" has 94); memory is never guessed.
    """
    try:
        return catalog.get(name), None, ""
    except AmbiguousChip as error:
        choices = ", ".join(error.candidates)
        remedy = f"write one of {choices}"
        return None, Problem(where, f"{name!r} fits {len(error.candidates)} chips", remedy), ""
    except UnknownChip as error:
        labelled = _LABELLED.fullmatch(name)
        variants = catalog.find(labelled["chip"]) if labelled else []
        if labelled is None or not variants:
            near = ", ".join(error.candidates)
            remedy = f"did you mean {near}?" if near else "see `planner chips list`"
            return None, Problem(where, f"no chip is called {name!r}", remedy), ""
    stated = round(float(labelled["gb"]) * GIB)
    close = [chip for chip in variants if memory_agrees(chip, stated)]
    if len(close) == 1:
        chip = close[0]
        note = (
            f"{name}: the catalogue's {catalog.alias(chip.id)} has {chip.memory_bytes / GIB:g} "
            f"GiB, not {labelled['gb']}; planned with {chip.memory_bytes / GIB:g}"
        )
        return chip, None, note
    known = ", ".join(f"{catalog.alias(c.id)} ({c.memory_bytes / GIB:g} GiB)" for c in variants)
    message = f"{name!r}: no variant has {labelled['gb']} GB"
    return None, Problem(where, message, f"the catalogue has {known}"), ""


def memory_agrees(chip: Chip, stated: int) -> bool:
    """Whether a stated size is within 5 % of the label; GB on a label are commonly GiB."""
    readings = (stated, stated * GIB / GB)
    return any(abs(r / chip.memory_bytes - 1) <= MEMORY_TOLERANCE for r in readings)
