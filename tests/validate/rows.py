"""Rows that the tests of this folder share, as a table writes them."""

from __future__ import annotations

from planner.validate.table import Row, Table, parse_table

LLAMA = {
    "id": "one",
    "family": "mine",
    "model": "Llama2-7B",
    "layers": "32",
    "hidden": "4096",
    "heads": "32",
    "kv_heads": "32",
    "ffn": "11008",
    "vocab": "32000",
    "seq": "4096",
    "chip": "A100-80",
    "chip_count": "8",
    "chips_per_node": "8",
    "precision": "BF16",
    "TP": "1",
    "PP": "1",
    "DP": "8",
    "recompute": "none",
    "micro_batch": "1",
    "global_batch": "64",
    "source": "a test",
}
"""A row that states everything but what was measured."""


def row(**change: object) -> Row:
    """The Llama row with cells changed; None empties one."""
    cells = LLAMA | {k: "" if v is None else str(v) for k, v in change.items()}
    return Row(2, {k: v for k, v in cells.items() if v})


def csv_text(*rows: dict[str, object]) -> str:
    """A CSV file of Llama rows with cells changed."""
    cells = [LLAMA | {k: str(v) for k, v in change.items()} for change in rows]
    columns = list(dict.fromkeys(c for r in cells for c in r))
    lines = [",".join(columns)]
    lines += [",".join(r.get(c, "") for c in columns) for r in cells]
    return "\n".join(lines) + "\n"


def table(*rows: dict[str, object]) -> Table:
    """A table of Llama rows with cells changed."""
    return parse_table(csv_text(*rows), "rows.csv")
