"""Every public name is there, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

CHECK = """
import {first}
import planner
for name in planner.__all__:
    assert getattr(planner, name) is not None, name
assert callable(planner.explain) and callable(planner.diff) and callable(planner.solve)
"""


@pytest.mark.parametrize("package_name", ["planner", "planner.whatif", "planner.explain"])
def test_every_name_of_a_package_can_be_had(package_name: str) -> None:
    package = import_module(package_name)
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("first", ["planner.explain.wish", "planner.diff"])
def test_names_do_not_depend_on_what_was_imported_first(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(first=first)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_reading_plans_and_comparing_them_loads_no_solver() -> None:
    code = "import sys, planner; planner.diff, planner.read_plan; print('ortools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
