"""What is said about a priced layout.

Which chips are too small, which changes would make it fit, and what the search would not allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import lcm
from typing import Literal

from costmodels.catalog import Catalog
from costmodels.price import POLICIES, hosted
from costmodels.units import GIB, PS_PER_S
from planner.assemble import broken_constraint, classify
from planner.checks import can_reduce_together
from planner.errors import Problem
from planner.estimate.spans import Ground
from planner.graphs.topology import Topology
from planner.inputs.job import ResolvedJob
from planner.layout import LayoutPipeline, LayoutPricer, PricedLayout, free_turns
from planner.meshes import over_islands_problem
from planner.plan import Alternative

CLASSES = ("rectangular", "staged", "asymmetric")
"""From the least to the most general."""

MAX_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A stage that needs more memory than its chips have, in all pipelines where it does.

    ``number`` counts stages from 1, as reports do; sizes are bytes per chip. ``on_host``: what it
    offloads is more than its share of the host's memory.
    """

    number: int
    layers: tuple[int, int]
    chip: str
    peak: int
    usable: int
    pipelines: int
    on_host: bool = False
    chunks: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        parts = self.chunks or (self.layers,)
        layers = ", ".join(f"{first}–{end - 1}" for first, end in parts)
        many = f" in {self.pipelines} pipelines" if self.pipelines > 1 else ""
        what, room = ("offloads", "of its host") if self.on_host else ("needs", "usable")
        return (
            f"stage {self.number} (layers {layers} on {self.chip}){many} {what} "
            f"{self.peak / GIB:.2f} GiB of {self.usable / GIB:.2f} GiB {room}, "
            f"{(self.peak - self.usable) / GIB:.2f} GiB too much per chip"
        )


def shortfalls(priced: PricedLayout, topology: Topology) -> tuple[Shortfall, ...]:
    """Stages that do not fit, equal ones of several pipelines joined, in order of stages."""
    found: dict[tuple[int, tuple[tuple[int, int], ...], str, int, int, bool], int] = {}
    for pipe in priced.pipelines:
        for s, stage in enumerate(pipe.stages):
            chip = Catalog.alias(topology.classes[stage.stage.island.class_index].chip.id)
            parts, memory = stage.stage.parts, stage.memory
            for needed, usable, on_host in (
                (memory.peak, stage.usable_bytes, False),
                (memory.host, stage.host_bytes, True),
            ):
                if needed > usable:
                    key = (s + 1, parts, chip, needed, usable, on_host)
                    found[key] = found.get(key, 0) + 1
    return tuple(
        Shortfall(
            number=number,
            layers=(parts[0][0], parts[-1][1]),
            chip=chip,
            peak=needed,
            usable=usable,
            pipelines=n,
            on_host=on_host,
            chunks=parts if len(parts) > 1 else (),
        )
        for (number, parts, chip, needed, usable, on_host), n in sorted(found.items())
    )


def remarks(
    ground: Ground,
    priced: PricedLayout,
    zero_level: int,
    job: ResolvedJob,
    allowed_rows: tuple[int, ...] | None,
) -> Iterator[Problem]:
    """Everything about the layout that the search would not do.

    ``allowed_rows``: rows per micro-batch where the job restricts them.
    """
    pipelines = ground.layouts
    yield from _spans(ground)
    yield from _forbidden(ground, zero_level, job)
    yield from _vendors(priced, ground.topology)
    odd = sorted({s.tp for p in pipelines for s in p.stages if s.tp & (s.tp - 1)})
    if odd:
        text = f"tp {', '.join(map(str, odd))}: the search tries powers of two only"
        yield Problem("layout", text)
    if any(p.schedule == "gpipe" for p in pipelines):
        text = "the search does not try gpipe: 1f1b takes no longer and holds fewer micro-batches"
        yield Problem("layout", text, "schedule: 1f1b")
    broken = broken_constraint(pipelines, job, ground.topology)
    if broken is not None:
        yield Problem("layout", broken)
    rows = sorted({p.rows for p in pipelines if p.rows not in (allowed_rows or (p.rows,))})
    if rows and allowed_rows:
        text = f"{', '.join(map(str, rows))} rows per micro-batch, the job allows "
        text += f"{', '.join(map(str, allowed_rows))} (micro_batch_rows)"
        yield Problem("layout", text)
    wanted = classify(priced)
    if CLASSES.index(wanted) > CLASSES.index(job.plan_class):
        yield Problem("layout", f"is {wanted}, the job asks for {job.plan_class} (plan_class)")


