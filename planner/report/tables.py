"""A plan and a replay as plain tables: lists of rows with the unit in every column's name.

They need no library; :func:`to_pandas` turns one into a data frame where pandas is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from costmodels.units import PS_PER_S
from planner.errors import InputError, Problem
from planner.plan import Pipeline, Plan, Replica, Stage
from planner.timeline import PipelineRun, Timeline

Row = dict[str, object]


def stage_rows(plan: Plan) -> list[Row]:
    """One row per replica of every stage: where, layers, time per micro-batch, memory by item.

    Where stages hold several chunks, columns say how many layers and chunks each of them holds.
    """
    chunked = any(stage.chunks for pipeline in plan.pipelines for stage in pipeline.stages)
    return [
        _stage_row(p, pipeline, s, stage, replica, chunked=chunked)
        for p, pipeline in enumerate(plan.pipelines)
        for s, stage in enumerate(pipeline.stages)
        for replica in stage.replicas
    ]


def device_rows(plan: Plan) -> list[Row]:
    """One row per device, idle ones last with their reason."""
    used: list[Row] = [
        {
            "device": device,
            "chip": replica.chip,
            "pipeline": p,
            "stage": s,
            "peak_memory_bytes": replica.memory_bytes.peak,
            "usable_memory_bytes": replica.memory_bytes.usable,
            "idle_because": None,
        }
        for p, pipeline in enumerate(plan.pipelines)
        for s, stage in enumerate(pipeline.stages)
        for replica in stage.replicas
        for device in replica.devices
    ]
    idle = [(device, unused.reason) for unused in plan.unused_devices for device in unused.devices]
    blank = dict.fromkeys(used[0])
    return [*used, *({**blank, "device": d, "idle_because": reason} for d, reason in idle)]


def beside_rows(plan: Plan) -> list[Row]:
    """This plan, its baselines and its alternatives."""
    own = plan.estimate
    rows: list[Row] = [
        {"kind": "plan", "name": "this plan", "step_time_s": own.step_time_s, "description": ""}
    ]
    rows += [
        {
            "kind": "baseline",
            "name": b.name,
            "step_time_s": b.step_time_s,
            "description": b.description,
        }
        for b in plan.baselines
    ]
    rows += [
        {
            "kind": "alternative",
            "name": a.change,
            "step_time_s": a.step_time_s,
            "description": a.description,
        }
        for a in plan.alternatives
    ]
    return [{**row, "ratio": _ratio(row["step_time_s"], own.step_time_s)} for row in rows]


def operation_rows(timeline: Timeline) -> list[Row]:
    """One row per operation, transfer, synchronisation and update of the replay.

    Where stages hold several chunks, a column names the one that works or sends.
    """
    chunked = any(run.chunks for run in timeline.runs)
    rows: list[Row] = []
    for p, run in enumerate(timeline.runs):
        for s, (order, spans) in enumerate(zip(run.orders, run.operations)):
            for k, ((kind, i), span) in enumerate(zip(order, spans)):
                what = "forward" if kind == "F" else "backward"
                rows.append(_span(p, s, what, i, span, _chunk(run, s, k, chunked=chunked)))
        for what, hops in (("activations", run.activations), ("gradients", run.gradients)):
            for s in range(len(hops)):
                for sent in run.transfers(s, down=what == "activations"):
                    of = _chunk(run, sent.stages[0], sent.operations[0], chunked=chunked)
                    rows.append(_span(p, s, what, sent.micro_batch, sent.span, of))
    for piece in timeline.finish:
        span = (piece.start_ps, piece.end_ps)
        none: Row = {"chunk": None} if chunked else {}
        rows.append(_span(piece.pipeline, piece.stage, piece.category, None, span, none))
    return rows


def _chunk(run: PipelineRun, stage: int, operation: int, *, chunked: bool) -> Row:
    return {"chunk": run.chunk_of(stage, operation)} if chunked else {}


PLAN_TABLES: Mapping[str, Callable[[Plan], list[Row]]] = {
    "stages": stage_rows,
    "devices": device_rows,
    "beside": beside_rows,
}
"""What ``Plan.to_pandas`` can give."""


def plan_table(plan: Plan, table: str) -> list[Row]:
    """One table of a plan by name. Raises InputError naming the known ones."""
    if table not in PLAN_TABLES:
        message = f"a plan has no table {table!r}"
        raise InputError([Problem("to_pandas", message, f"one of {', '.join(PLAN_TABLES)}")])
    return PLAN_TABLES[table](plan)


def to_pandas(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - pandas ships no types
    """A data frame of the rows. Raises InputError where pandas is not installed."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        message = "data frames need pandas, which is not installed"
        remedy = "pip install pandas, or use planner.report.tables without it"
        raise InputError([Problem("to_pandas", message, remedy)]) from None
    return pandas.DataFrame(list(rows))


def _stage_row(
    p: int, pipeline: Pipeline, s: int, stage: Stage, replica: Replica, *, chunked: bool
) -> Row:
    return {
        "pipeline": p,
        "stage": s,
        "first_layer": stage.layers[0],
        "end_layer": stage.layers[1],
        **({"layers": stage.layer_count, "chunks": len(stage.parts)} if chunked else {}),
        "chip": replica.chip,
        "devices": " ".join(replica.devices),
        "tensor_parallel": replica.mesh.tensor_parallel,
        "context_parallel": replica.mesh.context_parallel,
        "expert_parallel": replica.mesh.expert_parallel,
        "data_parallel": replica.mesh.data_parallel,
        "zero3": replica.mesh.zero3,
        "micro_batches": pipeline.micro_batches,
        "rows": replica.rows,
        "in_flight": stage.in_flight,
        "offload": stage.offload,
        "recompute": "+".join(dict.fromkeys(r.policy for r in stage.recompute)),
        "hop_to_next_s": stage.hop_to_next_s,
        **{f"{key}_s": value for key, value in replica.time_s.model_dump().items()},
        **{f"{key}_bytes": value for key, value in replica.memory_bytes},
    }


def _span(
    p: int, s: int, what: str, micro_batch: int | None, span: tuple[int, int], chunk: Row
) -> Row:
    return {
        "pipeline": p,
        "stage": s,
        "what": what,
        "micro_batch": micro_batch,
        **chunk,
        "start_s": span[0] / PS_PER_S,
        "end_s": span[1] / PS_PER_S,
    }


def _ratio(time: object, own: float) -> float | None:
    return time / own if isinstance(time, float) else None
