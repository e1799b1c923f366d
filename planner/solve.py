"""From inputs to a plan: the whole compiler, step by step.

``solve`` reads as a table of contents; every step is public in its own module, so that a notebook
can rebuild it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from costmodels.units import PS_PER_S
from planner import assemble, certify, remedies
from planner.baselines import equal_splits
from planner.checks import check_inputs
from planner.costing import build_tables
from planner.errors import InfeasibleError, InputError, NoPlanFound, PlannerError
from planner.graphs.build_topology import build_topology
from planner.graphs.topology import Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.job import JobInput, ResolvedJob, resolve_job
from planner.inputs.model import ModelInput
from planner.layout import LayoutPricer
from planner.options import OptionSet, legal_options
from planner.place import Load, Placement, place
from planner.plan import Alternative, Baseline, InputRecord, Inputs, Plan, digest, seal
from planner.reuse import layouts_of
from planner.search.engine import (
    Engine,
    Progress,
    SearchLimits,
    SearchOutcome,
    assign_micro_batches,
)
from planner.search.node import Solution
from planner.search.problem import Problem
from planner.simulate import simulate
from planner.verify import verify

DEFAULT_MAX_STAGES = 64
SMALL_FLEET = 64
"""Up to so many chips a single island is worth a search of its own."""
ALL_CHIPS = "best plan that uses every chip"


@dataclass(frozen=True, slots=True)
class SolveParams:
    """How hard to search. ``gap``: stop proving once the plan is within this of the bound.

    ``time_limit_s`` is wall time, gives up byte-identity, and the certificate says so.
    """

    gap: float = 0.01
    seed: int = 0
    time_limit_s: float | None = None
    baselines: bool = True
    simulate: bool = True


@dataclass(frozen=True)
class Context:
    """Everything that the steps share: inputs resolved into graphs, options and tables."""

    model: ModelInput
    cluster: ClusterInput
    job_input: JobInput
    topology: Topology
    job: ResolvedJob
    options: OptionSet
    problem: Problem
    pricer: LayoutPricer
    warnings: tuple[str, ...]


def prepare(
    model: ModelInput, cluster: ClusterInput, job: JobInput
) -> Context:
    """Check the inputs and tabulate the problem. Raises ``InputError`` with all problems."""
    topology = build_topology(cluster.spec, cluster.catalog)
    resolved = resolve_job(job, model.graph, topology)
    problems, warnings = check_inputs(model, cluster, resolved, topology)
    if problems:
        raise InputError(problems)
    options = legal_options(model.graph, topology, resolved)
    tables = build_tables(model.graph, topology, resolved, options)
    problem = Problem(
        tables=tables,
        topology=topology,
        policies=options.policies,
        global_batch=resolved.global_batch,
        max_stages=resolved.max_pipeline_stages or DEFAULT_MAX_STAGES,
    )
    return Context(
        model, cluster, job, topology, resolved, options, problem,
        LayoutPricer(model.graph, topology, resolved), tuple(warnings),
    )


def solve(
    model: ModelInput,
    cluster: ClusterInput,
    job: JobInput,
    *,
    params: SolveParams | None = None,
    hint: Plan | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Plan:
    """The best plan that the declared space holds, with its certificate.

    Raises ``InputError`` (exit 2), ``InfeasibleError`` (3, proven) or ``NoPlanFound`` (4).
    """
    params = params or SolveParams()
    context = prepare(model, cluster, job)
    stop = certify.stopwatch(params.time_limit_s, interrupted)
    found = search(context, params, progress, stop)
    placement = realise(context, found.outcome, hint)
    return finish(context, found, placement, params, progress, stop)


@dataclass(frozen=True)
class Found:
    """What the search found: the outcome over the whole fleet, and solutions of its parts."""

    outcome: SearchOutcome
    parts: dict[tuple[int, ...], Solution | None]


def search(
    context: Context,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> Found:
    """Find the best plan over the whole fleet and over its natural parts, then prove a bound."""
    limits = SearchLimits(gap=params.gap, seed=params.seed, use_all=not context.job.idle_chips)
    engine = engine_for(context, limits, progress, interrupted)
    engine.find()
    parts: dict[tuple[int, ...], Solution | None] = {}
    for part, islands in fleet_parts(context):
        if limits.use_all or interrupted():
            break
        only = replace(limits, only_classes=part)
        found = engine_for(context, only, lambda _: None, interrupted, islands).find()
        if islands is None:
            parts[part] = found
        if found is not None:
            engine.offer(found)
    return Found(engine.prove(), parts)


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
        realise=lambda solution: real_time_ps(context, solution),
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
    if sum(c.count for c in classes) > 1 and context.topology.chips <= SMALL_FLEET:
        for c in classes:
            parts.append(((c.index,), tuple(int(d.index == c.index) for d in classes)))
    return parts


def real_time_ps(context: Context, solution: Solution) -> int | None:
    """Formula time of a solution on named devices; None where the placement does not fit."""
    priced = place_solution(context, solution).priced
    return priced.formula_ps if priced.fits else None


def realise(context: Context, outcome: SearchOutcome, hint: Plan | None) -> Placement:
    """Name devices for the best solution, or keep the hint where it is faster."""
    candidates: list[Placement] = []
    if outcome.solution is not None:
        candidates.append(place_solution(context, outcome.solution))
    if hint is not None:
        layouts = layouts_of(hint, context.model.graph, context.topology, context.job)
        if layouts is not None:
            priced = context.pricer.price(layouts, context.options.zero_level)
            candidates.append(Placement(layouts, priced, "replicas-together"))
    feasible = [c for c in candidates if c.priced.fits]
    if feasible:
        return min(feasible, key=lambda c: (c.priced.exact_ps, c.priced.formula_ps))
    if candidates:
        raise PlannerError(
            "the placed plan does not fit although the search said so: "
            + candidates[0].priced.problems[0]
        )
    if outcome.proven_infeasible:
        raise remedies.infeasible(context)
    raise NoPlanFound(
        "the limit was reached before a first plan was found",
        remedies=["raise --time-limit or leave it out"],
    )


def place_solution(context: Context, solution: Solution) -> Placement:
    """Split the batch over the pipelines and place them."""
    loads = [Load(k, m, last) for k, m, last in assign_micro_batches(
        solution, context.job.global_batch)]
    return place(solution.columns, loads, context.pricer, context.options.zero_level)


def finish(
    context: Context,
    found: Found,
    placement: Placement,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> Plan:
    """Certificate, baselines, replay and independent verification."""
    priced = placement.priced
    certificate = certify.certificate(context, found.outcome, priced, params, interrupted)
    baselines: tuple[Baseline, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    if params.baselines:
        progress(Progress("baselines", certificate.objective_s, certificate.lower_bound_s))
        baselines = standard_baselines(context, found, placement, params, interrupted)
        alternatives = near_plans(context, placement)
    every = next((b.step_time_s for b in baselines if b.name == ALL_CHIPS), None)
    plan = Plan(
        planner_version=own_version(),
        inputs=input_records(context),
        plan_class=assemble.classify(priced),
        layer_order=tuple(layer.name for layer in context.model.graph.layers),
        pipelines=assemble.plan_pipelines(
            priced, context.topology, context.options.zero_level
        ),
        sync_groups=assemble.sync_groups(priced, context.options.zero_level),
        unused_devices=assemble.unused(
            priced, context.topology, certify.idle_reasons(context, priced, every)
        ),
        alternatives=alternatives,
        estimate=assemble.estimate(
            priced, context.model.graph, context.topology, context.job, None
        ),
        certificate=certificate,
        baselines=baselines,
        assumptions=certify.assumptions(context),
        warnings=context.warnings,
    )
    if params.simulate:
        plan = with_simulation(plan)
    plan = seal(plan)
    problems = verify(plan)
    if problems:
        raise PlannerError("the finished plan fails its own verification: " + str(problems[0]))
    return plan


def with_simulation(plan: Plan) -> Plan:
    """The plan with the step time of its event-by-event replay."""
    timeline = simulate(plan)
    body = plan.model_dump()
    body["estimate"]["simulated_step_time_s"] = timeline.step_time_s
    return Plan.model_validate(body)


def standard_baselines(
    context: Context,
    found: Found,
    chosen: Placement,
    params: SolveParams,
    interrupted: Callable[[], bool],
) -> tuple[Baseline, ...]:
    """Best plan per kind of chip, the equal split, and the best plan that uses every chip."""
    out: list[Baseline] = []
    classes = context.topology.classes
    kinds = sorted({c.chip.id for c in classes})
    if len(kinds) > 1:
        for kind in kinds:
            keep = tuple(c.index for c in classes if c.chip.id == kind)
            out.append(_subset_baseline(context, keep, found.parts.get(keep)))
    everything = tuple(c.index for c in classes)
    splits, why = equal_splits(context.pricer, context.options, everything)
    if splits:
        out.append(
            Baseline(
                name="equal split over all chips",
                step_time_s=splits[0].priced.exact_ps / PS_PER_S,
                description=splits[0].describe(),
            )
        )
    else:
        out.append(
            Baseline(name="equal split over all chips", step_time_s=None, description=why)
        )
    used = sum(s.stage.tp for p in chosen.priced.pipelines for s in p.stages)
    if used == context.topology.chips:
        out.append(_placed_baseline(ALL_CHIPS, chosen))
    else:
        out.append(_all_chips_baseline(context, params, interrupted))
    return tuple(out)


def _subset_baseline(
    context: Context, keep: tuple[int, ...], found: Solution | None
) -> Baseline:
    classes = [context.topology.classes[c] for c in keep]
    name = f"{sum(c.chips for c in classes)} x {classes[0].chip.name} alone"
    if found is None:
        return Baseline(name=name, step_time_s=None, description="no plan found: does not fit")
    placed = place_solution(context, found)
    if not placed.priced.fits:
        return Baseline(name=name, step_time_s=None, description=placed.priced.problems[0])
    return _placed_baseline(name, placed)


def _all_chips_baseline(
    context: Context, params: SolveParams, interrupted: Callable[[], bool]
) -> Baseline:
    name = ALL_CHIPS
    limits = SearchLimits(gap=params.gap, seed=params.seed, use_all=True)
    found = engine_for(context, limits, lambda _: None, interrupted).find()
    if found is None:
        return Baseline(
            name=name, step_time_s=None, description="none found: some chip would have no layer"
        )
    placed = place_solution(context, found)
    used = sum(s.stage.tp for p in placed.priced.pipelines for s in p.stages)
    if not placed.priced.fits or used != context.topology.chips:
        return Baseline(name=name, step_time_s=None, description="none found")
    return _placed_baseline(name, placed)


def _placed_baseline(name: str, placed: Placement) -> Baseline:
    return Baseline(
        name=name,
        step_time_s=placed.priced.exact_ps / PS_PER_S,
        description=describe(placed),
    )


def describe(placement: Placement) -> str:
    """How many pipelines of how many stages."""
    pipes = placement.priced.pipelines
    stages = sorted({len(p.stages) for p in pipes})
    span = f"{stages[0]}" if len(stages) == 1 else f"{stages[0]}–{stages[-1]}"
    used = sum(s.stage.tp for p in pipes for s in p.stages)
    return f"{len(pipes)} pipelines of {span} stages on {used} chips"


def near_plans(context: Context, placement: Placement) -> tuple[Alternative, ...]:
    """Plans that need consent: other global batches, and rectangular ones on small clusters."""
    out: list[Alternative] = []
    layouts = placement.layouts
    job = context.job
    step = sum(p.rows for p in layouts)
    unequal = len({p.micro_batches for p in layouts}) > 1 or any(
        p.last_rows != p.rows for p in layouts
    )
    if unequal and len({len(p.stages) for p in layouts}) == 1:
        for batch in (job.global_batch // step * step, -(-job.global_batch // step) * step):
            if batch < step or batch == job.global_batch:
                continue
            changed = [
                replace(p, micro_batches=batch // step, last_rows=p.rows) for p in layouts
            ]
            priced = context.pricer.price(changed, context.options.zero_level)
            if priced.fits:
                seconds = priced.exact_ps / PS_PER_S
                out.append(
                    Alternative(
                        change=f"job.global_batch={batch}",
                        global_batch=batch,
                        step_time_s=seconds,
                        tokens_per_s=batch * job.seq_len / seconds,
                        description=f"equal micro-batches on all {len(layouts)} pipelines",
                    )
                )
    if context.topology.chips <= 64:
        out += _rectangular_alternatives(context)
    out.sort(key=lambda a: (-a.tokens_per_s, a.change))
    return tuple(out)


def _rectangular_alternatives(context: Context) -> list[Alternative]:
    """Best rectangular layout per number of chips used: what stock runtimes can run."""
    job = context.job
    everything = tuple(c.index for c in context.topology.classes)
    splits, _ = equal_splits(
        context.pricer, context.options, everything, all_chips=False,
        use=lambda dp: job.global_batch % dp == 0,
    )
    seen: set[tuple[int, int, int]] = set()
    out = []
    for split in splits:
        used = split.tp * split.pp * split.dp
        if split.global_batch != job.global_batch or (split.tp, split.pp, split.dp) in seen:
            continue
        seen.add((split.tp, split.pp, split.dp))
        seconds = split.priced.exact_ps / PS_PER_S
        idle = context.topology.chips - used
        out.append(
            Alternative(
                change=f"rectangular tp={split.tp} pp={split.pp} dp={split.dp}",
                global_batch=job.global_batch,
                step_time_s=seconds,
                tokens_per_s=job.global_batch * job.seq_len / seconds,
                description=f"{split.describe()}; {idle} chips idle",
            )
        )
    return out[:6]


def input_records(context: Context) -> Inputs:
    """Inputs as they were used, with digests."""

    def record(name: str, resolved: dict) -> InputRecord:  # type: ignore[type-arg]
        return InputRecord(name=name, digest=digest(resolved), resolved=resolved)

    catalogue = context.cluster.catalog.excerpt(c.chip.id for c in context.topology.classes)
    return Inputs(
        model=record(context.model.name, context.model.resolved),
        cluster=record(context.cluster.name, context.cluster.resolved),
        job=record(context.job_input.name, context.job.as_json()),
        catalogue=record("catalogue", catalogue),
    )


def own_version() -> str:
    """Version of the installed package, or of the source tree."""
    try:
        return version("planner")
    except PackageNotFoundError:
        return "0.1.0"


__all__ = ["Context", "InfeasibleError", "Progress", "SolveParams", "prepare", "solve"]
