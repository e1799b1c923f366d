"""Efficiencies fitted to measured runs: what belongs to chips and to software.

A run's time depends on a chip's sustained share of its peak (per precision recipe), on the rate of
its fused attention (per architecture and kernel generation) and on the pace of its software
generation. A share is a product of factors, from the vendor's mean down to the silicon's own, each
shrunk to 1 where rows are few; a chip without rows falls back on what is above it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import cast

from costmodels.catalog.chip import SUSTAINED, Chip

NARROW_RECIPES: Mapping[str, str] = {"fp8": "fp8", "mxfp8": "fp8", "int8": "fp8", "fp4": "fp4"}
"""Precision class of each recipe; all others are of 16 bits or more."""

LONG_RECIPE, LONG = "32", ("fp32", "tf32")
"""The recipe of runs in 32 bits, and the precisions that they multiply in."""

CURRENT_ATTENTION = ("te", "fa2")
"""Generations of fused attention kernels, the newest first; a plan counts on the newest known."""

GENERATION: Mapping[str, float] = {"triton": 0.7}
"""Rate of older kernels before anything is fitted: FlashAttention-2 was published as 1.3 to 1.5
times as fast as the first one's kernels in Triton (Dao, 2023)."""

NEAREST: Mapping[str, tuple[str, ...]] = {"triton": ("fa2", "te")}
"""Generations that speak for another, the nearest first; for others the newest."""

MOST = 0.95
"""Share of a peak that no training run is planned to exceed, whatever few rows say."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted factor, its interval of 90 %, and how many rows determine it."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run adds to its layout: the precision's recipe, attention kernels, software."""

    recipe: str = "16"
    attention: str = "te"
    software: str = ""


def precision_class(recipe: str) -> str:
    """``16``, ``fp8`` or ``fp4``."""
    return NARROW_RECIPES.get(recipe, "16")


