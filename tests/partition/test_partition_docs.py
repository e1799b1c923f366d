"""docs/concepts/graph-partition.md says what the programs are: checked against the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from planner.partition import interleaved_model, prefix_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "concepts" / "graph-partition.md").read_text(encoding="utf-8")
GUIDE = (DOCS / "guides" / "partition-a-graph.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| \((\d+)\) \| (.+) \| (.+) \| `(\w+)\.(\w+)` \|$", re.MULTILINE)
MODULES = {"prefix_model": prefix_model, "interleaved_model": interleaved_model}


def rows() -> list[tuple[str, str, str, str]]:
    """Number, names, module and function of every equation."""
    return [(n, names, module, function) for n, _, names, module, function in ROW.findall(PAGE)]


def test_every_constraint_family_has_one_numbered_equation() -> None:
    for name, module in MODULES.items():
        families = [add.__name__ for add in module._FAMILIES]
        listed = [function for _, _, where, function in rows() if where == name]
        assert sorted(listed) == sorted(families)
        assert [int(n) for n, _, where, _ in rows() if where == name] == list(
            range(1, len(families) + 1)
        )


@pytest.mark.parametrize(("number", "names", "module", "function"), rows())
def test_equation_name_and_function_are_those_of_the_code(
    number: str, names: str, module: str, function: str
) -> None:
    source = MODULES[module]
    add = getattr(source, function)
    assert (add.__doc__ or "").startswith(f"({number}) ")
    parts = re.split(r"^ +\((\d+)\) ", source.__doc__ or "", flags=re.MULTILINE)
    stated = dict(zip(parts[1::2], parts[2::2]))
    assert re.findall(r"`(_add_\w+)`", stated[number]) == [function]
    text = Path(str(source.__file__)).read_text(encoding="utf-8")
    for name in re.findall(r"`(\w+)`", names):
        assert re.search(rf'(grid\(.*"|new_\w+\(.*f?"){name}\b', text), f"no variable {name}"


def test_functions_named_in_the_text_exist() -> None:
    named = re.findall(r"`(order|pigeonhole)\.(\w+)`", PAGE)
    assert named
    for module, function in named:
        assert hasattr(importlib.import_module(f"planner.partition.{module}"), function)


def test_the_example_in_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert code is not None
    exec(code[1], {})
    assert capsys.readouterr().out == "optimal [(0, 1), (2, 3, 4)]\n"
