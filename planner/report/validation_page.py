"""The Markdown page of a validation: published against predicted, worst rows first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.report.format import duration
from planner.report.validation import figures, memory_text, ranking_text
from planner.validate.score import ErrorSummary
from planner.validate.summary import Validation, worst_first


def markdown_page(validations: Sequence[Validation], *, rows: int = 40) -> str:
    """The tables of ``docs/validation.md`` for one or several files; ``rows`` of the worst."""
    lines: list[str] = []
    for found in validations:
        lines += [f"## {found.source}", ""]
        lines += _head(found)
        lines += list(_error_tables(found))
        if found.ranking is not None:
            lines += ["**Ranking.** " + ranking_text(found.ranking) + ".", ""]
        if found.memory is not None:
            lines += ["**Memory.** " + memory_text(found.memory) + ".", ""]
        lines += list(_worst(found, rows))
        lines += list(_reasons(found))
    return "\n".join(lines).rstrip() + "\n"


def _head(found: Validation) -> list[str]:
    rows = len(found.predictions)
    return [
        f"{rows} rows, {found.predicted} predicted, {found.scored} scored "
        f"({found.derived} of them against a derived target), "
        f"{rows - found.predicted} not predictable.",
        "",
    ]


def _error_tables(found: Validation) -> Iterator[str]:
    yield "| absolute error of the step time, % | rows | median | mean | 90th | signed median |"
    yield "|---|---|---|---|---|---|"
    if found.overall is not None:
        yield _line("**all**", found.overall)
    for kind, groups in found.groups.items():
        yield f"| *by {kind}* | | | | | |"
        for name, summary in groups.items():
            yield _line(name or "(none)", summary)
    yield ""


def _line(name: str, summary: ErrorSummary) -> str:
    return f"| {name} | {' | '.join(figures(summary))} |"


def _worst(found: Validation, rows: int) -> Iterator[str]:
    shown = worst_first(found.predictions)[:rows]
    if not shown:
        return
    yield f"**Worst {len(shown)} rows.**"
    yield ""
    yield "| row | what | layout | predicted | measured | error |"
    yield "|---|---|---|---|---|---|"
    for p in shown:
        if p.case is None or p.target is None or p.error is None:
            continue
        run = p.case.run
        degrees = [f"tp{run.tp}", f"cp{run.cp}", f"ep{run.ep}", f"pp{run.pp}", f"dp{run.dp}"]
        layout = " ".join(d for d in degrees if not d.endswith("p1")) or "one chip"
        signed = 100 * ((p.step_s or 0.0) / (p.target.step_s or 1.0) - 1)
        yield (
            f"| {p.row.id} | {p.row['model']}, {p.row['chip_count']} {p.row['chip']}, "
            f"{run.seq_len} tokens | {layout} | {duration(p.step_s or 0.0)} | "
            f"{duration(p.target.step_s or 0.0)} | {signed:+.0f} % |"
        )
    yield ""


def _reasons(found: Validation) -> Iterator[str]:
    if not found.reasons:
        return
    yield "**Not predictable.**"
    yield ""
    for reason, ids in found.reasons:
        few = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        yield f"- {len(ids)}: {reason} ({few})"
    yield ""
