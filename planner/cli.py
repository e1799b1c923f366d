"""The command line. Every command is a thin function of :mod:`planner.commands`.

Exit codes: 0 an answer · 1 a bug · 2 invalid input or usage · 3 proven infeasible · 4 a limit was
reached without a plan · 5 the plan does not belong to these inputs · 6 a gate failed · 7 a process
of a run died.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import typer
from typer.core import TyperGroup

from planner.commands.failure import (
    USAGE,
    report_bug,
    report_error,
    report_interrupt,
    report_usage,
)
from planner.commands.on_demand import OnDemand
from planner.commands.output import STDOUT, ReaderGone, write_text
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

COMMANDS: Mapping[str, tuple[str, str]] = {
    "plan": (
        "plan:plan",
        "Find the fastest (or cheapest) plan for a model on a cluster, and prove how good it is.",
    ),
    "check": (
        "check:check",
        "Check inputs and plans: all problems at once, with file, line, value and remedy.",
    ),
    "show": (
        "show:show",
        "Draw a plan or a partition: stages, chips, memory, where the time goes.",
    ),
    "estimate": (
        "estimate:estimate",
        "Price a layout that you give, without searching: time, memory, and whether it fits.",
    ),
    "explain": (
        "explain:explain",
        "Explain a plan: what decides its time and memory, and what other decisions would cost.",
    ),
    "diff": (
        "diff:diff",
        "Compare two plans: layout, layers that move, time, memory, cost, checkpoints.",
    ),
    "size": (
        "size:size",
        "How many chips train so many tokens in so many days, with what is proven about fewer.",
    ),
    "simulate": (
        "simulate:simulate",
        "Replay one step of a plan event by event, with contention on the network.",
    ),
    "export": (
        "export:export",
        "Write a plan as runnable files for a runtime; what it cannot run is refused by name.",
    ),
    "run": (
        "run:run",
        "Train with a plan: any class of plan, on PyTorch; measured time and memory beside "
        "planned.",
    ),
    "profile": (
        "profile:profile",
        "Measure the chips and links here: layer times and memory, matrix products, messages.",
    ),
    "report": (
        "report:report",
        "Write one self-contained HTML page: placement, timeline, memory, baselines, proof.",
    ),
    "partition": (
        "partition:partition",
        "Split an operator or layer graph into stages on unlike devices, and prove how good it is.",
    ),
    "validate": (
        "validate:validate",
        "Predict published or measured runs and print the error by chip, family and precision.",
    ),
    "calibrate": (
        "calibrate:calibrate",
        "Fit what chips sustain to your own measured runs, and show the error before and after.",
    ),
    "schema": (
        "schema:schema",
        "Print the JSON Schema of a kind of file, or list the kinds.",
    ),
    "chips": (
        "chips:chips",
        "The catalogue of chips: dense rates, memory, links, each figure with its source.",
    ),
    "profiles": (
        "profiles:profiles",
        "Measured layer times and links: bring them from other planners' files.",
    ),
    "import": (
        "import_:imports",
        "Make cluster, layout and job files from what you have: nvidia-smi, NCCL, Slurm, "
        "Kubernetes, DeepSpeed, Megatron-LM. What a format cannot say is asked for.",
    ),
    "models": (
        "shipped:models",
        "The models that come with the planner; they work by name in any folder.",
    ),
    "clusters": (
        "shipped:clusters",
        "The clusters that come with the planner; they work by name in any folder.",
    ),
    "jobs": (
        "shipped:jobs",
        "The jobs that come with the planner; they work by name in any folder.",
    ),
    "layouts": (
        "shipped:layouts",
        "The layouts that come with the planner; they work by name in any folder.",
    ),
    "whatif": (
        "whatif:whatif",
        "What if: scenarios side by side, sweeps, and questions for the input.",
    ),
}
"""Where each command is in :mod:`planner.commands`, and the first sentence of its help."""


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


def commands() -> TyperGroup:
    """The whole command line; each command is imported when it is run."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)  # it has a callback
    for name, (where, line) in COMMANDS.items():
        root.add_command(OnDemand(name, f"planner.commands.{where}", line))
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: that of the process) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = wants_json(given)
    try:
        code = commands().main(given, prog_name="planner", standalone_mode=False)
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
