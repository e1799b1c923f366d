"""Two plans side by side, for people (text, Markdown) and for programs (JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.diff import PlanDiff, hosted
from planner.plan import Plan
from planner.report.explanation import TERMS
from planner.report.format import count, duration, interval, memory, percent, plural
from planner.report.summary import packed_as, section
from planner.terms import Shape
from planner.whatif.money import Costs

MOST_MOVES = 12
SHORT = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what, before, after, and the change in words."""

    what: str
    before: str
    after: str
    change: str = ""


def diff_rows(found: PlanDiff, costs: tuple[Costs, Costs] | None) -> list[Row]:
    """Figures before and after; costs where there are any to tell."""
    one, other = found.before, found.after
    rows = [
        Row("plan", one.plan_id[:12], other.plan_id[:12]),
        _timed("step time", one.estimate.step_time_s, other.estimate.step_time_s),
        Row(
            "tokens per second",
            count(one.estimate.tokens_per_s),
            count(other.estimate.tokens_per_s),
            _relative(one.estimate.tokens_per_s, other.estimate.tokens_per_s),
        ),
        Row("MFU", percent(one.estimate.mfu), percent(other.estimate.mfu)),
    ]
    before, after = found.terms
    late = dict(after.items())
    for name, value in before.items():
        if value or late[name]:
            rows.append(_timed(f"  {TERMS[name]}", value, late[name]))
    rows += [Row(what, a, b, "" if a == b else "changed") for what, a, b in _shapes(found.shapes)]
    for chip, used, then in found.chips:
        change = "" if used == then else f"{then - used:+d}"
        rows.append(Row(f"{short_name(chip)} in use", str(used), str(then), change))
    rows += _memory(found)
    homes = [_state_home(plan) for plan in (one, other)]
    if any(home != "on the devices" for home in homes):
        change = "" if homes[0] == homes[1] else "changed"
        rows.append(Row("optimizer state", homes[0], homes[1], change))
    packed = [packed_as(plan) or "as they are" for plan in (one, other)]
    if packed[0] != packed[1]:
        rows.append(Row("gradients between hosts", packed[0], packed[1], "changed"))
    rows += _costs(costs) if costs else []
    return rows


def _state_home(plan: Plan) -> str:
    layers = len(hosted(plan))
    if not layers:
        return "on the devices"
    share = "" if layers == len(plan.layer_order) else f" of {plural(layers, 'layer')}"
    return f"in host memory{share}"


def _timed(what: str, before: float, after: float) -> Row:
    change = _relative(before, after) if before else ""
    return Row(what, duration(before), duration(after), change)


def _relative(before: float, after: float) -> str:
    change = after / before - 1
    if abs(change) < 5e-5:
        return "the same"
    return f"{'+' if change > 0 else '−'}{percent(abs(change))}"


def _shapes(shapes: tuple[Shape, Shape]) -> Iterator[tuple[str, str, str]]:
    one, other = shapes
    yield "pipelines", str(one.pipelines), str(other.pipelines)
    yield "stages", _span(one.stages), _span(other.stages)
    if any(shape.chunks != (1, 1) for shape in shapes):
        yield "chunks per stage", _span(one.chunks), _span(other.chunks)
    yield "tensor parallel", _span(one.tensor_parallel), _span(other.tensor_parallel)
    yield "rows per micro-batch", _span(one.rows), _span(other.rows)
    yield "recompute", ", ".join(one.recompute), ", ".join(other.recompute)
    yield "class", one.plan_class, other.plan_class


def _span(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values[0]}–{values[1]}"


def _memory(found: PlanDiff) -> Iterator[Row]:
    for chip in found.memory:
        before = memory(chip.before) if chip.before is not None else "—"
        after = memory(chip.after) if chip.after is not None else "—"
        grown = ", ".join(
            f"{name} {'+' if size > 0 else '−'}{memory(abs(size))}" for name, size in chip.grown[:2]
        )
        yield Row(f"fullest {short_name(chip.chip)}", before, after, grown)


def _costs(costs: tuple[Costs, Costs]) -> Iterator[Row]:
    pairs = (
        ("USD per hour", "usd_per_hour", "{:,.2f}"),
        ("USD per million tokens", "usd_per_million_tokens", "{:.4g}"),
        ("kWh per million tokens", "kwh_per_million_tokens", "{:.4g}"),
    )
    for what, field, form in pairs:
        one, other = (getattr(c, field) for c in costs)
        change = _relative(one, other) if one and other else ""
        yield Row(what, known(one, form), known(other, form), change)


def known(value: float | None, form: str = "{:.4g}") -> str:
    """A figure, or "unknown": never 0 for what nobody said."""
    return "unknown" if value is None else form.format(value)


def verdicts(found: PlanDiff) -> list[str]:
    """What follows from the comparison, a sentence each."""
    lines = []
    if found.same_layout:
        lines.append("both plans do the same on the same devices")
    elif not found.moves and found.reshard.possible:
        lines.append("no layer moves to other devices")
    elif found.moves:
        layers = len(found.before.layer_order)
        lines.append(f"{found.moved_layers} of {layers} layers move to other devices")
    if not found.same_work:
        lines.append("the plans train different numbers of tokens per step: compare tokens per s")
    return [*lines, *checkpoint_lines(found)]


