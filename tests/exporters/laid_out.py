"""Plans for exporter tests: a layout written by hand, priced by the planner, no search."""

from __future__ import annotations

from functools import lru_cache

from planner.errors import ExportError, Problem
from planner.estimate import estimate, read_layout
from planner.exporters import TARGETS, Exported, export_plan
from planner.exporters.exporter import Checked
from planner.exporters.view import view_of
from planner.inputs.cluster import load_cluster
from planner.inputs.job import load_job
from planner.inputs.model import load_model
from planner.inputs.overrides import parse_overrides
from planner.plan import Plan

TWO_NODES = "2x8xA100-SXM-80GB @ 200Gb/s"


@lru_cache(maxsize=64)
def laid_out(
    layout: str, *changes: str, model: str = "llama-2-7b", cluster: str = TWO_NODES
) -> Plan:
    """The plan of a one-line layout; ``changes`` are what ``--set`` takes."""
    overrides = parse_overrides(["job.global_batch=64", "job.precision=bf16", *changes])
    made = estimate(
        load_model(model, overrides),
        load_cluster(cluster, None, overrides),
        load_job(None, overrides),
        read_layout(layout),
        replay=False,
    )
    return made.plan


def exported(plan: Plan, target: str) -> Exported:
    """The export, and its files by path."""
    return export_plan(plan, target)


def text_of(found: Exported, path: str) -> str:
    """One file of an export."""
    return next(file.text for file in found.files if file.path == path)


def refused(plan: Plan, target: str) -> tuple[Problem, ...]:
    """Why a target refuses a plan; empty if it does not."""
    try:
        export_plan(plan, target)
    except ExportError as error:
        return error.problems
    return ()


def rechecked(plan: Plan, target: str, *edits: tuple[str, str, str]) -> Checked:
    """The target's own check after edits ``(path, old, new)``; every edit must change a file."""
    found = export_plan(plan, target)
    files = {file.path: file.text for file in found.written.files}
    for path, old, new in edits:
        assert old in files[path], f"{old!r} is not in {path}"
        files[path] = files[path].replace(old, new)
    return TARGETS[target].check(view_of(plan), files)


def broken(plan: Plan, target: str, *edits: tuple[str, str, str]) -> set[str]:
    """Names of the rules that break after the edits."""
    problems = rechecked(plan, target, *edits).problems
    return {p.where.rpartition("(")[2].rstrip(")") for p in problems}
