"""What a job file may say: batch, sequence length, precision, optimizer, allowed techniques."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from costmodels.compression import CompressionName
from planner.inputs.reading import field_error

Precision = Literal["bf16", "fp16", "fp32", "fp8"]
PlanClassName = Literal["rectangular", "staged", "asymmetric"]
OptimizerName = Literal["adam", "adamw", "adam8bit", "sgd"]

MAX_BATCH = 10_000_000
MAX_SEQ_LEN = 16_777_216

PositiveInt = Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)]


def _sorted_rows(rows: tuple[int, ...]) -> tuple[int, ...]:
    if not rows:
        raise field_error("the list is empty", "leave it out, or give rows such as [1, 2, 4]")
    return tuple(sorted(set(rows)))


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _named(value: object) -> object:
    """False and null switch off what has a name when it is on."""
    return "none" if value is None or value is False else value


class Techniques(_Strict):
    """What the planner may use; each false one leaves the search space and is named there.

    ``idle_chips``: leave chips out where they would slow the step down. ``unequal_pipelines``:
    pipelines may differ in chips, depth, layer split, tensor parallelism or micro-batches.
    Inside a stage: ``context_parallel`` devices share every sequence (null: from 32,768 tokens per
    row on), ``expert_parallel`` ones hold different experts (null: where the model has any),
    ``zero3`` divides weights and gradients among the copies (null: not).
    With ``cross_node_expert_parallel`` experts of a stage may lie on up to 8 whole hosts (null:
    where the model has more experts than a host has chips), with ``cross_node_context_parallel``
    so may its sequences (null: not). ``optimizer_offload``: a
    stage may keep its optimizer's state in the host's memory and update it there (null: not).
    ``activation_offload``: a stage may leave in the host's memory, between the two passes, what
    recomputation keeps, all of it (with recompute_selective) or checkpoints (with recompute_full;
    null: not). ``interleaved``: stages may hold several chunks of layers and run them in turn,
    which shortens the fill (null: where a step has fewer rows than the fleet has chips, from 16
    chips on).
    ``grouped_experts``: all experts of a chip are multiplied by one call, where the chip has such a
    kernel, not one after the other (null: where the model has experts and trains in bf16).
    ``gradient_compression``: a plan may reduce gradients in this form between hosts (fp8 and int4
    with a scale per 256 values); it changes the numbers that are trained.
    """

    tensor_parallel: bool = True
    sequence_parallel: bool = True
    recompute_selective: bool = True
    recompute_full: bool = True
    zero1: bool = True
    idle_chips: bool = True
    unequal_pipelines: bool = True
    context_parallel: bool | None = None
    expert_parallel: bool | None = None
    cross_node_context_parallel: bool | None = None
    cross_node_expert_parallel: bool | None = None
    zero3: bool | None = None
    optimizer_offload: bool | None = None
    activation_offload: bool | None = None
    interleaved: bool | None = None
    grouped_experts: bool | None = None
    gradient_compression: Annotated[CompressionName, BeforeValidator(_named)] = "none"


TECHNIQUES = tuple(Techniques.model_fields)
"""Names that ``--forbid`` accepts."""


class LoraSpec(_Strict):
    """Low-rank adapters on the matrices of every block; all other weights are frozen.

    ``targets`` are the attention's matrices, the MLP's (experts included), or all of them.
    """

    rank: int = Field(strict=True, ge=1, le=65_536)
    targets: Literal["attention", "mlp", "all"] = "all"


PositiveFloat = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
LayerIndex = Annotated[int, Field(strict=True, ge=0, le=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class PinSpec(_Strict):
    """Layers ``[first, end)`` that lie only on some kinds of chip, or never on some.

    A kind is named by its catalogue id or an alias, such as A100-SXM-80GB.
    """

    layers: tuple[LayerIndex, LayerIndex]
    only_on: tuple[Name, ...] = ()
    never_on: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _one_rule(self) -> PinSpec:
        first, end = self.layers
        if first >= end:
            raise field_error(
                f"the interval [{first}, {end}) holds no layer",
                "write [first, end) with first below end",
                at=("layers",),
            )
        if bool(self.only_on) == bool(self.never_on):
            raise field_error(
                "a pin has chips in either only_on or never_on",
                "write two pins where both are meant",
            )
        return self


class JobSpec(_Strict):
    """One training job as written; None means that the planner chooses and says so.

    ``global_batch`` is in rows (sequences) per step, ``seq_len`` in tokens per row.
    ``gradient_dtype`` "same" keeps gradients in the precision of the weights (16 bytes of state
    per parameter with Adam), "fp32" accumulates them in 4 bytes (18).
    ``optimizer_state_bytes_per_parameter`` replaces the optimizer's own figure, master copy of
    the weights included. ``plan_class`` is the most general class allowed; "any" is
    "asymmetric". ``global_batch_tolerance`` 0.02 allows plans to be offered at batches within
    2 %. ``micro_batch_rows`` lists the allowed rows per micro-batch.
    ``lora`` trains adapters alone; ``frozen_layers`` lists intervals ``[first, end)`` of layers
    whose weights (and adapters) are not trained. Gradients, optimizer state, their traffic and the
    work of weight gradients exist only for what is trained.
    ``forbidden_chips`` (kinds of chip) and ``forbidden_nodes`` (hosts) are not used by this job;
    ``pinned_layers`` keep layers on some kinds of chip, or off them. ``max_tensor_parallel`` and
    ``max_pipeline_stages`` bound the degrees of a stage and the depth of a pipeline.
    ``objective``: the least step time, or the least cost or energy per token of the chips in use,
    under ``min_tokens_per_s`` (whole job) or ``max_step_time_s``. Prices (per chip and hour) and
    powers (per chip) by kind of chip stand over the catalogue's.
    """

    global_batch: int = Field(default=512, strict=True, ge=1, le=MAX_BATCH)
    seq_len: int | None = Field(default=None, strict=True, ge=1, le=MAX_SEQ_LEN)
    precision: Precision | None = None
    optimizer: OptimizerName = "adam"
    optimizer_state_bytes_per_parameter: int | None = Field(default=None, strict=True, ge=0, le=64)
    gradient_dtype: Literal["same", "fp32"] = "same"
    plan_class: Literal["any", "rectangular", "staged", "asymmetric"] = "any"
    global_batch_tolerance: float = Field(
        default=0.0, strict=True, ge=0.0, le=0.5, allow_inf_nan=False
    )
    micro_batch_rows: Annotated[tuple[PositiveInt, ...], AfterValidator(_sorted_rows)] | None = None
    lora: LoraSpec | None = None
    frozen_layers: tuple[tuple[LayerIndex, LayerIndex], ...] = ()
    max_pipeline_stages: int | None = Field(default=64, strict=True, ge=1, le=1024)
    max_tensor_parallel: int | None = Field(default=None, strict=True, ge=1, le=1024)
    forbidden_chips: tuple[Name, ...] = ()
    forbidden_nodes: tuple[Name, ...] = ()
    pinned_layers: tuple[PinSpec, ...] = ()
    techniques: Techniques = Techniques()
    objective: Literal["step_time", "cost", "energy"] = "step_time"
    min_tokens_per_s: PositiveFloat | None = None
    max_step_time_s: PositiveFloat | None = None
    prices_usd_per_hour: dict[Name, PositiveFloat] = Field(default_factory=dict)
    power_watt: dict[Name, PositiveFloat] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _cross_checks(self) -> JobSpec:
        given = [n for n in ("min_tokens_per_s", "max_step_time_s") if getattr(self, n) is not None]
        if self.objective != "step_time" and not given:
            raise field_error(
                f"the least {self.objective} needs a throughput below which nothing counts: one "
                "chip that takes a year may be the cheapest",
                "give min_tokens_per_s or max_step_time_s",
                at=("objective",),
            )
        if self.objective == "step_time" and given:
            raise field_error(
                "is for the objectives cost and energy: the fastest plan has no floor",
                "leave it out, or ask for --max-step-time on the command line",
                at=(given[0],),
            )
        for n, (first, end) in enumerate(self.frozen_layers):
            if first >= end:
                raise field_error(
                    f"the interval [{first}, {end}) holds no layer",
                    "write [first, end) with first below end",
                    at=("frozen_layers", n),
                )
        rows = self.micro_batch_rows
        if rows is not None and min(rows) > self.global_batch:
            raise field_error(
                f"every allowed micro-batch is larger than the global batch {self.global_batch}",
                f"allow at most {self.global_batch} rows",
                at=("micro_batch_rows",),
            )
        return self
