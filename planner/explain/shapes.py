"""Rectangular plans that somebody would write by hand, priced: the usual suspects of a wish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from costmodels.catalog import Catalog
from costmodels.price import WAYS
from planner.errors import InputError
from planner.estimate import Estimated, sketch_of
from planner.explain.adjacent import off_its_pins, price
from planner.explain.wish import Degrees
from planner.inputs.document import Document, JsonValue
from planner.inputs.layout_spec import parse_layout
from planner.options import tensor_parallel_degrees, tensor_parallel_problem
from planner.solve import Context

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of stages that are tried where the wish leaves them open."""

MOST_PRICED = 240


@dataclass(frozen=True)
class Shaped:
    """A priced rectangular layout, or the reason why it is impossible."""

    layout: Mapping[str, JsonValue]
    estimated: Estimated | None
    reason: str = ""


def shapes(context: Context, degrees: Degrees) -> Iterator[Shaped]:
    """Rectangular layouts that grant the wish, over all chips and over each kind alone.

    Recomputation that is left open is the first that fits.
    """
    priced = 0
    for layout in _layouts(context, degrees):
        policies = (degrees.recompute,) if degrees.recompute else _allowed_policies(context)
        for policy in policies:
            if priced >= MOST_PRICED:
                return
            priced += 1
            shaped = _shaped(context, {**layout, "recompute": policy})
            yield shaped
            if shaped.estimated is None or shaped.estimated.fits:
                break  # slower policies are no better, and no more possible


def _layouts(context: Context, degrees: Degrees) -> Iterator[dict[str, JsonValue]]:
    job = context.job
    rows = (degrees.rows,) if degrees.rows else job.micro_batch_rows
    for chips in _fleets(context):
        for tp in (degrees.tp,) if degrees.tp else _degrees(context):
            for pp in (degrees.pp,) if degrees.pp else _depths(context, tp):
                for row in rows:
                    layout: dict[str, JsonValue] = {
                        "tp": tp,
                        "pp": pp,
                        "micro_batch_rows": row,
                        "zero": int(job.zero1) if degrees.zero is None else degrees.zero,
                        "schedule": degrees.schedule or "1f1b",
                        **({"dp": degrees.dp} if degrees.dp else {}),
                        **({"chips": list(chips)} if chips else {}),
                    }
                    yield layout


def _fleets(context: Context) -> list[tuple[str, ...]]:
    """All chips, then every kind alone."""
    kinds = list(dict.fromkeys(c.chip.id for c in context.topology.classes))
    alone = [(Catalog.alias(kind),) for kind in kinds] if len(kinds) > 1 else []
    return [(), *alone]


def _degrees(context: Context) -> list[int]:
    model, job = context.model.graph, context.job
    size = max(c.size for c in context.topology.classes)
    return [
        tp
        for tp in (tensor_parallel_degrees(size) if job.tensor_parallel else (1,))
        if tensor_parallel_problem(model, tp, job.seq_len, job.sequence_parallel) is None
        and tp <= (job.max_tensor_parallel or tp)
    ]


def _depths(context: Context, tp: int) -> list[int]:
    most = min(
        len(context.model.graph.layers),
        context.topology.chips // tp,
        context.job.max_pipeline_stages or len(context.model.graph.layers),
    )
    return [pp for pp in DEPTHS if pp <= most]


def _allowed_policies(context: Context) -> tuple[str, ...]:
    return tuple(WAYS[p] for p in context.options.policies)


def _shaped(context: Context, layout: dict[str, JsonValue]) -> Shaped:
    try:
        given = parse_layout(Document("layout", layout))
        found = price(context, sketch_of(context, given))
    except InputError as error:
        return Shaped(layout, None, "; ".join(dict.fromkeys(p.message for p in error.problems)))
    if isinstance(found, str):
        return Shaped(layout, None, found)
    unpinned = off_its_pins(context, found.plan)
    return Shaped(layout, None, unpinned) if unpinned is not None else Shaped(layout, found)
