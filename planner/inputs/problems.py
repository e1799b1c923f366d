"""Turns the errors of pydantic into problems that name file, line, field, value and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from planner.errors import Problem
from planner.inputs.document import DataPath, Document, JsonValue

_UNITS = {
    "_gbit_per_s": "Gbit/s (1e9 bits per second)",
    "_gb_per_s": "GB/s (1e9 bytes per second)",
    "_bytes_per_s": "bytes/s",
    "_rows_per_s": "rows (sequences) per second",
    "_flops_per_row": "FLOP per row (one sequence)",
    "_bytes_per_row": "bytes per row (one sequence)",
    "_elements_per_row": "elements per row (one sequence)",
    "_per_hour": "per hour",
    "_tflops": "TFLOP/s, dense",
    "_gib": "GiB (2**30 bytes)",
    "_gb": "GB (1e9 bytes)",
    "_bytes": "bytes",
    "_watt": "W",
    "_ns": "nanoseconds",
    "_us": "microseconds",
    "_ms": "milliseconds",
    "_s": "seconds",
}


def field_error(message: str, remedy: str = "", *, at: DataPath = ()) -> PydanticCustomError:
    """What a validator raises to say what to try, and (``at``) where below its model."""
    escaped = message.replace("{", "(").replace("}", ")")
    return PydanticCustomError("planner", escaped, {"remedy": remedy, "at": at})


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """The known names that look most like ``name``, best first; case is ignored."""
    by_lower = {k.lower(): k for k in sorted(known)}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.6)
    return [by_lower[f] for f in found]


def unit_of(field: str) -> str:
    """The unit that a field's name ends with, or an empty text."""
    return next((unit for suffix, unit in _UNITS.items() if field.endswith(suffix)), "")


def problems_from_validation(
    exc: ValidationError, document: Document, model: type[BaseModel] | None = None
) -> list[Problem]:
    """All errors of a validation, one problem per field, in the order of the file.

    ``model`` is the class that was validated; with it, unknown keys name the nearest known one.
    """
    schema: JsonValue = model.model_json_schema() if model is not None else None
    found: dict[DataPath, list[ErrorDetails]] = {}
    other_branches: set[DataPath] = set()
    for error in exc.errors(include_url=False):
        if error["type"] == "default_factory_not_called":
            continue  # the default hangs on another value, which has its own problem
        at = cast(DataPath, tuple(error.get("ctx", {}).get("at", ())))
        path = _real_path((*error["loc"], *at), document.data, keep_last=_names_a_key(error))
        found.setdefault(path, []).append(error)
        if error["loc"] and error["loc"][-1:] != path[-1:]:
            other_branches.add(path)
    # "should be text" says nothing new about a mapping with a wrong field.
    for path in other_branches:
        if any(len(p) > len(path) and p[: len(path)] == path for p in found):
            del found[path]
    ordered = sorted(found, key=lambda p: document.line(p) or 0)
    return [_problem(path, found[path], document, schema) for path in ordered]


def _names_a_key(error: ErrorDetails) -> bool:
    return error["type"] in ("missing", "extra_forbidden")


def _real_path(loc: Sequence[str | int], data: JsonValue, *, keep_last: bool) -> DataPath:
    """The location without the tags that pydantic adds for the branches of a union."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data):
            data = data[part]
        elif not (last and keep_last):
            continue
        path.append(part)
    return tuple(path)


def _problem(
    path: DataPath, errors: list[ErrorDetails], document: Document, schema: JsonValue
) -> Problem:
    field = next((p for p in reversed(path) if isinstance(p, str)), "")
    first = errors[0]
    where = document.where(path)
    if first["type"] == "extra_forbidden":
        known = sorted(set(_keys_at(schema, path[:-1], schema)))
        close = nearest(str(path[-1]), known)
        remedy = f"did you mean {close[0]}?" if close else ""
        if not close and known:
            remedy = f"known keys: {', '.join(known)}"
        return Problem(where, "unknown key", remedy)
    unit = unit_of(field)
    if first["type"] == "missing":
        return Problem(where, "is missing", f"give {field}" + (f" in {unit}" if unit else ""))
    wanted = list(dict.fromkeys(_wanted(e) for e in errors))
    message = _with_value(" or ".join(wanted), first["input"])
    remedy = str(first.get("ctx", {}).get("remedy", ""))
    if not remedy and first["type"] in ("literal_error", "enum"):
        remedy = f"write one of {first['ctx'].get('expected', '')}".replace("'", "")
    if not remedy and unit:
        remedy = f"{field} is in {unit}"
    return Problem(where, message, remedy)


def _with_value(message: str, value: object) -> str:
    if isinstance(value, (dict, list, tuple)):
        return message
    shown = _shown(value)
    if message.startswith("should"):
        return f"{shown} {message}"
    # A validator of ours usually quotes the value where it reads best.
    return message if shown in message or str(value) in message else f"{shown}: {message}"


def _wanted(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.replace("Input should be", "should be")
    if error["type"] in ("int_type", "int_parsing", "int_from_float"):
        return "should be a whole number"
    if error["type"] in ("float_type", "float_parsing"):
        return "should be a number"
    if error["type"] == "string_type":
        return "should be text (put it in quotes)"
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return "should be a mapping"
    if error["type"] in ("tuple_type", "list_type"):
        return "should be a list"
    return text


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(schema: JsonValue, path: DataPath, root: JsonValue) -> Iterator[str]:
    """The keys that a JSON Schema knows at ``path``; alternatives are joined."""
    for node in _alternatives(schema, root):
        properties = node.get("properties", {})
        if not path:
            yield from properties if isinstance(properties, dict) else ()
            continue
        head, rest = path[0], path[1:]
        if isinstance(head, int):
            inner = node.get("items")
        elif isinstance(properties, dict) and head in properties:
            inner = properties[head]
        else:
            inner = node.get("additionalProperties")
        if isinstance(inner, dict):
            yield from _keys_at(inner, rest, root)


def _alternatives(schema: JsonValue, root: JsonValue) -> Iterator[Mapping[str, JsonValue]]:
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and isinstance(root, dict):
        definitions = root.get("$defs")
        if isinstance(definitions, dict):
            yield from _alternatives(definitions.get(reference.rpartition("/")[2]), root)
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key)
        for branch in branches if isinstance(branches, list) else ():
            yield from _alternatives(branch, root)
    yield schema
