"""From inputs to a plan: the whole compiler, step by step.

``solve`` reads as a table of contents; every step is public in its own module, so that a notebook
can rebuild it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from costmodels.units import PS_PER_S
from planner import assemble, beside, certify, remedies
from planner.aside import Answer, Aside
from planner.callable_module import make_callable
from planner.conflict import conflict_of
from planner.costing import build_tables
from planner.dominance import without_dominated
from planner.economy import cheapest, goal_baselines
from planner.errors import InfeasibleError, InputError, NoPlanFound, PlannerError
from planner.errors import Problem as Mistake
from planner.graphs.topology import Topology
from planner.inputs.cluster import ClusterInput
from planner.inputs.constraints import forbidden_devices
from planner.inputs.goal import Goal
from planner.inputs.job import JobInput, ResolvedJob
from planner.inputs.model import ModelInput
from planner.inputs.profile import ProfileInput
from planner.layout import LayoutPricer
from planner.options import OptionSet, legal_options
from planner.place import Placement
from planner.plan import Alternative, Baseline, Certificate, InputRecord, Inputs, Plan, digest, seal
from planner.resolve import ResolvedProfile, resolve_inputs
from planner.reuse import layouts_of
from planner.search.engine import (
    Progress,
    SearchLimits,
    SearchOutcome,
)
from planner.search.exact_bound import exact_bound
from planner.search.folded import foldable
from planner.search.planning import Solution
from planner.search.problem import Problem
from planner.searches import (
    alone,
    engine_for,
    first_narrow,
    first_plan,
    fleet_parts,
    leaves_idle,
    narrow_kinds,
    place_solution,
    rectangular,
)
from planner.simulate import simulate
from planner.verify import verify
from planner.version import VERSION

DEFAULT_MAX_STAGES = 64
WORTH_A_PROCESS = 16
"""Chips from which a second process saves more than its start costs."""


@dataclass(frozen=True, slots=True)
class SolveParams:
    """How hard to search. ``gap``: stop proving once the plan is within this of the bound.

    ``time_limit_s`` is wall time, gives up byte-identity, and the certificate says so.
    ``processes`` 2 takes a second process for what does not depend on the main search; the plan is
    the same. ``exact_bound`` asks for a bound on the exact step time as well, which takes minutes.
    """

    gap: float = 0.01
    seed: int = 0
    time_limit_s: float | None = None
    baselines: bool = True
    simulate: bool = True
    processes: int = 1
    exact_bound: bool = False


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
    profile: ResolvedProfile | None = None
    profile_input: ProfileInput | None = None

    @property
    def forbidden(self) -> dict[str, str]:
        """Devices that the job must not use; the topology does not hold them."""
        return forbidden_devices(self.cluster.spec, self.job.constraints)


def prepare(
    model: ModelInput, cluster: ClusterInput, job: JobInput, profile: ProfileInput | None = None
) -> Context:
    """Check the inputs and tabulate the problem. Raises ``InputError`` with all problems."""
    world = resolve_inputs(model, cluster, job, profile)
    topology, resolved, warnings = world.topology, world.job, world.warnings
    options = legal_options(model.graph, topology, resolved)
    tables = build_tables(model.graph, topology, resolved, options)
    problem = Problem(
        tables=without_dominated(tables, options.policies),
        topology=topology,
        policies=options.policies,
        global_batch=resolved.global_batch,
        max_stages=resolved.max_pipeline_stages or DEFAULT_MAX_STAGES,
    )
    if resolved.interleaved:
        problem = replace(problem, chunks=foldable(problem))
    return Context(
        model,
        cluster,
        job,
        topology,
        resolved,
        options,
        problem,
        LayoutPricer(model.graph, topology, resolved),
        tuple(warnings),
        world.profile,
        profile,
    )


def solve(
    model: ModelInput,
    cluster: ClusterInput,
    job: JobInput,
    *,
    profile: ProfileInput | None = None,
    params: SolveParams | None = None,
    hint: Plan | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Plan:
    """The best plan that the declared space holds, with its certificate.

    With a ``profile``, measured layer times, memory and links take the place of the formulas.
    Raises ``InputError`` (exit 2), ``InfeasibleError`` (3, proven) or ``NoPlanFound`` (4).
    """
    params = params or SolveParams()
    context = prepare(model, cluster, job, profile)
    return solve_context(context, params, hint=hint, progress=progress, interrupted=interrupted)


def solve_context(
    context: Context,
    params: SolveParams,
    *,
    hint: Plan | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Plan:
    """:func:`solve` for inputs that are prepared already."""
    stop = certify.stopwatch(params.time_limit_s, interrupted)
    processes = params.processes if context.topology.chips >= WORTH_A_PROCESS else 1
    if context.job.goal is not None:
        _refuse_exact_bound(context.job.goal, params)
        return solve_goal(context, context.job.goal, params, hint, progress, stop)
    with Aside(context, processes=processes, interrupted=stop) as aside:
        found = search(context, params, progress, stop, aside, hint)
        placement = realise(context, found, params)
        return finish(context, found, placement, params, progress, stop)


def _refuse_exact_bound(goal: Goal, params: SolveParams) -> None:
    """It speaks of step times; of cost and energy it would say nothing."""
    if params.exact_bound:
        message = f"proves a bound on the step time, and the objective is {goal.kind}"
        remedy = "leave it out, or plan with --objective step_time"
        raise InputError((Mistake("--exact-bound", message, remedy),))


def solve_goal(
    context: Context,
    goal: Goal,
    params: SolveParams,
    hint: Plan | None,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> Plan:
    """The plan of least cost or energy per token that is fast enough, with its certificate."""
    given = plans_known(context, [hint_placement(context, hint)] if hint is not None else [])
    economy = cheapest(context, goal, params, progress, interrupted, given)
    if economy is None:
        # nothing fits at any speed: the search for the fastest says why
        with Aside(context, processes=1, interrupted=interrupted) as aside:
            found = search(context, replace(params, baselines=False), progress, interrupted, aside)
            realise(context, found, params)
        raise NoPlanFound("no plan was found", remedies=remedies.checked(context))
    placement = economy.best.placement
    return sealed(
        context,
        placement,
        params,
        certify.goal_certificate(context, goal, economy, params, interrupted),
        goal_baselines(context, goal, economy) if params.baselines else (),
        (),
        certify.goal_idle_reasons(context, goal, placement),
    )


@dataclass(frozen=True)
class Found:
    """What the search found: the outcome over the whole fleet, and what stands beside it.

    ``alone``: the best of each kind of chip. ``known``: placements that needed no search, the best
    rectangular one and the hint's. ``every_chip``: the best solution that leaves no chip idle.
    """

    outcome: SearchOutcome
    alone: dict[tuple[int, ...], beside.Alone]
    shapes: beside.Rectangular
    known: tuple[Placement, ...]
    every_chip: Answer[Solution | None]


def search(
    context: Context,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
    aside: Aside,
    hint: Plan | None = None,
) -> Found:
    """Find the best plan over the whole fleet and over its natural parts, then prove a bound."""
    limits = SearchLimits(
        gap=params.gap,
        seed=params.seed,
        use_all=not context.job.idle_chips,
        uniform_tried=5 if assemble.most_general(context.job) == "asymmetric" else 200,
    )
    shaped = aside.ask(rectangular)
    parts = [] if limits.use_all else fleet_parts(context)
    asked = [aside.ask(alone, part, limits) for part in parts if params.baselines]
    narrow = [aside.ask(first_narrow, limits, kind) for kind in narrow_kinds(context)]
    engine = engine_for(context, limits, progress, interrupted)
    known = plans_known(context, [hint_placement(context, hint)] if hint is not None else [])
    for placement in known:
        engine.know(placement.priced.formula_ps)
    engine.find()
    all_chips = replace(SearchLimits(gap=params.gap, seed=params.seed), use_all=True)
    every_chip = aside.ask(
        first_plan, all_chips, now=params.baselines and leaves_idle(context, engine.best)
    )
    if not params.baselines:  # then only what may be faster is of interest
        asked = [aside.ask(alone, part, limits, engine.limit_ps) for part in parts]
    shapes = shaped.get()
    if shapes.best is not None:
        fresh = plans_known(context, [beside.as_placement(shapes.best)])
        for placement in fresh:
            engine.know(placement.priced.formula_ps)
        known += fresh
    found: dict[tuple[int, ...], beside.Alone] = {}
    for (classes, islands), answer in zip(parts, asked, strict=True):
        if interrupted():
            break
        best = answer.get()
        if islands is None:
            found[classes] = best
        if best.solution is not None:
            engine.offer(best.solution)
    for first in narrow:
        if (solution := first.get()) is not None:
            engine.offer(solution)
    return Found(engine.prove(), found, shapes, known, every_chip)


def hint_placement(context: Context, hint: Plan) -> Placement | None:
    """An earlier plan, priced on today's inputs; None where its devices are gone."""
    layouts = layouts_of(hint, context.model.graph, context.topology, context.job)
    if layouts is None:
        return None
    priced = context.pricer.price(layouts, context.options.zero_level)
    return Placement(layouts, priced, "replicas-together")


