"""A finished run beside its plan: step time, loss, memory and time per device."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.plan import Plan, Replica
from planner.report.format import count, duration, memory, milliseconds, percent, plural, ratio
from planner.runtime.request import DeviceRecord, RunRecord


def run_page(plan: Plan, record: RunRecord) -> RenderableType:
    """The headline against the plan, then one row per device."""
    measured, planned = record.step_time_s, plan.estimate.step_time_s
    head = Text.assemble(
        ("Run ", "bold"),
        (record.plan_id[:12], "bold cyan"),
        f"  {plural(len(record.steps), 'step')} on {plural(len(record.devices), 'device')}",
    )
    first, last = record.steps[0], record.steps[-1]
    lines = [
        ("step time", f"{duration(measured)} measured · {_against(measured, planned)}"),
        ("", _spread(record)),
        ("throughput", f"{count(record.tokens_per_step / measured)} tokens/s"),
        ("loss", f"{first.loss:.4f} at step {first.step + 1} · {last.loss:.4f} at {last.step + 1}"),
    ]
    if record.checkpoint:
        lines.append(("saved", record.checkpoint))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for name, text in lines:
        table.add_row(Text(name, style="dim"), text)
    note = _note(plan, record)
    parts: list[RenderableType] = [
        head,
        Text(),
        Padding(table, (0, 0, 1, 2)),
        _devices(plan, record),
    ]
    if note:
        parts += [Text(), Text(note, style="dim")]
    return Group(*parts)


def run_object(plan: Plan, record: RunRecord) -> dict[str, object]:
    """The same as a JSON value."""
    planned = {d.rank: _replica(plan, d) for d in record.devices}
    return {
        "plan_id": record.plan_id,
        "step_time_s": {
            "measured": record.step_time_s,
            "least": min(record.measured),
            "most": max(record.measured),
            "planned": plan.estimate.step_time_s,
            "simulated": plan.estimate.simulated_step_time_s,
        },
        "tokens_per_s": record.tokens_per_step / record.step_time_s,
        "warmup_steps": record.warmup,
        "steps": [step.model_dump() for step in record.steps],
        "devices": [
            device.model_dump()
            | {"planned_peak_memory_bytes": planned[device.rank].memory_bytes.peak}
            for device in record.devices
        ],
        "versions": record.versions,
        "checkpoint": record.checkpoint,
    }


def _devices(plan: Plan, record: RunRecord) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("rank", justify="right", style="dim")
    for name in ("device", "stage", "runs on"):
        table.add_column(name, no_wrap=True)
    for name in ("peak", "planned peak", "forward", "planned", "backward", "planned", "waits"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in record.devices:
        replica = _replica(plan, device)
        times = replica.time_s
        runs = plan.pipelines[device.pipeline].micro_batches
        table.add_row(
            str(device.rank),
            device.device,
            f"{device.pipeline}.{device.stage}",
            device.runs_on,
            memory(device.peak_memory_bytes),
            memory(replica.memory_bytes.peak),
            _ms(device.forward_s, runs),
            milliseconds(times.forward_total),
            _ms(device.backward_s, runs),
            milliseconds(times.backward_total),
            "–" if device.wait_s is None else percent(device.wait_s / record.step_time_s),
        )
    return table


def _note(plan: Plan, record: RunRecord) -> str:
    """How to read the columns."""
    parts = ["forward and backward: ms per micro-batch"]
    if any(device.memory_of == "process" for device in record.devices):
        parts.append("peak: growth of the process's resident memory")
    chips = {device.chip for device in record.devices}
    elsewhere = [d for d in record.devices if d.runs_on == "cpu"]
    if elsewhere and not all("cpu" in chip for chip in chips):
        parts.append("the plan's figures are for its own chips, not for these processors")
    return " · ".join(parts)


def _against(measured: float, planned: float) -> str:
    if not planned:
        return "nothing planned"
    off = measured / planned - 1
    sign = "+" if off >= 0 else "−"
    how = f"{sign}{percent(abs(off))}" if off < 1 else ratio(measured / planned)
    return f"{duration(planned)} planned ({how})"


def _spread(record: RunRecord) -> str:
    times = record.measured
    left = len(record.steps) - len(times)
    text = f"median of {len(times)}, {duration(min(times))} to {duration(max(times))}"
    return text + (f"; {plural(left, 'step')} of warm-up left out" if left else "")


def _replica(plan: Plan, device: DeviceRecord) -> Replica:
    stage = plan.pipelines[device.pipeline].stages[device.stage]
    return stage.replicas[device.replica]


def _ms(seconds: float | None, micro_batches: int) -> str:
    return "–" if seconds is None else milliseconds(seconds / micro_batches)
