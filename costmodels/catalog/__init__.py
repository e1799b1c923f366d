"""Chips, links and machines as data files, each figure with its source and confidence.

    catalog = load_catalog()
    catalog.get("A100-SXM-80GB").peak("bf16")     # 3.12e14 FLOP/s, dense
    catalog.get("A100")                           # AmbiguousChip with the variants
    catalog.record("910B3-64GB")["sources"]       # where each figure comes from

``data/chips.json``, ``links.json`` and ``clusters.json`` hold figures with sources; ``traits.json``
and ``packages.json`` what the planner needs beside them. All matrix rates are dense.
"""

from costmodels.catalog.catalog import Catalog, load_catalog
from costmodels.catalog.chip import Chip, Fabric
from costmodels.catalog.errors import AmbiguousChip, CatalogError, CatalogProblem, UnknownChip
from costmodels.catalog.links import (
    CrossVendor,
    Link,
    NetworkKind,
    cross_vendor,
    load_links,
    network_kind,
    network_kinds,
)
from costmodels.catalog.machines import Machine, load_machines
from costmodels.catalog.peaks import check_peak

__all__ = [
    "AmbiguousChip",
    "Catalog",
    "CatalogError",
    "CatalogProblem",
    "Chip",
    "CrossVendor",
    "Fabric",
    "Link",
    "Machine",
    "NetworkKind",
    "UnknownChip",
    "check_peak",
    "cross_vendor",
    "load_catalog",
    "load_links",
    "load_machines",
    "network_kind",
    "network_kinds",
]
