"""The table "equation · name · function" of the formulation names what the code really has."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "concepts" / "formulation.md"
PACKAGES = ("planner.search", "planner", "costmodels", "planner.graphs")


def cells() -> Iterator[tuple[list[str], list[str]]]:
    """Names and functions of every row."""
    table = PAGE.read_text("utf-8").split("## Equation · name · function")[1]
    for row in re.findall(r"^\|(.+)\|$", table, re.MULTILINE)[2:]:
        _, names, functions = row.split("|")
        yield re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", functions)


def resolved(dotted: str) -> object | None:
    """What ``module.name.attribute`` or ``path/module.py`` is; None if nothing."""
    if dotted.endswith(".py"):
        return (ROOT / dotted).is_file() or None
    first, *rest = dotted.split(".")
    for package in PACKAGES:
        try:
            found: object = importlib.import_module(f"{package}.{first}")
        except ModuleNotFoundError:
            continue
        for name in rest:
            found = getattr(found, name, None)
        if found is not None:
            return found
    return None


ROWS = list(cells())


def test_the_table_is_read() -> None:
    assert len(ROWS) > 30
    assert resolved("pipelines.Pricer.solve") is not None
    assert resolved("pipelines.Pricer.solved") is None
    assert resolved("nowhere.solve") is None


@pytest.mark.parametrize("function", sorted({f for _, functions in ROWS for f in functions}))
def test_every_function_exists(function: str) -> None:
    assert resolved(function) is not None


@pytest.mark.parametrize("name", sorted({n for names, _ in ROWS for n in names}))
def test_every_name_is_written_in_the_code(name: str) -> None:
    sources = [p for package in ("planner", "costmodels") for p in (ROOT / package).rglob("*.py")]
    word = re.compile(rf"\b{re.escape(name.split('.')[-1])}\b")
    assert any(word.search(p.read_text("utf-8")) for p in sources)
