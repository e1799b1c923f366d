"""The plan: the artefact that people review, diff, export and run. Versioned and hashed.

Times are in seconds and were rounded to whole picoseconds, so ``round(x * 1e12)`` recovers the
integers that the search worked with. Memory is in bytes. Nothing here was read from a clock.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from costmodels.compression import CompressionName

SCHEMA_VERSION = 1

PlanClass = Literal["rectangular", "staged", "asymmetric"]
Recompute = Literal["none", "selective", "full", "offload", "full_offload"]
"""What a layer does with what it keeps: ``offload`` recomputes selectively and leaves the rest in
the host's memory, ``full_offload`` recomputes everything and leaves the checkpoint there."""
Schedule = Literal["1f1b", "gpipe", "interleaved"]
Offload = Literal["none", "optimizer"]
Interval = tuple[int, int]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRecord(_Frozen):
    """One input as it was used: enough to verify or simulate the plan without the file."""

    name: str
    digest: str
    resolved: dict[str, Any]


class Inputs(_Frozen):
    """The inputs of the plan."""

    model: InputRecord
    cluster: InputRecord
    job: InputRecord
    profile: InputRecord | None = None
    catalogue: InputRecord


class RecomputeRange(_Frozen):
    """Layers ``[first, end)`` run under one recomputation policy; see :data:`Recompute`."""

    layers: Interval
    policy: Recompute


class Zero(_Frozen):
    """ZeRO level and over which replicas the state is sharded."""

    level: int
    scope: Literal["none", "all-replicas"]


class Mesh(_Frozen):
    """Degrees inside one replica of one stage, in C order with tensor parallel fastest.

    Data before context before tensor parallel; a micro-batch's rows are divided among the
    ``data_parallel`` devices. Experts lie across the same devices. ``zero3``: the context- and
    data-parallel ones divide weights and gradients among themselves. Fields that only a mesh of
    more than tensor parallelism needs are left out of the file elsewhere, so that plans of older
    versions keep their hash.
    """

    context_parallel: int = 1
    expert_parallel: int = 1
    tensor_parallel: int = 1
    data_parallel: int = 1
    zero3: bool = False

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if self.data_parallel == 1:
            del value["data_parallel"]
        if not self.zero3:
            del value["zero3"]
        return value


