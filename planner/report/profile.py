"""What was measured: chips, layers, links, reductions."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.report.format import bandwidth, duration, flops, interval, memory, milliseconds
from planner.runtime.profile_request import ChipFound, ProfileFound


def profile_page(found: ProfileFound) -> RenderableType:
    """One block per chip, then links and reductions."""
    parts: list[RenderableType] = []
    seen: set[str] = set()
    for chip in found.chips:
        if chip.chip not in seen:
            seen.add(chip.chip)
            parts += [_heading(chip), Padding(_products(chip), (0, 0, 0, 2))]
            parts.append(Padding(_layers(chip), (0, 0, 1, 2)))
    if found.links:
        parts += [Text("Links", style="bold"), Padding(_links(found), (0, 0, 1, 2))]
    if found.reductions:
        count = found.reductions[0].processes
        parts.append(Text(f"All-reduce over {count} processes", style="bold"))
        parts.append(Padding(_reductions(found), (0, 0, 0, 2)))
    return Group(*parts)


def _heading(chip: ChipFound) -> Text:
    text = Text.assemble((chip.chip, "bold cyan"), f"  {chip.name}")
    if chip.repeat > 1:
        text.append(f" · all work {chip.repeat} times", style="bold")
    text.append(
        f" · {memory(chip.memory_bytes)}, {chip.memory_bandwidth / 1e9:,.1f} GB/s", style="dim"
    )
    return text


def _products(chip: ChipFound) -> Text:
    """``fp32 products  64: 3.1 GFLOP/s  128: …``."""
    lines = []
    for precision in dict.fromkeys(p.precision for p in chip.products):
        points = [p for p in chip.products if p.precision == precision]
        curve = " · ".join(f"{p.size}: {_rate(p.flops)}" for p in points)
        lines.append(f"{precision} products of size {curve}")
    return Text("\n".join(lines))


def _rate(value: float) -> str:
    return flops(value) if value >= 1e12 else f"{value / 1e9:,.1f} GFLOP/s"


def _layers(chip: ChipFound) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in (
        "layers",
        "tp",
        "rows",
        "forward ms",
        "backward ms",
        "update ms",
        "kept",
        "weights",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in chip.layers:
        table.add_row(
            interval(*row.layers),
            str(row.tensor_parallel),
            str(row.micro_batch_rows),
            milliseconds(row.forward_s),
            milliseconds(row.backward_s),
            milliseconds(row.update_s),
            memory(row.activation_bytes),
            memory(row.parameter_bytes),
        )
    return table


def _links(found: ProfileFound) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("from", "to", "way"):
        table.add_column(name, no_wrap=True)
    for name in ("smallest", "largest", "best rate"):
        table.add_column(name, justify="right", no_wrap=True)
    for link in found.links:
        best = max(size / seconds for size, seconds in link.points)
        way = link.where.replace("_", " ")
        ends = [f"{memory(size)} {duration(s)}" for size, s in (link.points[0], link.points[-1])]
        table.add_row(link.source, link.target, way, *ends, bandwidth(best))
    return table


def _reductions(found: ProfileFound) -> Text:
    points = [p for r in found.reductions for p in r.points]
    return Text(" · ".join(f"{memory(size)} {duration(seconds)}" for size, seconds in points))
