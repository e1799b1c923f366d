"""Which chip of the catalogue the short name of a table means, and how many a node has."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.catalog import Catalog, Chip
from planner.validate.fields import Unstated, count
from planner.validate.table import Row

SHORT = {
    "a100-80": "nvidia-a100-sxm-80gb",
    "a100-40": "nvidia-a100-sxm-40gb",
    "a100": "nvidia-a100-sxm-80gb",
    "a800": "nvidia-a800-sxm-80gb",
    "h100": "nvidia-h100-sxm-80gb",
    "h100-sxm-80": "nvidia-h100-sxm-80gb",
    "h100-96gb-hbm2e (500w)": "nvidia-h100-sxm-96gb-hbm2e-500w",
    "h800": "nvidia-h800-sxm-80gb",
    "h200": "nvidia-h200-sxm-141gb",
    "h20": "nvidia-h20-96gb",
    "b200": "nvidia-b200-sxm-180gb",
    "b300": "nvidia-b300-sxm-288gb",
    "gb200": "nvidia-gb200-nvl72",
    "gb300": "nvidia-gb300-nvl72",
    "gh200-96": "nvidia-gh200-96gb",
    "v100": "nvidia-v100-sxm2-32gb",
    "v100-32": "nvidia-v100-sxm2-32gb",
    "v100-16": "nvidia-v100-sxm2-16gb",
    "mi250x": "amd-mi250x-128gb",
    "mi300x": "amd-mi300x-192gb",
    "mi325x": "amd-mi325x-256gb",
    "mi355x": "amd-mi355x-288gb",
    "910b": "huawei-ascend-910b2-64gb",
    "ascend 910b": "huawei-ascend-910b2-64gb",
    "ascend 910b (atlas 900 a2)": "huawei-ascend-910b2-64gb",
    "ascend 910b (atlas 900 a2 podc)": "huawei-ascend-910b2-64gb",
    "ascend 910c": "huawei-ascend-910c-die-64gb",
    "tpu v3": "google-tpu-v3",
    "tpu v4": "google-tpu-v4",
    "tpu v5e": "google-tpu-v5e",
    "tpu v5p": "google-tpu-v5p",
    "tpu v6e (trillium)": "google-tpu-v6e",
    "tpu v7x (ironwood)": "google-tpu-v7",
    "trainium1 (trn1.32xlarge)": "aws-trainium1-32gb",
    "trainium2": "aws-trainium2-96gb",
}
"""Short names of published tables; a bin that they do not give is the commonest one."""

_PCIE = {
    "nvidia-a100-sxm-80gb": "nvidia-a100-pcie-80gb",
    "nvidia-a100-sxm-40gb": "nvidia-a100-pcie-40gb",
    "nvidia-h100-sxm-80gb": "nvidia-h100-pcie-80gb",
    "nvidia-a800-sxm-80gb": "nvidia-a800-pcie-80gb",
}

CORES_PER_CHIP = {"aws-trainium1-32gb": 2, "aws-trainium2-96gb": 8}
"""Where tables count cores in their degrees."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The chips of a run: ``chips`` of them, ``per_fabric`` joined by one fast fabric."""

    chip: Chip
    chips: int
    per_node: int
    per_fabric: int
    notes: tuple[str, ...]


def find_fleet(row: Row, catalog: Catalog) -> Fleet:
    """The fleet of a row. Raises Unstated where the chip is not known or there are several."""
    if row["mixed_chips"] not in ("", "0") or row["chip"].lower() == "mixed":
        raise Unstated(f"mixed chips ({row['chip_mix'] or 'not named'}): one kind is predicted")
    chips = count(row, "chip_count")
    if chips is None:
        raise Unstated("chip_count is not stated")
    notes: list[str] = []
    chip = catalog.chips[_chip_id(row, catalog, notes)]
    per_node = count(row, "chips_per_node")
    if per_node is None:
        per_node = min(chips, 8)
        notes.append(f"{per_node} chips per node")
    per_node = min(per_node, chips)
    domain = max(chip.fabric_domain, 1) if chip.fabric is not None else per_node
    # A fabric may join many nodes (NVL72, a pod); equal parts of the run lie in each.
    reach = max(domain, per_node) if domain > 8 else per_node
    per_fabric = next(n for n in range(min(reach, chips), 0, -1) if chips % n == 0)
    if per_fabric < per_node and chips % per_node:
        per_fabric = per_node
    return Fleet(chip, chips, per_node, per_fabric, tuple(notes))


def _chip_id(row: Row, catalog: Catalog, notes: list[str]) -> str:
    name = row["chip"]
    found = SHORT.get(name.lower())
    if found is None:
        matches = catalog.find(name)
        if not matches:
            raise Unstated(f"chip {name!r} is not in the catalogue")
        found = matches[0].id
        if len(matches) > 1:
            notes.append(f"{name} taken as {found}")
    elif catalog.alias(found).lower() != name.lower():
        notes.append(f"{name} taken as {found}")
    link = row["intra_node_link"].lower()
    if found in _PCIE and "pcie" in link and "nvlink" not in link and "nvswitch" not in link:
        found = _PCIE[found]
        notes.append("PCIe cards: as the link among them")
    return found