def checkpoint_lines(found: PlanDiff) -> list[str]:
    """Whether checkpoints can be read as they are, and why not."""
    reshard = found.reshard
    if not reshard.possible:
        return ["checkpoints of one are of no use to the other: the models differ"]
    if not reshard.needed:
        return ["checkpoints can be read as they are"]
    if not reshard.weights:
        reasons = "; ".join(reshard.optimizer)
        return [f"checkpoints: weights as they are, optimizer state to be resharded ({reasons})"]
    reasons = "; ".join(dict.fromkeys((*reshard.weights, *reshard.optimizer)))
    return [f"checkpoints have to be resharded, weights and optimizer state: {reasons}"]


def _inputs(found: PlanDiff) -> list[tuple[str, str, str]]:
    return [(c.where, _value(c.before), _value(c.after)) for c in found.inputs]


def _value(value: object) -> str:
    text = "—" if value is None else str(value)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _moves(found: PlanDiff) -> list[tuple[str, str, str, str]]:
    rows = []
    for move in found.moves[:MOST_MOVES]:
        degrees = [",".join(map(str, d)) for d in move.tensor_parallel]
        rows.append(
            (
                f"{interval(*move.layers)}",
                degrees[0] if degrees[0] == degrees[1] else f"{degrees[0]} → {degrees[1]}",
                str(move.copies[0])
                if move.copies[0] == move.copies[1]
                else f"{move.copies[0]} → {move.copies[1]}",
                f"{move.devices_kept} of {move.devices_after} devices held them before",
            )
        )
    return rows


def diff_page(found: PlanDiff, costs: tuple[Costs, Costs] | None) -> RenderableType:
    """The comparison on a terminal."""
    table = _grid(4)
    for row in diff_rows(found, costs):
        bold = "bold" if row.what == "step time" else ""
        table.add_row(
            Text(row.what, style="dim"),
            Text(row.before, style=bold),
            Text(row.after, style=bold),
            Text(row.change, style=_colour(row)),
        )
    parts: list[RenderableType] = [table, Text()]
    parts.append(Text("\n".join(verdicts(found)), style="bold"))
    parts.append(Text())
    if found.inputs:
        inputs = _grid(3)
        for cells in _inputs(found):
            inputs.add_row(*cells)
        parts.append(section("Inputs that differ", inputs))
    if found.moves:
        moves = _grid(4)
        moves.add_row(*(Text(h, style="dim") for h in ("layers", "tp", "copies", "")))
        for line in _moves(found):
            moves.add_row(*line)
        rest = len(found.moves) - MOST_MOVES
        more = [Text(f"and {plural(rest, 'run')} of layers more", "dim")] if rest > 0 else []
        parts.append(section("Layers that move", Group(moves, *more)))
    return Group(*parts)


def _grid(columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column()
    return table


def _colour(row: Row) -> str:
    if row.what not in ("step time", "tokens per second") or row.change in ("", "the same"):
        return ""
    worse = row.change.startswith("+") == (row.what == "step time")
    return "red" if worse else "green"


def diff_markdown(found: PlanDiff, costs: tuple[Costs, Costs] | None) -> str:
    """The comparison as Markdown, for a review."""
    lines = [f"**{line}**  " for line in verdicts(found)]
    rows = [(r.what.strip(), r.before, r.after, r.change) for r in diff_rows(found, costs)]
    lines += ["", *_markdown(("", "before", "after", "change"), rows)]
    if found.inputs:
        lines += ["", "Inputs that differ:", ""]
        lines += _markdown(("field", "before", "after"), _inputs(found))
    if found.moves:
        lines += ["", "Layers that move:", ""]
        lines += _markdown(("layers", "tp", "copies", "devices"), _moves(found))
    return "\n".join(lines) + "\n"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[c.replace("|", "\\|") for c in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def diff_object(found: PlanDiff, costs: tuple[Costs, Costs] | None) -> dict[str, Any]:
    """The comparison as plain JSON."""
    return {
        "before": _figures(found.before, 0, found, costs),
        "after": _figures(found.after, 1, found, costs),
        "same_layout": found.same_layout,
        "same_tokens_per_step": found.same_work,
        "inputs": [{"field": c.where, "before": c.before, "after": c.after} for c in found.inputs],
        "layers_moved": found.moved_layers,
        "moves": [
            {
                "layers": list(m.layers),
                "tensor_parallel": [list(d) for d in m.tensor_parallel],
                "copies": list(m.copies),
                "devices_kept": m.devices_kept,
                "devices_after": m.devices_after,
            }
            for m in found.moves
        ],
        "reshard": {
            "needed": found.reshard.needed,
            "possible": found.reshard.possible,
            "weights": list(found.reshard.weights),
            "optimizer": list(found.reshard.optimizer),
        },
    }


def _figures(
    plan: Plan, side: int, found: PlanDiff, costs: tuple[Costs, Costs] | None
) -> dict[str, Any]:
    own = costs[side] if costs else None
    return {
        "plan_id": plan.plan_id,
        "step_time_s": plan.estimate.step_time_s,
        "tokens_per_s": plan.estimate.tokens_per_s,
        "mfu": plan.estimate.mfu,
        "terms_s": found.terms[side].as_json(),
        "shape": found.shapes[side].as_json(),
        "chips_used": {chip: pair[side] for chip, *pair in found.chips},
        "peak_bytes": {m.chip: (m.before, m.after)[side] for m in found.memory},
        "usd_per_hour": own.usd_per_hour if own else None,
        "usd_per_million_tokens": own.usd_per_million_tokens if own else None,
        "kwh_per_million_tokens": own.kwh_per_million_tokens if own else None,
    }
