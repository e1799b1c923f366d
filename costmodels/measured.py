"""Chips that only published measurements name: variants nobody can buy, beside the catalogue."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from costmodels.catalog import Catalog, load_catalog

DATA = files("costmodels") / "data"
"""Measured rows, fitted constants and the chips of published runs."""


@lru_cache(maxsize=1)
def measured_catalog() -> Catalog:
    """The shipped catalogue and the variants that published measurements were made on."""
    return load_catalog(Path(str(DATA / "measured_chips.json")))
