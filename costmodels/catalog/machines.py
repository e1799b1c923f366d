"""Typical machines, from clusters.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from costmodels.units import GB


@dataclass(frozen=True, slots=True)
class Machine:
    """One host (or rack) as sold: its chips and its network, nominal bytes/s one way."""

    id: str
    name: str
    chip: str
    chips: int
    network_ports: int | None
    network_bandwidth: float | None
    fabric: str
    typical_max_nodes: int | None
    notes: str
    sources: tuple[tuple[str, str], ...]


@lru_cache(maxsize=1)
def load_machines() -> dict[str, Machine]:
    """All machines by id."""
    text = (files("costmodels.catalog") / "data" / "clusters.json").read_text(encoding="utf-8")
    return {
        row["id"]: Machine(
            id=row["id"],
            name=row["name"],
            chip=row["chip"],
            chips=row["chips_per_node"],
            network_ports=row["nics_per_node"],
            network_bandwidth=None
            if row["node_per_dir_gbs"] is None
            else row["node_per_dir_gbs"] * GB,
            fabric=row["scaleup"],
            typical_max_nodes=row["typical_max_nodes"],
            notes=row["notes"],
            sources=tuple(sorted(row["sources"].items())),
        )
        for row in json.loads(text)
    }
