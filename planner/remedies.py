"""When nothing fits: the binding device, the shortfall, and remedies that were checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from costmodels.price import WAYS
from costmodels.units import GIB, PS_PER_S
from planner.costing import build_tables
from planner.errors import InfeasibleError
from planner.graphs.topology import Island, Route, Topology
from planner.inputs.job import ResolvedJob
from planner.options import legal_options
from planner.search.engine import Engine, SearchLimits
from planner.search.infeasible import nothing_fits
from planner.search.problem import Problem
from planner.search.regions import roots

if TYPE_CHECKING:
    from planner.conflict import Conflict
    from planner.solve import Context

MAX_EXTRA_GIB = 512


def plan_exists(context: Context, topology: Topology, job: ResolvedJob) -> bool:
    """Whether any plan at all is found on a changed cluster or job (quick search, no proof)."""
    return quick_step_s(context, topology, job) is not None


def quick_step_s(context: Context, topology: Topology, job: ResolvedJob) -> float | None:
    """Formula seconds of the step that a quick search finds; None if it finds no plan."""
    options = legal_options(context.model.graph, topology, job)
    if not options.options:
        return None
    problem = Problem(
        tables=build_tables(context.model.graph, topology, job, options),
        topology=topology,
        policies=options.policies,
        global_batch=job.global_batch,
        max_stages=context.problem.max_stages,
    )
    limits = SearchLimits(gap=1.0, seed=0, rounds=1, integer_work=0.2)
    found = Engine(problem, limits).find()
    return None if found is None else found.target_ps / PS_PER_S


def with_extra_memory(topology: Topology, extra_bytes: int) -> Topology:
    """The same cluster with more usable memory on every device."""
    return replace(
        topology,
        classes=tuple(
            replace(c, usable_memory_bytes=c.usable_memory_bytes + extra_bytes)
            for c in topology.classes
        ),
    )


def shortfall_bytes(context: Context) -> int | None:
    """Least extra memory per device (to 1/16 GiB) with which a plan exists; None if too much.

    What is refuted by counting chips needs no search; the rest is searched from there upwards.
    """

    def refuted(sixteenths: int) -> bool:
        topology = with_extra_memory(context.topology, sixteenths * GIB // 16)
        problem = replace(
            context.problem,
            topology=topology,
            tables=build_tables(context.model.graph, topology, context.job, context.options),
        )
        return nothing_fits(problem, roots(problem), None, _never)

    high = 16
    while refuted(high):
        high *= 2
        if high > MAX_EXTRA_GIB * 16:
            return None
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if refuted(middle):
            low = middle
        else:
            high = middle
    for extra in (high, high + 1, high + 2, high + 4, high + 8, high + 16):
        if plan_exists(
            context, with_extra_memory(context.topology, extra * GIB // 16), context.job
        ):
            return extra * GIB // 16
    return high * GIB // 16


def _never() -> bool:
    return False


LONG = 16_384
"""Tokens per row from which sharing a sequence saves memory that is worth a look."""


def candidate_jobs(
    job: ResolvedJob, *, measured: bool = False, hosts: bool = True
) -> list[tuple[str, ResolvedJob]]:
    """Changes of the job that save memory, with the flag that makes each.

    A profile was ``measured`` at one sequence length: no other is proposed then. ``hosts``: whether
    the memory of any is known; to others nothing leaves.
    """
    out: list[tuple[str, ResolvedJob]] = []
    if not job.recompute_full:
        out.append(("allow full recomputation", replace(job, recompute_full=True)))
    if not job.zero1:
        out.append(("allow ZeRO level 1", replace(job, zero1=True)))
    if not job.tensor_parallel:
        out.append(("allow tensor parallelism", replace(job, tensor_parallel=True)))
    if not job.context_parallel and job.seq_len >= LONG and not measured:
        shared = replace(job, context_parallel=True)
        out.append(("--set job.techniques.context_parallel=true", shared))
    if min(job.micro_batch_rows) > 1:
        out.append(("--set job.micro_batch_rows=[1]", replace(job, micro_batch_rows=(1,))))
    state = job.state_bytes
    if state.optimizer > 6:
        small = replace(state, optimizer=2)
        out.append(("--set job.optimizer=adam8bit", replace(job, state_bytes=small)))
    if not job.optimizer_offload:
        hosted = replace(job, optimizer_offload=True)
        out.append(("--set job.techniques.optimizer_offload=true", hosted))
    if hosts and not job.activation_offload:
        left = replace(job, activation_offload=True)
        out.append(("--set job.techniques.activation_offload=true", left))
    if job.seq_len > 1024 and not measured:
        half = job.seq_len // 2
        out.append((f"--set job.seq_len={half}", replace(job, seq_len=half)))
    return out


def bigger_cluster(topology: Topology, factor: int) -> Topology:
    """Every class with ``factor`` times the islands; only for what-if checks.

    Between any two of them is the best way between islands of their classes.
    """

    def route(source: Island, target: Island) -> Route | None:
        return topology.class_routes.get((source.class_index, target.class_index))

    return replace(
        topology,
        route=route,
        classes=tuple(
            replace(
                c,
                islands=tuple(
                    replace(
                        i,
                        name=f"{i.name}*{k}",
                        devices=tuple(f"{d}*{k}" for d in i.devices),
                    )
                    for k in range(factor)
                    for i in c.islands
                ),
            )
            for c in topology.classes
        ),
    )


def checked(context: Context) -> list[str]:
    """Changes that were each tried by a search and have a plan."""
    hosts = any(c.host_known for c in context.topology.classes)
    candidates = candidate_jobs(context.job, measured=context.profile is not None, hosts=hosts)
    out = [
        f"{flag}: checked, a plan exists, {_look(seconds)}"
        for flag, job in candidates
        if (seconds := quick_step_s(context, context.topology, job)) is not None
    ]
    if not out:
        job = context.job
        names = []
        for flag, changed in candidates:
            job = _merged(context.job, job, changed)
            names.append(flag)
        if len(names) > 1 and plan_exists(context, context.topology, job):
            out.append(f"all of these together: {'; '.join(names)}: checked, a plan exists")
    out += _of_hosts(context)
    routed = all(
        context.topology.class_routes.get((c.index, c.index)) is not None
        for c in context.topology.classes
    )
    for factor in (2, 4, 8, 16) if routed else ():
        if plan_exists(context, bigger_cluster(context.topology, factor), context.job):
            out.append(f"{factor} times as many nodes of each kind: checked, a plan exists")
            break
    return out


def larger_hosts(topology: Topology, factor: int) -> Topology:
    """The same cluster with ``factor`` times the memory in every host whose memory is known."""
    return replace(
        topology,
        classes=tuple(
            replace(c, host=replace(c.host, memory_bytes=factor * c.host.memory_bytes))
            if c.host is not None and c.host.memory_bytes is not None
            else c
            for c in topology.classes
        ),
    )


def _look(seconds: float) -> str:
    shown = f"{seconds:.3g}" if seconds < 1000 else f"{seconds:,.0f}"
    return f"{shown} s per step at a first look"


def _of_hosts(context: Context) -> Iterator[str]:
    """What must be known of hosts for an offload, and what they would need where it is allowed."""
    unknown = [c.name for c in context.topology.classes if not c.host_known]
    if len(unknown) == len(context.topology.classes) and not context.job.optimizer_offload:
        yield "optimizer offload: not tried, no node of the cluster says host_memory_gib"
    if not (context.job.optimizer_offload or context.job.activation_offload):
        return
    if unknown:
        yield (
            f"say host_memory_gib of the nodes of {', '.join(unknown)}: nothing is offloaded to a "
            "host of unknown memory"
        )
    if len(unknown) == len(context.topology.classes):
        return
    for factor in (2, 4):
        found = quick_step_s(context, larger_hosts(context.topology, factor), context.job)
        if found is not None:
            yield f"{factor} times as much host memory: checked, a plan exists, {_look(found)}"
            return


def _merged(original: ResolvedJob, job: ResolvedJob, changed: ResolvedJob) -> ResolvedJob:
    """``job`` with every field that ``changed`` has different from the original."""
    new = {
        f.name: getattr(changed, f.name)
        for f in fields(original)
        if getattr(changed, f.name) != getattr(original, f.name)
    }
    return replace(job, **new)


def _contradictory(context: Context, conflict: Conflict) -> InfeasibleError:
    """What was asked for leaves no plan, on memory that would do without it."""
    names = " and ".join(rule.text for rule in conflict.rules)
    together = "together" if len(conflict.rules) > 1 else "alone"
    what = (
        f"{context.model.name} has no plan under what the job asks for, proven: {names} "
        f"{together} rule out every plan; "
        f"{'without any one of these' if len(conflict.rules) > 1 else 'without it'} "
        "the proof does not hold"
    )
    remedies = [
        f"drop {rule.text}: checked, a plan exists"
        for rule, free in zip(conflict.rules, conflict.without, strict=True)
        if plan_exists(free, free.topology, free.job)
    ]
    return InfeasibleError(what, where="job", remedies=remedies or checked(context))


def infeasible(context: Context, conflict: Conflict | None = None) -> InfeasibleError:
    """The error for a proven-infeasible problem, with checked remedies.

    ``conflict``: what the user set that rules everything out, where without it the proof fails.
    """
    if conflict is not None and conflict.rules:
        return _contradictory(context, conflict)
    short = shortfall_bytes(context)
    tightest = min(context.topology.classes, key=lambda c: (c.usable_memory_bytes, c.index))
    what = (
        f"{context.model.name} does not fit, proven for every plan with recomputation "
        f"{{{', '.join(WAYS[p] for p in context.options.policies)}}} and ZeRO level "
        f"{context.options.zero_level}"
    )
    offloads = any(o.mesh.offload for o in context.options.options)
    what += ", its optimizer on devices or hosts: " if offloads else ": "
    if short is None:
        what += f"more than {MAX_EXTRA_GIB} GiB are missing on every device"
    else:
        what += (
            f"{short / GIB:.2f} GiB are missing per device (binding: {tightest.chip.name} with "
            f"{tightest.usable_memory_bytes / GIB:.1f} GiB usable)"
        )
    what += (
        "; memories of devices do not add up to one pool: every pipeline holds all weights and "
        "gradients, ZeRO level 1 shards the optimizer alone"
    )
    return InfeasibleError(what, where=tightest.chip.name, remedies=checked(context))
