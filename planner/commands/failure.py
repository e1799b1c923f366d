"""How a command ends when something is wrong: a message for people or programs, and a code."""

from __future__ import annotations

import os
import sys
import traceback

from rich.text import Text

from planner.commands.output import show, show_json
from planner.errors import PlannerError
from planner.report.problems import error_object, failure

BUG = 1
USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells count it."""


def report_error(error: PlannerError, *, as_json: bool) -> int:
    """Say what went wrong; with JSON the answer on standard output is the error object."""
    if error.exit_code == BUG:
        return report_bug(error, as_json=as_json)
    if as_json:
        show_json(error_object(error))
    else:
        show(failure(error), to_stderr=True, wrap=False)
    return error.exit_code


def report_usage(message: str, command: str, *, as_json: bool) -> int:
    """A command line that cannot be understood."""
    remedy = f"see {command} --help"
    if as_json:
        body = {"code": "usage", "message": message, "where": command, "remedies": [remedy]}
        show_json({"error": body})
    else:
        text = Text.assemble(("error: ", "bold red"), message, ("\n    try: ", "cyan"), remedy)
        show(text, to_stderr=True, wrap=False)
    return USAGE


def report_bug(error: BaseException, *, as_json: bool) -> int:
    """An error of the planner itself: one line, and the trace for those who ask for it."""
    what = str(error).splitlines()[0] if str(error) else "no message"
    message = f"internal error: {type(error).__name__}: {what}"
    remedy = "set PLANNER_TRACEBACK=1 to see the trace, and report it with the command and inputs"
    if os.environ.get("PLANNER_TRACEBACK"):
        sys.stderr.write("".join(traceback.format_exception(error)))
    if as_json:
        body = {"code": "internal", "message": message, "where": "", "remedies": [remedy]}
        show_json({"error": body})
    else:
        text = Text.assemble(("bug: ", "bold red"), message, ("\n    try: ", "cyan"), remedy)
        show(text, to_stderr=True, wrap=False)
    return BUG


def report_interrupt() -> int:
    """The user stopped a command that had nothing to show yet."""
    show(Text("interrupted"), to_stderr=True, wrap=False)
    return INTERRUPTED
