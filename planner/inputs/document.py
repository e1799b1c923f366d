"""A file as plain values, together with the line on which every value stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
DataPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain JSON values of one source, and where in it each of them stands.

    ``source`` is the file as the user wrote it (or ``--set`` or a shorthand). ``data`` must not
    be changed; :func:`with_value` makes a changed copy.
    """

    source: str
    data: JsonValue
    lines: Mapping[DataPath, int] = field(default_factory=dict)

    def line(self, path: DataPath) -> int | None:
        """The line of a value, or of what encloses it when the value is missing; from 1."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def where(self, path: DataPath) -> str:
        """``file:line: nodes[2].chip``, as a problem cites it."""
        line = self.line(path)
        place = f"{self.source}:{line}" if line is not None else self.source
        return f"{place}: {render_path(path)}" if path else place


def render_path(path: DataPath) -> str:
    """``("nodes", 2, "chip")`` as ``nodes[2].chip``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def with_value(document: Document, path: DataPath, value: JsonValue) -> Document:
    """A copy in which ``path`` holds ``value``; missing mappings on the way are created.

    Raises LookupError when the path runs through a scalar or beyond the end of a list.
    """
    lines = {p: n for p, n in document.lines.items() if p[: len(path)] != path}
    return Document(document.source, _replaced(document.data, path, value, ()), lines)


def _replaced(data: JsonValue, path: DataPath, value: JsonValue, done: DataPath) -> JsonValue:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, dict) and isinstance(head, str):
        child = data.get(head, {} if rest else None)
        return {**data, head: _replaced(child, rest, value, (*done, head))}
    if isinstance(data, list) and isinstance(head, int):
        if head >= len(data):
            raise LookupError(f"{render_path((*done, head))}: the list has {len(data)} items")
        child = _replaced(data[head], rest, value, (*done, head))
        return [*data[:head], child, *data[head + 1 :]]
    what = "a mapping" if isinstance(data, dict) else "a list or a single value"
    raise LookupError(f"{render_path((*done, head))}: {render_path(done) or 'the file'} is {what}")
