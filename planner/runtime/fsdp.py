"""FSDP2 beside a plan: what must be set so that gradients are right, and what is refused.

FSDP2 frees a module's gathered weights after the forward by default. Under schedules that split
the backward (zero-bubble, ZBV, DualPipeV) PyTorch 2.13 then computes wrong gradients without an
error. It also divides gradients by the number of replicas, while plans with unequal rows need
their sum.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.fsdp import FSDPModule

from planner.errors import ExportError


def prepare_fsdp(module: nn.Module) -> int:
    """Keep weights gathered for the whole step and add up gradients, on every FSDP2 module.

    For stages that ``torch.distributed.pipelining`` runs. Divide the loss by the terms of the
    global batch yourself (and give the schedule ``scale_grads=False``). Returns how many modules
    were set; raises ExportError if there is none.
    """
    wrapped = [part for part in module.modules() if isinstance(part, FSDPModule)]
    if not wrapped:
        remedy = "call fully_shard on the stage before"
        raise ExportError("no module of the stage is wrapped by FSDP2", remedies=[remedy])
    for part in wrapped:
        part.set_reshard_after_forward(False, recurse=False)
        part.set_gradient_divide_factor(1.0)
    return len(wrapped)


def refuse_fsdp(modules: Iterable[nn.Module]) -> None:
    """Raise ExportError for modules that FSDP2 has wrapped: here the plan shards."""
    for number, module in enumerate(modules):
        if any(isinstance(part, FSDPModule) for part in module.modules()):
            raise ExportError(
                f"layer {number} was wrapped by FSDP2, but the plan says what is sharded",
                where=f"layer {number}",
                remedies=["give the plain module; plan with ZeRO level 1 to shard the optimizer"],
            )
