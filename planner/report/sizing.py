"""How many chips, and how many of another: for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report.differences import known
from planner.report.explanation import TERMS
from planner.report.format import bandwidth, count, duration, memory, percent, plural, ratio
from planner.report.scenarios import chips_text, shape_text
from planner.report.summary import bullets, section
from planner.scenario.links import link_rate
from planner.scenario.rates import Rates
from planner.whatif.fleet import NodeType, fleet_of
from planner.whatif.money import costs_of
from planner.whatif.replace import Holds, Replacement
from planner.whatif.sizing import Sized, Target

# -- how many chips ---------------------------------------------------------------------------


def size_page(found: Sized, target: Target, rates: Rates) -> RenderableType:
    """How many chips, how sure that is, and what it costs."""
    head = Text.assemble(
        (f"{found.chips:,} × {found.node.name}", "bold green"),
        f" in {plural(found.nodes, 'node')} of {found.node.chips}: "
        f"{tokens_text(target.tokens)} tokens in {_days(target, found)}",
    )
    outcome = found.outcome
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim")
    lines.add_column()
    needed = f"{count(found.target_tokens_per_s)} tokens/s needed"
    lines.add_row("rate", f"{count(outcome.tokens_per_s or 0.0)} tokens/s, {needed}")
    lines.add_row("plan", f"{shape_text(outcome.shape)} on {chips_text(outcome)}")
    lines.add_row("MFU", percent(outcome.mfu or 0.0))
    lines.add_row("least", Text(least_text(found)))
    costs = costs_of(outcome, rates)
    hours = target.tokens / (outcome.tokens_per_s or 1.0) / 3600 / target.goodput
    chip_hours = f"{count(hours * found.chips)} chip-hours"
    total = None if costs.usd_per_hour is None else costs.usd_per_hour * hours
    money = "cost unknown (--price)" if total is None else f"{total:,.0f} USD"
    lines.add_row("cost", f"{chip_hours}, {money}")
    energy = None if costs.kilowatts is None else costs.kilowatts * hours / 1000
    lines.add_row("energy", f"{known(energy, '{:,.1f}')} MWh of the chips")
    parts: list[RenderableType] = [head, Text(), lines, Text()]
    parts.append(section("Fleets that were planned", tried_table(found)))
    parts.append(section("Assumed, not given", bullets(_assumed(found.node, target), style="dim")))
    return Group(*parts)


def tokens_text(tokens: float) -> str:
    """``1T``, ``300B``, as ``--tokens`` reads it."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= scale:
            return f"{tokens / scale:.4g}{letter}"
    return f"{tokens:,.0f}"


def _days(target: Target, found: Sized) -> str:
    rate = found.outcome.tokens_per_s or 1.0
    takes = target.tokens / rate / 86_400 / target.goodput
    return f"{takes:.1f} days (asked: {target.days:g})"


def _assumed(node: NodeType, target: Target) -> tuple[str, ...]:
    pauses = "steps run without a pause: no failure, no checkpoint, no evaluation (--goodput)"
    share = f"{percent(target.goodput)} of the time counts"
    return (*node.notes, share if target.goodput < 1 else pauses)


def least_text(found: Sized) -> str:
    """What is proven about fewer nodes, and what was only not found."""
    chips = found.node.chips
    if found.proven_least >= found.nodes:
        return "proven: no plan on fewer nodes is fast enough"
    proven = (
        f"proven: fewer than {found.proven_least * chips:,} chips "
        f"({plural(found.proven_least, 'node')}) cannot do it"
    )
    if found.below < found.proven_least:
        return f"found by search; {proven}"
    return f"found by search: none was found on {found.below * chips:,}; {proven}"