def plans_known(context: Context, placements: Sequence[Placement | None]) -> tuple[Placement, ...]:
    """Placements that are plans without any search, as far as they fit and are allowed."""
    every = context.topology.chips
    return tuple(
        p
        for p in placements
        if p is not None
        and p.priced.fits
        and assemble.allowed(p.priced, context.job, context.topology)
        and (context.job.idle_chips or beside.chips_used(p) == every)
    )


def realise(context: Context, found: Found, params: SolveParams) -> Placement:
    """Name devices for the best solution, or keep a plan that was known if it is faster."""
    outcome = found.outcome
    candidates = list(found.known)
    if outcome.solution is not None:
        candidates.append(place_solution(context, outcome.solution))
    candidates = [
        c for c in candidates if assemble.allowed(c.priced, context.job, context.topology)
    ]
    feasible = [c for c in candidates if c.priced.fits]
    if feasible:
        return min(feasible, key=lambda c: (c.priced.exact_ps, c.priced.formula_ps))
    if candidates:
        raise PlannerError(
            "the placed plan does not fit although the search said so: "
            + candidates[0].priced.problems[0]
        )
    if outcome.proven_infeasible:
        raise remedies.infeasible(context, conflict_of(context, prepare))
    if params.time_limit_s is not None:
        raise NoPlanFound(
            "the time limit was reached before a first plan was found",
            remedies=["raise --time-limit or leave it out"],
        )
    raise NoPlanFound(
        "no plan was found, and that none exists could not be proven",
        remedies=remedies.checked(context) or ["allow more techniques or add chips"],
    )


