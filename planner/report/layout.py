"""The chosen plan, stage by stage: a drawing and a table per group of equal pipelines."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.price import HOSTED, WAYS
from planner.plan import Plan, Replica, Stage, StageMemory, StageTime
from planner.report.bars import COLOURS, PipelineBar, Segment, gauge
from planner.report.format import (
    device_list,
    gib,
    held_layers,
    intervals,
    milliseconds,
    plural,
    short_chip_names,
    span,
)
from planner.report.groups import PipelineGroup, StageGroup, pipeline_groups

SMALL_MARGIN_GIB = 1.0
"""Less than this left on a chip is worth a second look before a run."""

MEMORY_ITEMS = (
    ("parameters", "weights"),
    ("gradients", "grads"),
    ("optimizer", "optim."),
    ("activations", "activ."),
    ("logits", "logits"),
    ("buffers", "buffers"),
    ("context", "context"),
    ("fragmentation", "fragm."),
    ("peak", "peak"),
    ("usable", "usable"),
)

TIME_ITEMS = (
    ("forward", "forward"),
    ("tp_comm_forward", "tp fwd"),
    ("backward_input", "bwd input"),
    ("backward_weight", "bwd weight"),
    ("recompute", "recompute"),
    ("tp_comm_backward", "tp bwd"),
    ("transfer_forward", "send fwd"),
    ("transfer_backward", "send bwd"),
    ("copy_forward", "copy down"),
    ("copy_backward", "copy up"),
)


def chip_kinds(plan: Plan) -> dict[str, int]:
    """A number for each kind of chip, in alphabetical order: its colour and its fill."""
    chips = {r.chip for p in plan.pipelines for s in p.stages for r in s.replicas}
    return {chip: n for n, chip in enumerate(sorted(chips))}


def layout(plan: Plan, *, details: bool = False) -> RenderableType:
    """All pipelines; ``details`` adds itemised memory and time of every stage."""
    kinds = chip_kinds(plan)
    names = short_chip_names(kinds)
    parts: list[RenderableType] = []
    for group in pipeline_groups(plan):
        parts.append(_heading(group))
        parts.append(Padding(_drawing(group, kinds, names), (0, 0, 1, 2)))
        parts.append(Padding(_stage_table(group, kinds, names), (0, 0, 1, 1)))
        if details:
            parts.append(Padding(_memory_table(group, names), (0, 0, 1, 1)))
            parts.append(Padding(_time_table(group, names), (0, 0, 1, 1)))
    last = len(plan.layer_order) - 1
    parts.append(
        Text(f"  layers 0 ({plan.layer_order[0]}) … {last} ({plan.layer_order[-1]})", style="dim")
    )
    return Group(*parts)


def _heading(group: PipelineGroup) -> Text:
    first = group.first
    count = len(group.numbers)
    text = Text("  ")
    text.append(plural(count, "pipeline") if count > 1 else "pipeline", style="bold")
    each = " each" if count > 1 else ""
    text.append(
        f" of {plural(group.chips, 'chip')}{each} · "
        f"{_micro_batches(group)} of "
        f"{plural(first.micro_batch_rows, 'row')} · {group.schedule}"
    )
    if _all_hosted(group):
        text.append(" · optimizer offloaded")
    if any(p.last_micro_batch_rows != p.micro_batch_rows for p in group.pipelines):
        text.append(f" · last one of {span(p.last_micro_batch_rows for p in group.pipelines)}")
    return text


def _micro_batches(group: PipelineGroup) -> str:
    counts = span(p.micro_batches for p in group.pipelines)
    return f"{counts} micro-batch" if counts == "1" else f"{counts} micro-batches"


def _drawing(
    group: PipelineGroup, kinds: Mapping[str, int], names: Mapping[str, str]
) -> PipelineBar:
    return PipelineBar(tuple(_segment(s.first, kinds, names) for s in group.stages))


def _segment(stage: Stage, kinds: Mapping[str, int], names: Mapping[str, str]) -> Segment:
    by_chip = _chips_of(stage)
    chip = next(iter(by_chip))
    short = " + ".join(f"{n} × {names[c]}" for c, n in by_chip.items())
    tight = "+".join(f"{n}×{names[c]}" for c, n in by_chip.items())
    layers = plural(stage.layer_count, "layer")
    return Segment(
        weight=stage.layer_count,
        labels=(f"{short} · {layers}", short, tight, "+".join(names[c] for c in by_chip)),
        caption=intervals(stage.parts),
        kind=kinds[chip],
    )


def _chips_of(stage: Stage) -> dict[str, int]:
    counts: dict[str, int] = {}
    for replica in stage.replicas:
        counts[replica.chip] = counts.get(replica.chip, 0) + len(replica.devices)
    return counts


def _stage_table(group: PipelineGroup, kinds: Mapping[str, int], names: Mapping[str, str]) -> Table:
    table = Table(
        box=None, padding=(0, 1), pad_edge=False, header_style="dim", collapse_padding=True
    )
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("chips", no_wrap=True)
    table.add_column("where", max_width=18, overflow="ellipsis", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    # interleaved stages hold pairs of a chunk and a micro-batch
    head = "pairs\nin\nflight" if group.interleaved else "in\nflight"
    table.add_column(head, justify="center", no_wrap=True)
    table.add_column("recom-\npute", no_wrap=True)
    table.add_column("forward\nms", justify="right", no_wrap=True)
    table.add_column("backward\nms", justify="right", no_wrap=True)
    table.add_column("memory per chip\nGiB of usable", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    everywhere = _all_hosted(group)
    for stage in group.stages:
        memory = stage.tightest.memory_bytes
        table.add_row(
            str(stage.number),
            _chips_cell(stage.first, kinds, names, hosted=not everywhere),
            device_list(stage.devices),
            held_layers(stage.first.parts),
            str(stage.first.in_flight),
            _recompute(stage.first),
            milliseconds(stage.forward_s),
            milliseconds(stage.backward_s),
            Text.assemble(
                gauge(memory.peak / memory.usable, 7), f" {gib(memory.peak)}/{gib(memory.usable)}"
            ),
            _left(memory),
        )
    return table


def _all_hosted(group: PipelineGroup) -> bool:
    """Whether every stage offloads: then the heading says so, and not every line."""
    return all(s.first.offload == "optimizer" for s in group.stages)


def _chips_cell(
    stage: Stage, kinds: Mapping[str, int], names: Mapping[str, str], *, hosted: bool
) -> Text:
    cell = Text()
    for n, (text, chip) in enumerate(_replica_texts(stage, names)):
        if n:
            cell.append(" + ")
        cell.append(text, style=COLOURS[kinds[chip] % len(COLOURS)])
    if hosted and stage.offload == "optimizer":
        cell.append(" offload")
    return cell


def _replica_texts(stage: Stage, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Equal replicas joined: ``2 × 4 A100 tp4``; unequal rows are named."""
    found: dict[tuple[str, str], list[Replica]] = {}
    unequal = len({r.rows for r in stage.replicas}) > 1
    for r in stage.replicas:
        mesh = "".join(
            f" {short}{degree}"
            for short, degree in (
                ("cp", r.mesh.context_parallel),
                ("dp", r.mesh.data_parallel),
                ("ep", r.mesh.expert_parallel),
                ("tp", r.mesh.tensor_parallel),
            )
            if degree > 1
        ) + (" zero3" if r.mesh.zero3 else "")
        rows = f" ({plural(r.rows, 'row')})" if unequal else ""
        found.setdefault((f"{len(r.devices)} × {names[r.chip]}{mesh}{rows}", r.chip), []).append(r)
    return [
        (f"{len(replicas)}·({text})" if len(replicas) > 1 else text, chip)
        for (text, chip), replicas in found.items()
    ]


