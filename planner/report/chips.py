"""The catalogue for people: a list, and one chip with the source of every figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.catalog import Chip
from costmodels.catalog.names import short_name
from costmodels.units import GIB
from planner.report.format import bandwidth, flops, memory, plural
from planner.report.summary import bullets, section

CONFIDENCE = {"high": "green", "medium": "yellow", "low": "red"}

# Fields of a record that are read together with others, or that hold no figure.
_NOT_FIGURES = {"id", "name", "vendor", "notes", "conflicts", "sources", "assumed", "confidence"}


def chip_table(chips: Sequence[Chip]) -> RenderableType:
    """One line per chip; rates are dense."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True, style="cyan")
    table.add_column("vendor", no_wrap=True)
    table.add_column("memory\nGiB", justify="right")
    table.add_column("bf16\nTFLOP/s", justify="right")
    table.add_column("fp16\nTFLOP/s", justify="right")
    table.add_column("memory\nGB/s", justify="right")
    table.add_column("links, one way\nGB/s", justify="right")
    table.add_column("confidence", no_wrap=True)
    for chip in chips:
        table.add_row(
            short_name(chip.id),
            chip.vendor,
            f"{chip.memory_bytes / GIB:.0f}",
            _peak(chip, "bf16"),
            _peak(chip, "fp16"),
            f"{chip.memory_bandwidth / 1e9:,.0f}",
            f"{(chip.fabric or chip.host_fabric).total_bandwidth / 1e9:,.4g}",
            Text(chip.confidence, style=CONFIDENCE.get(chip.confidence, "")),
        )
    note = Text(f"{plural(len(chips), 'chip')}; matrix rates are dense", style="dim")
    return Group(table, Padding(note, (1, 0, 0, 0)))


def chip_page(chip: Chip, record: Mapping[str, object]) -> RenderableType:
    """What the planner uses of a chip, what it assumes, and every stored figure's source."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    rates = ", ".join(f"{flops(rate)} {name}" for name, rate in chip.peak_flops) or "unknown"
    facts.add_row("dense matrix rate", rates)
    facts.add_row("best measured product", f"{chip.gemm_fraction:.0%} of that")
    facts.add_row(
        "memory",
        f"{memory(chip.memory_bytes)} on the label, {memory(chip.usable_memory_bytes)} usable, "
        f"{chip.memory_bandwidth / 1e9:,.0f} GB/s",
    )
    facts.add_row("links among chips", _fabric(chip))
    facts.add_row(
        "link to the host", _link(chip.host_fabric.kind, chip.host_fabric.total_bandwidth)
    )
    if chip.nic_bytes_per_s is not None:
        facts.add_row("network per chip", bandwidth(chip.nic_bytes_per_s))
    facts.add_row("runs", f"torch {chip.torch_device}, {chip.dist_backend}")
    facts.add_row("FlashAttention", "yes" if chip.flash_attention else "no")
    facts.add_row("grouped GEMM", "yes" if chip.grouped_gemm else "no")
    price = chip.price_usd_per_hour
    facts.add_row("price", "unknown" if price is None else f"{price:g} USD per chip and hour")
    facts.add_row("confidence", Text(chip.confidence, style=CONFIDENCE.get(chip.confidence, "")))
    parts: list[RenderableType] = [
        Text.assemble((short_name(chip.id), "bold cyan"), f"  {chip.vendor} {chip.name}"),
        Padding(facts, (0, 0, 1, 2)),
    ]
    if chip.assumed:
        parts.append(section("Assumed", bullets(chip.assumed)))
    conflicts = record.get("conflicts")
    if isinstance(conflicts, list) and conflicts:
        parts.append(section("Sources that disagree", bullets(tuple(map(str, conflicts)))))
    if record.get("notes"):
        parts.append(section("Notes", Text(str(record["notes"]))))
    parts.append(section("Figures as stored", _sources(record)))
    return Group(*parts)


def _peak(chip: Chip, precision: str) -> str:
    return f"{chip.peak(precision) / 1e12:,.0f}" if chip.supports(precision) else "—"


def _fabric(chip: Chip) -> str:
    if chip.fabric is None:
        bridge = f" (a bridge exists: {chip.bridge.kind})" if chip.bridge is not None else ""
        return f"none, only the host link{bridge}"
    fabric = chip.fabric
    text = _link(fabric.kind, fabric.total_bandwidth) + f", up to {chip.fabric_domain} chips"
    if fabric.full_mesh:
        text += f"; a pair alone gets {fabric.pair_bandwidth / 1e9:.4g} GB/s of it (full mesh)"
    return text


def _link(kind: str, bytes_per_s: float) -> str:
    return f"{kind}, {bytes_per_s / 1e9:.4g} GB/s one way"


def _sources(record: Mapping[str, object]) -> Table:
    sources = record.get("sources")
    known = sources if isinstance(sources, Mapping) else {}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", max_width=28)
    table.add_column(style="dim", overflow="fold")
    for field, value in record.items():
        if field not in _NOT_FIGURES and value not in (None, ""):
            # what nobody can look up is not told as if it had a source
            source = re.sub(r"\bmemory\b", "judged, no source", str(known.get(field, "")))
            table.add_row(field, str(value), source)
    return table
