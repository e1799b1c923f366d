"""What is to be measured and what was found, as values that go through files. No PyTorch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Precision = Literal["bf16", "fp16", "fp32"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ProcessSpec(_Frozen):
    """One measuring process: the chip that it stands for, doing all work ``repeat`` times."""

    chip: str
    repeat: Positive = 1


class ProfileRequest(_Frozen):
    """What to measure: every (degree, rows) on every chip, all processes at the same time.

    ``processes`` by rank. ``apart`` takes processes of one machine for nodes of their own.
    ``seconds`` is how long each way is measured.
    """

    config: dict[str, Any] | None = None
    function: str | None = None
    model: str = ""
    processes: tuple[ProcessSpec, ...]
    degrees: tuple[Positive, ...] = (1,)
    rows: tuple[Positive, ...] = (1,)
    seq_len: Positive
    precision: Precision = "fp32"
    sequence_parallel: bool = True
    device: str | None = None
    apart: bool = False
    seconds: float = 1.0
    timeout_s: float = 600.0
    quiet: bool = False


class LayerRow(_Frozen):
    """Layers ``[first, end)`` that took the same, on one device of the group, per micro-batch."""

    layers: tuple[int, int]
    tensor_parallel: int
    micro_batch_rows: int
    forward_s: float
    backward_s: float
    update_s: float
    activation_bytes: int
    parameter_bytes: int


class RatePoint(_Frozen):
    """A square matrix product of this size in one precision: FLOP/s."""

    precision: str
    size: int
    flops: float


class ChipFound(_Frozen):
    """What one process measured of its chip."""

    rank: int
    host: str
    chip: str
    repeat: int
    name: str
    vendor: str
    torch_device: str
    dist_backend: str
    memory_bytes: int
    memory_bandwidth: float
    products: tuple[RatePoint, ...]
    host_bandwidth: float
    layers: tuple[LayerRow, ...]


class LinkFound(_Frozen):
    """Messages from one chip to another: ``(bytes, seconds)``, ``chips`` senders together."""

    source: str
    target: str
    where: Literal["in_node", "between_nodes"]
    chips: int
    points: tuple[tuple[int, float], ...]


class ReductionFound(_Frozen):
    """All-reduce over all processes: ``(bytes, seconds)``."""

    processes: int
    points: tuple[tuple[int, float], ...]


class ProfileFound(_Frozen):
    """Everything that a session measured."""

    chips: tuple[ChipFound, ...]
    links: tuple[LinkFound, ...]
    reductions: tuple[ReductionFound, ...]
    versions: dict[str, str]