def _recompute(stage: Stage) -> str:
    """The policy; where layers differ, how many of them recompute."""
    policies = {r.policy for r in stage.recompute}
    if len(policies) == 1:
        return str(next(iter(policies)))
    total = stage.layer_count
    parts = [
        f"{sum(r.layers[1] - r.layers[0] for r in stage.recompute if r.policy == policy)}"
        f"/{total} {policy}"
        for policy in WAYS[1:]
        if policy in policies
    ]
    return ", ".join(parts) or "none"


def _left(memory: StageMemory) -> Text:
    left = memory.usable - memory.peak
    short = left < SMALL_MARGIN_GIB * 2**30
    return Text(gib(left), style="bold red" if short else "")


def _memory_table(group: PipelineGroup, names: Mapping[str, str]) -> Table:
    items = [(key, head) for key, head in MEMORY_ITEMS]
    table = _item_table("memory of the tightest chip, GiB", [head for _, head in items])
    for stage in group.stages:
        memory = stage.tightest.memory_bytes
        table.add_row(*_row_head(stage, names), *(gib(getattr(memory, key)) for key, _ in items))
    return table


def _time_table(group: PipelineGroup, names: Mapping[str, str]) -> Table:
    waits = any(_slowest(s).time_s.transfer_forward for s in group.stages)
    copies = any(p.policy in HOSTED for s in group.stages for p in s.first.recompute)
    shown = {"transfer": waits, "copy": copies}
    items = [(key, head) for key, head in TIME_ITEMS if shown.get(key.partition("_")[0], True)]
    table = _item_table("time of a micro-batch, ms", [head for _, head in items] + ["hop"])
    for stage in group.stages:
        time = _slowest(stage).time_s
        hop = stage.first.hop_to_next_s
        table.add_row(
            *_row_head(stage, names),
            *(milliseconds(getattr(time, key)) for key, _ in items),
            "" if hop is None else milliseconds(hop),
        )
    return table


def _item_table(title: str, heads: list[str]) -> Table:
    table = Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="dim",
        collapse_padding=True,
        title=title,
        title_justify="left",
        title_style="dim italic",
    )
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _row_head(stage: StageGroup, names: Mapping[str, str]) -> tuple[str, str]:
    return str(stage.number), "+".join(names[c] for c in _chips_of(stage.first))


def _slowest(stage: StageGroup) -> Replica:
    def total(time: StageTime) -> float:
        return time.forward_total + time.backward_total

    return max((r for s in stage.stages for r in s.replicas), key=lambda r: total(r.time_s))
