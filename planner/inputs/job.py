"""Loads a job and makes every value of it concrete for one model and one cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from costmodels.catalog import Catalog, Chip
from costmodels.compression import CompressionName
from costmodels.memory import StateBytes
from costmodels.units import bytes_of
from planner.errors import InputError, Problem
from planner.graphs.across import numbers_of_islands
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import Topology
from planner.inputs.constraints import Constraints
from planner.inputs.document import Document
from planner.inputs.goal import Goal
from planner.inputs.job_spec import TECHNIQUES, JobSpec, Precision, Techniques
from planner.inputs.overrides import Override, apply_overrides
from planner.inputs.reading import nearest, problems_from_validation, read_document
from planner.inputs.resources import fixture, fixture_names

__all__ = [
    "TECHNIQUES",
    "JobInput",
    "JobSpec",
    "ResolvedJob",
    "Techniques",
    "load_job",
    "resolve_job",
    "state_bytes",
]

DEFAULT_SEQ_LEN = 4096
"""Longest sequence taken without being asked for."""

LONG_SEQ_LEN = 32_768
"""Tokens per row from which context parallelism is tried without being asked for."""

SEVERAL_CHIPS = 16
"""Chips from which interleaved pipelines are tried without being asked for, with fewer rows."""

YOUNGER = (
    "context_parallel",
    "expert_parallel",
    "cross_node_context_parallel",
    "cross_node_expert_parallel",
    "cross_node_rows",
    "zero3",
    "optimizer_offload",
    "activation_offload",
    "interleaved",
    "grouped_experts",
    "max_tensor_parallel",
    "constraints",
    "goal",
)
"""Fields that a resolved job names only where they are used."""

FIGURES_OF = {"prices_usd_per_hour": "cost", "power_watt": "energy"}
"""Figures that a user may give, by field, and the objective that they are for."""

MAX_TOKENS = 32_768
"""Tokens of the largest micro-batch that is tried by default; larger ones only add memory."""


@dataclass(frozen=True, slots=True)
class JobInput:
    """A checked job. ``source`` is the file, or "" where all values are defaults or overrides."""

    name: str
    source: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job with every value concrete; ``notes`` say which of them nobody gave.

    ``global_batch`` and ``micro_batch_rows`` are in rows (sequences), ``seq_len`` in tokens.
    ``cross_node_rows`` are further sizes of micro-batches, of which stages over several hosts give
    each device one that is allowed. ``plan_class`` is the most general class of plan allowed.
    ``lora_rank`` 0 trains the weights themselves; ``frozen_layers`` are intervals ``[first, end)``.
    """

    global_batch: int
    seq_len: int
    precision: Precision
    optimizer: str
    state_bytes: StateBytes
    plan_class: str
    global_batch_tolerance: float
    micro_batch_rows: tuple[int, ...]
    max_pipeline_stages: int | None
    tensor_parallel: bool
    sequence_parallel: bool
    recompute_selective: bool
    recompute_full: bool
    zero1: bool
    idle_chips: bool
    unequal_pipelines: bool
    objective: str = "step_time"
    lora_rank: int = 0
    lora_targets: Literal["attention", "mlp", "all"] = "all"
    frozen_layers: tuple[tuple[int, int], ...] = ()
    context_parallel: bool = False
    expert_parallel: bool = False
    cross_node_context_parallel: bool = False
    cross_node_expert_parallel: bool = False
    cross_node_rows: tuple[int, ...] = ()
    zero3: bool = False
    optimizer_offload: bool = False
    activation_offload: bool = False
    interleaved: bool = False
    grouped_experts: bool = False
    gradient_compression: CompressionName = "none"
    max_tensor_parallel: int | None = None
    constraints: Constraints = field(default_factory=Constraints)
    goal: Goal | None = None
    notes: tuple[str, ...] = ()

    @property
    def element_bytes(self) -> int:
        """Bytes of one activation or weight element."""
        return bytes_of(self.precision)

    def groups_experts(self, chip: Chip) -> bool:
        """Whether a chip multiplies all its experts by one call."""
        return self.grouped_experts and chip.grouped_gemm

    def as_json(self) -> dict[str, Any]:
        """Plain JSON without the notes; :meth:`from_json` restores it."""
        value = asdict(self)
        del value["notes"]
        # younger fields are named where they are used: jobs without them keep their digest
        for name in YOUNGER:
            if not getattr(self, name):
                del value[name]
        if self.gradient_compression == "none":
            del value["gradient_compression"]
        if self.constraints:
            value["constraints"] = self.constraints.as_json()
        if self.goal is not None:
            value["goal"] = self.goal.as_json()
        value["micro_batch_rows"] = list(self.micro_batch_rows)
        if self.cross_node_rows:
            value["cross_node_rows"] = list(self.cross_node_rows)
        value["frozen_layers"] = [list(interval) for interval in self.frozen_layers]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ResolvedJob:
        """The job of :meth:`as_json`. TypeError or ValueError if it is not one."""
        known = {f.name for f in fields(cls)} - {"notes"}
        needed = {
            f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING
        }
        if not needed <= set(value) <= known:
            wrong = ", ".join(sorted((set(value) - known) | (needed - set(value))))
            raise ValueError(f"not a resolved job: {wrong}")
        changed = {
            "state_bytes": StateBytes(**value["state_bytes"]),
            "micro_batch_rows": tuple(int(r) for r in value["micro_batch_rows"]),
            "cross_node_rows": tuple(int(r) for r in value.get("cross_node_rows", ())),
            "frozen_layers": tuple((int(a), int(b)) for a, b in value.get("frozen_layers", ())),
        }
        if "constraints" in value:
            changed["constraints"] = Constraints.from_json(value["constraints"])
        if "goal" in value:
            changed["goal"] = Goal.from_json(value["goal"])
        return cls(**{**value, **changed})


