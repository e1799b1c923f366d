"""Whether decisions are legal at all: the rule that a wish breaks, and what is legal instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from costmodels.price import POLICIES, WAYS
from planner.explain.wish import Degrees
from planner.graphs.across import numbers_of_islands
from planner.graphs.topology import IslandClass
from planner.meshes import expert_numbers
from planner.options import tensor_parallel_problem, way_allowed
from planner.scenario.chips import chip_in
from planner.search.folded import CHUNKS, chunk_numbers, foldable, listed
from planner.solve import Context

LONGEST_LIST = 16


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a wish breaks, and the legal values (in words where there are many)."""

    rule: str
    valid: str


def broken_rules(context: Context, degrees: Degrees) -> tuple[Broken, ...]:
    """Every rule that the wish breaks; none means that it can at least be priced."""
    return (
        *_tensor(context, degrees),
        *_inside(context, degrees),
        *_counts(context, degrees),
        *_techniques(context, degrees),
    )


def classes_of(context: Context, name: str | None) -> tuple[IslandClass, ...]:
    """Classes of one kind of chip, or all of them. Raises InputError for a chip it has not."""
    classes = context.topology.classes
    if name is None:
        return classes
    chip = chip_in(context.cluster, name)
    return tuple(c for c in classes if c.chip.id == chip)


def _tensor(context: Context, degrees: Degrees) -> Iterator[Broken]:
    tp = degrees.tp
    if tp is None:
        return
    job = context.job
    classes = classes_of(context, degrees.tp_on)

    def problem(n: int) -> str | None:
        return tensor_parallel_problem(context.model.graph, n, job.seq_len, job.sequence_parallel)

    chips = sum(c.chips for c in classes)
    legal = [n for n in range(1, min(chips, 4096) + 1) if problem(n) is None]
    inside = max(c.size for c in classes)
    valid = _listed([n for n in legal if n <= inside]) + " inside an island"
    why = problem(tp)
    if why is not None:
        yield Broken(why, valid)
    elif tp > chips:
        yield Broken(f"there are {chips} such chips", valid)
    elif job.max_tensor_parallel is not None and tp > job.max_tensor_parallel:
        rule = f"the job allows tp up to {job.max_tensor_parallel} (max_tensor_parallel)"
        yield Broken(rule, f"tp 1 … {job.max_tensor_parallel}")
    elif not job.tensor_parallel and tp > 1:
        yield Broken("the job forbids tensor parallelism", "tp 1, or allow tensor_parallel")


def _inside(context: Context, degrees: Degrees) -> Iterator[Broken]:
    """Context and expert parallelism: only what the search tries can be had."""
    job, options = context.job, context.options.options
    for name, wished, tried, found in (
        ("context_parallel", degrees.cp, job.context_parallel, {o.mesh.cp for o in options}),
        ("expert_parallel", degrees.ep, job.expert_parallel, {o.mesh.ep for o in options}),
    ):
        if wished is None or wished == 1 or wished in found:
            continue
        short = {"context_parallel": "cp", "expert_parallel": "ep"}[name]
        if not tried:
            rule = f"the job does not try {name.replace('_', ' ')} stages"
            yield Broken(rule, f"{short} 1, or --set job.techniques.{name}=true")
            continue
        over = {"cp": job.cross_node_context_parallel, "ep": job.cross_node_expert_parallel}[short]
        where = "" if over else " of an island"
        reasons = (r.reason for r in context.options.rejected if r.what == f"{short}={wished}")
        rule = next(reasons, f"no stage{where} runs {short} {wished}")
        valid = f"{short} {', '.join(map(str, sorted(found)))}"
        if over or not _over_hosts(context, short, wished):
            yield Broken(rule, valid + ("" if over else " inside an island"))
        else:
            more = f"--set job.techniques.cross_node_{name}=true for stages over hosts"
            yield Broken(rule, f"{valid} inside an island, or {more}")


def _over_hosts(context: Context, short: str, wished: int) -> bool:
    """Whether stages over several hosts could have the degree."""
    classes = context.topology.classes
    most = max(c.size * n for c in classes for n in (0, *numbers_of_islands(context.topology, c)))
    numbers = expert_numbers([layer.shape for layer in context.model.graph.layers])
    divides = short == "cp" or (bool(numbers) and not any(e % wished for e in numbers))
    return wished <= most and divides


def _counts(context: Context, degrees: Degrees) -> Iterator[Broken]:
    job = context.job
    layers, chips = len(context.model.graph.layers), context.topology.chips
    tp = degrees.tp or 1
    if degrees.pp is not None:
        limit = min(layers, chips // tp)
        if degrees.pp > layers:
            yield Broken(f"the model has {layers} layers to share out", f"pp 1 … {limit}")
        elif job.max_pipeline_stages is not None and degrees.pp > job.max_pipeline_stages:
            rule = f"the job allows {job.max_pipeline_stages} stages (max_pipeline_stages)"
            yield Broken(rule, f"pp 1 … {min(limit, job.max_pipeline_stages)}")
    if degrees.dp is not None and degrees.dp > job.global_batch:
        rule = f"the batch has {job.global_batch} rows, and every pipeline needs one"
        yield Broken(rule, f"dp 1 … {min(job.global_batch, chips // tp)}")
    # experts lie on chips that a stage has anyway
    needed = tp * (degrees.cp or 1) * (degrees.pp or 1) * (degrees.dp or 1)
    if needed > chips and degrees.tp_on is None:
        named = [
            f"{n} {v}" for n in ("tp", "cp", "pp", "dp") if (v := getattr(degrees, n)) is not None
        ]
        rule = f"{' × '.join(named)} = {needed} chips, and there are {chips}"
        yield Broken(rule, f"a product of at most {chips}")
    if degrees.rows is not None and degrees.rows > job.global_batch:
        rule = f"the batch has {job.global_batch} rows"
        yield Broken(rule, f"rows 1 … {job.global_batch}")


def _techniques(context: Context, degrees: Degrees) -> Iterator[Broken]:
    job = context.job
    allowed = {way: way_allowed(way, job) for way in WAYS}
    policy = degrees.recompute
    if policy is not None and not allowed[policy]:
        known = ", ".join(name for name, yes in allowed.items() if yes)
        what = f"{policy} recomputation" if policy in POLICIES else f"recompute {policy}"
        yield Broken(f"the job forbids {what}", f"recompute {known}")
    if degrees.zero is not None and degrees.zero > 1:
        yield Broken(f"ZeRO level {degrees.zero} is not in this version's space", "zero 0 or 1")
    elif degrees.zero == 1 and not job.zero1:
        yield Broken("the job forbids ZeRO level 1", "zero 0, or allow zero1")
    if degrees.schedule == "interleaved":
        yield from _interleaved(context)


def _interleaved(context: Context) -> Iterator[Broken]:
    """Several chunks per stage: where the search has such pipelines."""
    layers = len(context.model.graph.layers)
    if not chunk_numbers(layers):
        rule = (
            f"{max(0, layers - 2)} layers between the first and the last do not make "
            f"{listed(CHUNKS)} equal runs of two or more"
        )
        yield Broken(rule, "schedule 1f1b")
    elif not foldable(context.problem):
        rule = "the layers between the first and the last are not alike"
        yield Broken(rule, "schedule 1f1b")
    elif context.job.objective != "step_time":
        yield Broken(
            f"interleaved pipelines are not tried for the objective {context.job.objective}",
            "schedule 1f1b, or --objective step_time",
        )


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:LONGEST_LIST]))
    return f"tp {shown}{', …' if len(numbers) > LONGEST_LIST else ''}"
