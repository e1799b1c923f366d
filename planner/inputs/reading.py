"""Reads one YAML or JSON file into plain values that remember their lines.

YAML is read by the rules of its version 1.2: ``no`` and ``on`` are text, ``1e9`` is a number,
``12:30`` is text. Duplicate keys, several documents, non-finite numbers and keys that are not
text are errors. JSON is read strictly.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from pathlib import Path
from typing import NoReturn

import yaml

from planner.errors import InputError, Problem
from planner.inputs.document import (
    DataPath,
    Document,
    JsonValue,
    render_path,
    with_value,
)
from planner.inputs.problems import field_error, nearest, problems_from_validation

__all__ = [
    "DataPath",
    "Document",
    "JsonValue",
    "field_error",
    "nearest",
    "parse_value",
    "problems_from_validation",
    "read_document",
    "read_text",
    "render_path",
    "with_value",
]

MAX_DEPTH = 64
MAX_VALUES = 1_000_000
"""Aliases can make a short YAML file expand without end; no honest file comes near this."""


def read_document(path: Path | str) -> Document:
    """Reads a file; the suffix decides between JSON and YAML, else the first character.

    Raises InputError when the file cannot be read or parsed, with all duplicate keys at once.
    """
    file = Path(path)
    text = read_text(file)
    suffix = file.suffix.lower()
    is_json = suffix == ".json" or (
        suffix not in (".yaml", ".yml") and text.lstrip().startswith("{")
    )
    return parse_document(text, str(path), is_json=is_json)


def parse_document(text: str, source: str, *, is_json: bool = False) -> Document:
    """The same for text that is already in memory."""
    reader: _Reader = _JsonReader(text, source) if is_json else _YamlReader(text, source)
    data = reader.read()
    if reader.problems:
        raise InputError(reader.problems)
    return Document(source, data, reader.lines)


def parse_value(text: str, source: str = "") -> JsonValue:
    """One value as YAML flow text, for ``--set job.seq_len=4096``."""
    return parse_document(text, source).data if text.strip() else ""


def read_text(path: Path | str) -> str:
    """The text of a file. Raises InputError where it cannot be read or is not UTF-8."""
    file = Path(path)
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise InputError([Problem(str(file), "no such file", "check the path")]) from None
    except IsADirectoryError:
        raise InputError([Problem(str(file), "is a folder", "name a file in it")]) from None
    except OSError as error:
        raise InputError([Problem(str(file), f"cannot be read: {error.strerror}")]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"is not a text file: byte {error.start} is not UTF-8"
        raise InputError([Problem(str(file), message, "give a YAML or JSON file")]) from None


class _Reader(ABC):
    """What both readers share: lines by path, and problems found on the way."""

    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.lines: dict[DataPath, int] = {}
        self.problems: list[Problem] = []

    @abstractmethod
    def read(self) -> JsonValue:
        """The whole text as plain data. Raises InputError with the line of the first mistake."""

    def fail(self, line: int | None, message: str, remedy: str = "") -> NoReturn:
        where = f"{self.source}:{line}" if line is not None else self.source
        raise InputError([*self.problems, Problem(where, message, remedy)])

    def enter(self, path: DataPath, line: int) -> None:
        self.lines.setdefault(path, line)
        if len(path) > MAX_DEPTH:
            self.fail(line, f"values are nested deeper than {MAX_DEPTH} levels")
        if len(self.lines) > MAX_VALUES:
            self.fail(line, f"the file holds more than {MAX_VALUES:,} values")

    def finite(self, value: float, text: str, line: int) -> float:
        if not math.isfinite(value):
            self.fail(line, f"{text} is not a finite number", "write a number")
        return value

    def duplicate(self, path: DataPath, line: int) -> None:
        message = f"the key is given twice, first on line {self.lines[path]}"
        place = f"{self.source}:{line}: {render_path(path)}"
        self.problems.append(Problem(place, message, "keep one of the two"))


class _JsonReader(_Reader):
    """Walks objects and lists itself and leaves scalars to the standard library."""

    _space = re.compile(r"[ \t\n\r]*")

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text, source)
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self.decoder = json.JSONDecoder(parse_constant=self._constant)
        self.position = 0

    def read(self) -> JsonValue:
        if not self.text.strip():
            self.fail(None, "the file is empty")
        try:
            value = self._value(())
        except json.JSONDecodeError as error:
            self.fail(error.lineno, f"is not valid JSON: {error.msg} in column {error.colno}")
        self._skip()
        if self.position < len(self.text):
            self.fail(self._line(), "is not valid JSON: text after the end of the value")
        return value

    def _constant(self, name: str) -> NoReturn:
        self.fail(self._line(), f"{name} is not a finite number", "write a number")

    def _line(self) -> int:
        return bisect_right(self.starts, self.position)

    def _skip(self) -> None:
        match = self._space.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def _peek(self) -> str:
        self._skip()
        return self.text[self.position : self.position + 1]

    def _expect(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            wanted = " or ".join(f"'{c}'" for c in allowed)
            raise json.JSONDecodeError(f"Expecting {wanted}", self.text, self.position)
        self.position += 1
        return found

    def _value(self, path: DataPath) -> JsonValue:
        first = self._peek()
        self.enter(path, self._line())
        if first == "{":
            return self._object(path)
        if first == "[":
            return self._list(path)
        line = self._line()
        try:
            value, self.position = self.decoder.raw_decode(self.text, self.position)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError):
                raise
            self.fail(line, "the number has too many digits")
        if isinstance(value, float):
            return self.finite(value, "the number", line)
        return self._text(value, line) if isinstance(value, str) else value

    def _text(self, value: str, line: int) -> str:
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            self.fail(line, "the text holds half of a surrogate pair, which is no character")
        return value

    def _object(self, path: DataPath) -> JsonValue:
        result: dict[str, JsonValue] = {}
        self._expect("{")
        if self._peek() == "}":
            self.position += 1
            return result
        while True:
            if self._peek() != '"':
                message = "Expecting a key in double quotes"
                raise json.JSONDecodeError(message, self.text, self.position)
            line = self._line()
            decoded, self.position = self.decoder.raw_decode(self.text, self.position)
            key = self._text(decoded, line)
            if key in result:
                self.duplicate((*path, key), line)
            self.enter((*path, key), line)
            self._expect(":")
            result[key] = self._value((*path, key))
            if self._expect(",}") == "}":
                return result

    def _list(self, path: DataPath) -> JsonValue:
        result: list[JsonValue] = []
        self._expect("[")
        if self._peek() == "]":
            self.position += 1
            return result
        while True:
            result.append(self._value((*path, len(result))))
            if self._expect(",]") == "]":
                return result


_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class _YamlReader(_Reader):
    """Lets PyYAML find the nodes and resolves the scalars by the core schema of YAML 1.2."""

    def read(self) -> JsonValue:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            nodes = list(yaml.compose_all(self.text, Loader=loader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.fail(mark.line + 1 if mark else None, f"is not valid YAML: {error.problem}")
        except (yaml.YAMLError, RecursionError) as error:
            self.fail(None, f"is not valid YAML: {str(error).splitlines()[0]}")
        if not nodes or nodes[0] is None:
            self.fail(None, "the file is empty")
        if len(nodes) > 1:
            line = nodes[1].start_mark.line + 1
            self.fail(line, "a second document starts here", "one file holds one document")
        return self._value(nodes[0], ())

    def _value(self, node: yaml.Node, path: DataPath) -> JsonValue:
        line = node.start_mark.line + 1
        self.enter(path, line)
        tag = str(node.tag)
        if not tag.startswith("tag:yaml.org,2002:") or ":python/" in tag:
            self.fail(line, f"the tag {tag} is not known here", "write plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, line)

    def _mapping(self, node: yaml.MappingNode, path: DataPath) -> JsonValue:
        result: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, line) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = getattr(key_node, "value", "") if key is not None else "a key here"
                self.fail(line, f"{shown} is not text", "put the key in quotes")
            if key in result:
                self.duplicate((*path, key), line)
            self.enter((*path, key), line)
            result[key] = self._value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, line: int) -> JsonValue:
        text = str(node.value)
        if getattr(node, "style", None) in ("'", '"', "|", ">"):  # quoted or a block: always text
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _NOT_FINITE.fullmatch(text):
            self.fail(line, f"{text} is not a finite number", "write a number")
        try:
            if _INT.fullmatch(text):
                return int(text)
        except ValueError:
            self.fail(line, "the number has too many digits")
        if _HEX.fullmatch(text):
            return int(text, 16)
        if _FLOAT.fullmatch(text):
            return self.finite(float(text), text, line)
        return text
