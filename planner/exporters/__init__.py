"""Plans for stock runtimes: declared capabilities, refusals by name, files that are read back.

    from planner.exporters import export_plan
    exported = export_plan(plan, "megatron")     # ExportError names what Megatron cannot run

Nothing is written to disk here. Adding a target is one module and one line below.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import ExportError, Problem
from planner.exporters.builds import build_difference
from planner.exporters.depth import depth_difference
from planner.exporters.exporter import Checked, Exporter, File, Written
from planner.exporters.grouped import grouped_difference
from planner.exporters.notes import readme
from planner.exporters.refusals import chip_problem, refusals
from planner.exporters.targets import (
    accelerate,
    colossalai,
    deepspeed,
    flagscale,
    kubernetes,
    megatron,
    megatron_bridge,
    mindspeed,
    paddle,
    slurm,
    torch_runtime,
    torchtitan,
)
from planner.exporters.view import view_of
from planner.inputs.problems import nearest
from planner.plan import Plan
from planner.restore import restore

__all__ = [
    "TARGETS",
    "ChipVerdict",
    "Exported",
    "Exporter",
    "File",
    "chip_verdicts",
    "export_plan",
    "exporter_of",
    "problems_of",
]

TARGETS: dict[str, Exporter] = {
    "torch": torch_runtime,
    "torchtitan": torchtitan,
    "megatron": megatron,
    "megatron-bridge": megatron_bridge,
    "deepspeed": deepspeed,
    "accelerate": accelerate,
    "flagscale": flagscale,
    "mindspeed": mindspeed,
    "colossalai": colossalai,
    "paddle": paddle,
    "kubernetes": kubernetes,
    "slurm": slurm,
}
"""Every target by the name that ``--to`` takes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A checked export: its files (README.md included) and what is said about them."""

    target: str
    files: tuple[File, ...]
    written: Written
    checked: Checked
    differences: tuple[str, ...]


def exporter_of(target: str) -> Exporter:
    """The exporter of a name. Raises ExportError with the nearest names."""
    if target in TARGETS:
        return TARGETS[target]
    close = nearest(target, TARGETS)
    remedy = f"did you mean {close[0]}?" if close else f"one of {', '.join(TARGETS)}"
    problem = Problem(f"--to {target}", "no target has this name", remedy)
    raise ExportError("", problems=[problem])


def export_plan(plan: Plan, target: str) -> Exported:
    """The files of a plan for one target, read back and checked.

    Raises ExportError naming every feature that the target cannot run, and every rule of the
    target that the files would break.
    """
    exporter = exporter_of(target)
    view = view_of(plan)
    refused = refusals(exporter.CAPABILITY, view)
    if refused:
        raise ExportError("", where=f"by {target}", problems=refused)
    written = exporter.write(view)
    checked = exporter.check(view, {file.path: file.text for file in written.files})
    if checked.problems:
        raise ExportError("", where=f"by {target}", problems=checked.problems)
    found = (
        *depth_difference(exporter.CAPABILITY, view),
        *grouped_difference(exporter.CAPABILITY, view),
        *written.differences,
        *build_difference(exporter.CAPABILITY, view),
    )
    note = readme(exporter.CAPABILITY, view, written, checked, found)
    return Exported(target, (*written.files, note), written, checked, found)


def problems_of(plan: Plan, target: str) -> tuple[Problem, ...]:
    """Why a target cannot run a plan; empty where it can."""
    try:
        export_plan(plan, target)
    except ExportError as error:
        return error.problems or (Problem(error.where, error.message),)
    return ()


@dataclass(frozen=True, slots=True)
class ChipVerdict:
    """A kind of chip of the plan's cluster, used or not, and the targets that do not run on it."""

    name: str
    refused: tuple[tuple[str, str], ...]


def chip_verdicts(plan: Plan) -> tuple[ChipVerdict, ...]:
    """For every kind of chip of the cluster, each target that refuses it and why."""
    chips = {cls.chip.id: cls.chip for cls in restore(plan).topology.classes}
    found = []
    for chip in chips.values():
        reasons = ((t, chip_problem(e.CAPABILITY, chip)) for t, e in TARGETS.items())
        found.append(ChipVerdict(chip.name, tuple((t, why) for t, why in reasons if why)))
    return tuple(found)
