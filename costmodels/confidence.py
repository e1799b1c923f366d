"""How far a predicted step time can be trusted: the range that measured runs leave it.

The intervals are of runs that were predicted without any row of their own family
(``data/confidence.json``): what to expect of a plan that nobody has measured. They belong to a
silicon and a precision class; where too few families ran on it, to its architecture, its vendor or
to all rows; mixtures of experts have one of their own. A chip that no row names gets a wider one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import cast

from costmodels.catalog import Chip
from costmodels.catalog.efficiencies import precision_class

LEAST_ROWS = 8
LEAST_FAMILIES = 2
"""Fewer rows, or all of one family, say too little of the next run."""

LEAST_SPREAD = 0.03
"""No range is narrower than this on either side, in log: replicates differ by as much."""

UNMEASURED = 0.25
"""Spread of a chip's own share around its architecture, in log, where nobody measured it."""

DOUBTFUL = {"low": 0.30, "medium": 0.10}
"""Doubt in the catalogue's own figures, by the confidence of the chip, in log."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Log of measured over predicted: 10th and 90th percentile, and what they rest on."""

    low: float
    high: float
    rows: int
    families: int
    basis: str

    def widened(self, more: float) -> Spread:
        """With an independent doubt of ``more`` (log) on both sides."""
        return Spread(
            -math.hypot(self.low, more),
            math.hypot(self.high, more),
            self.rows,
            self.families,
            self.basis,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """One run that was predicted without its family: ``error`` is log(predicted / measured)."""

    chip: Chip
    recipe: str
    family: str
    experts: bool
    error: float


def spread_of(chip: Chip, precision: str, *, experts: bool = False) -> Spread:
    """The interval of a chip in a precision; ``experts`` for models with routed experts."""
    kind = precision_class(precision)
    table = _shipped()
    keys = [
        f"silicon|{chip.silicon}|{kind}",
        f"architecture|{chip.architecture}|{kind}",
        f"architecture|{chip.architecture}|any",
        f"vendor|{chip.vendor}|any",
        "all",
    ]
    found = next(table[key] for key in keys if key in table)
    if experts and "experts" in table:
        mixture = table["experts"]
        found = Spread(
            min(found.low, mixture.low),
            max(found.high, mixture.high),
            found.rows,
            found.families,
            f"{found.basis}, mixtures of experts",
        )
    if f"measured|{chip.silicon}" not in table:
        found = found.widened(UNMEASURED)
    doubt = DOUBTFUL.get(chip.confidence, 0.0)
    return found.widened(doubt) if doubt else found


def step_range(
    step_s: float, chips: Iterable[Chip], precision: str, *, experts: bool = False
) -> tuple[float, float]:
    """Lower and upper end of a step time in seconds: four of five runs should lie between them.

    A step on several chips is as uncertain as its least certain one. ValueError without chips.
    """
    spreads = [spread_of(chip, precision, experts=experts) for chip in dict.fromkeys(chips)]
    if not spreads:
        raise ValueError("a step needs chips")
    low = min(s.low for s in spreads)
    high = max(s.high for s in spreads)
    return step_s * math.exp(low), step_s * math.exp(high)


def peak_range(peak_bytes: int) -> tuple[int, int]:
    """What runs of such a predicted peak took, in bytes: four of five lie between.

    Of runtimes that hold no copies beside weights, gradients and optimizer. What a process takes
    from the device: context, library buffers and what the allocator keeps are in it.
    """
    spread = _shipped()["memory"]
    return round(peak_bytes * math.exp(spread.low)), round(peak_bytes * math.exp(spread.high))


def confidence_document(runs: Sequence[Seen], memory: Sequence[float] = ()) -> dict[str, object]:
    """The content of ``confidence.json`` from runs that were predicted without their family.

    ``memory``: log of measured over predicted peak of runs whose runtime nobody was told of.
    """
    groups: dict[str, list[Seen]] = {}
    for run in runs:
        kind = precision_class(run.recipe)
        if run.experts:
            groups.setdefault("experts", []).append(run)
            continue
        for key in (
            f"silicon|{run.chip.silicon}|{kind}",
            f"architecture|{run.chip.architecture}|{kind}",
            f"architecture|{run.chip.architecture}|any",
            f"vendor|{run.chip.vendor}|any",
            "all",
        ):
            groups.setdefault(key, []).append(run)
    entries = {key: _entry(found) for key, found in sorted(groups.items()) if _enough(key, found)}
    entries["memory"] = _interval(memory, families=0)
    measured = sorted({f"measured|{run.chip.silicon}" for run in runs})
    about = (
        "Log of measured over predicted step time, 10th and 90th percentile, of runs that were "
        "predicted without any row of their own family; memory: of peaks that were predicted "
        "without knowledge of the runtime. Written by `planner calibrate --refit`."
    )
    return {"about": about, "spreads": entries, "measured": measured}


def _enough(key: str, found: Sequence[Seen]) -> bool:
    families = len({run.family for run in found})
    return key == "all" or (len(found) >= LEAST_ROWS and families >= LEAST_FAMILIES)


def _entry(found: Sequence[Seen]) -> dict[str, object]:
    return _interval([-run.error for run in found], len({run.family for run in found}))


def _interval(logs: Sequence[float], families: int) -> dict[str, object]:
    ordered = sorted(logs)
    low, high = (_quantile(ordered, q) if ordered else 0.0 for q in (0.1, 0.9))
    return {
        "low": round(min(low, -LEAST_SPREAD), 4),
        "high": round(max(high, LEAST_SPREAD), 4),
        "rows": len(logs),
        "families": families,
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


@lru_cache(maxsize=1)
def _shipped() -> Mapping[str, Spread]:
    text = (files("costmodels") / "data" / "confidence.json").read_text(encoding="utf-8")
    data = json.loads(text)
    entries = cast("Mapping[str, Mapping[str, float]]", data["spreads"])
    table = {
        key: Spread(
            float(e["low"]),
            float(e["high"]),
            int(e["rows"]),
            int(e["families"]),
            " ".join(part for part in key.split("|")[1:] if part != "any") or key,
        )
        for key, e in entries.items()
    }
    nothing = Spread(0.0, 0.0, 0, 0, "")
    return table | {str(key): nothing for key in data["measured"]}
