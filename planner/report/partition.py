"""A partition for people: one line per stage, then what is proved about it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.partition_file import PartitionFile
from planner.report.bars import COLOURS, FILLS
from planner.report.format import duration, gib, percent, plural

BAR = 12
"""Cells of the longest load."""

WIDE = 36
"""Characters of names above which only the ends of a stage are named."""


def partition_page(found: PartitionFile) -> RenderableType:
    """Head, stages and proof."""
    certificate = found.certificate
    total = sum(len(stage.nodes) for stage in found.stages)
    kind = "interleaved" if found.interleaved else "contiguous"
    what = "largest load" if found.objective == "max-load" else "total load"
    head = Text(f"{found.graph.name}", style="bold")
    head.append(f"  {plural(total, 'node')} in {len(found.stages)} {kind} stages", style="none")
    lines = Text.assemble(
        ("\n  ", ""),
        (f"{what:<14}", "dim"),
        duration(certificate.objective_s),
        ("\n  proof         ", "dim"),
        proof(found),
    )
    for step in certificate.steps:
        lines.append(f"\n                {step}", style="dim")
    unused = _unused(found)
    if unused:
        lines.append(f"\n  unused        {unused}", style="dim")
    return Group(head, Text(""), _stages(found), lines)


def proof(found: PartitionFile) -> str:
    """What the certificate says, in words."""
    certificate = found.certificate
    if certificate.status == "optimal":
        return "optimal: no partition onto these devices is better"
    return (
        f"at most {percent(certificate.gap)} from the best "
        f"(bound {duration(certificate.lower_bound_s)}); a limit stopped the proof"
    )


def _stages(found: PartitionFile) -> Table:
    kinds = {d.name: n for n, d in enumerate(found.graph.devices)}
    longest = max(stage.load_s for stage in found.stages) or 1.0
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for _ in range(4):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row(
        *(
            Text(t, "dim")
            for t in ("", "device", "nodes", "compute", "transfers", "load", "GiB", "")
        )
    )
    for s, stage in enumerate(found.stages):
        number = kinds[stage.device]
        cells = max(1, round(stage.load_s / longest * BAR))
        table.add_row(
            Text(f"{s + 1:>3}"),
            Text(stage.device, style=COLOURS[number % len(COLOURS)]),
            _nodes(stage.nodes),
            duration(stage.time_s),
            duration(stage.transfer_s),
            duration(stage.load_s),
            gib(stage.memory_bytes),
            Text(FILLS[number % len(FILLS)] * cells, style=COLOURS[number % len(COLOURS)]),
        )
    return table


def _nodes(names: tuple[str, ...]) -> str:
    """All names where they are few and short, else the ends."""
    every = ", ".join(names)
    return every if len(every) <= WIDE else f"{names[0]} … {names[-1]} ({len(names)})"


def _unused(found: PartitionFile) -> str:
    used = [stage.device for stage in found.stages]
    left = {d.name: d.count - used.count(d.name) for d in found.graph.devices}
    return ", ".join(f"{n} × {name}" for name, n in left.items() if n)
