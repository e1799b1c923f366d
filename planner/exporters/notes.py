"""README.md of an export: where it comes from, how to start it, what was checked, what differs."""

from __future__ import annotations

from collections.abc import Sequence

from planner.exporters.capability import Capability
from planner.exporters.exporter import Checked, File, Written
from planner.exporters.view import View


def readme(
    capability: Capability,
    view: View,
    written: Written,
    checked: Checked,
    differences: Sequence[str],
) -> File:
    """The page that lies beside the files."""
    plan = view.plan
    figures = plan.estimate
    memory = max(r.memory_bytes.peak for p in plan.pipelines for s in p.stages for r in s.replicas)
    lines = [
        f"# {view.model.name} for {capability.title}",
        "",
        f"Made by planner {plan.planner_version} from plan `{plan.plan_id}`.",
        f"The plan predicts {figures.step_time_s:.4g} s per step of {view.job.global_batch} rows "
        f"of {view.job.seq_len} tokens, and at most {memory / 2**30:.1f} GiB on a device.",
        "",
        "## Start",
        "",
        *_code(written.run),
        *_listed("Add yourself", written.todo),
        *_listed("What differs from the plan", differences or ["nothing that is known"]),
        "## Checked",
        "",
        "These files were read back, and hold:",
        "",
        *(f"- {text}" for text in checked.rules),
        "",
        f"By the target itself: {capability.checked_by_target}.",
        "",
        "## Files",
        "",
        *(f"- `{file.path}`" for file in _short(written.files)),
    ]
    return File("README.md", "\n".join(lines) + "\n")


def _short(files: Sequence[File]) -> list[File]:
    """All files, but only the first scripts of many hosts."""
    scripts = [f for f in files if f.path.startswith("nodes/")]
    return [f for f in files if f not in scripts[2:]]


def _code(lines: Sequence[str]) -> list[str]:
    return ["```sh", *lines, "```", ""]


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []
