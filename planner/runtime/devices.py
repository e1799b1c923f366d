"""Which torch device and backend each chip of a plan uses, by the plan's catalogue excerpt."""

from __future__ import annotations

from typing import Any

import torch

from planner.errors import InputError, Problem
from planner.plan import Plan
from planner.runtime.comm import GLOO
from planner.runtime.seats import Seat, local_index


def chip_traits(chip: str, plan: Plan) -> tuple[str, str]:
    """torch device type and distributed backend of a chip: ("cuda", "nccl").

    Raises InputError for a plan whose catalogue does not know its own chip.
    """
    from costmodels.catalog import CatalogError, load_catalog

    excerpt: dict[str, Any] = plan.inputs.catalogue.resolved
    try:
        catalog = load_catalog(excerpt) if "chips" in excerpt else load_catalog()
        found = catalog.get(chip)
    except (CatalogError, LookupError, ValueError) as error:
        message = f"{chip} is not in the plan's catalogue: {error}"
        raise InputError([Problem("inputs.catalogue", message, "make the plan again")]) from None
    return found.torch_device, found.dist_backend


def device_of(seat: Seat, plan: Plan, override: str | None) -> torch.device:
    """The device of this process. Raises InputError where the machine does not have it."""
    kind = override or chip_traits(seat.chip, plan)[0]
    if kind == "cpu":
        return torch.device("cpu")
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        message = f"{seat} needs a {kind} device, which PyTorch does not find here"
        raise InputError([Problem("device", message, "--device cpu runs the plan on processors")])
    count = int(module.device_count())
    index = local_index(seat.device) if count > 1 else 0
    if index >= count:
        message = f"{seat} needs {kind}:{index}, this machine has {count}"
        raise InputError([Problem("device", message, "start each node's ranks on that node")])
    device = torch.device(kind, index)
    module.set_device(device)
    return device


def backend_of(chip: str, plan: Plan, override: str | None) -> str:
    """The backend that chips of this kind talk over among themselves."""
    if override is not None:
        kinds = {"cpu": GLOO, "cuda": "nccl", "npu": "hccl", "xpu": "xccl"}
        return kinds.get(override, GLOO)
    kind, backend = chip_traits(chip, plan)
    return GLOO if kind == "cpu" else backend