@dataclass(frozen=True)
class Efficiencies:
    """Factors by key.

    ``vendor``: ``(vendor, precision class)`` on the catalogue's share. ``architecture``:
    ``(architecture, precision class)`` on top of it, ``sustained``: ``(silicon, recipe)`` on top of
    that. ``attention``: ``(architecture, kernel generation)``, on :data:`GENERATION`. ``pace``:
    ``(silicon, recipe, software)``, the factor of a generation on the whole step.
    """

    vendor: Mapping[Key, Fitted] = field(default_factory=dict)
    architecture: Mapping[Key, Fitted] = field(default_factory=dict)
    sustained: Mapping[Key, Fitted] = field(default_factory=dict)
    attention: Mapping[Key, Fitted] = field(default_factory=dict)
    pace: Mapping[Key, Fitted] = field(default_factory=dict)

    def share(self, chip: Chip, recipe: str) -> float:
        """Sustained share of the dense peak of a chip in a recipe."""
        share = chip.gemm_fraction * SUSTAINED
        kind = precision_class(recipe)
        for found in (
            self.vendor.get((chip.vendor, kind)),
            self.architecture.get((chip.architecture, kind)),
            self._own(chip, recipe),
        ):
            share *= found.value if found else 1.0
        return share

    def _own(self, chip: Chip, recipe: str) -> Fitted | None:
        """The silicon's own factor; another recipe of the same class where that one has none."""
        own = self.sustained.get((chip.silicon, recipe))
        if own is not None:
            return own
        near = [
            f
            for (silicon, known), f in sorted(self.sustained.items())
            if silicon == chip.silicon and _same(known, recipe)
        ]
        return near[0] if near else None

    def rows_of(self, chip: Chip, recipe: str) -> int:
        """How many measured rows the share of a chip in a recipe rests on."""
        own = self._own(chip, recipe)
        return own.rows if own else 0

    def attention_rate(self, chip: Chip, generation: str) -> float:
        """Rate of the fused attention of a chip's architecture over the reference.

        Where a generation was not measured there, the nearest one that was speaks for it.
        """
        own = GENERATION.get(generation, 1.0)
        for known in (generation, *NEAREST.get(generation, CURRENT_ATTENTION)):
            found = self.attention.get((chip.architecture, known))
            if found is not None:
                return own * found.value
        return own

    def chip(self, chip: Chip, setting: Setting) -> Chip:
        """The chip with what it sustains under a setting."""
        wide = wide_precision(chip)
        shares = {wide: self.share(chip, "16")}
        kind = precision_class(setting.recipe)
        narrow = kind if chip.supports(kind) else wide
        own = self.share(chip, setting.recipe)
        if setting.recipe == LONG_RECIPE:
            shares |= {name: own for name in LONG if chip.supports(name)}
        else:
            shares[narrow if kind != "16" else wide] = own
        rate = self.attention_rate(chip, setting.attention)
        return replace(chip, sustained_shares=tuple(sorted(shares.items())), attention=rate)

    def current(self, chip: Chip) -> Chip:
        """The chip with what it sustains in every precision, with the newest kernels known.

        Nothing is said of software, so the mean pace of the generations that ran on this silicon
        counts.
        """
        shares = []
        for name, _ in chip.peak_flops:
            recipe = name if name in NARROW_RECIPES else LONG_RECIPE if name in LONG else "16"
            share = self.share(chip, recipe) / self.mean_pace(chip, recipe)
            shares.append((name, min(share, MOST)))
        rate = self.attention_rate(chip, CURRENT_ATTENTION[0])
        return replace(chip, sustained_shares=tuple(shares), attention=rate)

    def mean_pace(self, chip: Chip, recipe: str) -> float:
        """Geometric mean of the paces of all generations that ran on a silicon."""
        return self._mean_pace(chip.silicon, recipe)

    def _mean_pace(self, silicon: str, recipe: str) -> float:
        known = [
            math.log(f.value)
            for (own, used, _), f in self.pace.items()
            if own == silicon and _same(used, recipe)
        ]
        return math.exp(sum(known) / len(known)) if known else 1.0

    def software_pace(self, chip: Chip, setting: Setting) -> float:
        """Factor of a software generation on a step.

        Where the generation did not run on the silicon, the mean of those that did, times what
        sets this one apart from them on other silicon (a silicon's own deviation lies in its
        share and in the paces on it alike); where nobody knows it, that mean alone.
        """
        own = self.pace.get((chip.silicon, setting.recipe, setting.software))
        if own is not None:
            return own.value
        mean = self.mean_pace(chip, setting.recipe)
        near = [
            f.value / self._mean_pace(silicon, setting.recipe)
            for (silicon, recipe, software), f in sorted(self.pace.items())
            if software == setting.software and _same(recipe, setting.recipe)
        ]
        return mean * sum(near) / len(near) if near else mean


def wide_precision(chip: Chip) -> str:
    """The 16-bit precision that a chip multiplies in."""
    return "bf16" if chip.supports("bf16") else "fp16"


def _same(one: str, other: str) -> bool:
    return precision_class(one) == precision_class(other)


SECTIONS = ("vendor", "architecture", "sustained", "attention", "pace")


def to_json(efficiencies: Efficiencies) -> dict[str, object]:
    """The factors as JSON; keys are joined with ``|``."""
    value: dict[str, object] = {}
    for section in SECTIONS:
        table: Mapping[Key, Fitted] = getattr(efficiencies, section)
        value[section] = {
            "|".join(key): {
                "value": round(f.value, 4),
                "low": round(f.low, 4),
                "high": round(f.high, 4),
                "rows": f.rows,
            }
            for key, f in sorted(table.items())
        }
    return value


def from_json(value: Mapping[str, object]) -> Efficiencies:
    """The efficiencies of :func:`to_json`. KeyError or TypeError if they are not."""

    def table(section: str) -> dict[Key, Fitted]:
        rows = cast("Mapping[str, Mapping[str, float]]", value.get(section, {}))
        return {
            tuple(key.split("|")): Fitted(
                float(f["value"]), float(f["low"]), float(f["high"]), int(f["rows"])
            )
            for key, f in rows.items()
        }

    return Efficiencies(*(table(section) for section in SECTIONS))


@lru_cache(maxsize=1)
def shipped_efficiencies() -> Efficiencies:
    """The factors as fitted to the shipped rows."""
    text = (files("costmodels") / "data" / "efficiencies.json").read_text(encoding="utf-8")
    return from_json(json.loads(text))
