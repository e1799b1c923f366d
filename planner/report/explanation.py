"""An explanation for people: what decides the plan, what its neighbours cost, why not otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from costmodels.price import HOSTED
from planner.chunks import even_chunks
from planner.explain import Explanation, Margin, Neighbour, StageLoad, WhyNot
from planner.explain.marginal import Step
from planner.plan import Plan
from planner.report.bars import COLOURS, FILLS, length, stacked
from planner.report.format import duration, gib, intervals, memory, percent, plural, ratio
from planner.report.summary import section
from planner.terms import Terms, Tightest, tightest

BAR = 24
ALIKE = 2**28
"""Bytes: smaller differences of what is left are not worth a word."""

TERMS = {
    "compute": "computing",
    "recompute": "recomputing",
    "tensor_parallel": "tensor-parallel communication",
    "pipeline": "filling, draining and transfers of the pipeline",
    "sync": "gradient synchronisation",
    "update": "the optimizer's update",
}
"""Causes of time in words."""

SHORT = {
    "compute": "computing",
    "recompute": "recomputing",
    "tensor_parallel": "tensor parallel",
    "pipeline": "pipeline",
    "sync": "sync",
    "update": "update",
}
"""The same for narrow columns."""

ITEMS = {"context": "driver context", "buffers": "communication buffers"}
"""Items of memory in other words than their names."""

DIMENSIONS = {
    "tensor_parallel": "tensor parallel",
    "pipeline": "pipeline and data",
    "micro_batch_rows": "micro-batch",
    "recompute": "recomputation",
    "zero": "ZeRO",
    "split": "split",
}


def explanation_page(found: Explanation) -> RenderableType:
    """The whole explanation; wishes come first, they were asked for."""
    parts: list[RenderableType] = []
    for answer in found.why_nots:
        parts.append(section(f"Why not {answer.wish}", why_not_text(answer, found.plan)))
    parts.append(section("Time", _time(found)))
    if len(found.loads) > 1:
        parts.append(section("Split", _split(found)))
    parts.append(section("Memory", memory_text(found.tightest)))
    parts.append(section("One decision changed, everything else kept", _neighbours(found)))
    if found.margins:
        parts.append(section("Worth at the margin", _margins(found.margins, found.plan)))
    if found.better:
        plans = [n.plan for n in found.better if n.plan is not None]
        text = f"a neighbour is faster: {_missed(found.plan, plans)}; "
        text += "--improved FILE writes it for --hint"
        parts.append(Text(text, style="yellow"))
    return Group(*parts)


# -- time and memory --------------------------------------------------------------------------


def _time(found: Explanation) -> RenderableType:
    slow, step = found.bottleneck, found.plan.estimate.step_time_s
    stages = len(found.loads)
    where = f"stage {slow.stage + 1} of {stages}" if stages > 1 else "every pipeline"
    text = Text.assemble(
        ("bottleneck ", "dim"),
        (where, "bold"),
        f" (layers {intervals(slow.parts)} on {short_name(slow.chip)}): it works "
        f"{percent(slow.share)} of the {duration(step)}",
    )
    return Group(text, terms_table(slow.terms, words_of(found.plan)))


def words_of(plan: Plan) -> Mapping[str, str]:
    """Causes of time in words; more than tensor parallelism may communicate inside a stage."""
    meshes = [r.mesh for p in plan.pipelines for s in p.stages for r in s.replicas]
    names = {
        "context": any(m.context_parallel > 1 for m in meshes),
        "expert": any(m.expert_parallel > 1 for m in meshes),
    }
    used = [name for name, yes in names.items() if yes]
    said = dict(TERMS)
    if any(part.policy in HOSTED for p in plan.pipelines for s in p.stages for part in s.recompute):
        said["recompute"] = "recomputing, copying activations"
    if any(m.zero3 for m in meshes):
        return said | {"tensor_parallel": "communication inside the stages"}
    if not used:
        return said
    if any(m.tensor_parallel > 1 for m in meshes):
        used.insert(0, "tensor")
    return said | {"tensor_parallel": f"{'- and '.join(used)}-parallel communication"}


def terms_table(terms: Terms, words: Mapping[str, str] = TERMS) -> Table:
    """Seconds of a step by cause, with bars."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    longest = max(value for _, value in terms.items())
    for name, value in terms.items():
        if value > 0:
            bar = Text(length(value, longest, BAR), style="cyan")
            table.add_row(words[name], duration(value), percent(value / terms.total), bar)
    return table