def _spans(ground: Ground) -> Iterator[Problem]:
    if not ground.spans:
        return
    inside = max(n for span in ground.spans for _, n in span.parts)
    for text in dict.fromkeys(span.describe for span in ground.spans):
        rest = "the search keeps tensor parallelism inside an island, and planner check refuses it"
        yield Problem("layout", f"{text}; {rest}", f"tp: {inside} and more stages")


def _forbidden(ground: Ground, zero_level: int, job: ResolvedJob) -> Iterator[Problem]:
    """Techniques that the job rules out and the layout uses all the same."""
    stages = [s for p in ground.layouts for s in p.stages]
    policies = {p for s in stages for p in s.policies}
    idle = {d for c in ground.topology.classes for i in c.islands for d in i.devices}
    idle -= {d for s in stages for d in s.devices}
    interleaved = any(p.schedule == "interleaved" for p in ground.layouts)
    refused = "; planner check refuses the plan"
    used = (
        ("tensor_parallel", any(s.tp > 1 for s in stages), f"uses tensor parallelism{refused}"),
        ("context_parallel", any(s.mesh.cp > 1 for s in stages), f"shares sequences{refused}"),
        ("expert_parallel", any(s.mesh.ep > 1 for s in stages), f"spreads experts{refused}"),
        ("zero3", any(s.mesh.zero3 for s in stages), f"divides weights{refused}"),
        ("optimizer_offload", any(s.mesh.offload for s in stages), f"offloads{refused}"),
        ("recompute_selective", 1 in policies, f"uses selective recomputation{refused}"),
        ("recompute_full", 2 in policies, f"uses full recomputation{refused}"),
        ("activation_offload", any(map(hosted, policies)), f"offloads activations{refused}"),
        ("zero1", zero_level == 1, f"uses ZeRO level 1{refused}"),
        ("interleaved", interleaved, f"interleaves chunks of layers{refused}"),
        ("unequal_pipelines", len(set(map(_kind, ground.layouts))) > 1, "has unequal pipelines"),
        ("idle_chips", bool(idle), f"leaves {len(idle)} chips idle"),
    )
    for technique, is_used, text in used:
        if is_used and not getattr(job, technique):
            remedy = f"--set job.techniques.{technique}=true"
            yield Problem("layout", f"against the job, it {text}", remedy)
    wide = [s for s in stages if s.more]
    broken = (over_islands_problem(s.mesh, s.chips // len(s.islands), job) for s in wide)
    for found in dict.fromkeys(text for text in broken if text is not None):
        yield Problem("layout", f"over several islands: {found}{refused}")


def _kind(pipe: LayoutPipeline) -> tuple[object, ...]:
    """Everything about a pipeline but its devices."""
    stages = tuple((s.island.class_index, s.mesh, s.parts) for s in pipe.stages)
    return (*stages, pipe.rows, pipe.micro_batches, pipe.last_rows)


def _vendors(priced: PricedLayout, topology: Topology) -> Iterator[Problem]:
    """Gradients that would have to be reduced between chips that no library joins."""
    said: set[tuple[str, str]] = set()
    for sync in priced.syncs:
        members = [priced.pipelines[p].stages[s].stage.island for p, s in sync.members]
        classes = [topology.classes[c] for c in dict.fromkeys(i.class_index for i in members)]
        for other in classes[1:]:
            pair = (classes[0].chip.vendor, other.chip.vendor)
            if pair in said or can_reduce_together(classes[0], other, topology):
                continue
            said.add(pair)
            yield Problem(
                "layout",
                f"gradients of layers {sync.first}–{sync.end - 1} lie on {pair[0]} and {pair[1]}, "
                "and the cluster names no way to reduce them together: priced through host "
                "memory; planner check refuses the plan",
                "--set cluster.cross_vendor_collectives=cpu-staged, or whole stages per vendor",
            )


def batch_alternatives(
    ground: Ground,
    pricer: LayoutPricer,
    zero_level: int,
    batches: Sequence[int],
    seq_len: int,
) -> Iterator[Alternative]:
    """The layout at global batches that its micro-batches divide, where it fits."""
    pipelines = ground.layouts
    step = sum(p.rows for p in pipelines)
    for batch in batches:
        even = [
            replace(free_turns(p), micro_batches=batch // step, last_rows=p.rows) for p in pipelines
        ]
        priced = pricer.price(even, zero_level)
        if priced.fits:
            each = f"{batch // step} equal micro-batches on all {len(pipelines)} pipelines"
            yield _alternative(f"job.global_batch={batch}", priced, batch, seq_len, each)


@dataclass(frozen=True, slots=True)
class _Change:
    """One field of the layout with another value; ``text`` is how a layout file says it."""

    text: str
    policy: int | None = None
    zero: bool = False
    rows: int | None = None
    depth: Literal["", "1f1b", "classic"] = ""

    @property
    def field(self) -> str:
        """The field; two changes of one field exclude one another."""
        return self.text.partition(":")[0]

    def apply(self, pipe: LayoutPipeline) -> LayoutPipeline:
        """The pipeline after the change."""
        if self.policy is not None:
            return _with_policy(pipe, self.policy)
        if self.rows is not None:
            return _with_rows(pipe, self.rows)
        return _with_depth(pipe, classic=self.depth == "classic") if self.depth else pipe


def fitting_changes(
    ground: Ground, pricer: LayoutPricer, zero_level: int, batch: int, seq_len: int
) -> tuple[Alternative, ...]:
    """The fewest changes after which the layout fits, each of them priced, the fastest first."""
    pipelines = ground.layouts
    single = list(_changes(pipelines, zero_level))
    for many in range(1, len({c.field for c in single}) + 1):
        found: list[tuple[int, Alternative]] = []
        for chosen in combinations(single, many):
            if len({c.field for c in chosen}) < many:
                continue
            changed = list(pipelines)
            for change in chosen:
                changed = [change.apply(p) for p in changed]
            level = 1 if any(c.zero for c in chosen) else zero_level
            priced = pricer.price(changed, level)
            if priced.fits:
                text = ", ".join(c.text for c in chosen)
                left = f"fits with {_left(priced) / GIB:.1f} GiB to spare"
                found.append((priced.exact_ps, _alternative(text, priced, batch, seq_len, left)))
        if found:
            found.sort(key=lambda f: (f[0], f[1].change))
            return tuple(change for _, change in found[:MAX_CHANGES])
    return ()


def _changes(pipelines: Sequence[LayoutPipeline], zero_level: int) -> Iterator[_Change]:
    """Everything that saves memory and leaves degrees, layers and devices as they are."""
    least = min(p for pipe in pipelines for s in pipe.stages for p in s.policies)
    for policy in range(least + 1, len(POLICIES)):
        yield _Change(f"recompute: {POLICIES[policy]}", policy=policy)
    if zero_level == 0 and len(pipelines) > 1:
        yield _Change("zero: 1", zero=True)
    rows = max(p.rows for p in pipelines)
    shared = lcm(*(s.mesh.dp for pipe in pipelines for s in pipe.stages))
    for size in dict.fromkeys((rows // 2 // shared * shared, shared)):
        if 1 <= size < rows:
            yield _Change(f"micro_batch_rows: {size}", rows=size)
    if any(p.schedule == "gpipe" for p in pipelines):
        yield _Change("schedule: 1f1b", depth="1f1b")
    elif any(s.in_flight is not None for p in pipelines for s in p.stages):
        yield _Change("in_flight: classic", depth="classic")


def _left(priced: PricedLayout) -> int:
    """Bytes that the fullest chip keeps."""
    return min(s.usable_bytes - s.memory.peak for p in priced.pipelines for s in p.stages)


def _with_policy(pipe: LayoutPipeline, policy: int) -> LayoutPipeline:
    stages = tuple(
        replace(s, policies=tuple(max(p, policy) for p in s.policies)) for s in pipe.stages
    )
    return replace(pipe, stages=stages)


def _with_rows(pipe: LayoutPipeline, rows: int) -> LayoutPipeline:
    """The same rows per step in smaller micro-batches."""
    if rows >= pipe.rows:
        return pipe
    total = (pipe.micro_batches - 1) * pipe.rows + pipe.last_rows
    count = -(-total // rows)
    last = total - (count - 1) * rows
    return replace(free_turns(pipe), rows=rows, micro_batches=count, last_rows=last)


def _with_depth(pipe: LayoutPipeline, *, classic: bool) -> LayoutPipeline:
    """1F1B with as many micro-batches in flight as stages follow, or as memory allows."""
    if pipe.schedule == "interleaved":
        return free_turns(pipe)
    count = len(pipe.stages)
    stages = tuple(
        replace(s, in_flight=count - n if classic else None) for n, s in enumerate(pipe.stages)
    )
    return replace(pipe, stages=stages, schedule="1f1b")


def _alternative(
    change: str, priced: PricedLayout, batch: int, seq_len: int, description: str
) -> Alternative:
    seconds = priced.exact_ps / PS_PER_S
    return Alternative(
        change=change,
        global_batch=batch,
        step_time_s=seconds,
        tokens_per_s=batch * seq_len / seconds,
        description=description,
    )
