"""The plan stage by stage: a bar per group of equal pipelines, and a table of its stages."""

from __future__ import annotations

from planner.plan import StageMemory
from planner.report.format import (
    device_list,
    gib,
    held_layers,
    intervals,
    milliseconds,
    plural,
    span,
)
from planner.report.groups import PipelineGroup, StageGroup
from planner.report.html.palette import edge, tint
from planner.report.html.tags import Html, tag
from planner.report.html.view import View, recompute_words, shortened

SMALL_MARGIN = 2**30
"""Bytes: less than this left on a chip is worth a second look before a run."""

LEAST_SHARE = 0.05
"""Of the bar's width, for a stage however few its layers are."""

MOST_WORDS = 10
"""Stages in a bar that have room for their chips and layers beside their number."""

DEVICES = 44
"""Letters of a device list before it is cut; the whole of it shows on hover."""


def pipelines(view: View) -> Html:
    """All groups, the first ones open."""
    last = len(view.plan.layer_order) - 1
    first_name, last_name = view.plan.layer_order[0], view.plan.layer_order[-1]
    return tag(
        "div",
        [_group(view, g) for g in range(len(view.groups))],
        tag("p", f"Layers 0 ({first_name}) … {last} ({last_name}).", class_="note"),
    )


def _group(view: View, g: int) -> Html:
    group = view.groups[g]
    table = tag("div", _table(view, g), class_="scroll")
    return tag(
        "div",
        tag("h3", view.group_name(g), tag("small", _stream(group))),
        _bar(view, g),
        table if len(view.groups) <= 4 else tag("details", tag("summary", "stages"), table),
        class_="pipeline",
    )


def _stream(group: PipelineGroup) -> str:
    """How the micro-batches flow."""
    counts = span(p.micro_batches for p in group.pipelines)
    noun = "micro-batch" if counts == "1" else "micro-batches"
    each = " each" if len(group.numbers) > 1 else ""
    rows = plural(group.first.micro_batch_rows, "row")
    text = f"{counts} {noun} of {rows}{each} · {group.schedule}"
    if any(p.last_micro_batch_rows != p.micro_batch_rows for p in group.pipelines):
        text += f" · the last one of {span(p.last_micro_batch_rows for p in group.pipelines)}"
    return text


def _bar(view: View, g: int) -> Html:
    stages = view.groups[g].stages
    layers = sum(s.first.layer_count for s in stages)
    many = " many" if len(stages) > MOST_WORDS else ""
    return tag("div", [_segment(view, g, s, layers) for s in stages], class_=f"bar{many}")


def _segment(view: View, g: int, stage: StageGroup, layers: int) -> Html:
    share = max(LEAST_SHARE, stage.first.layer_count / layers)
    kind = view.kind(stage.first)
    return tag(
        "div",
        tag("b", view.label(g, stage.number - 1)),
        tag("span", view.chips(stage.first)),
        tag("span", intervals(stage.first.parts), class_="layers"),
        class_="segment",
        style=f"flex-grow:{share:.4f};background:{tint(kind)};border-color:{edge(kind)}",
        title=f"{view.stage_name(g, stage)} ({plural(stage.first.layer_count, 'layer')})",
        data_stage=f"{g}-{stage.number - 1}",
    )


def _table(view: View, g: int) -> Html:
    held = "pairs in flight" if view.groups[g].interleaved else "in flight"
    heads = ("", "chips", "where", "layers", held, "recompute")
    numbers = ("forward, ms", "backward, ms", "peak, GiB", "left, GiB")
    head = tag(
        "tr", [tag("th", h) for h in heads], [tag("th", h, class_="number") for h in numbers]
    )
    rows = [_row(view, g, stage) for stage in view.groups[g].stages]
    return tag("table", tag("thead", head), tag("tbody", rows))


def _row(view: View, g: int, stage: StageGroup) -> Html:
    memory = stage.tightest.memory_bytes
    where = device_list(stage.devices)
    return tag(
        "tr",
        tag("td", _swatch(view.kind(stage.first)), view.label(g, stage.number - 1)),
        tag("td", view.chips(stage.first), class_="whole"),
        tag("td", shortened(where, DEVICES), title=where),
        tag("td", held_layers(stage.first.parts), class_="whole"),
        tag("td", stage.first.in_flight),
        tag("td", recompute_words(stage.first)),
        tag("td", milliseconds(stage.forward_s), class_="number"),
        tag("td", milliseconds(stage.backward_s), class_="number"),
        tag("td", f"{gib(memory.peak)} of {gib(memory.usable)}", class_="number whole"),
        tag("td", gib(memory.usable - memory.peak), class_=f"number {_mood(memory)}"),
        data_stage=f"{g}-{stage.number - 1}",
    )


def _swatch(kind: int) -> Html:
    style = f"background:{tint(kind)};border-color:{edge(kind)}"
    return tag("span", class_="swatch", style=style)


def _mood(memory: StageMemory) -> str:
    left = memory.usable - memory.peak
    return "bad" if left < 0 else "thin" if left < SMALL_MARGIN else ""