class StageTime(_Frozen):
    """Seconds per micro-batch, by cause; ``forward_total`` is the sum of the forward ones.

    ``tp_comm_*`` is exposed communication inside the stage: tensor, context and expert parallel,
    and the gathers and scatters of ZeRO-3.
    ``transfer_*`` are exchanges with the stage before that keep this one waiting; they are 0 where
    transfers overlap computation and only delay (``hop_to_next_s``). ``copy_*`` is what copies of
    kept activations to the host and back add; left out of the file where nothing leaves.
    """

    forward: float
    backward_input: float
    backward_weight: float
    recompute: float
    tp_comm_forward: float
    tp_comm_backward: float
    transfer_forward: float = 0.0
    transfer_backward: float = 0.0
    copy_forward: float = 0.0
    copy_backward: float = 0.0
    forward_total: float
    backward_total: float

    @model_serializer(mode="wrap")
    def _without_copies(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        for name in ("copy_forward", "copy_backward"):
            if not value[name]:
                del value[name]
        return value


class StageMemory(_Frozen):
    """Bytes on the stage's worst device, by cause.

    ``host`` bytes of its offloaded state and activations lie in its host's memory, of
    ``host_usable``; both are left out of the file where nothing is offloaded.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    context: int
    fragmentation: int
    peak: int
    usable: int
    host: int = 0
    host_usable: int = 0

    @model_serializer(mode="wrap")
    def _without_host(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if not self.host:
            del value["host"], value["host_usable"]
        return value


class Replica(_Frozen):
    """A group of devices that holds one copy of the stage.

    ``chunk_time_s``: forward and backward seconds of each chunk of an interleaved stage, which
    ``time_s`` adds up; left out of the file elsewhere.
    """

    rows: int
    chip: str
    mesh: Mesh
    devices: tuple[str, ...]
    time_s: StageTime
    chunk_time_s: tuple[tuple[float, float], ...] = ()
    memory_bytes: StageMemory

    @model_serializer(mode="wrap")
    def _without_empty_chunks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if not self.chunk_time_s:
            del value["chunk_time_s"]
        return value


class Stage(_Frozen):
    """Consecutive layers on the same devices.

    Under the interleaved schedule a stage holds several ``chunks`` in order of execution;
    ``layers`` then reaches from the first chunk's begin to the last one's end. Without chunks the
    field is left out of the file, so that plans of older versions keep their hash. ``offload``
    "optimizer": the optimizer's state lies in the host's memory and is updated there.
    """

    layers: Interval
    chunks: tuple[Interval, ...] = ()
    in_flight: int
    recompute: tuple[RecomputeRange, ...]
    zero: Zero
    offload: Offload = "none"
    replicas: tuple[Replica, ...]
    hop_to_next_s: float | None
    """Seconds for one micro-batch of activations to the next stage (from the last one of an
    interleaved pipeline back to the first); else null for the last, and 0 where the next stage
    counts it as its own time."""

    @property
    def parts(self) -> tuple[Interval, ...]:
        """The stage's intervals of layers in order of execution: its chunks, or all its layers."""
        return self.chunks or (self.layers,)

    @property
    def layer_count(self) -> int:
        """How many layers the stage holds."""
        return sum(end - first for first, end in self.parts)

    @property
    def held_layers(self) -> tuple[int, ...]:
        """The layers that the stage holds, by their index in ``Plan.layer_order``."""
        return tuple(layer for first, end in self.parts for layer in range(first, end))

    @model_serializer(mode="wrap")
    def _without_empty_chunks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if not self.chunks:
            del value["chunks"]
        return value


class Pipeline(_Frozen):
    """One stream of micro-batches through its stages."""

    micro_batches: int
    micro_batch_rows: int
    last_micro_batch_rows: int
    schedule: Schedule
    stages: tuple[Stage, ...]
    formula_time_s: float
    exact_time_s: float


class SyncMember(_Frozen):
    """How one replica holds its shard of the synchronised layers."""

    pipeline: int
    stage: int
    tensor_parallel: int


class SyncGroup(_Frozen):
    """Replicas that reduce the gradients of the same layers; "tied": the two stages of one pipeline
    that hold a shared weight, which sum its gradients before their replicas reduce them.
    ``compression``: how gradients are packed between hosts."""

    layers: Interval
    kind: Literal["gradients", "tied"]
    level: int
    members: tuple[SyncMember, ...]
    time_s: float
    compression: CompressionName = "none"


class UnusedDevices(_Frozen):
    """Devices that the plan leaves idle, and why."""

    devices: tuple[str, ...]
    reason: str


class Alternative(_Frozen):
    """A near plan that needs the user's consent, such as another global batch."""

    change: str
    global_batch: int
    step_time_s: float
    tokens_per_s: float
    description: str


class Breakdown(_Frozen):
    """Where the step goes, in seconds; sums to ``step_time_s``."""

    fill: float
    steady: float
    sync: float
    update: float


class Estimate(_Frozen):
    """The plan's figures for the whole job."""

    step_time_s: float
    tokens_per_s: float
    mfu: float
    mfu_6n: float
    breakdown_s: Breakdown
    step_time_range_s: tuple[float, float] | None
    simulated_step_time_s: float | None


class SolverInfo(_Frozen):
    """What solved the problem and under which limits."""

    name: str
    versions: dict[str, str]
    seed: int
    limits: dict[str, float | int | str | None]


class SearchSpace(_Frozen):
    """What the certificate speaks about."""

    allowed: tuple[str, ...]
    dropped: tuple[str, ...]


class ObjectiveProof(_Frozen):
    """What was proved where the objective is not the step time: its value, and how low it can be.

    Both grow with a rate of the chips in use: ``rate`` in ``rate_unit``. ``value`` is by the step
    time, ``formula_value`` by the formula time, which is what the bound speaks about. Plans whose
    formula time is above ``max_step_time_s``, the floor, do not count.
    """

    name: Literal["cost", "energy"]
    unit: Literal["usd_per_million_tokens", "joules_per_token"]
    value: float
    formula_value: float
    lower_bound: float
    gap: float
    rate: float
    rate_unit: Literal["usd_per_hour", "watt"]
    max_step_time_s: float


class Certificate(_Frozen):
    """What was proved about the plan's formula time over the declared space.

    With an ``objective`` of its own (left out of the file where it is the step time), ``gap`` and
    ``status`` speak about that one; ``lower_bound_s`` is still a bound on the formula time of any
    plan.
    """

    model: Literal["formula"] = "formula"
    status: Literal["optimal", "within_tolerance", "feasible"]
    objective_s: float
    lower_bound_s: float
    gap: float
    exact_lower_bound_s: float | None
    search_space: SearchSpace
    solver: SolverInfo
    deterministic: bool
    objective: ObjectiveProof | None = None

    @model_serializer(mode="wrap")
    def _without_objective(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if self.objective is None:
            del value["objective"]
        return value


class Baseline(_Frozen):
    """A plan that people would have made by hand, priced by the same model."""

    name: str
    step_time_s: float | None
    description: str


class Plan(_Frozen):
    """A complete answer. Build it with :func:`seal`, which fills ``plan_id``."""

    schema_version: Literal[1] = 1
    plan_id: str = ""
    planner_version: str
    inputs: Inputs
    plan_class: PlanClass
    layer_order: tuple[str, ...]
    pipelines: Annotated[tuple[Pipeline, ...], Field(min_length=1)]
    sync_groups: tuple[SyncGroup, ...]
    unused_devices: tuple[UnusedDevices, ...]
    alternatives: tuple[Alternative, ...]
    estimate: Estimate
    certificate: Certificate | None
    baselines: tuple[Baseline, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def content_hash(self) -> str:
        """SHA-256 of everything but ``plan_id``."""
        body = self.model_dump(mode="json", exclude={"plan_id"})
        return hashlib.sha256(canonical_json(body)).hexdigest()

    def to_json(self) -> str:
        """The file's text: sorted where order has no meaning, one trailing newline."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    def to_pandas(self, table: str = "stages") -> Any:  # noqa: ANN401 - pandas ships no types
        """A table (stages, devices, beside) as a data frame; units are in the columns' names.

        Raises InputError for another table, and where pandas is not installed.
        """
        # Shown by modules that build on plans, so they are named and not imported.
        tables = import_module("planner.report.tables")
        return tables.to_pandas(tables.plan_table(self, table))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        shown: str = import_module("planner.report.notebook").plan_html(self)
        return shown


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Bytes that depend on the value alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Short content hash of a JSON value, used for inputs."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(plan: Plan) -> Plan:
    """The same plan with its ``plan_id`` filled in."""
    body = plan.model_dump()
    body["plan_id"] = plan.content_hash()
    return Plan.model_validate(body)
