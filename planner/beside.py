"""What stands beside the plan: baselines, and near plans that need the user's consent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from costmodels.units import PS_PER_S
from planner.baselines import EqualSplit, equal_splits
from planner.layout import LayoutPipeline, free_turns
from planner.place import Placement
from planner.plan import Alternative, Baseline
from planner.search.planning import Solution

if TYPE_CHECKING:
    from planner.solve import Context

EQUAL_SPLIT = "equal split over all chips"
ALL_CHIPS = "best plan that uses every chip"
SMALL_FLEET = 64
TINY_FLEET = 32
"""Up to so many chips, rectangular plans on parts of the fleet are enumerated too."""
MOST_ALTERNATIVES = 10
LEAST_GAIN = 1e-3
"""Speed over that of all kinds on their own together that is worth a word."""


@dataclass(frozen=True)
class Rectangular:
    """Rectangular layouts: over every chip (with the reason if there is none), and over parts."""

    whole: tuple[EqualSplit, ...]
    why_not: str
    parts: tuple[EqualSplit, ...]

    @property
    def best(self) -> EqualSplit | None:
        """The fastest one found."""
        every = [*self.whole, *self.parts]
        return min(every, key=lambda e: (e.priced.exact_ps, e.tp, e.pp, e.dp), default=None)


def rectangular(context: Context) -> Rectangular:
    """Enumerate rectangular layouts of the whole fleet and, if it is small, of parts of it."""
    everything = tuple(c.index for c in context.topology.classes)
    whole, why = equal_splits(context.pricer, context.options, everything)
    parts: list[EqualSplit] = []
    if context.topology.chips <= TINY_FLEET and context.job.idle_chips:
        parts, _ = equal_splits(context.pricer, context.options, everything, all_chips=False)
    return Rectangular(tuple(whole), why, tuple(parts))


@dataclass(frozen=True)
class Alone:
    """What one kind of chip can do by itself: the best solution, the fastest rectangular layout."""

    solution: Solution | None
    shaped: EqualSplit | None


def shaped(context: Context, classes: tuple[int, ...]) -> EqualSplit | None:
    """The fastest rectangular layout over some classes of a small fleet."""
    chips = sum(context.topology.classes[c].chips for c in classes)
    if chips > SMALL_FLEET:
        return None
    every = not context.job.idle_chips or chips > TINY_FLEET
    found, _ = equal_splits(context.pricer, context.options, classes, all_chips=every)
    return found[0] if found else None


def as_placement(split: EqualSplit) -> Placement:
    """A rectangular layout as a candidate plan."""
    return Placement(split.layouts, split.priced, "replicas-together")


def baselines(
    context: Context,
    shapes: Rectangular,
    chosen: Placement,
    alone: dict[tuple[int, ...], Alone],
    place: Callable[[Solution], Placement],
    every_chip: Callable[[], Solution | None],
) -> tuple[Baseline, ...]:
    """Best plan per kind of chip, the equal split, and the best plan that uses every chip."""
    out: list[Baseline] = []
    classes = context.topology.classes
    for keep, best in alone.items():
        members = [classes[c] for c in keep]
        name = f"{sum(c.chips for c in members)} x {members[0].chip.name} alone"
        plans = [place(best.solution)] if best.solution is not None else []
        plans += [as_placement(best.shaped)] if best.shaped is not None else []
        plans = [p for p in plans if p.priced.fits]
        if plans:
            out.append(_placed(name, min(plans, key=lambda p: p.priced.exact_ps)))
        else:
            pins = context.job.constraints.pinned_layers
            why = "none with the job's pinned layers" if pins else "does not fit"
            out.append(_missing(name, f"no plan found: {why}"))
    if shapes.whole:
        first = shapes.whole[0]
        seconds = first.priced.exact_ps / PS_PER_S
        out.append(Baseline(name=EQUAL_SPLIT, step_time_s=seconds, description=first.describe()))
    else:
        out.append(_missing(EQUAL_SPLIT, shapes.why_not))
    candidates = [as_placement(e) for e in shapes.whole[:1]]
    if chips_used(chosen) == context.topology.chips:
        candidates.append(chosen)
    else:
        found = every_chip()
        if found is not None:
            candidates.append(place(found))
    fitting = [c for c in candidates if c.priced.fits and chips_used(c) == context.topology.chips]
    if fitting:
        out.append(_placed(ALL_CHIPS, min(fitting, key=lambda c: c.priced.exact_ps)))
    else:
        out.append(_missing(ALL_CHIPS, "none found"))
    return tuple(out)


def chips_used(placement: Placement) -> int:
    """Devices that hold a stage."""
    return sum(s.stage.chips for p in placement.priced.pipelines for s in p.stages)


def _missing(name: str, reason: str) -> Baseline:
    return Baseline(name=name, step_time_s=None, description=reason)


def _placed(name: str, placed: Placement) -> Baseline:
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
    plural = "pipeline" if len(pipes) == 1 else "pipelines"
    return f"{len(pipes)} {plural} of {span} stages on {chips_used(placement)} chips"


def remarks(chosen: Placement, found: Sequence[Baseline]) -> list[str]:
    """What a person should hear about the plan, in words."""
    out = []
    loads = {(p.rows, p.micro_batches, p.last_rows) for p in chosen.layouts}
    if len(loads) > 1:
        out.append(
            "pipelines process unequal numbers of rows, so gradients must be weighted: sum the "
            "losses over tokens, divide by the tokens of the whole batch, reduce by sum"
        )
    equal = next((b for b in found if b.name == EQUAL_SPLIT), None)
    alone = [b for b in found if b.name.endswith(" alone") and b.step_time_s is not None]
    if equal is not None and equal.step_time_s is not None and alone:
        best = min(alone, key=lambda b: b.step_time_s or 0.0)
        if best.step_time_s is not None and equal.step_time_s > best.step_time_s:
            out.append(f"an equal split over all chips is slower than {best.name}")
    together = sum(1 / b.step_time_s for b in alone if b.step_time_s)
    gain = PS_PER_S / chosen.priced.exact_ps / together - 1 if len(alone) > 1 else 0.0
    if gain > LEAST_GAIN:
        out.append(
            f"{gain:.1%} faster than all kinds on their own together: memory relief, for alone "
            "each kind has to hold the whole model (by recomputation, larger groups or uneven cuts)"
        )
    return out


def near_plans(context: Context, chosen: Placement, shapes: Rectangular) -> tuple[Alternative, ...]:
    """Other global batches within the job's tolerance, and rectangular plans on small fleets."""
    found = _other_batches(context, chosen.layouts, "the plan's own pipelines")
    found += _filled_batches(context, chosen)
    wanted = _telling(shapes)
    for split in wanted:
        idle = context.topology.chips - split.tp * split.pp * split.dp
        found.append(
            _alternative(
                context,
                f"rectangular tp={split.tp} pp={split.pp} dp={split.dp}",
                context.job.global_batch,
                split.priced.exact_ps,
                f"{split.describe()}; {idle} chips idle" if idle else split.describe(),
            )
        )
        found += _other_batches(context, split.layouts, split.describe())
    unique = {(a.change, a.description): a for a in found}
    ranked = sorted(unique.values(), key=lambda a: (-a.tokens_per_s, a.change))
    return tuple(ranked[:MOST_ALTERNATIVES])


