"""FSDP2 under PyTorch's own zero-bubble schedule: what :func:`prepare_fsdp` is for."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import ScheduleZBVZeroBubble
from torch.distributed.tensor import DTensor

from planner.errors import ExportError
from planner.runtime.fsdp import prepare_fsdp
from planner.runtime.trainer import as_layers

WIDTH, ROWS, MICRO_BATCHES = 8, 8, 4
STAGES = 4


class Layer(nn.Module):
    """A residual MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).tanh())


def zero_bubble_error(prepared: bool) -> float:
    """The worst relative difference of a gradient on this rank; infinite where one is missing.

    Four ranks: two pipeline ranks with stages (0, 3) and (1, 2), each sharded over two replicas.
    """
    rank = dist.get_rank()
    place, replica = divmod(rank, 2)
    shards = [DeviceMesh("cpu", [2 * p, 2 * p + 1]) for p in range(2)][place]
    columns = [dist.new_group([r, 2 + r]) for r in range(2)]
    torch.manual_seed(3)
    model = [nn.Sequential(Layer(), Layer()).double() for _ in range(STAGES)]
    inputs = torch.randn(2, ROWS, WIDTH, dtype=torch.float64)
    targets = torch.randn(2, ROWS, WIDTH, dtype=torch.float64)
    wanted = _reference(model, inputs.flatten(0, 1), targets.flatten(0, 1))
    numbers = (place, STAGES - 1 - place)
    stages = []
    for number in numbers:
        for layer in model[number]:
            fully_shard(layer, mesh=shards)
        fully_shard(model[number], mesh=shards)
        if prepared:
            prepare_fsdp(model[number])
        else:  # only what has nothing to do with the schedule
            for part in model[number].modules():
                if isinstance(part, FSDPModule):
                    part.set_gradient_divide_factor(1.0)
        device = torch.device("cpu")
        stage = PipelineStage(model[number], number, STAGES, device, group=columns[replica])
        stages.append(stage)
    schedule = ScheduleZBVZeroBubble(stages, MICRO_BATCHES, loss_fn=_loss, scale_grads=False)
    arguments = (inputs[replica],) if place == 0 else ()
    schedule.step(*arguments, target=targets[replica] if place == 0 else None)
    return max(_error(model[number], wanted[number]) for number in numbers)


def refusals() -> str:
    """What is said of a stage that nobody sharded, and of a sharded layer in the runtime."""
    said = []
    plain = Layer()
    wrapped = fully_shard(Layer(), mesh=DeviceMesh("cpu", list(range(dist.get_world_size()))))
    for attempt in (lambda: prepare_fsdp(plain), lambda: as_layers([plain, wrapped], _sum)):
        try:
            attempt()
        except ExportError as error:
            said.append(str(error))
    return "\n".join(said)


def _sum(output: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return output.sum(), targets.numel()


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def _reference(model: list[nn.Sequential], inputs: Tensor, targets: Tensor) -> list[list[Tensor]]:
    own = copy.deepcopy(model)
    _loss(nn.Sequential(*own)(inputs), targets).backward()
    return [[p.grad for p in stage.parameters() if p.grad is not None] for stage in own]


def _error(stage: nn.Module, wanted: list[Tensor]) -> float:
    worst = 0.0
    for parameter, target in zip(stage.parameters(), wanted, strict=True):
        found = parameter.grad
        if not isinstance(found, DTensor):
            return 1e9
        worst = max(worst, float((found.full_tensor() - target).abs().max() / target.abs().max()))
    return worst
