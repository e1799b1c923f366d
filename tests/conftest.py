"""The order of test files. Processes take whole files, so that fixtures are made only once."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")
"""The same examples on every run and machine; how long one takes depends on who else works."""

os.environ.setdefault("PLANNER_PROCESSES", "1")
"""Tests already run on every core; those of a second process ask for it."""

LONG = ("test_worlds.py", "test_properties.py", "test_s6_cross_vendor.py")
"""The files that take longest start first: then no process works alone at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, everything else as collected."""
    order = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))
