"""How tests are shared out over processes: what uses one expensive thing stays in one of them."""

from __future__ import annotations

import pytest

LONG = (
    "test_properties",
    "runtime/worlds",
)
"""Groups that take longest start first: then no process waits for another one at the end."""


@pytest.hookimpl(tryfirst=True)  # before xdist writes the groups into the names of the tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file share fixtures and cached plans: a group, unless marked as one of another."""
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    order = {group: at for at, group in enumerate(LONG)}
    items.sort(key=lambda item: order.get(groups[item], len(order)))


def _group(item: pytest.Item) -> str:
    marked = item.get_closest_marker("xdist_group")
    if marked is not None:
        return str(marked.args[0])
    file, _, _ = item.nodeid.partition("::")
    return file.removeprefix("tests/").removesuffix(".py")
