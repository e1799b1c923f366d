"""The top of the page: which plan it is, its figures, and what the inputs were understood to be."""

from __future__ import annotations

from collections import Counter

from costmodels.catalog.names import short_name
from planner.graphs.topology import IslandClass
from planner.plan import Plan
from planner.report.format import bandwidth, count, duration, gib, memory, percent, plural, ratio
from planner.report.html.tags import Html, tag
from planner.report.html.view import View
from planner.restore import Restored
from planner.terms import used_chips

SMALL_MARGIN = 2**30
"""Bytes: less than this left on a chip deserves a word before a run."""


def headline(view: View) -> Html:
    """Model and fleet, and how the plan compares with the best thing to do without it."""
    plan = view.plan
    used = sum(used_chips(plan).values())
    idle = sum(len(u.devices) for u in plan.unused_devices)
    chips = plural(used, "chip") if not idle else f"{used:,} of {used + idle:,} chips"
    names = ", ".join(f"{n:,} × {view.names[c]}" for c, n in used_chips(plan).items())
    return tag(
        "header",
        tag("h1", f"{plan.inputs.model.name} on {chips}"),
        tag(
            "p",
            f"{names} · {plan.plan_class} plan of {plural(len(plan.pipelines), 'pipeline')}",
            class_="lead",
        ),
        verdict(plan),
    )


def verdict(plan: Plan) -> Html | None:
    """The plan against the fastest thing beside it that is not exactly as fast."""
    own = plan.estimate.step_time_s
    known = [(b.step_time_s / own, b.name) for b in plan.baselines if b.step_time_s is not None]
    rivals = [(speed, name) for speed, name in known if abs(speed - 1) >= 5e-4]
    if not rivals:
        text = "As fast as everything that stands beside it." if known else None
        return tag("p", text, class_="verdict") if text else None
    speed, name = min(rivals)
    way = f"{ratio(speed)} faster" if speed > 1 else f"{ratio(1 / speed)} slower"
    return tag("p", tag("strong", way), f" than {name}", class_="verdict")


def tiles(plan: Plan) -> Html:
    """The figures that people ask for first."""
    estimate = plan.estimate
    chips = sum(used_chips(plan).values())
    found = [
        ("step time", duration(estimate.step_time_s), _replayed(plan)),
        (
            "throughput",
            count(estimate.tokens_per_s),
            f"tokens/s, {count(estimate.tokens_per_s / chips)} per chip",
        ),
        ("MFU", percent(estimate.mfu), "of the used chips' dense peak"),
        ("least memory left", *_tightest(plan)),
        ("from the best possible", *_gap(plan)),
    ]
    return tag("div", [_tile(*tile) for tile in found], class_="tiles")


def _tile(name: str, value: str, note: str) -> Html:
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag("div", value, class_="value"),
        tag("div", note, class_="note"),
        class_="tile",
    )


def _replayed(plan: Plan) -> str:
    simulated = plan.estimate.simulated_step_time_s
    if simulated is None:
        return "not replayed"
    off = simulated / plan.estimate.step_time_s - 1
    if abs(off) < 5e-7:
        return "the replay agrees"
    return f"replayed {duration(simulated)} ({'+' if off > 0 else '−'}{percent(abs(off))})"


def _tightest(plan: Plan) -> tuple[str, str]:
    replicas = [r for p in plan.pipelines for s in p.stages for r in s.replicas]
    tight = min(replicas, key=lambda r: r.memory_bytes.usable - r.memory_bytes.peak)
    left = tight.memory_bytes.usable - tight.memory_bytes.peak
    place = f"of {memory(tight.memory_bytes.usable)} on {tight.devices[0]}"
    if left < 0:
        return f"−{memory(-left)}", f"does not fit {place}"
    return memory(left), place + (" (thin)" if left < SMALL_MARGIN else "")


def _gap(plan: Plan) -> tuple[str, str]:
    certificate = plan.certificate
    if certificate is None:
        return "unknown", "a layout that was given, not searched"
    if certificate.lower_bound_s <= 0:
        return "unknown", "the search was stopped before a proof"
    if certificate.status == "optimal":
        return "0 %", "proven within the declared space"
    return f"≤ {percent(certificate.gap)}", "proven within the declared space"


def understood(world: Restored) -> Html:
    """Model, fleet and job as facts, then the kinds of chips."""
    model, topology, job = world.model, world.topology, world.job
    kinds = Counter(layer.shape.kind for layer in model.layers)
    layers = plural(len(model.layers), "layer")
    if set(kinds) != {"generic"}:
        layers += f" ({', '.join(plural(n, kind) for kind, n in kinds.items())})"
    active = model.active_parameters
    size = f"{count(model.parameters)} parameters"
    if active != model.parameters:
        size += f", {count(active)} active per token"
    state = job.state_bytes
    hosts = {island.host for cls in topology.classes for island in cls.islands}
    tokens = count(job.global_batch * job.seq_len)
    facts = [
        ("Model", f"{model.name}: {size}, {layers}"),
        ("Fleet", f"{plural(topology.chips, 'chip')} in {plural(len(hosts), 'node')}"),
        (
            "Job",
            f"{count(job.global_batch)} rows of {count(job.seq_len)} tokens "
            f"({tokens} tokens per step) in {job.precision}; {job.optimizer} with "
            f"{state.parameter} + {state.gradient} + {state.optimizer} bytes per parameter "
            "for weights, gradients and optimizer",
        ),
    ]
    rows = [(tag("dt", name), tag("dd", text)) for name, text in facts]
    return tag("div", tag("dl", rows, class_="facts"), _classes(world))


def _classes(world: Restored) -> Html:
    heads = ("chips", "islands", "usable memory", f"{world.job.precision} peak", "inside an island")
    head = tag("tr", [tag("th", name) for name in heads], tag("th", "to another node, achieved"))
    rows = [
        tag(
            "tr",
            tag("td", f"{cls.chips:,} × {short_name(cls.chip.id)}"),
            tag("td", f"{cls.count:,} × {cls.size}"),
            tag("td", f"{gib(cls.usable_memory_bytes)} of {cls.chip.memory_bytes / 2**30:g} GiB"),
            tag("td", _peak(cls, world.job.precision)),
            tag("td", inside(cls)),
            tag("td", _outside(cls, world)),
        )
        for cls in world.topology.classes
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll")


def inside(cls: IslandClass) -> str:
    """The links inside an island."""
    if cls.size == 1:
        return "—"
    return f"{cls.fabric.kind} {cls.fabric.total_bandwidth / 1e9:.4g} GB/s"


def _peak(cls: IslandClass, precision: str) -> str:
    if not cls.chip.supports(precision):
        return "none"
    return f"{cls.chip.peak(precision) / 1e12:,.0f} TFLOP/s"


def _outside(cls: IslandClass, world: Restored) -> str:
    routes = [
        route
        for (a, _), route in sorted(world.topology.class_routes.items(), key=lambda i: i[0])
        if a == cls.index and route is not None
    ]
    if not routes:
        return "—"
    best = max(routes, key=lambda r: r.bandwidth)
    return f"{best.kind} {bandwidth(best.bandwidth)}"
