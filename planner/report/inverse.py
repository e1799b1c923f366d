"""The largest that fits, a link's break-even, a chip's worth: for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.report.format import bandwidth, duration, memory, percent, ratio
from planner.report.scenarios import chips_text, shape_text
from planner.scenario.rates import Rates
from planner.terms import used_chips
from planner.whatif.limits import Largest
from planner.whatif.link import BreakEven
from planner.whatif.worth import Worth

# -- the largest ------------------------------------------------------------------------------


def largest_page(found: Largest) -> RenderableType:
    """The largest that fits, and why the next does not."""
    text = Text.assemble((found.text, "bold green"))
    text.append(f"\n{shape_text(found.outcome.shape)} on {chips_text(found.outcome)}")
    text.append(f"\n{duration(found.outcome.step_time_s or 0.0)} per step, ")
    text.append(
        f"{memory(found.outcome.left_bytes or 0)} left on {short_name(found.outcome.tightest_chip)}"
    )
    if found.above is None:
        text.append(f"\n{found.above_text}", style="dim")
    else:
        proof = "proven" if found.proven else "not proven"
        reason = found.above.reason.splitlines()[0] if found.above.reason else found.above.status
        text.append(f"\n{found.above_text}: no plan ({proof}): {reason}", style="dim")
    return text


def largest_object(found: Largest) -> dict[str, Any]:
    """The answer as plain JSON."""
    return {
        "what": found.what,
        "size": found.size,
        "text": found.text,
        "outcome": found.outcome.as_json(),
        "next": {
            "text": found.above_text,
            "status": found.above.status if found.above else None,
            "reason": found.above.reason if found.above else "",
            "proven": found.proven,
        },
    }


# -- links and prices -------------------------------------------------------------------------


def link_page(found: BreakEven) -> RenderableType:
    """The break-even of a link, and what more of it would bring."""
    own = found.chosen.estimate.step_time_s
    text = Text.assemble(
        ("link ", "dim"), (found.link, "bold"), f" {bandwidth(found.now_bytes_per_s)}"
    )
    share = found.measured_share
    if share is not None:
        text.append(f", measured {bandwidth(found.now_bytes_per_s * share)}")
    if found.break_even_bytes_per_s is None:
        text.append("\nthe chosen plan stays the best down to 1/1024 of it", style="green")
    else:
        part = found.break_even_bytes_per_s / found.now_bytes_per_s
        text.append(f"\nbreak-even {'at a measured ' if share else ''}")
        text.append(bandwidth(found.break_even_bytes_per_s * (share or 1.0)), style="bold green")
        text.append(f", {percent(part)} of the link: below, another plan is faster")
        replanned = found.replanned.outcome.step_time_s if found.replanned else None
        if replanned is not None:
            text.append(f"\nplanned again there: {duration(replanned)} per step", style="dim")
    if found.gain_bytes_per_s is not None and found.faster is not None:
        gain = found.gain_bytes_per_s * (share or 1.0)
        text.append(f"\nfrom {'a measured ' if share else ''}")
        text.append(bandwidth(gain), style="bold green")
        text.append(
            f" on ({ratio(found.gain_bytes_per_s / found.now_bytes_per_s)}), a plan on "
            f"{sum(used_chips(found.faster).values())} chips beats this one on "
            f"{sum(used_chips(found.chosen).values())}"
        )
    if found.limit_s is not None:
        saved = own - found.limit_s
        if saved > own * 1e-3:
            text.append(f"\na link 16 times as fast saves {duration(saved)} of {duration(own)}")
        else:
            text.append("\na faster link brings nothing")
    return Group(text, Text(), _curve(found.curve, measured=share is not None))


def _curve(points: Sequence[Any], *, measured: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(justify="right")
    heads = ("nominal bandwidth" if measured else "bandwidth", "this plan kept", "the other")
    table.add_row(*(Text(h, style="dim") for h in heads))
    for point in points:
        own, other = point.chosen_s, point.rival_s
        better = own is not None and (other is None or own <= other)
        table.add_row(
            bandwidth(point.bytes_per_s),
            Text(duration(own) if own is not None else "—", style="bold" if better else ""),
            Text(duration(other) if other is not None else "—", style="" if better else "bold"),
        )
    return table


def link_object(found: BreakEven) -> dict[str, Any]:
    """The answer as plain JSON."""
    return {
        "link": found.link,
        "now_bytes_per_s": found.now_bytes_per_s,
        "break_even_bytes_per_s": found.break_even_bytes_per_s,
        "gain_bytes_per_s": found.gain_bytes_per_s,
        "measured_share": found.measured_share,
        "step_time_s": found.chosen.estimate.step_time_s,
        "step_time_with_16_times_s": found.limit_s,
        "replanned_at_break_even_s": (
            found.replanned.outcome.step_time_s if found.replanned else None
        ),
        "curve": [
            {
                "bytes_per_s": p.bytes_per_s,
                "chosen_step_time_s": p.chosen_s,
                "rival_step_time_s": p.rival_s,
            }
            for p in found.curve
        ],
    }


def worth_page(found: Worth, rates: Rates) -> RenderableType:
    """At which price a chip is worth using."""
    name = short_name(found.chip)
    text = Text.assemble((f"{found.chips} × {name}", "bold"))
    text.append(f" bring {ratio(found.speedup)} the tokens per second of the plan without them")
    if found.usd_per_hour is None:
        missing = ", ".join(short_name(c) for c in found.unknown)
        text.append(f"\nbreak-even price unknown: no price is known for {missing}", style="yellow")
    elif found.usd_per_hour <= 0:
        text.append("\nnot worth using even for nothing: a token costs more with them", "bold red")
    else:
        text.append("\nworth using below ")
        text.append(f"{found.usd_per_hour:.3f} USD per chip and hour", style="bold green")
        price = rates.of(found.chip).usd_per_hour
        if price is not None:
            verdict = "worth it" if price.value < found.usd_per_hour else "too expensive"
            text.append(f"; at {price.value:g} it is {verdict}")
    if found.times_other is not None and found.times_other > 0:
        text.append(
            f"\nwhatever the prices: up to {percent(found.times_other)} of the price of "
            f"{short_name(found.other)}"
        )
    lines = [
        f"with: {shape_text(found.with_it.outcome.shape)} on {chips_text(found.with_it.outcome)}",
        f"without: {shape_text(found.without_it.outcome.shape)} on "
        f"{chips_text(found.without_it.outcome)}",
    ]
    return Group(text, Text("\n".join(lines), style="dim"))


def worth_object(found: Worth) -> dict[str, Any]:
    """The answer as plain JSON."""
    return {
        "chip": found.chip,
        "chips": found.chips,
        "speedup": found.speedup,
        "worth_usd_per_hour": found.usd_per_hour,
        "other_chip": found.other or None,
        "worth_times_other_price": found.times_other,
        "prices_unknown": list(found.unknown),
        "with": found.with_it.outcome.as_json(),
        "without": found.without_it.outcome.as_json(),
    }
