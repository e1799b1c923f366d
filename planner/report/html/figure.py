"""What all charts have in common, and the plotting library behind them.

A chart is rows of horizontal bars; the words of a row stand above its bar and not beside it, so
that they fit on a phone as well as on a wide screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from planner.errors import InputError, Problem
from planner.report.html.palette import GRID, INK, MUTED

ROW = 48
"""Pixels of a row: its words and its bar."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Helvetica, Arial, sans-serif"

HALF = 0.23
"""Half the height of a bar, in rows."""

PIXELS = round(2 * HALF * ROW)
"""The height of a bar."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """A button that shows a part of the time axis."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend; ``form`` is how it is drawn."""

    word: str
    colour: str
    form: Literal["box", "line", "mark"] = "box"


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as the JSON of the plotting library, its height in pixels, legend and buttons."""

    identity: str
    json: str
    height: int
    about: str
    legend: tuple[Key, ...] = ()
    zooms: tuple[Zoom, ...] = ()


def plotting() -> Any:  # noqa: ANN401 - the library ships no types
    """The module of the library's figures. Raises InputError where it is not installed."""
    try:
        return import_module("plotly.graph_objects")
    except ImportError:
        raise _missing() from None


def library_code() -> str:
    """The library's JavaScript, whole, so that the page needs no network."""
    try:
        found: str = import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        raise _missing() from None
    return found


def _missing() -> InputError:
    message = "the charts of a report need plotly, which is not installed"
    remedy = "pip install 'plotly>=6', the extra [report] (planner show needs none)"
    return InputError([Problem("planner report", message, remedy)])


def layout(rows: int) -> dict[str, Any]:
    """The layout of ``rows`` rows, the first one on top."""
    return {
        "template": "none",
        "height": rows * ROW + 56,
        "margin": {"l": 12, "r": 12, "t": 0, "b": 56},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "barmode": "overlay",
        "bargap": 0,
        "dragmode": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
        "showlegend": False,
        "uniformtext": {"mode": "hide", "minsize": 10},
        "xaxis": {
            "showgrid": True,
            "gridcolor": GRID,
            "zeroline": False,
            "ticks": "outside",
            "tickcolor": GRID,
            "tickfont": {"color": MUTED, "size": 12},
            "title": {"font": {"size": 12, "color": MUTED}, "standoff": 8},
            "nticks": 8,
        },
        "yaxis": {"visible": False, "range": [rows - 0.6, -0.6], "fixedrange": True},
    }


def words(row: int, text: str, *, right: bool = False, colour: str = INK) -> dict[str, Any]:
    """The words above a bar, at the left or the right end.

    The script of the page shortens those at the left where the screen is too narrow for both.
    """
    return {
        "xref": "paper",
        "yref": "y",
        "x": 1 if right else 0,
        "xanchor": "right" if right else "left",
        "y": row - HALF,
        "yanchor": "bottom",
        "text": plain(text),
        "showarrow": False,
        "font": {"size": 12, "color": colour},
        "bgcolor": "rgba(255,255,255,0.88)",
        "borderpad": 1,
    }


def plain(text: str) -> str:
    """Text that the library does not read as its own small HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
