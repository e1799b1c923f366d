"""What was understood of the inputs, said back before anything is planned."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from costmodels.catalog.names import short_name
from planner.graphs.model_graph import ModelGraph
from planner.graphs.topology import IslandClass, Topology
from planner.inputs.job import ResolvedJob
from planner.report.format import bandwidth, count, gib, plural


def understood(model: ModelGraph, topology: Topology, job: ResolvedJob) -> RenderableType:
    """Model, fleet and job, in the words of the inputs and with their exact figures."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("model", _model(model))
    table.add_row("fleet", _fleet(topology))
    table.add_row("job", _job(job))
    return Group(
        table,
        Padding(_classes(topology, job), (1, 0, 1, 2)),
    )


def _model(model: ModelGraph) -> Text:
    text = Text.assemble(
        (model.name, "bold"), " · ", (f"{count(model.parameters)} parameters", "bold")
    )
    if model.active_parameters != model.parameters:
        text.append(f" ({count(model.active_parameters)} active per token)")
    text.append(f"\n{plural(len(model.layers), 'layer')}")
    kinds = Counter(layer.shape.kind for layer in model.layers)
    if set(kinds) != {"generic"}:
        text.append(f" ({', '.join(plural(n, kind) for kind, n in kinds.items())})")
    widest = max((layer.shape.hidden for layer in model.layers), default=0)
    if widest:
        text.append(f", hidden size {count(widest)}")
    attention = next((la.shape.attention for la in model.layers if la.shape.attention), None)
    if attention is not None:
        text.append(f", {plural(attention.heads, 'head')}")
        if attention.kv_heads != attention.heads:
            text.append(f", {attention.kv_heads} for keys and values")
    return text


def _fleet(topology: Topology) -> Text:
    hosts = {island.host for cls in topology.classes for island in cls.islands}
    text = Text.assemble(
        (plural(topology.chips, "chip"), "bold"), f" in {plural(len(hosts), 'node')}"
    )
    vendors = {cls.chip.vendor for cls in topology.classes}
    if len(vendors) > 1:
        way = topology.cross_vendor_collectives
        how = "no gradient is reduced between them" if way == "none" else f"reduced by {way}"
        text.append(f" of {len(vendors)} vendors ({how})")
    return text


def _job(job: ResolvedJob) -> Text:
    state = job.state_bytes
    return Text.assemble(
        (f"{count(job.global_batch)} rows of {count(job.seq_len)} tokens", "bold"),
        f" = {count(job.global_batch * job.seq_len)} tokens per step, ",
        (job.precision, "bold"),
        f"\n{job.optimizer}: {state.parameter} + {state.gradient} + {state.optimizer} "
        "bytes per parameter (weights, gradients, optimizer)",
    )


def _classes(topology: Topology, job: ResolvedJob) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("chips", no_wrap=True)
    table.add_column("islands", no_wrap=True)
    table.add_column("usable\nmemory")
    table.add_column(f"{job.precision}\nTFLOP/s", justify="right")
    table.add_column("inside\nan island")
    table.add_column("to another node,\nachieved")
    for cls in topology.classes:
        usable, label = gib(cls.usable_memory_bytes), gib(cls.chip.memory_bytes)
        table.add_row(
            f"{cls.chips:,} × {short_name(cls.chip.id)}" + _derate(cls),
            f"{cls.count:,} × {cls.size}",
            f"{usable} of {label.removesuffix('.0')} GiB",
            _peak(cls, job.precision),
            _inside(cls),
            _outside(cls, topology),
        )
    return table


def _derate(cls: IslandClass) -> str:
    return "" if cls.derate == 1.0 else f" at {cls.derate:g} speed"


def _peak(cls: IslandClass, precision: str) -> str:
    return f"{cls.chip.peak(precision) / 1e12:,.0f}" if cls.chip.supports(precision) else "none"


def _inside(cls: IslandClass) -> str:
    if cls.size == 1:
        return "—"
    return f"{cls.fabric.kind} {cls.fabric.total_bandwidth / 1e9:.4g} GB/s"


def _outside(cls: IslandClass, topology: Topology) -> str:
    """The best way out; where classes differ, placement prices the real ones."""
    routes = [
        route
        for (a, _), route in sorted(topology.class_routes.items(), key=lambda item: item[0])
        if a == cls.index and route is not None
    ]
    if not routes:
        return "—"
    best = max(routes, key=lambda r: r.bandwidth)
    return f"{best.kind} {bandwidth(best.bandwidth)}"
