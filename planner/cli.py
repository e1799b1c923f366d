"""The command line. Every command is a thin function of :mod:`planner.commands`.

Exit codes: 0 an answer · 1 a bug · 2 invalid input or usage · 3 proven infeasible · 4 a limit was
reached without a plan · 5 the plan does not belong to these inputs · 6 a gate failed · 7 a process
of a run died.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from planner.commands.calibrate import calibrate
from planner.commands.check import check
from planner.commands.chips import chips
from planner.commands.diff import diff
from planner.commands.estimate import estimate
from planner.commands.explain import explain
from planner.commands.export import export
from planner.commands.failure import (
    USAGE,
    report_bug,
    report_error,
    report_interrupt,
    report_usage,
)
from planner.commands.import_ import imports
from planner.commands.inverse import largest_, link_, price_, tornado_
from planner.commands.output import STDOUT, ReaderGone, write_text
from planner.commands.partition import partition
from planner.commands.plan import plan
from planner.commands.profile import profile
from planner.commands.profiles import profiles
from planner.commands.report import report
from planner.commands.run import run
from planner.commands.schema import schema
from planner.commands.shipped import FACTS, group
from planner.commands.show import show
from planner.commands.simulate import simulate
from planner.commands.size import replace_, size
from planner.commands.validate import validate
from planner.commands.whatif import whatif
from planner.errors import PlannerError
from planner.version import VERSION

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of all usage errors; Typer exports only this child of it."""

BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells count it: the reader of our output went away."""

EPILOG = (
    "Exit codes: 0 an answer, 1 a bug in the planner, 2 invalid input or usage, 3 proven "
    "infeasible, 4 a limit reached without a plan, 5 the plan does not fit these inputs, "
    "6 a gate failed, 7 a process of a run died."
)

app = typer.Typer(
    name="planner",
    help="Find the best way to train a transformer on mixed chips, and prove how good it is.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    plan,
    check,
    show,
    estimate,
    explain,
    diff,
    size,
    simulate,
    export,
    run,
    profile,
    report,
    partition,
    validate,
    calibrate,
    schema,
):
    app.command()(command)
app.add_typer(chips, name="chips")
app.add_typer(profiles, name="profiles")
app.add_typer(imports, name="import")
for shipped in FACTS:
    app.add_typer(group(shipped), name=shipped)
for name, question in (
    ("replace", replace_),
    ("largest", largest_),
    ("link", link_),
    ("price", price_),
    ("tornado", tornado_),
):
    whatif.command(name)(question)
app.add_typer(whatif, name="whatif")


def _version(wanted: bool) -> None:
    if wanted:
        write_text(STDOUT, f"planner {VERSION}\n")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find the best way to train a transformer on mixed chips, and prove how good it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = wants_json(given)
    try:
        code = typer.main.get_command(app).main(given, prog_name="planner", standalone_mode=False)
    except PlannerError as error:
        return report_error(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return report_interrupt()
    except ReaderGone:
        return BROKEN_PIPE
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown already
            return USAGE
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "planner"
        message = getattr(error, "format_message", error.__str__)()
        return report_usage(message, where, as_json=as_json)
    except Exception as error:
        return report_bug(error, as_json=as_json)
    return code if isinstance(code, int) else 0


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors must be JSON too, known before (and even if not) the line is understood."""
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
