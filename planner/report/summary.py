"""What the plan is worth: its figures, the plans beside it, what was proved, what is left over."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from costmodels.confidence import peak_range
from costmodels.price import HOSTED
from planner.plan import Baseline, Certificate, Estimate, Plan
from planner.report.bars import COLOURS, FILLS, length, stacked
from planner.report.format import count, device_list, duration, memory, percent, plural, ratio
from planner.report.objective import amount, objective_row, proven
from planner.terms import used_chips

BAR = 24
SMALL_MARGIN = 2**30
"""Bytes: less than this left on a chip deserves a word before a run."""


def figures(plan: Plan) -> Table:
    """Step time, throughput, MFU, where the time goes, and what was proved."""
    estimate = plan.estimate
    chips = sum(used_chips(plan).values())
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("step time", _step_time(estimate))
    table.add_row(
        "throughput",
        Text.assemble(
            (f"{count(estimate.tokens_per_s)} tokens/s", "bold"),
            f" · {count(estimate.tokens_per_s / chips)} per chip",
        ),
    )
    table.add_row(
        "MFU",
        Text.assemble(
            (percent(estimate.mfu), "bold"),
            f" of the used chips' dense peak ({percent(estimate.mfu_6n)} without attention)",
        ),
    )
    table.add_row("time goes to", _breakdown(estimate))
    table.add_row("memory", _tightest(plan))
    if hosts := _hosts(plan):
        table.add_row("host memory", hosts)
    if packed := packed_as(plan):
        table.add_row("gradients", Text(f"{packed} between hosts: not the sums of a run without"))
    if plan.certificate is not None:
        if plan.certificate.objective is not None:
            table.add_row(*objective_row(plan.certificate.objective))
        table.add_row("proof", proof(plan.certificate, plan.estimate.step_time_s))
    return table


def _step_time(estimate: Estimate) -> Text:
    text = Text.assemble((duration(estimate.step_time_s), "bold green"))
    simulated = estimate.simulated_step_time_s
    if simulated is not None:
        off = simulated / estimate.step_time_s - 1
        agrees = "the same" if abs(off) < 5e-7 else f"{'+' if off > 0 else '−'}{percent(abs(off))}"
        text.append(f" · replayed event by event {duration(simulated)} ({agrees})")
    if estimate.step_time_range_s is not None:
        low, high = estimate.step_time_range_s
        text.append(f"\nlikely between {duration(low)} and {duration(high)} on real machines")
    return text


def _breakdown(estimate: Estimate) -> Text:
    parts = [
        ("fill", estimate.breakdown_s.fill),
        ("steady", estimate.breakdown_s.steady),
        ("sync", estimate.breakdown_s.sync),
        ("update", estimate.breakdown_s.update),
    ]
    text = Text.assemble(stacked(parts, BAR // 2), " ")
    for n, (name, value) in enumerate(parts):
        text.append(f" {FILLS[n]}", style=COLOURS[n])
        text.append(f" {name} {duration(value)} ")
    return text


def _tightest(plan: Plan) -> Text:
    replicas = [r for p in plan.pipelines for s in p.stages for r in s.replicas]
    tight = min(replicas, key=lambda r: r.memory_bytes.usable - r.memory_bytes.peak)
    left = tight.memory_bytes.usable - tight.memory_bytes.peak
    what = f"keeps {memory(left)} of" if left >= 0 else f"lacks {memory(-left)} beyond"
    text = Text(
        f"the fullest chip, {tight.devices[0]} ({short_name(tight.chip)}), {what} "
        f"{memory(tight.memory_bytes.usable)}"
    )
    low, high = peak_range(tight.memory_bytes.peak)
    risky = left >= 0 and high > tight.memory_bytes.usable
    text.append(f"\nruns of such a peak took {memory(low)} to {memory(high)}")
    if risky:
        text.append(": some runtimes would not fit", style="yellow")
    if 0 <= left < SMALL_MARGIN:
        text.append("\nthin: other software on the chip could use that up", style="yellow")
    return text


def packed_as(plan: Plan) -> str:
    """How gradients are packed between hosts; empty where they keep their width."""
    names = {group.compression for group in plan.sync_groups} - {"none"}
    return " and ".join(sorted(names))


def _hosts(plan: Plan) -> str:
    """What offloaded state takes on the fullest host; empty where nothing is offloaded."""
    taken: Counter[str] = Counter()
    fullest = 0.0
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            for replica in stage.replicas:
                for device in replica.devices:
                    taken[device.rpartition("/")[0]] += replica.memory_bytes.host
                if replica.memory_bytes.host:
                    own = replica.memory_bytes
                    fullest = max(fullest, own.host / own.host_usable)
    host, most = max(taken.items(), key=lambda item: item[1])
    if not most:
        return ""
    return (
        f"{memory(most)} of {_what_is_hosted(plan)} on {host}; the fullest share of a device is "
        f"{percent(fullest)} taken"
    )


def _what_is_hosted(plan: Plan) -> str:
    stages = [s for p in plan.pipelines for s in p.stages]
    kinds = {
        "optimizer state": any(s.offload == "optimizer" for s in stages),
        "activations": any(part.policy in HOSTED for s in stages for part in s.recompute),
    }
    return " and ".join(name for name, yes in kinds.items() if yes)


def proof(certificate: Certificate, step_s: float) -> Text:
    """The certificate in words; ``step_s``: the exact step time."""
    if certificate.status == "optimal":
        head = "the best possible within the declared space"
    else:
        head = (
            f"at most {percent(certificate.gap)} from the best possible within the declared space"
        )
    if certificate.objective is not None:
        head += ", among plans that are fast enough"
    text = Text.assemble((head, "bold"))
    if certificate.status == "feasible":
        asked = certificate.solver.limits.get("gap")
        if not certificate.deterministic:
            text.append(" (a limit stopped the proof)")
        elif isinstance(asked, float):
            text.append(f" (more than the {percent(asked)} asked for with --gap)")
    text.append(f"\n{proven(certificate)}")
    if certificate.exact_lower_bound_s is not None:
        gap = percent(1.0 - certificate.exact_lower_bound_s / step_s)
        text.append(
            f"\nexact time {duration(step_s)}, proven bound "
            f"{duration(certificate.exact_lower_bound_s)}: at most {gap} from the best possible"
        )
    if not certificate.deterministic:
        text.append("\nstopped by the clock: another run may give another plan", style="yellow")
    return text


def baselines(plan: Plan) -> RenderableType:
    """The chosen plan beside what people would have done by hand."""
    own = plan.estimate.step_time_s
    known = [b.step_time_s for b in plan.baselines if b.step_time_s is not None]
    longest = max([own, *known])
    costs = plan.certificate is not None and plan.certificate.objective is not None
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, max_width=34, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    table.add_row(
        Text("this plan", style="bold"),
        Text(duration(own), style="bold"),
        Text(length(own, longest, BAR), style="green"),
    )
    for baseline in plan.baselines:
        if baseline.step_time_s is None:
            table.add_row(baseline.name, "—", Text(baseline.description, style="dim"))
            continue
        bar = Text(length(baseline.step_time_s, longest, BAR), style="dim")
        told = baseline.description if costs else _compared(own, baseline)
        bar.append(f"  {told}", style="not dim")
        table.add_row(baseline.name, duration(baseline.step_time_s), bar)
    return table


def _compared(own: float, baseline: Baseline) -> str:
    speedup = (baseline.step_time_s or own) / own
    if abs(speedup - 1) < 5e-4:
        return "as fast"
    if speedup > 1:
        return f"this plan is {ratio(speedup)} faster"
    return f"this plan is {ratio(1 / speedup)} slower"


def headline(plan: Plan) -> Text:
    """One line: what it is, and how it compares with the best thing to do without it."""
    used = sum(used_chips(plan).values())
    idle = sum(len(u.devices) for u in plan.unused_devices)
    chips = f"all {plural(used, 'chip')}" if not idle else f"{used:,} of {used + idle:,} chips"
    pipelines = plural(len(plan.pipelines), "pipeline")
    text = Text.assemble(
        ("Plan ", "bold"),
        (plan.plan_id[:12], "bold cyan"),
        f"  {plan.plan_class} · {pipelines} on {chips}",
    )
    rivals = [b for b in plan.baselines if b.step_time_s is not None]
    own_goal = plan.certificate.objective if plan.certificate is not None else None
    if own_goal is not None:
        text.append(f"\n  {amount(own_goal.value, own_goal.unit)}", style="bold green")
    elif rivals:
        best = min(rivals, key=lambda b: b.step_time_s or 0.0)
        speedup = (best.step_time_s or 0.0) / plan.estimate.step_time_s
        if speedup > 1.0005:
            text.append(f"\n  {ratio(speedup)} faster than {best.name}", style="bold green")
    return text


def leftovers(plan: Plan) -> RenderableType | None:
    """Idle chips with their reasons, alternatives that need consent, and warnings."""
    blocks: list[RenderableType] = []
    if plan.unused_devices:
        lines = Text()
        for unused in plan.unused_devices:
            number = plural(len(unused.devices), "chip")
            lines.append(f"{number} ", style="yellow")
            lines.append(f"{device_list(unused.devices)}: {unused.reason}\n")
        blocks.append(section("Idle", _trimmed(lines)))
    if plan.alternatives:
        blocks.append(section("Alternatives, if you agree to them", _alternatives(plan)))
    if plan.warnings:
        blocks.append(section("Warnings", bullets(plan.warnings, style="yellow")))
    return Group(*blocks) if blocks else None


def _alternatives(plan: Plan) -> Table:
    own = plan.estimate.tokens_per_s
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", overflow="fold", max_width=32)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for other in plan.alternatives:
        change = other.tokens_per_s / own - 1
        sign = "+" if change >= 0 else "−"
        equal = abs(change) < 5e-5
        table.add_row(
            other.change,
            duration(other.step_time_s),
            "same tokens/s" if equal else f"{sign}{percent(abs(change))} tokens/s",
            other.description,
        )
    return table


def section(title: str, body: RenderableType) -> RenderableType:
    """A title and an indented body, with a blank line after it."""
    return Group(Text(title, style="bold"), Padding(body, (0, 0, 1, 2)))


def bullets(lines: tuple[str, ...], *, style: str = "") -> Table:
    """A list whose long lines hang; what a problem says to try stands on a line of its own."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(style=style)
    for line in lines:
        table.add_row("·", Text(line.replace("\n    try: ", "\n→ ")))
    return table


def _trimmed(text: Text) -> Text:
    text.rstrip()
    return text