def tried_table(found: Sized) -> Table:
    """Every fleet with its rate and the proven limit."""
    table = Table.grid(padding=(0, 2))
    for justify in ("right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    heads = ("chips", "tokens/s found", "at most (proven)", "")
    table.add_row(*(Text(h, style="dim") for h in heads))
    for tried in found.tried:
        outcome = tried.outcome
        rate = outcome.tokens_per_s
        most = outcome.most_tokens_per_s
        needed = found.target_tokens_per_s
        words = "no plan was found that is fast enough"
        if rate is not None and rate >= needed:
            words = "enough"
        elif most is not None and most < needed:
            words = "too few (proven)"
        elif rate is None:
            words = outcome.reason.splitlines()[0]
        table.add_row(
            f"{tried.nodes * found.node.chips:,}",
            count(rate) if rate is not None else "—",
            count(most) if most is not None else "—",
            Text(words, style="green" if words == "enough" else "dim"),
        )
    return table


def size_object(found: Sized, target: Target, rates: Rates) -> dict[str, Any]:
    """The answer as plain JSON."""
    costs = costs_of(found.outcome, rates)
    return {
        "chip": found.node.chip.id,
        "chips": found.chips,
        "nodes": found.nodes,
        "chips_per_node": found.node.chips,
        "tokens": target.tokens,
        "seconds_asked": target.seconds,
        "goodput": target.goodput,
        "tokens_per_s": found.outcome.tokens_per_s,
        "tokens_per_s_needed": found.target_tokens_per_s,
        "seconds": target.tokens / (found.outcome.tokens_per_s or 1.0) / target.goodput,
        "proven_least_chips": found.proven_least * found.node.chips,
        "none_found_on_chips": found.below * found.node.chips,
        "usd_per_hour": costs.usd_per_hour,
        "kilowatts": costs.kilowatts,
        "outcome": found.outcome.as_json(),
        "tried": _tried(found),
        "assumptions": list(_assumed(found.node, target)),
    }


def _tried(found: Sized) -> list[dict[str, Any]]:
    return [
        {
            "chips": t.nodes * found.node.chips,
            "tokens_per_s": t.outcome.tokens_per_s,
            "most_tokens_per_s": t.outcome.most_tokens_per_s,
            "status": t.outcome.status,
        }
        for t in found.tried
    ]


# -- equal time -------------------------------------------------------------------------------


def replacement_page(found: Replacement) -> RenderableType:
    """How many, through which term, and what a claim would take."""
    new, old = found.new, found.old
    old_s, new_s = found.old_outcome.step_time_s or 0.0, new.outcome.step_time_s or 0.0
    head = Text.assemble(
        (f"{new.chips:,} × {new.node.name}", "bold green"),
        f" do what {found.old_chips:,} × {old.name} do ({ratio(found.ratio)}): "
        f"{duration(new_s)} against {duration(old_s)} per step",
    )
    parts: list[RenderableType] = [head, Text(least_text(new), style="dim")]
    parts += [Text(_accuracy(found), style="dim"), Text()]
    if found.differences:
        title = f"At the same count of {found.old_chips:,}"
        parts.append(section(title, _differences(found)))
    if found.claim is not None:
        parts.append(section(f"The claim of {found.claim:,}", _claim(found)))
    parts.append(section("Fleets that were planned", tried_table(new)))
    notes = tuple(dict.fromkeys((*old.notes, *new.node.notes)))
    parts.append(section("Assumed, not given", bullets(notes, style="dim")))
    return Group(*parts)


def _accuracy(found: Replacement) -> str:
    """How near the plan whose time is to be matched is to the best one."""
    outcome = found.old_outcome
    step, bound = outcome.step_time_s or 0.0, outcome.lower_bound_s
    fleet = f"{found.old_chips:,} × {found.old.name}"
    if not step or bound is None:
        return f"the step to match is that of the best plan found for {fleet}"
    gap = max(0.0, 1 - bound / step)
    return (
        f"the step to match is that of the best plan found for {fleet}: the best there is takes "
        f"at most {percent(gap)} less (proven)"
    )


def _differences(found: Replacement) -> RenderableType:
    same = found.same_count
    if same is None or same.step_time_s is None or found.old_outcome.terms is None:
        return Text("no plan")
    own = dict(found.old_outcome.terms.items())
    total = same.step_time_s - (found.old_outcome.step_time_s or 0.0)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *(Text(t, "dim") for t in (found.old.name, found.new.node.name, "more")))
    for name, change in found.differences:
        if own[name] or change:
            sign = "+" if change >= 0 else "−"
            table.add_row(
                TERMS[name],
                duration(own[name]),
                duration(own[name] + change),
                f"{sign}{duration(abs(change))}",
            )
    step = found.old_outcome.step_time_s or 0.0
    sign = "+" if total >= 0 else "−"
    table.add_row(
        Text("step", "bold"), duration(step), duration(same.step_time_s),
        f"{sign}{duration(abs(total))}",
    )  # fmt: skip
    name, change = found.differences[0]
    if abs(total) < 1e-12:
        return Group(table, Text("no difference"))
    more = "+" if change >= 0 else "−"
    words = f"what differs most is {TERMS[name]}: {more}{duration(abs(change))}, the whole step "
    words += f"{sign}{duration(abs(total))}"
    return Group(table, Text(words, style="bold"))


