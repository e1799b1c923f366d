"""How far the search is, on standard error: best plan so far and proven bound as they move."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from planner.commands.output import console, speaks_utf8
from planner.report.format import ascii_text, duration, percent

if TYPE_CHECKING:
    from planner.solve import Progress

SECONDS_BETWEEN_LINES = 2.0
"""Where standard error is a file, news is written at most this often."""


class ProgressDisplay:
    """A moving line on a terminal, a line now and then in a file, and every event in a log.

    ``log`` takes one JSON object per event, with the wall time since the start: what a clock
    says belongs there and never into a plan.
    """

    def __init__(self, *, quiet: bool, log: TextIO | None = None) -> None:
        self._quiet = quiet
        self._log = log
        self._console = console(sys.stderr)
        self._live: Live | None = None
        self._start = time.monotonic()
        self._last_line = -SECONDS_BETWEEN_LINES
        self._last_text = ""

    def __enter__(self) -> ProgressDisplay:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the display was made."""
        return time.monotonic() - self._start

    def update(self, progress: Progress) -> None:
        """Show one piece of news."""
        self.log(
            progress.stage,
            best_s=progress.best_s,
            bound_s=progress.bound_s,
            detail=progress.detail,
        )
        if self._quiet:
            return
        text = progress_text(progress.stage, progress.best_s, progress.bound_s, progress.detail)
        if self._live is not None:
            name = "dots" if speaks_utf8(sys.stderr) else "line"
            line = Text.assemble(self._shown(text), f"  {self.elapsed_s:.0f} s", style="")
            self._live.update(Spinner(name, text=line))
        elif text != self._last_text:
            now = self.elapsed_s
            if now - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line, self._last_text = now, text
                sys.stderr.write(f"{self._shown(text)}\n")
                sys.stderr.flush()

    def log(self, event: str, **values: object) -> None:
        """One line of the log, if there is one."""
        if self._log is not None:
            entry = {"elapsed_s": round(self.elapsed_s, 3), "event": event, **values}
            self._log.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._log.flush()

    def _shown(self, text: str) -> str:
        return text if speaks_utf8(sys.stderr) else ascii_text(text)


def progress_text(stage: str, best_s: float | None, bound_s: float | None, detail: str) -> str:
    """``searching · best 12.43 s · bound 12.31 s · gap 0.97 %``."""
    parts = [stage]
    if best_s is not None:
        parts.append(f"best {duration(best_s)}")
    if bound_s is not None:
        parts.append(f"bound {duration(bound_s)}")
    if best_s is not None and bound_s is not None and best_s > 0:
        parts.append(f"gap {percent(max(0.0, (best_s - bound_s) / best_s))}")
    if detail:
        parts.append(detail)
    return " · ".join(parts)
