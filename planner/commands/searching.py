"""What commands that plan several times share: options, a line of progress, Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import typer
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from planner.commands.output import console, speaks_utf8
from planner.commands.plan import stop_on_interrupt
from planner.errors import InputError, Problem
from planner.report.format import ascii_text, duration

T = TypeVar("T")

GapOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="FRACTION",
        help="End each search when the plan is proven to be within this fraction of the best.",
    ),
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="SECONDS",
        help="End each search after this wall time with the best so far.",
    ),
]


def told(parse: Callable[[str], T], texts: Iterable[str]) -> list[T]:
    """Every text parsed. Raises InputError with the problems of all of them."""
    problems: list[Problem] = []
    found = []
    for text in texts:
        try:
            found.append(parse(text))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return found


@contextmanager
def searching(*, quiet: bool) -> Iterator[tuple[Callable[[str], None], Callable[[], bool]]]:
    """Says on standard error what is planned at the moment; Ctrl-C ends with what there is."""
    shown = console(sys.stderr)
    start = time.monotonic()
    live = Live(console=shown, transient=True, refresh_per_second=8)

    def say(text: str) -> None:
        if quiet:
            return
        line = f"planning {text} · {duration(time.monotonic() - start)}"
        if not speaks_utf8(sys.stderr):
            line = ascii_text(line)
        if shown.is_terminal:
            live.update(Spinner("dots" if speaks_utf8(sys.stderr) else "line", text=Text(line)))
        else:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    with stop_on_interrupt() as interrupted:
        if shown.is_terminal and not quiet:
            with live:
                yield say, interrupted
        else:
            yield say, interrupted