def _split(found: Explanation) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for justify in ("right", "left", "left", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    shown = _some(found.loads)
    for load in shown:
        bar = Text(length(load.share, 1.0, BAR), style="green" if load.share < 1 else "bold red")
        chips = f"{load.chips} × {short_name(load.chip)}"
        layers = f"layers {intervals(load.parts)}"
        table.add_row(str(load.stage + 1), chips, layers, duration(load.micro_batch_s), bar)
    shares = [load.share for load in found.loads]
    least = min(shares)
    words = f"per micro-batch; the least busy stage has {percent(least)} of the bottleneck's work"
    parts: list[RenderableType] = [table]
    if len(shown) < len(found.loads):
        parts.append(Text(f"{len(found.loads)} stages, the {len(shown)} busiest shown", "dim"))
    parts.append(Text(words, style="dim"))
    return Group(*parts)


def _some(loads: Sequence[StageLoad]) -> list[StageLoad]:
    """All stages of a short pipeline, the busiest of a long one, in order."""
    busiest = sorted(loads, key=lambda load: -load.share)[:12]
    return sorted(busiest, key=lambda load: load.stage)


def memory_text(tight: Tightest) -> RenderableType:
    """The binding device and what fills it."""
    verb = "keeps" if tight.left >= 0 else "lacks"
    text = Text.assemble(
        ("binding ", "dim"),
        (tight.device, "bold"),
        f" ({short_name(tight.chip)}, stage {tight.stage + 1}): {memory(tight.peak)} of "
        f"{memory(tight.usable)}, {verb} {memory(abs(tight.left))}",
    )
    items = [(name, size) for name, size in tight.items if size]
    bar = stacked([(name, float(size)) for name, size in items], 60)
    legend = Text()
    for n, (name, size) in enumerate(items):
        legend.append(FILLS[n % len(FILLS)], style=COLOURS[n % len(COLOURS)])
        legend.append(f" {ITEMS.get(name, name)} {memory(size)}  ")
    return Group(text, bar, legend)


# -- neighbours -------------------------------------------------------------------------------


def _neighbours(found: Explanation) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(max_width=32)
    table.add_column(max_width=40)
    table.add_column(justify="right", no_wrap=True)
    step = duration(found.plan.estimate.step_time_s)
    head = Text("GiB left", style="dim")
    table.add_row("", "", "", head)
    table.add_row("", "as it is", Text(step, style="bold"), gib(found.tightest.left))
    before = ""
    for neighbour in found.neighbours:
        name = DIMENSIONS[neighbour.dimension]
        table.add_row(
            "" if name == before else name,
            neighbour.change,
            _neighbour(neighbour, found.plan, found.bottleneck.terms),
            _left(neighbour),
        )
        before = name
    return table


def _neighbour(neighbour: Neighbour, plan: Plan, own: Terms) -> Text:
    if neighbour.verdict == "impossible":
        return Text(f"not possible: {neighbour.reason}", style="dim")
    if neighbour.verdict == "does not fit":
        worst = max(neighbour.shortfalls, key=lambda s: s.peak - s.usable)
        lacks = f"does not fit: {memory(worst.peak - worst.usable)} too much on {worst.chip}"
        return Text(f"{lacks} (stage {worst.number})", style="red")
    step = neighbour.step_time_s or 0.0
    text = Text(f"{duration(step)}, {_times(plan.estimate.step_time_s, step)}")
    if neighbour.verdict == "slower" and neighbour.terms is not None:
        text.append(f": {_grown(own, neighbour.terms, SHORT)}", style="dim")
    return text


def _left(neighbour: Neighbour) -> str:
    if neighbour.plan is None or neighbour.verdict == "does not fit":
        return ""
    return gib(tightest(neighbour.plan).left)


def memory_change(plan: Plan, other: Plan) -> str:
    """``44.1 GiB left on the fullest chip instead of 32.0 GiB``; empty where it is much alike."""
    own, left = tightest(plan).left, tightest(other).left
    if abs(left - own) < ALIKE:
        return ""
    return f"{memory(left)} left on the fullest chip instead of {memory(own)}"


def _times(own_s: float, other_s: float) -> str:
    change = other_s / own_s - 1
    if abs(change) <= 5e-4:
        return "as fast"
    return f"{percent(abs(change))} {'slower' if change > 0 else 'faster'}"


def _grown(own: Terms, other: Terms, words: Mapping[str, str] = TERMS) -> str:
    """The term that grew most, in words."""
    known = dict(own.items())
    name, grown = max(
        ((n, v - known[n]) for n, v in other.items()), key=lambda pair: (pair[1], pair[0])
    )
    return f"{words[name]} {duration(known[name])} → {duration(known[name] + grown)}"


# -- why not ----------------------------------------------------------------------------------


def why_not_text(answer: WhyNot, plan: Plan) -> RenderableType:
    """The verdict in a sentence, then its reasons."""
    body = Text()
    match answer.verdict:
        case "as planned":
            body.append("the plan does so already", style="green")
            if answer.reason:
                body.append(f": {answer.reason}")
        case "illegal":
            body.append("not legal", style="bold red")
            for rule, valid in answer.rules:
                body.append(f"\n· {rule}")
                if valid:
                    body.append(f"\n  → legal: {valid}", style="cyan")
        case "not found":
            body.append("no such plan was found", style="bold red")
            body.append(f": {answer.reason}" if answer.reason else "")
        case "does not fit":
            body.append(_does_not_fit(answer))
        case _:
            body.append(_compared(answer, plan))
    if answer.verdict != "as planned":
        body.append(f"\n{answer.how}", style="dim")
    if answer.lower_bound_s is not None:
        body.append(f"\nproven: nothing like it takes less than {duration(answer.lower_bound_s)}")
    for remedy in answer.remedies[:3]:
        body.append(f"\n→ {remedy}", style="cyan")
    return body


def _does_not_fit(answer: WhyNot) -> Text:
    text = Text("does not fit", style="bold red")
    for short in answer.shortfalls[:3]:
        many = f" in {plural(short.pipelines, 'pipeline')}" if short.pipelines > 1 else ""
        layers = intervals(short.chunks or (short.layers,))
        text.append(
            f"\n· {memory(short.peak - short.usable)} too much per {short.chip} on stage "
            f"{short.number} (layers {layers}){many}: {memory(short.peak)} of "
            f"{memory(short.usable)}",
            style="not bold not red",
        )
    if not answer.shortfalls and answer.reason:
        text.append(f": {answer.reason}", style="not bold not red")
    return text


def _missed(plan: Plan, faster: Sequence[Plan]) -> str:
    """What it means that something is faster: nothing yet where the objective is another one."""
    stated = plan.certificate.objective if plan.certificate is not None else None
    if stated is not None:
        return f"the objective is {stated.name}, not time"
    if faster and not any(all(map(even_chunks, other.pipelines)) for other in faster):
        return "its chunks differ in length, which is not searched"
    return "the search missed it"


def _faster(answer: WhyNot, plan: Plan) -> str:
    """Why the plan is not the faster one: the search missed it, or was not asked for it."""
    if answer.beyond:
        return f"the plan's job is without {answer.beyond}; -o writes it"
    others = [answer.plan] if answer.plan is not None else []
    return f"{_missed(plan, others)}; -o writes it, and --hint starts from it"


def _compared(answer: WhyNot, plan: Plan) -> Text:
    other = answer.plan
    if other is None or answer.own_terms is None or answer.terms is None:
        return Text(answer.verdict)
    own_rate, rate = plan.estimate.tokens_per_s, other.estimate.tokens_per_s
    same = abs(own_rate * plan.estimate.step_time_s / (rate * other.estimate.step_time_s) - 1)
    if answer.verdict == "equal":
        text = Text("as fast as the plan", style="green")
    elif answer.verdict == "faster":
        text = Text(f"faster: {ratio(rate / own_rate)} the plan's tokens per second", "bold green")
        text.append(f"\n{_faster(answer, plan)}", "yellow")
    else:
        text = Text(f"{ratio(own_rate / rate)} slower", style="bold red")
    if same < 1e-9:
        text.append(f": {duration(other.estimate.step_time_s)}", style="not bold")
        if answer.verdict != "equal":
            text.append(f" instead of {duration(plan.estimate.step_time_s)}", style="not bold")
    else:
        text.append(f": {rate:,.0f} instead of {own_rate:,.0f} tokens/s", style="not bold")
    if answer.verdict == "slower" and same < 1e-9:
        text.append(
            f"\nthrough {_grown(answer.own_terms, answer.terms, words_of(plan))}", style="not bold"
        )
    if change := memory_change(plan, other):
        text.append(f"\n{change}", style="not bold")
    return text


# -- margins ----------------------------------------------------------------------------------


def _margins(found: Sequence[Margin], plan: Plan) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column()
    own = plan.estimate.step_time_s
    for margin in found:
        unit = f"1 {margin.unit}" + (f" of {margin.chips}" if margin.chips > 1 else "")
        head = f"{unit} {short_name(margin.chip)}"
        table.add_row(f"{head} more", _step(margin.more, own), _dual(margin))
        table.add_row(f"{head} less", _step(margin.less, own), "")
    certificate = plan.certificate
    gap = certificate.gap if certificate is not None else None
    note = "each line planned again"
    if gap is not None:
        note += f"; differences below the proven gap of {percent(gap)} may be the search's"
    return Group(table, Text(note, style="dim"))


def _step(step: Step, own: float) -> Text:
    if step.planned is None:
        return Text(f"not possible: {step.reason}", style="dim")
    other = step.planned.outcome.step_time_s
    if other is None:
        return Text(step.planned.outcome.reason, style="red")
    return Text(f"{duration(other)}, {_times(own, other)}")


def _dual(margin: Margin) -> Text:
    if margin.dual_s is None:
        return Text("")
    return Text(f"(the program's price: saves {duration(margin.dual_s)})", style="dim")
