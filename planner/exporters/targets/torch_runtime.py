"""``torch``: the planner's own PyTorch runtime, started by hand on every host."""

from __future__ import annotations

from collections.abc import Mapping

from planner.exporters.exporter import Checked, Written
from planner.exporters.reference_runtime import (
    RUNTIME,
    RUNTIME_RULES,
    read_runtime,
    runtime_files,
    runtime_todo,
)
from planner.exporters.rules import broken_rules, rule_texts
from planner.exporters.view import View

CAPABILITY = RUNTIME
RULES = RUNTIME_RULES


def write(view: View) -> Written:
    """The plan, and a script per host."""
    run = ("nodes/$(hostname).sh --steps 100 --data FILE   # on every host",)
    return Written(runtime_files(view), run, runtime_todo(view))


def check(view: View, files: Mapping[str, str]) -> Checked:
    """Reads the plan back, and counts the processes of every host."""
    read = read_runtime(view, files)
    return Checked(rule_texts(RULES), broken_rules(RULES, read, "the export"))