def finish(
    context: Context,
    found: Found,
    placement: Placement,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> Plan:
    """Certificate and baselines; then the artefact."""
    priced = placement.priced
    exact = exact_bound_ps(context, found, placement, params, progress, interrupted)
    certificate = certify.certificate(context, found.outcome, priced, params, interrupted, exact)
    baselines: tuple[Baseline, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    if params.baselines:
        progress(Progress("baselines", certificate.objective_s, certificate.lower_bound_s))
        baselines = beside.baselines(
            context,
            found.shapes,
            placement,
            found.alone,
            lambda solution: place_solution(context, solution),
            found.every_chip.get,
        )
        alternatives = beside.near_plans(context, placement, found.shapes)
    every = next((b.step_time_s for b in baselines if b.name == beside.ALL_CHIPS), None)
    reasons = certify.idle_reasons(context, priced, every)
    return sealed(context, placement, params, certificate, baselines, alternatives, reasons)


def exact_bound_ps(
    context: Context,
    found: Found,
    placement: Placement,
    params: SolveParams,
    progress: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> int | None:
    """A time that the exact step time of no plan is below, if it is asked for (picoseconds)."""
    leaves, step_ps = found.outcome.leaves, placement.priced.exact_ps
    if not (params.exact_bound and leaves):
        return None

    def tell(bound_ps: int) -> None:
        progress(Progress("proving the exact time", step_ps / PS_PER_S, bound_ps / PS_PER_S))

    return exact_bound(
        context.problem, leaves, step_ps, params.gap, interrupted=interrupted, progress=tell
    ).bound_ps


def sealed(
    context: Context,
    placement: Placement,
    params: SolveParams,
    certificate: Certificate,
    baselines: tuple[Baseline, ...],
    alternatives: tuple[Alternative, ...],
    idle_reasons: dict[int, str],
) -> Plan:
    """The artefact, replayed and verified independently."""
    priced = placement.priced
    plan = Plan(
        planner_version=VERSION,
        inputs=input_records(context),
        plan_class=assemble.classify(priced),
        layer_order=tuple(layer.name for layer in context.model.graph.layers),
        pipelines=assemble.plan_pipelines(priced, context.topology, context.options.zero_level),
        sync_groups=assemble.sync_groups(priced, context.options.zero_level),
        unused_devices=(
            *assemble.unused(priced, context.topology, idle_reasons),
            *assemble.forbidden(context.forbidden),
        ),
        alternatives=alternatives,
        estimate=assemble.estimate(
            priced, context.model.graph, context.topology, context.job, None
        ),
        certificate=certificate,
        baselines=baselines,
        assumptions=certify.assumptions(context),
        warnings=(*context.warnings, *beside.remarks(placement, baselines)),
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


def input_records(context: Context) -> Inputs:
    """Inputs as they were used, with digests."""

    def record(name: str, resolved: dict) -> InputRecord:  # type: ignore[type-arg]
        return InputRecord(name=name, digest=digest(resolved), resolved=resolved)

    catalogue = context.cluster.catalog.excerpt(c.chip.id for c in context.topology.classes)
    return Inputs(
        model=record(context.model.name, context.model.resolved),
        cluster=record(context.cluster.name, context.cluster.resolved),
        job=record(context.job_input.name, context.job.as_json()),
        profile=(
            None
            if context.profile is None
            else record(context.profile.name, context.profile.resolved)
        ),
        catalogue=record("catalogue", catalogue),
    )


__all__ = ["Context", "InfeasibleError", "Progress", "SolveParams", "prepare", "solve"]

make_callable(__name__, solve)
