"""``--set job.seq_len=4096``: one value changed by its path before anything is checked.

A path starts with the input (``model``, ``cluster`` or ``job``) and goes down by keys. An item of
a list is named by its number (``nodes.0``, ``nodes[0]``) or by its own name (``nodes.gpu-a``).
The value is read as YAML: ``4096`` is a number, ``null`` is nothing, ``[1, 2]`` is a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from planner.errors import InputError, Problem
from planner.inputs.document import DataPath, Document, JsonValue, render_path, with_value
from planner.inputs.reading import nearest, parse_value

ROOTS = ("model", "cluster", "job")

_ITEM_NAMES = ("name", "name_prefix", "id", "chip")


@dataclass(frozen=True, slots=True)
class Override:
    """One ``--set``: the input, the path below it as written, and the typed value."""

    root: str
    path: tuple[str, ...]
    value: JsonValue
    text: str

    @property
    def where(self) -> str:
        """How a problem cites it."""
        return f"--set {self.text}"


def parse_overrides(texts: Iterable[str]) -> tuple[Override, ...]:
    """Reads the arguments of all ``--set`` flags.

    Raises InputError with every argument that is not ``input.path=value``.
    """
    problems: list[Problem] = []
    found: list[Override] = []
    for text in texts:
        target, equals, value = text.partition("=")
        parts = [p for p in re.split(r"\.|\[(\d+)\]", target.strip()) if p]
        where = f"--set {text}"
        if not equals or len(parts) < 2:
            remedy = "write input.path=value, for example job.global_batch=512"
            problems.append(Problem(where, "is not an assignment to a field", remedy))
        elif parts[0] not in ROOTS:
            problems.append(
                Problem(where, f"no input is called {parts[0]!r}", _suggest(parts[0], ROOTS))
            )
        else:
            try:
                typed = parse_value(value.strip(), where)
            except InputError as error:
                problems += error.problems
                continue
            found.append(Override(parts[0], tuple(parts[1:]), typed, text))
    if problems:
        raise InputError(problems)
    return tuple(found)


def apply_overrides(
    document: Document,
    overrides: Sequence[Override],
    root: str,
    schema: type[BaseModel] | None = None,
) -> Document:
    """A copy of ``document`` with every override of input ``root`` applied, in order.

    ``schema`` says which keys may be added; without one only keys that the document already has
    can be changed. Raises InputError with every path that leads nowhere, and its nearest match.
    """
    json_schema: JsonValue = schema.model_json_schema() if schema is not None else None
    problems: list[Problem] = []
    for override in overrides:
        if override.root != root:
            continue
        path = _locate(document.data, override, json_schema)
        if isinstance(path, Problem):
            problems.append(path)
            continue
        try:
            document = with_value(document, path, override.value)
        except LookupError as error:
            problems.append(Problem(override.where, str(error.args[0])))
    if problems:
        raise InputError(problems)
    return document


def _locate(data: JsonValue, override: Override, schema: JsonValue) -> DataPath | Problem:
    """The path with list items as numbers, or what is wrong with it."""
    path: list[str | int] = []
    nodes = _expand(schema, schema)
    for part in override.path:
        if isinstance(data, list):
            index = _item_index(data, part)
            if index is None:
                known = [n for item in data for n in _names(item)]
                message = f"{render_path(tuple(path))} has no item {part!r}"
                numbers = f"its items are numbered 0 … {len(data) - 1}" if data else "it is empty"
                return Problem(override.where, message, _suggest(part, known) or numbers)
            path.append(index)
            data = data[index]
            nodes = [n for node in nodes for n in _expand(node.get("items"), schema)]
            continue
        children = data if isinstance(data, dict) else {}
        known = sorted({*children, *(k for node in nodes for k in _properties(node))})
        is_open = any(isinstance(node.get("additionalProperties"), dict) for node in nodes)
        if part not in known and not is_open:
            inside = f" in {render_path(tuple(path))}" if path else ""
            return Problem(override.where, f"no field {part!r}{inside}", _suggest(part, known))
        path.append(part)
        data = children.get(part)
        nodes = [n for node in nodes for n in _expand(_child(node, part), schema)]
    return tuple(path)


def _item_index(items: list[JsonValue], part: str) -> int | None:
    if part.isdigit():
        return int(part) if int(part) < len(items) else None
    return next((i for i, item in enumerate(items) if part in _names(item)), None)


def _names(item: JsonValue) -> list[str]:
    if not isinstance(item, dict):
        return []
    return [str(item[k]) for k in _ITEM_NAMES if isinstance(item.get(k), str)]


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = nearest(name, names)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else ""


def _properties(node: dict[str, JsonValue]) -> dict[str, JsonValue]:
    properties = node.get("properties")
    return properties if isinstance(properties, dict) else {}


def _child(node: dict[str, JsonValue], key: str) -> JsonValue:
    properties = _properties(node)
    return properties[key] if key in properties else node.get("additionalProperties")


def _expand(node: JsonValue, root: JsonValue) -> list[dict[str, JsonValue]]:
    """The schema node behind references and alternatives."""
    if not isinstance(node, dict):
        return []
    found = [node]
    reference = node.get("$ref")
    if isinstance(reference, str) and isinstance(root, dict):
        definitions = root.get("$defs")
        if isinstance(definitions, dict):
            found += _expand(definitions.get(reference.rpartition("/")[2]), root)
    for key in ("anyOf", "oneOf", "allOf"):
        branches = node.get(key)
        for branch in branches if isinstance(branches, list) else ():
            found += _expand(branch, root)
    return found