def _claim(found: Replacement) -> RenderableType:
    claim = found.claim or 0
    chips = found.new.node.chips
    if claim > found.new.chips:
        verdict = f"not reproduced: {found.new.chips:,} suffice"
    elif claim == found.new.chips:
        verdict = "reproduced"
    elif -(-claim // chips) < found.new.proven_least:
        verdict = f"not reproduced: {claim:,} are too few (proven)"
    else:
        verdict = f"not reproduced: a plan was found for {found.new.chips:,}, none for {claim:,}"
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    for held in found.claims:
        table.add_row(held.assumption.name, Text(holds_text(held, found.new)))
    words = (
        f"It would hold, other things equal, if one of these were so on the {found.new.node.name}:"
    )
    parts: list[RenderableType] = [Text(verdict, style="bold"), Text(words, style="dim"), table]
    if any(held.share is not None for held in found.claims):
        sure = "With more than that a plan was found that is fast enough: the claim is refuted. "
        sure += "With less none was found; where that is proven, it says so."
        parts.append(Text(sure, style="dim"))
    return Group(*parts)


def holds_text(held: Holds, new: Sized) -> str:
    """At which share of the catalogue's figures, and what that is."""
    if held.share is None:
        return f"does not hold: {held.reason}"
    node = new.node
    cluster = fleet_of(node, 1 if new.nodes == 1 else 2)
    figures = []
    for link in held.assumption.links:
        name = link.replace("CHIP", node.chip.id)
        rate = link_rate(cluster, name) * held.share
        what = "network per node" if link == "network" else "links of a chip"
        figures.append(f"{what} {bandwidth(rate)}")
    if held.assumption.speed:
        figures.append("of its rate")
    if held.assumption.memory:
        figures.append(f"{memory(node.chip.usable_memory_bytes * held.share)} usable")
    text = f"at {percent(held.share)} of the catalogue's figures"
    if figures:
        text = f"at {percent(held.share)}: {', '.join(figures)}"
    notes = [held.reason] if held.reason else ["proven"] if held.proven else []
    return f"{text} ({notes[0]})" if notes else text


def replacement_object(found: Replacement) -> dict[str, Any]:
    """The answer as plain JSON."""
    return {
        "from": {
            "chip": found.old.chip.id,
            "chips": found.old_chips,
            "outcome": found.old_outcome.as_json(),
        },
        "to": {
            "chip": found.new.node.chip.id,
            "chips": found.new.chips,
            "outcome": found.new.outcome.as_json(),
        },
        "ratio": found.ratio,
        "proven_least_chips": found.new.proven_least * found.new.node.chips,
        "none_found_on_chips": found.new.below * found.new.node.chips,
        "same_count": found.same_count.as_json() if found.same_count else None,
        "differences_s": dict(found.differences),
        "claim": found.claim,
        "claim_holds_if": [
            {
                "assumption": h.assumption.name,
                "share": h.share,
                "reason": h.reason,
                "proven": h.proven,
            }
            for h in found.claims
        ],
        "tried": _tried(found.new),
        "assumptions": list(dict.fromkeys((*found.old.notes, *found.new.node.notes))),
    }
