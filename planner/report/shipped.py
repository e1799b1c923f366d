"""Tables of what comes with the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from planner.inputs.resources import FixtureKind

COLUMNS: Mapping[FixtureKind, tuple[tuple[str, str, bool], ...]] = {
    "models": (
        ("parameters", "parameters", True),
        ("active_parameters", "active", True),
        ("layers", "layers", True),
        ("hidden", "hidden", True),
        ("max_seq_len", "longest\nsequence", True),
    ),
    "clusters": (("chips", "chips", True), ("nodes", "nodes", True), ("holds", "holds", False)),
    "jobs": (
        ("global_batch", "rows\nper step", True),
        ("seq_len", "tokens\nper row", True),
        ("precision", "precision", False),
        ("optimizer", "optimizer", False),
    ),
    "layouts": (
        ("tp", "tp", True),
        ("pp", "pp", True),
        ("dp", "dp", True),
        ("micro_batch_rows", "rows per\nmicro-batch", True),
    ),
}
"""Fact, heading, whether it is a number, by kind."""


def shipped_table(kind: FixtureKind, facts: Sequence[Mapping[str, object]]) -> Table:
    """One row per name."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True, style="cyan")
    for _, heading, number in COLUMNS[kind]:
        table.add_column(
            heading, justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    for row in facts:
        table.add_row(str(row["name"]), *(_cell(row[fact]) for fact, _, _ in COLUMNS[kind]))
    return table


def _cell(value: object) -> str:
    if value is None or value == 0:
        return "—"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return "\n".join(map(str, value))
    return str(value)