def load_job(spec: str | Path | None = None, overrides: Sequence[Override] = ()) -> JobInput:
    """Reads a job file or a shipped job, or starts from the defaults; then applies ``--set``.

    Raises InputError with every problem found.
    """
    document = apply_overrides(_find(spec), overrides, "job", JobSpec)
    try:
        parsed = JobSpec.model_validate(document.data)
    except ValidationError as error:
        raise InputError(problems_from_validation(error, document, JobSpec)) from None
    name = "job" if spec is None else Path(str(spec)).stem
    return JobInput(name, "" if spec is None else document.source, parsed)


def _find(spec: str | Path | None) -> Document:
    if spec is None:
        return Document("job", {})
    path = Path(spec)
    if path.suffix in (".json", ".yaml", ".yml") or path.is_file():
        return read_document(path)
    shipped = fixture("jobs", str(spec))
    if shipped is not None:
        return read_document(shipped)
    close = nearest(str(spec), fixture_names("jobs"))
    remedy = f"did you mean {close[0]}?" if close else "give a file; planner jobs list shows names"
    raise InputError([Problem("job", f"{str(spec)!r} is no file and no shipped job", remedy)])


def resolve_job(job: JobInput, model: ModelGraph, topology: Topology) -> ResolvedJob:
    """Fills in whatever the job leaves open; :mod:`planner.checks` judges the result.

    Precision: bf16 if every chip has it, else fp16, else fp32. Sequence length: the model's
    longest, at most 4096. Rows per micro-batch: powers of two up to 8, fewer for long sequences.
    """
    spec = job.spec
    notes: list[str] = []
    precision = spec.precision or _common_precision(topology, notes)
    seq_len = spec.seq_len or _seq_len(model, notes)
    rows = spec.micro_batch_rows or _rows(spec.global_batch, seq_len, notes)
    techniques = _techniques(spec, model, topology, seq_len, notes)
    techniques["grouped_experts"] = _grouped_experts(spec, model, topology, precision, notes)
    wide: tuple[int, ...] = ()
    if techniques["cross_node_expert_parallel"] and spec.micro_batch_rows is None:
        wide = _cross_node_rows(rows, topology, spec.global_batch, notes)
    plan_class = "asymmetric" if spec.plan_class == "any" else spec.plan_class
    if plan_class != "asymmetric":
        techniques["unequal_pipelines"] = False
    state = state_bytes(spec, precision)
    notes += _defaults(spec, state)
    return ResolvedJob(
        global_batch=spec.global_batch,
        seq_len=seq_len,
        precision=precision,
        optimizer=spec.optimizer,
        state_bytes=state,
        plan_class=plan_class,
        global_batch_tolerance=spec.global_batch_tolerance,
        micro_batch_rows=rows,
        cross_node_rows=wide,
        max_pipeline_stages=spec.max_pipeline_stages,
        max_tensor_parallel=spec.max_tensor_parallel,
        objective=spec.objective,
        lora_rank=0 if spec.lora is None else spec.lora.rank,
        lora_targets="all" if spec.lora is None else spec.lora.targets,
        frozen_layers=spec.frozen_layers,
        constraints=Constraints(),
        goal=None,
        notes=tuple(notes),
        **techniques,
    )


