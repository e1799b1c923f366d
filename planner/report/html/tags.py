"""HTML by function call: everything is escaped unless it is HTML already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias


class Html(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
"""What may stand inside an element; None is left out."""

VOID = frozenset({"br", "meta", "img"})
"""Elements without an end tag."""


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """One element. ``class_`` is ``class``, ``data_figure`` is ``data-figure``.

    An attribute that is None or False is left out, True stands without a value.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """The children one after the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return Html(escape(children))
    if isinstance(children, int):
        return Html(str(children))
    return Html("".join(map(join, children)))


def script(code: str) -> Html:
    """A script whose code cannot end the element early."""
    safe = code.replace("</", "<\\/")
    return Html(f"<script>{safe}</script>")


def data_script(identity: str, text: str) -> Html:
    """JSON for a script of the page."""
    safe = text.replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{escape(identity)}">{safe}</script>')


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
