"""Bars of characters: layers of a pipeline, memory of a chip, step times side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

FILLS = "█▓▒░"
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""Every kind of chip has a fill and a colour, so that the drawing is read without colour too."""


def shares(weights: Sequence[float], total: int) -> list[int]:
    """``total`` cells divided in proportion to the weights, at least one each (largest remainder).

    Cells are never more than ``total`` unless there are more weights than cells.
    """
    spare = max(0, total - len(weights))
    whole = sum(weights) or 1.0
    exact = [spare * w / whole for w in weights]
    cells = [int(x) for x in exact]
    order = sorted(range(len(weights)), key=lambda i: (cells[i] - exact[i], i))
    for i in order[: spare - sum(cells)]:
        cells[i] += 1
    return [c + 1 for c in cells]


def gauge(fraction: float, width: int) -> Text:
    """A filled bar; green, yellow from 85 % and red from 95 % on."""
    filled = min(width, max(0, round(fraction * width)))
    colour = "green" if fraction < 0.85 else "yellow" if fraction < 0.95 else "red"
    return Text("█" * filled, style=colour) + Text("░" * (width - filled), style="dim")


@dataclass(frozen=True, slots=True)
class Segment:
    """One stage in the drawing: its weight, what to write into it (longest first), its kind."""

    weight: int
    labels: tuple[str, ...]
    caption: str
    kind: int


@dataclass(frozen=True)
class PipelineBar:
    """Stages side by side, as wide as their layers, with a caption under each."""

    segments: tuple[Segment, ...]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Takes what it gets."""
        return Measurement(min(20, options.max_width), options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Two lines: the bar and the captions."""
        gaps = len(self.segments) - 1
        widths = shares([s.weight for s in self.segments], options.max_width - gaps)
        level = self._level(widths)
        bar, captions = Text(no_wrap=True), Text(no_wrap=True, style="dim")
        for n, (segment, width) in enumerate(zip(self.segments, widths, strict=True)):
            if n:
                bar.append(" ")
                captions.append(" ")
            fill = FILLS[segment.kind % len(FILLS)]
            colour = COLOURS[segment.kind % len(COLOURS)]
            label = next((f" {t} " for t in segment.labels[level:] if len(t) + 4 <= width), "")
            left = (width - len(label)) // 2
            bar.append(fill * left, style=colour)
            bar.append(label, style=f"bold {colour}")
            bar.append(fill * (width - left - len(label)), style=colour)
            caption = segment.caption if len(segment.caption) <= width else ""
            captions.append(caption.center(width))
        yield bar
        yield captions

    def _level(self, widths: Sequence[int]) -> int:
        """The first form of the labels that fits into every segment, so that all look alike."""
        forms = range(min(len(s.labels) for s in self.segments))
        pairs = list(zip(self.segments, widths, strict=True))
        return next((n for n in forms if all(len(s.labels[n]) + 4 <= w for s, w in pairs)), 0)


def stacked(parts: Sequence[tuple[str, float]], width: int) -> Text:
    """One bar of parts in proportion; parts too thin for a cell are left out."""
    whole = sum(value for _, value in parts) or 1.0
    bar = Text()
    reached = 0.0
    for n, (_, value) in enumerate(parts):
        start = round(reached / whole * width)
        reached += value
        end = round(reached / whole * width)
        bar.append(FILLS[n % len(FILLS)] * (end - start), style=COLOURS[n % len(COLOURS)])
    return bar


def length(value: float, longest: float, width: int) -> str:
    """A plain bar, at least one cell."""
    return "█" * max(1, round(value / longest * width))
