"""Flags of a command in a shell script, as far as plain values go.

Followed are ``NAME=value``, arrays ``NAME=( … )``, ``$NAME``, ``${NAME}``, ``${NAME[@]}`` (also in
quotes) and ``${NAME:-default}``, comments and continued lines. Nothing is executed: what a command
would put into a variable stays unknown.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
_VARIABLE = re.compile(
    r"\$\{(?P<array>\w+)\[[@*]\]\}|\$\{(?P<name>\w+)(?::?-(?P<default>[^}]*))?\}|\$(?P<bare>\w+)"
)
_QUOTED_ARRAY = re.compile(r'"(\$\{\w+\[@\]\})"')
"""An array in quotes is its elements as separate words, not one word."""

_FLAG = re.compile(r"--[A-Za-z][\w-]*")


class ShellError(ValueError):
    """The text is no shell that can be read; ``line`` from 1, 0 if unknown."""

    def __init__(self, message: str, line: int = 0, remedy: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.remedy = remedy or "give the arguments alone, as --name value"


def flags_of(text: str, variables: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Values of every ``--flag`` by its name without the dashes; later ones have the last word.

    ``variables`` replace what the script assigns.
    """
    known = dict(variables)
    commands: list[str] = []
    for line, statement in _statements(text):
        statement = _QUOTED_ARRAY.sub(r"\1", statement)
        match = _ASSIGNMENT.fullmatch(statement)
        if match is None:
            commands.append(statement)
            continue
        value = match["value"].strip()
        if value.startswith("("):
            if not value.endswith(")"):
                raise ShellError(f"the array {match['name']} has no end", line)
            value = value[1:-1]
        else:
            value = _unquoted(value)
        if match["name"] not in variables:
            known[match["name"]] = _filled(value, known)
    words: list[str] = []
    for statement in commands:
        words += _words(_filled(statement, known))
    if not any(_FLAG.fullmatch(word.partition("=")[0]) for word in words):
        # arguments are collected in variables and handed to something that is not in the text
        for value in known.values():
            words += _words(value)
    return _flags(words)


def _statements(text: str) -> list[tuple[int, str]]:
    """Statements with their first lines; a continued line and an array are one statement."""
    found: list[tuple[int, str]] = []
    start, joined = 0, ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw).rstrip()
        start = start or number
        joined += " " + line.removesuffix("\\")
        match = _ASSIGNMENT.fullmatch(joined)
        inside = match is not None and match["value"].startswith("(") and ")" not in match["value"]
        quoted = joined.count('"') % 2 == 1
        if line.endswith("\\") or inside or quoted:
            continue
        if joined.strip():
            found.append((start, joined.strip()))
        start, joined = 0, ""
    return [*found, (start, joined.strip())] if joined.strip() else found


def _without_comment(line: str) -> str:
    return re.sub(r"(?:^|\s)#.*$", "", line)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _filled(text: str, known: Mapping[str, str]) -> str:
    """Known variables replaced by their values; unknown ones stay as they are."""

    def value(match: re.Match[str]) -> str:
        name = match["array"] or match["name"] or match["bare"]
        if name in known:
            return known[name]
        default = match["default"]
        return match[0] if default is None else default

    return _VARIABLE.sub(value, text)


def _words(statement: str) -> list[str]:
    try:
        return shlex.split(statement)
    except ValueError as error:
        raise ShellError(f"{statement[:60]!r}: {error}") from None


def _flags(words: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        head, equals, value = word.partition("=")
        if _FLAG.fullmatch(head):
            name = head[2:].replace("_", "-")
            found[name] = (value,) if equals else ()
        elif name:
            found[name] = (*found[name], word)
    return found