def _interleaved(spec: JobSpec, model: ModelGraph, topology: Topology, notes: list[str]) -> bool:
    """Whether interleaved pipelines are tried: where rows are few, filling takes much of a step.

    Unless asked for, only of layers that are alike: others have none.
    """
    asked, chips = spec.techniques.interleaved, topology.chips
    if asked is not None and (not asked or spec.objective == "step_time"):
        return asked
    if asked:
        notes.append(f"interleaved pipelines not tried: the objective is {spec.objective}")
        return False
    inner = [layer.shape for layer in model.layers[1:-1]]
    alike = all(shape == inner[0] for shape in inner)
    few = chips >= SEVERAL_CHIPS and spec.global_batch < chips
    if few and alike and spec.objective == "step_time":
        rows = spec.global_batch
        notes.append(f"interleaved pipelines tried: {rows} rows for {chips} chips (default)")
        return True
    return False


def _grouped_experts(
    spec: JobSpec, model: ModelGraph, topology: Topology, precision: Precision, notes: list[str]
) -> bool:
    """Whether experts are multiplied by one call: in bf16, on chips that have such a kernel."""
    asked = spec.techniques.grouped_experts
    if asked is False or not model.has_experts:
        return False
    chips = {c.chip.id: c.chip.grouped_gemm for c in topology.classes}
    lacking = [Catalog.alias(chip) for chip in sorted(chips) if not chips[chip]]
    if precision != "bf16":
        notes.append(f"experts one by one: grouped products are for bf16, not {precision}")
        return False
    if len(lacking) == len(chips):
        notes.append(f"experts one by one: no grouped products on {', '.join(lacking)}")
        return False
    rest = f", one by one on {', '.join(lacking)}" if lacking else ""
    how = "" if asked else " (default)"
    notes.append(f"experts of a chip as one grouped product{rest}{how}")
    return True


def _techniques(
    spec: JobSpec, model: ModelGraph, topology: Topology, seq_len: int, notes: list[str]
) -> dict[str, Any]:
    """Every technique as a yes or no; those that pay at times only are tried where they can."""
    asked = spec.techniques.model_dump()
    numbers = {m.experts for layer in model.layers for m in layer.shape.matmuls} - {1}
    experts = model.has_experts
    if asked["context_parallel"] is None:
        asked["context_parallel"] = seq_len >= LONG_SEQ_LEN
        if asked["context_parallel"]:
            notes.append(f"context parallelism tried: {seq_len} tokens per row (default)")
    if asked["expert_parallel"] is None:
        asked["expert_parallel"] = experts
        if experts:
            notes.append("expert parallelism tried: the model has experts (default)")
    if asked["cross_node_expert_parallel"] is None:
        # where a host has a chip for every expert, experts over hosts have little to win
        wide = [c for c in topology.classes if numbers_of_islands(topology, c)]
        more = [c for c in wide if max(numbers, default=1) > c.size]
        asked["cross_node_expert_parallel"] = bool(more) and asked["expert_parallel"]
        if asked["cross_node_expert_parallel"]:
            notes.append(
                f"experts over hosts tried: {max(numbers)} experts, hosts of {more[0].size} chips "
                "(default)"
            )
    asked["cross_node_context_parallel"] = bool(asked["cross_node_context_parallel"])
    asked["zero3"] = bool(asked["zero3"])
    asked["optimizer_offload"] = bool(asked["optimizer_offload"])
    asked["activation_offload"] = bool(asked["activation_offload"])
    asked["interleaved"] = _interleaved(spec, model, topology, notes)
    return asked


