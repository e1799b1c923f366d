"""What a profile may say: measured layer times and memory of one model, and measured links.

{"seq_len": 2048, "precision": "fp16", "chips": [{"chip": "V100-SXM2-16GB", "rows": [
    {"layer": [1, 25], "tensor_parallel": 2, "micro_batch_rows": 4, "forward_s": 0.0160,
     "backward_s": 0.0358, "update_s": 1e-4, "activation_bytes": 771817472,
     "parameter_bytes": 25204736}]}],
 "links": [{"source": "V100-SXM2-16GB", "target": "V100-SXM2-16GB", "where": "between_nodes",
            "chips": 4, "points": [[1048576, 0.00025], [1073741824, 0.19]]}]}
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from planner.inputs.job_spec import MAX_SEQ_LEN, Precision
from planner.inputs.reading import field_error

MAX_LAYERS = 10_000

Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(strict=True, ge=0, le=2**50)]
Count = Annotated[int, Field(strict=True, ge=1, le=65_536)]
LayerIndex = Annotated[int, Field(strict=True, ge=0, lt=MAX_LAYERS)]
LayerEnd = Annotated[int, Field(strict=True, ge=1, le=MAX_LAYERS)]
LayerRange = tuple[LayerIndex, LayerEnd]
LayerName = Annotated[str, Field(strict=True, min_length=1)]


T = TypeVar("T")


def _some(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise field_error("the list is empty", "give at least one measurement")
    return values


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RowSpec(_Strict):
    """One layer, or equal ones, at one tensor-parallel degree and micro-batch.

    ``layer`` is an index in the model's order, its name, or an interval ``[first, end)`` of layers
    that took the same. ``forward_s`` and ``backward_s`` are seconds of one micro-batch with
    everything that the runtime did meanwhile, tensor-parallel communication included;
    ``backward_s`` without recomputation. ``update_s`` is this layer's part of the optimizer step
    with nothing sharded. ``activation_bytes`` are one device's, kept from forward to backward for
    this micro-batch; ``parameter_bytes`` one device's weights.
    """

    layer: LayerIndex | LayerRange | LayerName
    tensor_parallel: Count
    micro_batch_rows: Count
    forward_s: Seconds
    backward_s: Seconds
    update_s: Seconds = 0.0
    activation_bytes: Bytes
    parameter_bytes: Bytes

    @model_validator(mode="after")
    def _interval(self) -> RowSpec:
        if isinstance(self.layer, tuple) and self.layer[0] >= self.layer[1]:
            first, end = self.layer
            raise field_error(
                f"the interval [{first}, {end}) holds no layer",
                "write [first, end) with first below end",
                at=("layer",),
            )
        return self


class ChipProfileSpec(_Strict):
    """All rows of one chip: its catalogue name, or the id that the cluster file gives it."""

    chip: Annotated[str, Field(strict=True, min_length=1)]
    rows: Annotated[tuple[RowSpec, ...], AfterValidator(_some)]


Point = tuple[
    Annotated[int, Field(strict=True, ge=1)],
    Annotated[float, Field(gt=0.0, allow_inf_nan=False)],
]


class LinkProfileSpec(_Strict):
    """Measured messages from chips of one kind to chips of another, one way.

    ``where`` is "in_node" (the fabric or host links) or "between_nodes" (the network).
    ``chips`` send on each side at the same time; a point is ``[bytes, seconds]``, the bytes those
    of all of them together.
    """

    source: Annotated[str, Field(strict=True, min_length=1)]
    target: Annotated[str, Field(strict=True, min_length=1)]
    where: Literal["in_node", "between_nodes"] = "between_nodes"
    chips: Count = 1
    points: Annotated[tuple[Point, ...], AfterValidator(_some)]

    @model_validator(mode="after")
    def _increasing(self) -> LinkProfileSpec:
        for n, (a, b) in enumerate(zip(self.points, self.points[1:]), start=1):
            if a[0] >= b[0] or a[1] >= b[1]:
                raise field_error(
                    f"{b[0]} bytes in {b[1]:g} s after {a[0]} bytes in {a[1]:g} s",
                    "sort the points by bytes; a longer message takes longer",
                    at=("points", n),
                )
        return self


class ProfileSpec(_Strict):
    """Measurements of one model at one sequence length and precision.

    ``sequence_parallel`` says how tensor-parallel degrees above 1 were measured. ``transfers`` is
    what the runtime does between pipeline stages: "overlapped" computes meanwhile; "blocking" keeps
    the later stage waiting both ways, as engines do that send an activation only after they have
    the gradient for their next backward. ``model`` and ``source`` (where the figures come from,
    their licence) are for people.
    """

    profile_version: Literal[1] = 1
    model: str = ""
    source: str = ""
    seq_len: Annotated[int, Field(strict=True, ge=1, le=MAX_SEQ_LEN)]
    precision: Precision
    sequence_parallel: Annotated[bool, Field(strict=True)] = False
    transfers: Literal["overlapped", "blocking"] = "overlapped"
    chips: Annotated[tuple[ChipProfileSpec, ...], AfterValidator(_some)]
    links: tuple[LinkProfileSpec, ...] = ()
