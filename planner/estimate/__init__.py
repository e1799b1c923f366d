"""What a layout that somebody wrote by hand would cost: priced as the search prices, not searched.

    planner estimate llama-2-70b dgx-a100-x16 layout.yaml

The layout goes through the same per-layer costs, memory rule and routes as a solution of the
search, so the same layout has the same price to the last bit. What the search would not do is
priced with a warning; what is impossible is an error that lists everything at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from planner import assemble, certify
from planner.errors import InputError, Problem
from planner.estimate.from_plan import PlanLayout, sketch_plan
from planner.estimate.from_spec import sketch_layout
from planner.estimate.remarks import (
    Shortfall,
    batch_alternatives,
    fitting_changes,
    remarks,
    shortfalls,
)
from planner.estimate.sketch import Sketch
from planner.estimate.spans import Ground, settle
from planner.inputs.cluster import ClusterInput
from planner.inputs.job import JobInput
from planner.inputs.layout_spec import LayoutInput, layout_document, parse_layout
from planner.inputs.model import ModelInput
from planner.inputs.profile import ProfileInput
from planner.layout import LayoutPricer, PricedLayout
from planner.plan import Alternative, Plan, seal
from planner.plan_file import looks_like_plan, parse_plan
from planner.solve import Context, input_records, prepare, with_simulation
from planner.version import VERSION

__all__ = [
    "Estimated",
    "LayoutInput",
    "PlanLayout",
    "Shortfall",
    "estimate",
    "estimate_sketch",
    "read_layout",
    "sketch_of",
]

IDLE = "the layout does not use them"


@dataclass(frozen=True, slots=True)
class Estimated:
    """A priced layout as a plan without a certificate, and the stages that do not fit."""

    plan: Plan
    shortfalls: tuple[Shortfall, ...]

    @property
    def fits(self) -> bool:
        """Whether every chip holds what the layout puts on it."""
        return not self.shortfalls


def read_layout(text: str) -> LayoutInput | PlanLayout:
    """A layout file, a shipped layout, its fields on one line, or a plan.

    Raises InputError with every problem.
    """
    path = Path(text)
    if path.suffix.lower() == ".json" and path.is_file():
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            value = None  # the reader that knows lines says what is wrong with it
        if looks_like_plan(value):
            return PlanLayout(path.stem, text, parse_plan(value, text))
    document = layout_document(text)
    if looks_like_plan(document.data):
        return PlanLayout(path.stem, text, parse_plan(document.data, text))
    return parse_layout(document)


def estimate(
    model: ModelInput,
    cluster: ClusterInput,
    job: JobInput,
    layout: LayoutInput | PlanLayout,
    *,
    profile: ProfileInput | None = None,
    replay: bool = True,
) -> Estimated:
    """Price a layout. ``replay`` adds the step time of its event-by-event replay.

    Raises InputError for inputs that contradict one another and layouts that are impossible. One
    that does not fit is priced all the same.
    """
    context = prepare(model, cluster, job, profile)
    return estimate_sketch(context, sketch_of(context, layout), name=layout.name, replay=replay)


def estimate_sketch(
    context: Context, sketch: Sketch, *, name: str = "layout", replay: bool = False
) -> Estimated:
    """Price a layout in the planner's own terms, on inputs that are prepared already.

    ``name`` is how problems cite it. Raises InputError as :func:`estimate` does.
    """
    ground = settle(sketch, context.topology)
    pricer = context.pricer
    if ground.spans:
        pricer = LayoutPricer(context.model.graph, ground.topology, context.job)
    priced = pricer.price(ground.layouts, sketch.zero_level)
    short = shortfalls(priced, ground.topology)
    _require_routes(priced, name)
    plan = _plan(context, sketch, ground, priced, pricer, short)
    if replay and not ground.spans:  # the replay knows no group that spans islands
        plan = with_simulation(plan)
    return Estimated(seal(plan), short)


def sketch_of(context: Context, layout: LayoutInput | PlanLayout) -> Sketch:
    """A layout in the planner's own terms. Raises InputError where it is impossible."""
    model, topology, job = context.model.graph, context.topology, context.job
    if isinstance(layout, PlanLayout):
        return sketch_plan(layout, model, topology, job)
    if layout.uniform:
        message = "its techniques are priced on equal chips alone, and no plan holds them"
        remedy = "planner.estimate.techniques.estimate_uniform, or planner estimate"
        raise InputError([Problem(layout.name, message, remedy)])
    return sketch_layout(layout, model, topology, job, context.cluster.catalog)


def _require_routes(priced: PricedLayout, name: str) -> None:
    """Raise InputError where stages or replicas must talk and no network joins them."""
    lost = [p for p in priced.problems if "no network joins" in p]
    if lost:
        remedy = "place these stages on islands that a network joins, or add the network"
        raise InputError([Problem(name, text, remedy) for text in dict.fromkeys(lost)])


def _plan(
    context: Context,
    sketch: Sketch,
    ground: Ground,
    priced: PricedLayout,
    pricer: LayoutPricer,
    short: tuple[Shortfall, ...],
) -> Plan:
    """The artefact, in the form of a solved plan; nothing was searched, so nothing is certified."""
    job, level = context.job, sketch.zero_level
    if short:
        alternatives = fitting_changes(ground, pricer, level, job.global_batch, job.seq_len)
    else:
        alternatives = tuple(batch_alternatives(ground, pricer, level, sketch.batches, job.seq_len))
    warnings = [
        *_too_small(short, alternatives),
        *sketch.warnings,
        *remarks(ground, priced, level, job, context.job_input.spec.micro_batch_rows),
    ]
    return Plan(
        planner_version=VERSION,
        inputs=input_records(context),
        plan_class=assemble.classify(priced),
        layer_order=tuple(layer.name for layer in context.model.graph.layers),
        pipelines=assemble.plan_pipelines(priced, ground.topology, level),
        sync_groups=assemble.sync_groups(priced, level),
        unused_devices=(
            *assemble.unused(
                priced, context.topology, {c.index: IDLE for c in context.topology.classes}
            ),
            *assemble.forbidden(context.forbidden),
        ),
        alternatives=alternatives,
        estimate=assemble.estimate(priced, context.model.graph, ground.topology, job, None),
        certificate=None,
        baselines=(),
        assumptions=(*(f"layout: {note}" for note in sketch.notes), *_assumptions(context, ground)),
        warnings=(*map(str, warnings), *context.warnings),
    )


def _too_small(short: tuple[Shortfall, ...], changes: tuple[Alternative, ...]) -> list[Problem]:
    if not short:
        return []
    remedy = "more stages or a larger tp: no recomputation, ZeRO or smaller micro-batch suffices"
    if changes:
        remedy = "; or ".join(change.change for change in changes)
    problems = [Problem("does not fit", str(s)) for s in short]
    return [*problems[:-1], Problem("does not fit", str(short[-1]), remedy)]


def _assumptions(context: Context, ground: Ground) -> tuple[str, ...]:
    """What was assumed beside the layout, less what its own words replace."""
    replaced = ["rows per micro-batch tried"]
    if ground.spans:
        replaced.append("tensor-parallel communication: ")
    lines = certify.assumptions(context)
    return tuple(line for line in lines if not line.startswith(tuple(replaced)))
