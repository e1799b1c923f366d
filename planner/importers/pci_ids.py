"""Which card a PCI identity is: ``vendor:device`` to the catalogue's id.

From the PCI ID Repository (https://pci-ids.ucw.cz, version 2023.04.11; L40S and B200 from later
entries). Identities that stand for several memory sizes are left out: they would be a guess.
"""

from __future__ import annotations

CHIP_OF = {
    "10de:15f8": "nvidia-p100-pcie-16gb",
    "10de:15f9": "nvidia-p100-sxm2-16gb",
    "10de:1db1": "nvidia-v100-sxm2-16gb",
    "10de:1db4": "nvidia-v100-pcie-16gb",
    "10de:1db5": "nvidia-v100-sxm2-32gb",
    "10de:1db6": "nvidia-v100-pcie-32gb",
    "10de:1eb8": "nvidia-t4-16gb",
    "10de:20b0": "nvidia-a100-sxm-40gb",
    "10de:20b1": "nvidia-a100-pcie-40gb",
    "10de:20b2": "nvidia-a100-sxm-80gb",
    "10de:20b5": "nvidia-a100-pcie-80gb",
    "10de:20f1": "nvidia-a100-pcie-40gb",
    "10de:20f3": "nvidia-a800-sxm-80gb",
    "10de:20f5": "nvidia-a800-pcie-80gb",
    "10de:2204": "nvidia-rtx3090-24gb",
    "10de:2230": "nvidia-rtx-a6000-48gb",
    "10de:2235": "nvidia-a40-48gb",
    "10de:2236": "nvidia-a10-24gb",
    "10de:2322": "nvidia-h800-pcie-80gb",
    "10de:2330": "nvidia-h100-sxm-80gb",
    "10de:2331": "nvidia-h100-pcie-80gb",
    "10de:2684": "nvidia-rtx4090-24gb",
    "10de:26b9": "nvidia-l40s-48gb",
    "10de:27b8": "nvidia-l4-24gb",
    "10de:2901": "nvidia-b200-sxm-180gb",
}
