"""A uniform layout and its price for people and programs: time by cause, memory by stage."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from costmodels.memory import MemoryItems
from costmodels.price import POLICIES
from costmodels.units import GIB
from planner.estimate.techniques import UniformEstimate
from planner.report.format import count, duration, percent
from planner.report.summary import bullets, section

ITEMS = tuple(name for name in MemoryItems.__slots__ if name != "peak")
SHORT = {
    "parameters": "weights",
    "gradients": "grads",
    "optimizer": "optim.",
    "activations": "activ.",
    "fragmentation": "frag.",
}
"""Column heads, where eleven columns must fit a terminal."""


def uniform_page(found: UniformEstimate) -> RenderableType:
    """The report of ``planner estimate`` for a uniform layout."""
    price = found.price
    run = price.run
    low, high = price.range_s
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("layout", degrees(found))
    facts.add_row(
        "step time",
        f"{duration(price.step_s)}, between {duration(low)} and {duration(high)} by the validated "
        "error of these chips",
    )
    rate = price.tokens_per_s
    facts.add_row("throughput", f"{count(round(rate))} tokens/s · {rate / run.chips:,.0f} per chip")
    parts: list[RenderableType] = [
        Text.assemble((found.layout, "bold cyan"), f"  {_chips(found)}"),
        Padding(facts, (0, 0, 1, 2)),
        section("Time goes to", _times(found)),
        section("Memory of the fullest chip per stage, GiB", _memory(found)),
    ]
    if found.notes:
        parts.append(section("Assumed, not given", bullets(found.notes)))
    if found.remedies:
        parts.append(section("What makes it fit", bullets(found.remedies)))
    parts.append(Text(verdict(found)))
    return Group(*parts)


def _chips(found: UniformEstimate) -> str:
    """``8 × A100 SXM4 80GB``, or every kind of an unlike group."""
    run = found.price.run
    if not found.kinds:
        return f"{run.chips} × {run.chip.name}"
    return " + ".join(f"{k.cls.chips} × {short_name(k.cls.chip.id)}" for k in found.kinds)


def degrees(found: UniformEstimate) -> str:
    """``tp 8 × pp 4 × dp 2, 1 row × 32 micro-batches``."""
    run = found.price.run
    named = (("tp", run.tp), ("cp", run.cp), ("ep", run.ep), ("pp", run.pp), ("dp", run.dp))
    shape = " × ".join(f"{name} {n}" for name, n in named if n > 1) or "one chip"
    chunks = f", {run.virtual} chunks per stage" if run.virtual > 1 else ""
    zero = f", ZeRO {run.zero} over {run.shard}" if run.zero else ""
    return (
        f"{shape}{chunks}{zero}, {run.rows} rows × {run.micro_batches} micro-batches, "
        f"recompute {POLICIES[run.policy]}"
    )


def _times(found: UniformEstimate) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    table.add_column(justify="right")
    step = found.price.step_s
    for name, seconds in found.price.step.items:
        if seconds > 0:
            table.add_row(name, duration(seconds), percent(seconds / step))
    layers: dict[str, float] = {}
    slowest = max(found.price.step.stages, key=lambda s: s.forward_s + s.backward_s)
    for layer in slowest.layers:
        for name, seconds in layer.items:
            layers[name] = layers.get(name, 0.0) + seconds
    whole = sum(layers.values())
    table.add_row(Text("of a micro-batch on the slowest stage", "dim"))
    for name, seconds in sorted(layers.items(), key=lambda item: -item[1]):
        table.add_row(f"  {name}", duration(seconds), percent(seconds / whole))
    return table


def _memory(found: UniformEstimate) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("chip" if found.kinds else "stage", justify="right")
    for name in (*ITEMS, "peak", "usable"):
        table.add_column(SHORT.get(name, name), justify="right")
    rows = [
        (str(s), items, found.price.footprint.usable)
        for s, items in enumerate(found.price.footprint.stages, start=1)
    ]
    if found.kinds:
        rows = [
            (short_name(k.cls.chip.id), k.price.footprint.worst, k.cls.usable_memory_bytes)
            for k in found.kinds
        ]
    for name, items, usable in rows:
        cells = [f"{getattr(items, item) / GIB:.1f}" for item in (*ITEMS, "peak")]
        table.add_row(name, *cells, f"{usable / GIB:.1f}")
    return table


def verdict(found: UniformEstimate) -> str:
    """Whether it fits, from the worst device."""
    left = found.left_bytes / GIB
    if left >= 0:
        return f"fits: every chip keeps at least {left:.1f} GiB free"
    if not found.kinds:
        return f"does not fit: {-left:.2f} GiB too much on the fullest chip"
    short = [k for k in found.kinds if k.left_bytes < 0]
    each = ", ".join(
        f"{-k.left_bytes / GIB:.2f} GiB too much per {short_name(k.cls.chip.id)}" for k in short
    )
    return f"does not fit: {each}"


def uniform_json(found: UniformEstimate) -> dict[str, Any]:
    """The price as plain JSON; seconds and bytes."""
    price = found.price
    run = price.run
    return {
        "layout": found.layout,
        "chips": run.chips,
        "degrees": {
            "tp": run.tp,
            "cp": run.cp,
            "ep": run.ep,
            "pp": run.pp,
            "dp": run.dp,
            "virtual": run.virtual,
            "zero": run.zero,
            "shard": run.shard,
        },
        "micro_batch_rows": run.rows,
        "micro_batches": run.micro_batches,
        "step_time_s": price.step_s,
        "step_time_range_s": list(price.range_s),
        "tokens_per_s": price.tokens_per_s,
        "breakdown_s": dict(price.step.items),
        "memory_bytes": [
            {name: getattr(items, name) for name in MemoryItems.__slots__}
            for items in price.footprint.stages
        ],
        "usable_bytes": price.footprint.usable,
        "fits": found.left_bytes >= 0,
        "kinds": [
            {
                "chip": k.cls.chip.id,
                "step_time_s": k.price.step_s,
                "peak_bytes": k.price.footprint.worst.peak,
                "usable_bytes": k.cls.usable_memory_bytes,
            }
            for k in found.kinds
        ],
        "remedies": list(found.remedies),
        "assumed": list(found.notes),
    }