def _cross_node_rows(
    rows: tuple[int, ...], topology: Topology, batch: int, notes: list[str]
) -> tuple[int, ...]:
    """Rows that stages over hosts divide among their devices, beyond those of one device."""
    most = max(
        c.size * n for c in topology.classes for n in numbers_of_islands(topology, c) or (0,)
    )
    found = []
    size = 2 * max(rows)
    while size <= min(most, batch):
        found.append(size)
        size *= 2
    if found:
        named = ", ".join(map(str, found))
        notes.append(f"rows per micro-batch tried over hosts: {named} (default)")
    return tuple(found)


def state_bytes(spec: JobSpec, precision: str) -> StateBytes:
    """Bytes per parameter of weight, gradient and optimizer.

    In 16 bits (and fp8, whose weights are stored in 16): Adam 2 + 2 + 12 (fp32 master weight and
    two moments), SGD with momentum 2 + 2 + 8, 8-bit Adam 2 + 2 + 2 (two moments of one byte, no
    master weight). In fp32 there is no master weight: 4 + 4 + 8, 4 + 4 + 4, 4 + 4 + 2.
    """
    size = bytes_of(precision)
    master = 4 if size == 2 else 0
    optimizer = {"adam": master + 8, "adamw": master + 8, "sgd": master + 4, "adam8bit": 2}
    own = spec.optimizer_state_bytes_per_parameter
    gradient = 4 if spec.gradient_dtype == "fp32" else size
    return StateBytes(size, gradient, optimizer[spec.optimizer] if own is None else own)


def _common_precision(topology: Topology, notes: list[str]) -> Precision:
    chips = {c.chip.id: c.chip for c in topology.classes}
    lacking: list[str] = []
    order: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
    for precision in order:
        without = [i for i in sorted(chips) if not chips[i].supports(precision)]
        if not without:
            why = f" ({'; '.join(lacking)})" if lacking else ""
            notes.append(f"precision {precision}: the best that every chip has{why}")
            return precision
        lacking.append(f"no {precision} on {', '.join(Catalog.alias(i) for i in without)}")
    return "fp16"


def _seq_len(model: ModelGraph, notes: list[str]) -> int:
    per_token = any(e.elements_per_token for e in model.edges) or any(
        layer.shape.generic is None for layer in model.layers
    )
    if not per_token:
        notes.append("sequence length 1: the model's layers count per row")
        return 1
    length = min(model.max_seq_len or DEFAULT_SEQ_LEN, DEFAULT_SEQ_LEN)
    longest = f", the model allows {model.max_seq_len}" if model.max_seq_len > length else ""
    notes.append(f"sequence length {length} (default{longest})")
    return length


def _rows(global_batch: int, seq_len: int, notes: list[str]) -> tuple[int, ...]:
    candidates = (1, 2, 4, 8) if seq_len > 512 else (1, 4, 16, 64)
    rows = tuple(r for r in candidates if r <= global_batch and r * seq_len <= MAX_TOKENS) or (1,)
    notes.append(f"rows per micro-batch tried: {', '.join(map(str, rows))} (default)")
    return rows


def _defaults(spec: JobSpec, state: StateBytes) -> Iterator[str]:
    """What was left open, and what was given for nothing."""
    given = spec.model_fields_set
    if "global_batch" not in given:
        yield f"global batch {spec.global_batch} rows (default)"
    if "optimizer" not in given:
        yield (
            f"optimizer {spec.optimizer} (default), {state.total} bytes of state per parameter: "
            f"{state.parameter} weight, {state.gradient} gradient, {state.optimizer} optimizer"
        )
    if "gradient_dtype" not in given:
        yield f"gradients in {state.gradient} bytes, as the weights (default)"
    for name, objective in FIGURES_OF.items():
        if getattr(spec, name) and spec.objective != objective:
            yield f"{name}: not used, the objective is {spec.objective}"
