"""Python files of an export: a template with the plan's constants in front, read back as data.

Templates lie in ``planner/exporters/templates``; a template is the part that is the same for
every plan, so it is code that people can read and tests can run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

CONSTANTS = "# -- constants of the plan --"
"""Where a template wants them."""


@cache
def template(name: str) -> str:
    """The text of a template."""
    folder = files("planner.exporters") / "templates"
    return (folder / f"{name}.py.txt").read_text(encoding="utf-8")


def python_file(name: str, header: str, values: Mapping[str, object]) -> str:
    """A template with its constants, and where it comes from in its first line."""
    lines = "".join(f"{key} = {_literal(value)}\n" for key, value in values.items())
    return f"# {header}\n" + template(name).replace(f"{CONSTANTS}\n", lines)


def constants(text: str) -> dict[str, Any]:
    """Upper-case names of a Python file with their literal values. ValueError if it is broken."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper():
                found[name] = ast.literal_eval(node.value)
    return found


def _literal(value: object) -> str:
    """A literal on one line, or one item per line where it is long."""
    short = repr(value)
    if len(short) <= 80 or not isinstance(value, list | tuple):
        return short.replace("'", '"') if isinstance(value, str) else short
    items = "".join(f"    {item!r},\n" for item in value)
    return f"[\n{items}]"
