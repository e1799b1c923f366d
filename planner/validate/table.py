"""Reads measured runs: a CSV file with the columns of the published table, or any part of them.

An absent column is an empty one, and columns that are not known are named and left alone. A row is
kept as written; what its words mean is decided in :mod:`planner.validate.fields`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from planner.errors import InputError, Problem
from planner.inputs.problems import nearest

COLUMNS: Final = frozenset(
    {
        "id",
        "family",
        "model",
        "params_B",
        "active_params_B",
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "head_dim",
        "q_rank",
        "ffn",
        "shared_ffn",
        "dense_blocks",
        "vocab",
        "seq",
        "moe_experts",
        "moe_topk",
        "moe_imbalance",
        "chip",
        "chip_count",
        "chips_per_node",
        "intra_node_link",
        "inter_node_net",
        "mixed_chips",
        "chip_mix",
        "precision",
        "TP",
        "PP",
        "VPP",
        "DP",
        "CP",
        "EP",
        "zero_stage",
        "sequence_parallel",
        "recompute",
        "micro_batch",
        "global_batch",
        "step_time_s",
        "tflops_per_chip",
        "tflops_kind",
        "mfu_pct",
        "hfu_pct",
        "tokens_per_s_per_chip",
        "peak_mem_GiB",
        "metric_other",
        "derived_step_time_s",
        "derived_tokens_per_s_per_chip",
        "source",
        "address",
        "source_confidence",
        "quality",
        "notes",
    }
)
"""Columns of the published table; TFLOP/s and utilisation are never used as a target."""

REQUIRED = ("chip", "chip_count")
"""Without these no row can be predicted, so a file that lacks them is another file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run as written. ``line`` is its line in the file."""

    line: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")

    @property
    def id(self) -> str:
        """The row's own name, or its line."""
        return self["id"] or f"line-{self.line}"


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a file, and what was noticed about its columns."""

    source: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def read_table(path: str | Path) -> Table:
    """The rows of a CSV file. Raises InputError with every problem found."""
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise InputError([Problem(source, message, "give a CSV file of measured runs")]) from None
    except UnicodeDecodeError as error:
        message = f"is not text in UTF-8 (byte {error.start})"
        raise InputError([Problem(source, message, "save it as CSV in UTF-8")]) from None
    return parse_table(text, source)


def parse_table(text: str, source: str) -> Table:
    """The rows of CSV text. Raises InputError with every problem found."""
    reader = csv.reader(io.StringIO(text))
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        problem = Problem(f"{source}:{reader.line_num}", f"is not CSV: {error}")
        raise InputError([problem]) from None
    if not lines:
        raise InputError([Problem(source, "is empty", "the first line names the columns")])
    header = [name.strip() for name in lines[0][1]]
    problems = list(_header_problems(header, source, lines[0][0]))
    rows = []
    seen: dict[str, int] = {}
    for line, cells in lines[1:]:
        where = f"{source}:{line}"
        if len(cells) > len(header):
            message = f"has {len(cells)} cells, the header names {len(header)} columns"
            problems.append(Problem(where, message, "quote cells that contain a comma"))
            continue
        values = {name: cell.strip() for name, cell in zip(header, cells) if cell.strip()}
        row = Row(line, values)
        if row["id"] and row["id"] in seen:
            message = f"id {row['id']!r} is already on line {seen[row['id']]}"
            problems.append(Problem(where, message, "ids name rows: keep them apart"))
        seen.setdefault(row["id"], line)
        rows.append(row)
    if not rows and not problems:
        problems.append(Problem(source, "names columns but holds no row"))
    if problems:
        raise InputError(problems)
    return Table(source, tuple(rows), tuple(_unknown(header)))


def _header_problems(header: list[str], source: str, line: int) -> Iterator[Problem]:
    where = f"{source}:{line}"
    for name in REQUIRED:
        if name not in header:
            close = nearest(name, header)
            remedy = f"did you mean {close[0]}?" if close else "the first line names the columns"
            yield Problem(where, f"no column {name}", remedy)
    for name in sorted({n for n in header if n and header.count(n) > 1}):
        yield Problem(where, f"column {name} is there twice", "keep one of them")


def _unknown(header: list[str]) -> Iterator[str]:
    strange = [name for name in header if name and name not in COLUMNS]
    if strange:
        yield f"columns that nothing is known about: {', '.join(strange)}"
