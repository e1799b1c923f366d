"""Searches whose solutions are placed on named devices: of the whole fleet, and of parts of it.

``rectangular``, ``alone``, ``first_plan`` and ``first_narrow`` depend on nothing but the prepared
inputs: a second process may do them meanwhile (``aside``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from costmodels.price import hosted
from planner import assemble, beside
from planner.layout import LayoutPricer
from planner.mesh import StageMesh
from planner.place import Load, Placement, place
from planner.search.engine import Engine, Progress, Realised, SearchLimits
from planner.search.loads import assign_micro_batches
from planner.search.planning import Solution
from planner.search.regions import mixes_chunks

if TYPE_CHECKING:
    from planner.solve import Context


def rectangular(context: Context, interrupted: Callable[[], bool]) -> beside.Rectangular:
    """The rectangular layouts."""
    del interrupted  # they take seconds at most
    return beside.rectangular(context)


def alone(
    context: Context,
    interrupted: Callable[[], bool],
    part: tuple[tuple[int, ...], tuple[int, ...] | None],
    limits: SearchLimits,
    limit_ps: int | None = None,
) -> beside.Alone:
    """The best plans of a part of the fleet; with a limit, only what is faster."""
    classes, islands = part
    only = replace(limits, only_classes=classes, follow=False)
    engine = engine_for(context, only, lambda _: None, interrupted, islands)
    if limit_ps is not None:
        engine.know(limit_ps)
    wanted = islands is None and limit_ps is None
    found = engine.find()
    on_host: Narrow = "all state on the host"
    if found is None and limit_ps is None and on_host in narrow_kinds(context):
        narrow = narrowed(context, on_host)
        found = engine_for(narrow, only, lambda _: None, interrupted, islands).find()
    return beside.Alone(found, beside.shaped(context, classes) if wanted else None)


def first_plan(
    context: Context, interrupted: Callable[[], bool], limits: SearchLimits
) -> Solution | None:
    """The best solution of a first look under other limits."""
    return engine_for(context, limits, lambda _: None, interrupted).find()


Narrow = Literal[
    "tensor parallelism alone",
    "whole islands",
    "stages over hosts",
    "all state on the host",
    "activations on devices",
    "gradients unpacked",
    "one chunk per stage",
]


def narrow_kinds(context: Context) -> tuple[Narrow, ...]:
    """The narrower spaces that are searched as well, if stages may be more than tensor parallel."""
    meshes = [o.mesh for o in context.options.options]
    wider: dict[Narrow, bool] = {
        "tensor parallelism alone": any(not m.plain for m in meshes),
        "whole islands": any(not m.tensor_alone for m in meshes),
        "stages over hosts": any(
            o.chips > _size(context, o.class_index) for o in context.options.options
        ),
        "all state on the host": any(m.offload for m in meshes),
        "activations on devices": any(map(hosted, context.problem.policies)),
        "gradients unpacked": context.problem.tables.packed is not None,
        "one chunk per stage": mixes_chunks(context.problem),
    }
    return tuple(kind for kind, yes in wider.items() if yes)


def first_narrow(
    context: Context, interrupted: Callable[[], bool], limits: SearchLimits, kind: Narrow
) -> Solution | None:
    """A first look at some of the meshes: tensor-parallel groups alone, or stages of an island.

    A wider space is harder to round in: a technique that is allowed must not cost a plan that
    would have been found without it. Experts and long sequences often want all of an island. Where
    every stage offloads, the first one, whose update is all that pricing sees, speaks for all.
    """
    return engine_for(narrowed(context, kind), limits, lambda _: None, interrupted).find()


def narrowed(context: Context, kind: Narrow) -> Context:
    """The problem with some of its meshes, or without a technique that is not one of a mesh."""
    problem, tables = context.problem, context.problem.tables
    if kind == "activations on devices":
        kept_here = tuple(way for way in problem.policies if not hosted(way))
        return replace(context, problem=replace(problem, policies=kept_here))
    if kind == "one chunk per stage":
        return replace(context, problem=replace(problem, chunks=()))
    if kind == "gradients unpacked":
        plain = replace(problem, tables=replace(tables, compression="none"))
        job = replace(context.job, gradient_compression="none")
        pricer = LayoutPricer(context.model.graph, context.topology, job)
        return replace(context, problem=plain, job=job, pricer=pricer)

    def wanted(mesh: StageMesh, class_index: int) -> bool:
        if kind == "tensor parallelism alone":
            return mesh.plain
        if kind == "all state on the host":
            return mesh.offload
        if kind == "stages over hosts":
            return mesh.chips > _size(context, class_index)
        return mesh.chips in (1, largest[class_index])

    largest = dict[int, int]()
    for table in tables.tables:
        own = table.option
        if own.chips <= _size(context, own.class_index):
            largest[own.class_index] = max(largest.get(own.class_index, 1), own.chips)
    kept = tuple(t for t in tables.tables if wanted(t.option.mesh, t.option.class_index))
    return replace(context, problem=replace(context.problem, tables=replace(tables, tables=kept)))


def _size(context: Context, class_index: int) -> int:
    """Chips of an island of the class."""
    return context.topology.classes[class_index].size


def engine_for(
    context: Context,
    limits: SearchLimits,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
    islands: tuple[int, ...] | None = None,
) -> Engine:
    """A search engine whose solutions are priced on named devices."""
    return Engine(
        replace(context.problem, islands=islands),
        limits,
        realise=lambda solution: realised(context, solution),
        progress=progress,
        interrupted=interrupted,
    )


def fleet_parts(context: Context) -> list[tuple[tuple[int, ...], tuple[int, ...] | None]]:
    """Parts of the fleet that may beat the whole where synchronisation is slow.

    Every kind of chip alone, and one island of every class alone: the columns cannot see how
    far apart the replicas of a layer will lie, so these are searched for themselves.
    """
    classes = context.topology.classes
    kinds = sorted({c.chip.id for c in classes})
    parts: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = []
    if len(kinds) > 1:
        parts += [(tuple(c.index for c in classes if c.chip.id == k), None) for k in kinds]
    if sum(c.count for c in classes) > 1 and context.topology.chips <= beside.SMALL_FLEET:
        for c in classes:
            parts.append(((c.index,), tuple(int(d.index == c.index) for d in classes)))
    return parts


def realised(context: Context, solution: Solution) -> Realised | None:
    """A solution on named devices; None where its placement does not fit."""
    priced = place_solution(context, solution).priced
    if not (priced.fits and assemble.allowed(priced, context.job, context.topology)):
        return None
    if solution.keep_all and sum(s.stage.chips for p in priced.pipelines for s in p.stages) < sum(
        c.chips for c in context.topology.classes
    ):
        return None
    sync = [priced.update_ps] * len(context.model.graph.layers)
    for group in priced.syncs:
        for layer in range(group.first, group.end):
            sync[layer] = max(sync[layer], group.time_ps + priced.update_ps)
    return Realised(priced.formula_ps, tuple(sync))


def place_solution(context: Context, solution: Solution) -> Placement:
    """Split the batch over the pipelines and place them."""
    loads = [
        Load(k, m, last) for k, m, last in assign_micro_batches(solution, context.job.global_batch)
    ]
    return place(solution.columns, loads, context.pricer, context.options.zero_level)


def leaves_idle(context: Context, solution: Solution | None) -> bool:
    """Whether a solution, once placed, leaves chips without work."""
    if solution is None:
        return False
    return beside.chips_used(place_solution(context, solution)) < context.topology.chips
