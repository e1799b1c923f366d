"""The sample files, and what people do with the result: write it, check it, plan with it."""

from __future__ import annotations

from pathlib import Path

from costmodels.catalog import load_catalog
from planner.importers.imported import Imported
from planner.inputs.cluster import ClusterInput, load_cluster

SAMPLES = Path(__file__).parents[1] / "data" / "topologies"
CATALOG = load_catalog()


def sample(name: str) -> str:
    """The text of a sample."""
    return (SAMPLES / name).read_text(encoding="utf-8")


def loaded(imported: Imported, folder: Path) -> ClusterInput:
    """The cluster as it is read back from the file that was written."""
    file = folder / "imported.yaml"
    file.write_text(imported.to_yaml(), encoding="utf-8")
    return load_cluster(str(file))