def _telling(shapes: Rectangular) -> list[EqualSplit]:
    """Of the rectangular layouts: the best per number of chips, pure data, pure pipeline."""
    chosen: dict[tuple[str, int], EqualSplit] = {}
    for split in sorted(shapes.parts, key=lambda e: e.priced.exact_ps):
        used = split.tp * split.pp * split.dp
        chosen.setdefault(("chips", used), split)
        if split.pp == split.tp == 1:
            chosen.setdefault(("data", used), split)
        if split.dp == split.tp == 1:
            chosen.setdefault(("pipeline", used), split)
    most = max((s.tp * s.pp * s.dp for s in shapes.parts), default=0)
    keep = [
        split
        for (kind, used), split in chosen.items()
        if used == most or (kind == "chips" and used & (used - 1) == 0)
    ]
    return list(dict.fromkeys(keep))


def _other_batches(
    context: Context, layouts: Sequence[LayoutPipeline], what: str
) -> list[Alternative]:
    """The same equal pipelines at the nearest batches that they divide, within the tolerance."""
    job = context.job
    shape = {tuple((s.mesh, s.parts) for s in p.stages) for p in layouts}
    rows = {p.rows for p in layouts}
    if len(shape) > 1 or len(rows) > 1:
        return []
    step = sum(p.rows for p in layouts)
    room = job.global_batch_tolerance * job.global_batch
    out = []
    for batch in {job.global_batch // step * step, -(-job.global_batch // step) * step}:
        if batch == job.global_batch or batch < step or abs(batch - job.global_batch) > room:
            continue
        changed = [
            replace(free_turns(p), micro_batches=batch // step, last_rows=p.rows) for p in layouts
        ]
        priced = context.pricer.price(changed, context.options.zero_level)
        if priced.fits:
            text = f"{what}, equal micro-batches on all {len(layouts)} pipelines"
            out.append(
                _alternative(context, f"job.global_batch={batch}", batch, priced.exact_ps, text)
            )
    return sorted(out, key=lambda a: a.global_batch)


def _filled_batches(context: Context, chosen: Placement) -> list[Alternative]:
    """Batches within the tolerance at which the plan's own pipelines wait less for one another.

    Larger: every pipeline takes the whole micro-batches that it finishes before the slowest one.
    Smaller: partly filled last micro-batches are dropped.
    """
    job, pipes = context.job, chosen.priced.pipelines
    room = int(job.global_batch_tolerance * job.global_batch)
    if room < 1:
        return []
    end = max(p.exact.total for p in pipes)
    larger: list[LayoutPipeline] = []
    left = room
    for pipe in pipes:
        layout = free_turns(pipe.pipeline)
        missing = layout.rows - layout.last_rows
        if missing > left:
            larger.append(layout)
            continue
        takt = max(s.forward_ps + s.backward_ps for s in pipe.stages)
        more = min((end - pipe.exact.total) // takt, (left - missing) // layout.rows)
        left -= missing + more * layout.rows
        larger.append(
            replace(layout, micro_batches=layout.micro_batches + more, last_rows=layout.rows)
        )
    smaller = [
        replace(p, micro_batches=p.micro_batches - 1, last_rows=p.rows)
        if p.last_rows < p.rows and p.micro_batches > 1
        else p
        for p in (free_turns(pipe.pipeline) for pipe in pipes)
    ]
    out = []
    for layouts, what in ((larger, "fuller micro-batches"), (smaller, "whole micro-batches only")):
        batch = sum((p.micro_batches - 1) * p.rows + p.last_rows for p in layouts)
        if batch == job.global_batch or abs(batch - job.global_batch) > room:
            continue
        priced = context.pricer.price(layouts, context.options.zero_level)
        if priced.fits and batch * chosen.priced.exact_ps > job.global_batch * priced.exact_ps:
            text = f"the plan's own pipelines, {what}"
            out.append(
                _alternative(context, f"job.global_batch={batch}", batch, priced.exact_ps, text)
            )
    return out


def _alternative(
    context: Context, change: str, batch: int, exact_ps: int, description: str
) -> Alternative:
    seconds = exact_ps / PS_PER_S
    return Alternative(
        change=change,
        global_batch=batch,
        step_time_s=seconds,
        tokens_per_s=batch * context.job.seq_len / seconds,
        description=description,
    )
